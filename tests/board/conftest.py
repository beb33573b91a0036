"""A hand-made store and its board, made once: for the tests of the pages and of the scripts."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported as files, not as a package
sys.path.insert(0, str(Path(__file__).parents[1]))  # the browser

from board_sample import stored

from browser import Browser, served
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file of tests."""
    with Browser() as one:
        yield one


@pytest.fixture(scope="module")
def address(sample_site: Path) -> Iterator[str]:
    """Where that board is served."""
    with served(sample_site) as at:
        yield at
