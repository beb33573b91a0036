"""What others take away: tables that a spreadsheet cannot run, and results that are a store themselves."""

import csv
import io
import json

from puna.board.downloads import PAIRS, RESULTS, table
from puna.judge.store.store import Store


def rows(path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def test_results_csv_has_every_result_and_its_numbers(sample_site, sample_results):
    found = {row["result"]: row for row in rows(sample_site / "downloads/results.csv")}
    assert set(found) == {one.id for one in sample_results}
    for one in sample_results:
        row = found[one.id]
        assert (float(row["score"]) if row["score"] else None) == one.summary.score
        assert row["command"] == one.command and row["failed"] == (one.summary.failed or "")
        assert row["weights_sha256"] == (one.model.digest or "") and row["task_sha256"] == one.task.digest
    assert set(next(iter(found.values()))) == set(RESULTS)


def test_pairs_csv_agrees_with_the_scripts_data(sample_site):
    board = json.loads(
        (sample_site / "data/board.js").read_text("utf-8").removeprefix("window.PUNA_BOARD = ").removesuffix(";\n")
    )
    slugs = [model["slug"] for model in board["models"]]
    found = rows(sample_site / "downloads/pairs.csv")
    assert set(found[0]) == set(PAIRS) and len(found) > 40
    for row in found:
        i, j, n = slugs.index(row["first"]), slugs.index(row["second"]), len(slugs)
        t = [task["slug"] for task in board["tasks"]].index(row["task"])
        told = board["pairs"][t]["d"][i * (2 * n - i - 1) // 2 + j - i - 1]
        assert abs(told - float(row["difference"])) < 1e-8


def test_the_downloads_are_a_store_with_the_same_results(sample_site, sample_results):
    again = Store(sample_site / "downloads").results()
    assert [one.id for one in again] == [one.id for one in sample_results]
    assert [one.measurement() for one in again] == [one.measurement() for one in sample_results]


def test_results_json_is_complete(sample_site, sample_results):
    value = json.loads((sample_site / "downloads/results.json").read_text("utf-8"))
    assert len(value["results"]) == len(sample_results) and value["refused"] == [
        {"path": "results/x.json", "why": "was changed <b>by hand</b>"}
    ]


def test_no_cell_is_a_formula():
    evil = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "fine"]
    text = table(("a",), [{"a": cell} for cell in evil] + [{"a": -1.5}])
    read = [row[0] for row in csv.reader(io.StringIO(text))][1:]
    assert all(cell[0] == "'" or cell in ("fine", "-1.5") or cell.startswith(("␉", "␍")) for cell in read)
    assert read[-1] == "-1.5"
