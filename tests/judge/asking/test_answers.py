"""Answers on disk: exact, damaged ones refused, safe with two processes, and a killed run goes on where it was."""

import math
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.judge.asking.answers import FLUSH_ROWS, Answers, answer_key
from puna.progress import QUIET, Progress

MODEL = {"weights": "ab", "tokenizer": "cd"}


def key(number: object) -> str:
    return answer_key(MODEL, "loglikelihood", [number], {"dtype": "float32"})


def test_an_answer_comes_back_after_the_file_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.sqlite"
    with Answers(path) as answers:
        assert answers.get(key(1)) is None
        answers.put(key(1), [-12.5, True, 0, ""])
        assert answers.get(key(1)) == [-12.5, True, 0, ""]  # before it is written
    with Answers(path) as answers:
        assert answers.get(key(1)) == [-12.5, True, 0, ""]
        assert answers.get(key(2)) is None
        assert (len(answers), answers.hits, answers.misses) == (1, 1, 1)


@settings(max_examples=20)
@given(st.lists(st.floats(width=64), min_size=1, max_size=5), st.text(st.characters(codec="utf-8")))
def test_values_are_exact_to_the_bit(tmp_path_factory: pytest.TempPathFactory, numbers: list[float], text: str) -> None:
    path = tmp_path_factory.mktemp("exact") / "answers"
    with Answers(path) as answers:
        answers.put(key(0), [numbers, text])
    with Answers(path) as answers:
        found, said = answers.get(key(0))
    assert said == text
    for one, two in zip(found, numbers, strict=True):
        assert (math.isnan(one) and math.isnan(two)) or struct.pack("<d", one) == struct.pack("<d", two)


def test_all_that_decides_an_answer_is_in_its_key() -> None:
    plain = answer_key(MODEL, "loglikelihood", ["a", "b"], {"dtype": "float32"})
    assert plain == answer_key(dict(reversed(MODEL.items())), "loglikelihood", ("a", "b"), {"dtype": "float32"})
    others = {
        answer_key({**MODEL, "weights": "ac"}, "loglikelihood", ["a", "b"], {"dtype": "float32"}),
        answer_key({**MODEL, "tokenizer": "ac"}, "loglikelihood", ["a", "b"], {"dtype": "float32"}),
        answer_key(MODEL, "generate_until", ["a", "b"], {"dtype": "float32"}),
        answer_key(MODEL, "loglikelihood", ["ab", ""], {"dtype": "float32"}),
        answer_key(MODEL, "loglikelihood", ["a", "b"], {"dtype": "bfloat16"}),
    }
    assert len(others) == 5 and plain not in others


def filled(path: Path, count: int = 400) -> Path:
    with Answers(path) as answers:
        for number in range(count):
            answers.put(key(number), [float(number), "x" * 50])
    return path


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to have a header" * 9, b"SQLite format 3\0"]
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "answers"
    path.write_bytes(content)
    with pytest.raises(PunaError) as found:
        Answers(path)
    assert str(path) in str(found.value) and "remove the file" in str(found.value)
    assert path.read_bytes() == content  # it is the user's: nothing was written over it


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "answers")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])

    def read() -> None:
        with Answers(path) as answers:
            for number in range(400):
                answers.get(key(number))

    with pytest.raises(PunaError, match="remove the file"):
        read()


def test_an_answer_that_was_altered_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "answers")
    with sqlite3.connect(path) as data:
        data.execute("UPDATE answers SET value = '[1.0, \"right\"]' WHERE key = ?", (bytes.fromhex(key(3)),))
    with Answers(path) as answers:
        assert answers.get(key(2)) == [2.0, "x" * 50]
        with pytest.raises(PunaError, match="damaged or altered"):
            answers.get(key(3))


def test_another_programs_database_and_a_folder_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as data:
        data.execute("CREATE TABLE answers (key, value)")
    with pytest.raises(PunaError, match="name another file"):
        Answers(other)
    with pytest.raises(PunaError, match="not an ordinary file"):
        Answers(tmp_path)


WRITER = """
import sys
from pathlib import Path
from puna.judge.asking.answers import Answers, answer_key
with Answers(Path(sys.argv[1])) as answers:
    for number in range(int(sys.argv[2]), int(sys.argv[2]) + 1500):
        key = answer_key({}, "loglikelihood", [number], {})
        if answers.get(key) is None:
            answers.put(key, [number / 7, True])
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    children = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), start]) for start in ("0", "0", "1000")]
    assert [child.wait(timeout=100) for child in children] == [0, 0, 0]
    with Answers(path) as answers:
        assert len(answers) == 2500
        assert answers.get(answer_key({}, "loglikelihood", [2499], {})) == [2499 / 7, True]


RUN = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_answers import asked
from puna.progress import Quiet

class Killer(Quiet):
    def update(self, done, **facts):
        if facts["rows"].startswith("400/"):
            os.kill(os.getpid(), signal.SIGKILL)

asked(Path(sys.argv[1]), Path(sys.argv[2]), Killer())
"""


def asked(folder: Path, kept: Path, progress: Progress = QUIET) -> tuple[int, list[tuple[float, bool]]]:
    """Rows that the model was asked, and all answers, to 600 requests."""
    from lm_eval.api.instance import Instance

    from puna.engine import Engine
    from puna.judge.asking.local import PunaLM

    with Answers(kept) as answers:
        lm = PunaLM(Engine.load(folder, "cpu"), batch_tokens=256, answers=answers, progress=progress)
        requests = [Instance("loglikelihood", {}, (f"the llama {n % 7} walks", f" over {n}"), n) for n in range(600)]
        found = lm.loglikelihood(requests)
        return lm.rows_read, found


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, small_folder: Path) -> None:
    command = [sys.executable, "-c", RUN, str(small_folder), str(tmp_path / "answers"), str(Path(__file__).parent)]
    killed = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Answers(tmp_path / "answers") as answers:
        kept = len(answers)
    assert FLUSH_ROWS <= kept <= 400
    rows, resumed = asked(small_folder, tmp_path / "answers")
    assert rows == 600 - kept  # what was answered before the kill was not asked again
    assert asked(small_folder, tmp_path / "answers") == (0, resumed)
    rows, whole = asked(small_folder, tmp_path / "others")
    assert rows == 600
    for one, two in zip(resumed, whole, strict=True):
        assert one[0] == pytest.approx(two[0], abs=1e-4) and one[1] == two[1]
