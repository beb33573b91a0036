"""One small tokenizer, trained once on English, code and Chinese."""

import sys
from pathlib import Path

import pytest

from puna.tokens import Tokenizer, train_tokenizer

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported as files, not as a package
from tests_tokens_texts import small_texts


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder of 700 entries."""
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(small_texts()), 700, out)
    return out


@pytest.fixture(scope="session")
def tokenizer(trained: Path) -> Tokenizer:
    return Tokenizer.load(trained)
