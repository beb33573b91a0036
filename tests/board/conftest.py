"""A hand-made store and its board, made once: for the tests of the pages and of the scripts."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported as files, not as a package

from board_sample import stored

from puna.board import build_board
from puna.judge.store.store import StoredResult


@pytest.fixture(scope="session")
def sample_results(tmp_path_factory: pytest.TempPathFactory) -> list[StoredResult]:
    """Four models on six tasks, one of them failed once, and a published one."""
    return stored(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def sample_site(sample_results: list[StoredResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board of them."""
    folder = tmp_path_factory.mktemp("site") / "board"
    build_board(
        sample_results, folder, title="Sample board 样板", refused=[("results/x.json", "was changed <b>by hand</b>")]
    )
    return folder
