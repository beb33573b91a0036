"""`puna judge` and `puna board` as a user meets them: real weights, real tasks, one clear line for each mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/data"
STORIES = SHARED / "weights/stories260K/stories260K.bin"
EVALS = SHARED / "evals"
ENVIRONMENT = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def puna(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "puna", *arguments], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=280)  # fmt: skip


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not STORIES.is_file() or not EVALS.is_dir():
        pytest.skip(f"{SHARED} is not here")
    folder = tmp_path_factory.mktemp("judged")
    done = puna(
        "judge", str(STORIES), "-t", "copa", "-t", "winogrande", "--data", str(EVALS), "--limit", "12", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder


def test_the_table_fits_and_says_what_was_cut(judged: Path) -> None:
    said = (judged / "said.txt").read_text()
    assert max(map(len, said.splitlines())) <= 80
    for word in ("stories260K", "COPA", "95 % interval", "chance", "Stored in results. The pages:"):
        assert word in said


def test_a_number_is_made_again_by_its_command(judged: Path) -> None:
    name = next((judged / "results/data/copa").rglob("*_samples.jsonl")).name.removesuffix("_samples.jsonl")
    done = puna("judge", "--reproduce", name[:8], "--json", cwd=judged)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["holds"], found["items"], found["changed"]) == (True, 12, [])
    assert found["largest"] <= found["tolerance"]


def test_the_board_is_written_and_a_changed_result_is_refused(judged: Path, tmp_path: Path) -> None:
    store = tmp_path / "results"
    subprocess.run(["cp", "-r", str(judged / "results"), str(store)], check=True)
    record = next(path for path in (store / "data/copa").rglob("*.json"))
    record.write_text(record.read_text().replace('"stories260K', '"stories261K'))
    done = puna("board", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["models"], report["tasks"]) == (1, 1)
    assert [row["path"] for row in report["refused"]] == [str(record.relative_to(tmp_path))]
    page = (tmp_path / "board/index.html").read_text()
    assert "stories260K" in page and "changed after it was written" in page


def test_a_question_in_sql(judged: Path) -> None:
    done = puna("judge", "--ask", "select task, n from results order by task", "--json", cwd=judged)
    assert json.loads(done.stdout) == {"columns": ["task", "n"], "rows": [["copa", 12], ["winogrande", 12]]}


def test_published_scores_come_in_and_go_out(tmp_path: Path) -> None:
    done = puna("judge", "--import", str(ROOT / "recipes/leaderboard-2023.csv"), cwd=tmp_path)
    assert done.returncode == 0 and "83 results of" in done.stdout, done.stderr
    done = puna("judge", "--export", "shared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "shared/every_eval_ever").rglob("*.json")) and list(
        (tmp_path / "shared/eval_results").rglob("*.yaml")
    )


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "there is nothing to do"),
        (["nobody", "--reproduce", "x"], "are different things to do"),
        (["nobody", "-t", "copa", "--data", "."], "no such model"),
        (["--reproduce", "zz"], "no such result"),
        (["--ask", "drop table results"], "SQL: must be one SELECT"),
        (["--import", "nowhere.csv"], "nowhere.csv"),
        (["nobody", "-t", "copa", "--limit", "0"], "--limit"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = puna("judge", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("puna: ") and done.stderr.count("\n") == 1 and says in done.stderr, done.stderr


def test_missing_data_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    if not STORIES.is_file():
        pytest.skip(f"{STORIES} is not here")
    done = puna("judge", str(STORIES), "-t", "mmlu", "--data", ".", cwd=tmp_path)
    assert done.returncode == 2 and "mmlu" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_board_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    done = puna("board", cwd=tmp_path)
    assert done.returncode == 2 and "there are no results here" in done.stderr


def test_what_must_be_known_stands_once_under_the_table(judged: Path) -> None:
    done = puna(
        "judge", str(STORIES), str(STORIES), "-t", "gsm8k", "--data", str(EVALS), "--limit", "1", "--chat", cwd=judged
    )
    assert done.returncode == 1, done.stderr  # no chat format: the task failed, with that line
    said = " ".join(done.stdout.split())
    assert "no chat format" in said and said.count("Counted as by lm_eval 0.4's gsm8k") == 1


def test_help_says_what_takes_the_place_of_a_model(tmp_path: Path) -> None:
    said = " ".join(puna("judge", "--help", cwd=tmp_path).stdout.replace("│", " ").split())
    assert said.count("Instead of MODEL") == 5
    for word in ("--twin arc_easy=arc_twin", "--control stories260K.bin", "--bos", "--keep-answers"):
        assert word in said
