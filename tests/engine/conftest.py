"""A tiny random model with a tokenizer trained on English and Chinese, saved and loaded by the real parts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from puna.engine import Engine

TEXTS = [
    "the llama walks over the high grass of the puna, and the wind sings. ",
    "羊驼走过高原的草地，你好，世界。",
] * 20


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    shape = {"max_position_embeddings": 96, "tie_word_embeddings": False, "qk_norm": True}
    return tiny_model(tmp_path_factory.mktemp("tiny"), TEXTS, 320, unused=3, **shape)


@pytest.fixture(scope="session")
def engine(model_folder: Path) -> Engine:
    return Engine.load(model_folder, device="cpu")
