"""The real data where they are, and a model that answers by a rule that can be computed by hand."""

import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from puna.judge.tasks import harness

DATA = Path(__file__).parents[4] / "shared/data/evals"


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no shared data at {DATA}")
    return DATA


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[str, Iterable[Any]], Path]:
    def write(name: str, rows: Iterable[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def likelihood(context: str, continuation: str) -> float:
    """A rule that no order and no clock changes: nats from the checksum of the two texts."""
    return -(zlib.crc32(f"{context}|{continuation}".encode()) % 4000) / 100


@pytest.fixture(scope="session")
def rule_model() -> Any:
    """An lm_eval LM that answers by `likelihood`; it writes what `answer` says and counts what it was asked."""
    harness.lm_eval_here()
    from lm_eval.api.model import LM

    class RuleModel(LM):
        def __init__(
            self, say: Callable[[str], str] = lambda context: "", rule: Callable[..., float] = likelihood
        ) -> None:
            super().__init__()
            self.say, self.rule = say, rule
            self.asked: list[tuple[Any, ...]] = []

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            self.asked += [request.args for request in requests]
            found = [self.rule(*request.args) for request in requests]
            return [(value, value > -20) for value in found]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            self.asked += [request.args for request in requests]
            return [self.rule("", *request.args) for request in requests]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            self.asked += [request.args for request in requests]
            return [self.say(request.args[0]) for request in requests]

    return RuleModel


@pytest.fixture(scope="session")
def rule() -> Callable[[str, str], float]:
    """The rule itself, for scores by hand."""
    return likelihood
