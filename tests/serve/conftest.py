"""A real server on loopback with a real model: random weights, a tokenizer trained on English and Chinese, ChatML."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers of several test files: tests_*.py
sys.path.insert(0, str(Path(__file__).parents[1]))  # the browser

from tests_serve_running import KEY, MODEL, Running, running_server
from tests_serve_schooled import schooled

from browser import Browser

TEXTS = [
    "the llama walks over the high grass of the puna, and the wind sings. ",
    "羊驼走过高原的草地，你好，世界。",
] * 20
SHAPE = {"max_position_embeddings": 512, "tie_word_embeddings": False, "qk_norm": True}


@pytest.fixture(scope="session")
def make_tiny_release(tiny_model: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a model folder that chats: `make_tiny_release(folder, seed=3, **shape)`."""

    def make(folder: Path, *, seed: int = 3, **shape: object) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return tiny_model(folder, TEXTS, 320, unused=3, seed=seed, **{**SHAPE, **shape})

    return make


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory, make_tiny_release: Callable[..., Path]) -> Path:
    return make_tiny_release(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def local_runs(tmp_path_factory: pytest.TempPathFactory, make_tiny_release: Callable[..., Path]) -> Path:
    """A folder of runs: `other` and `羊驼` are finished, `damaged` has a release with a cut file."""
    runs = tmp_path_factory.mktemp("runs")
    make_tiny_release(runs / "other" / "release", seed=4)
    make_tiny_release(runs / "羊驼" / "release", seed=5)
    damaged = make_tiny_release(runs / "damaged" / "release", seed=6)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return runs


@pytest.fixture(scope="session")
def server(tiny_release: Path, local_runs: Path) -> Iterator[Running]:
    """One server for all tests that leave it as it was: the model `tiny`, a key, no other setting."""
    with running_server({MODEL: tiny_release}, local_runs, key=KEY) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose model has learned a few conversations by heart, calls of a tool among them: `tests_serve_schooled.TALKS`."""
    with running_server({"schooled": schooled(tmp_path_factory.mktemp("school") / "schooled")}, key=KEY) as running:
        yield running


@pytest.fixture(scope="session")
def roomy(tmp_path_factory: pytest.TempPathFactory, make_tiny_release: Callable[..., Path]) -> Iterator[Running]:
    """A server whose model has room for long prompts, and for replies that take seconds: what is aborted has not ended by itself."""
    folder = make_tiny_release(tmp_path_factory.mktemp("roomy") / "tiny", max_position_embeddings=8192)
    with running_server({MODEL: folder}, key=KEY, cache_tokens=4 * 8192) as running:
        yield running


@pytest.fixture(scope="session")
def taught_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models that know their lines by heart: two that chat, and one without a chat format."""
    from tests_serve_taught import SECOND, STORY, STORY_END, TALKS, taught

    folder = tmp_path_factory.mktemp("taught")
    return {
        "First": taught(folder / "First", TALKS),
        "第二": taught(folder / "second", SECOND, seed=6),
        "text": taught(folder / "text", {STORY: STORY_END}, chats=False),
    }


@pytest.fixture(scope="session")
def short_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that chats, with a context of 96 tokens."""
    from tests_serve_taught import SECOND, taught

    return taught(tmp_path_factory.mktemp("taught") / "tiny", SECOND, context=96)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file of tests."""
    with Browser() as one:
        yield one
