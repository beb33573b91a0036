"""SQL over the verified results: answers, and nothing beyond them."""

from pathlib import Path

import pytest

from puna.errors import PunaError
from puna.judge.store.query import as_table, ask
from puna.judge.store.store import Store
from puna.words import cells

from .conftest import measurement

pytest.importorskip("duckdb")


@pytest.fixture
def filled(store: Store) -> Store:
    store.add(measurement(), now=1)
    store.add(measurement(items=3, name="羊驼 <b>", command="x"), now=2)
    store.add(measurement(items=0, failed="NaN", task="mmlu"), now=3)
    return store


def test_answers(filled: Store) -> None:
    columns, rows = ask(filled, "SELECT model, n, score, failed FROM results ORDER BY stored")
    assert columns == ["model", "n", "score", "failed"]
    assert rows[0] == ("puna-60m", 6, pytest.approx(2 / 6), None) and rows[2] == ("puna-60m", 0, None, "NaN")
    assert ask(filled, "SELECT count(*) FROM items")[1] == [(9,)]
    _, rows = ask(filled, "SELECT item, answer, target, dirty FROM Items WHERE model = '羊驼 <b>' ORDER BY item")
    assert rows == [("0", "yes", ["yes"], None), ("1", "no", ["no"], 0.1), ("2", "yes", ["羊驼"], 0.2)]
    pairs = "SELECT count(*) FROM items a JOIN items b USING (task, item) WHERE a.score > b.score AND a.model < b.model"
    assert ask(filled, f"WITH x AS ({pairs}) SELECT * FROM x")[1] == [(0,)]


def test_an_empty_store_has_tables_all_the_same(store: Store) -> None:
    assert ask(store, "SELECT * FROM results, items")[1] == []


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE results", "SELECT 1; SELECT 2", "INSERT INTO results SELECT * FROM results", "COPY results TO '/tmp/x.csv'",
        "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM '/etc/passwd'", "SELECT * FROM glob('/*')", "ATTACH '/tmp/x.db'",
        "INSTALL httpfs", "LOAD httpfs", "SET enable_external_access = true", "SELECT * FROM read_text('https://example.org')",
        "SELEC 1", "SELECT nothing FROM results", "SELECT * FROM store", "", "PRAGMA database_list", "SELECT * FROM sys",
        "EXPORT DATABASE '/tmp/x'", "SELECT * FROM results, range(100000)", "CREATE TABLE x AS SELECT 1",
    ],
)  # fmt: skip
def test_what_is_no_question_to_the_results(filled: Store, sql: str) -> None:
    with pytest.raises(PunaError, match="SQL") as caught:
        ask(filled, sql)
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/x.csv").exists()


def test_a_question_without_end_is_stopped(filled: Store) -> None:
    with pytest.raises(PunaError, match="took longer than"):
        ask(
            filled,
            "SELECT count(*) FROM range(100000000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5",
            seconds=0.3,
        )


def test_refused_files_are_in_no_answer(filled: Store) -> None:
    path = filled.results()[0].path
    path.write_text(path.read_text().replace("puna-60m", "puna-99m"))
    with pytest.raises(PunaError, match="was changed"):
        ask(filled, "SELECT 1")
    problems: list[PunaError] = []
    assert "puna-99m" not in str(ask(filled, "SELECT model FROM results", problems=problems)[1]) and len(problems) == 1


def test_a_table_fits_a_terminal(filled: Store) -> None:
    text = as_table(*ask(filled, "SELECT id, items.model, question, prompt, items.score, '\u202e\x1b[31m' AS bad FROM items JOIN results ON results.id = result"))  # fmt: skip
    lines = text.split("\n")
    assert len(lines) == 11 and all(cells(line) <= 80 for line in lines)
    assert "\x1b" not in text and "\u202e" not in text and "…" in text
    assert as_table(["n", "word"], [(1, "a"), (20, None)]) == " n  word\n--  ----\n 1  a\n20"
    assert as_table([], []) == "" and "n" in as_table(["n"], [])
