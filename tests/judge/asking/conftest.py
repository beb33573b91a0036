"""Models as `lm_eval`'s own backend loads them, and as we do: one with a begin token, one without, one tuned to chat."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
TEXTS = [
    "the llama walks over the high grass of the puna, and the wind sings. Answer: yes or no?\n",
    "羊驼走过高原的草地，你好，世界。答案：",
] * 20


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """A random model of Qwen3's kind without a begin token; context 96."""
    shape = {"max_position_embeddings": 96, "tie_word_embeddings": False, "qk_norm": True}
    return tiny_model(tmp_path_factory.mktemp("small"), TEXTS, 330, unused=3, **shape)


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """A random model of LLaMA's kind with the chat format; context 256."""
    from puna.tokens.export import write_config

    folder = tiny_model(tmp_path_factory.mktemp("chat"), TEXTS, 330, max_position_embeddings=256, seed=4)
    write_config(folder, chat=True, context=256, template=True)
    return folder


@pytest.fixture(scope="session")
def stories_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K as a Hugging Face folder: a trained LLaMA with a begin token; context 512."""
    from puna.build.convert import convert

    source = DATA / "weights" / "stories260K" / "stories260K.bin"
    if not source.is_file():
        pytest.skip("shared/data is absent: no stories260K")
    folder = tmp_path_factory.mktemp("stories") / "model"
    convert(source, folder)
    return folder


@pytest.fixture(scope="session")
def backend() -> Callable[[Path], Any]:
    """lm_eval's Hugging Face backend on a folder, one of each."""
    from puna.judge.tasks.harness import lm_eval_here

    lm_eval_here()
    from lm_eval.models.huggingface import HFLM

    made: dict[Path, Any] = {}

    def of(folder: Path) -> Any:
        if folder not in made:
            made[folder] = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
        return made[folder]

    return of


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and every model that is loaded from then on gives no finite number."""
    from puna.engine import Engine

    load = Engine.load

    def broken(*arguments: Any, **more: Any) -> Engine:
        engine = load(*arguments, **more)
        engine.model.head_weight().data[:] = math.nan
        return engine

    return lambda: monkeypatch.setattr(Engine, "load", broken)
