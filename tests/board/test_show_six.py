"""Yi-34B's published scores under 4, 6 and 7 tasks: three means, three orders, and rank sets that say what the data cannot."""

from pathlib import Path

import pytest

from puna.board.choice import ranking
from puna.board.gather import gather
from puna.judge.store.importing import import_results
from puna.judge.store.store import Store

# reference/yi.md, 1.9: the board of 6 November 2023 and of mid-November. The rival is made up, so that the order must change.
YI = {
    "ARC": 64.59,
    "HellaSwag": 85.69,
    "MMLU": 76.35,
    "TruthfulQA": 56.23,
    "Winogrande": 83.03,
    "GSM8K": 50.64,
    "DROP": 64.2,
}
RIVAL = {
    "ARC": 64.4,
    "HellaSwag": 85.5,
    "MMLU": 76.2,
    "TruthfulQA": 56.1,
    "Winogrande": 83.0,
    "GSM8K": 60.0,
    "DROP": 40.0,
}


def test_three_means_of_one_model(tmp_path: Path) -> None:
    rows = ["model,task,score,unit,source,date"]
    for model, scores in (("Yi-34B", YI), ("a made-up rival", RIVAL)):
        rows += [f"{model},{task},{score},percent,press,2023-11-06" for task, score in scores.items()]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    store = Store(tmp_path / "store")
    import_results(table, store)
    board = gather(store.results(), title="t").board
    yi = next(i for i, row in enumerate(board.models) if row.facts.name == "Yi-34B")
    means, first, sets = {}, {}, {}
    for preset in board.presets:
        found = ranking(board, preset.tasks)
        own = next(row for row in found.rows if row.model == yi)
        means[preset.id], first[preset.id], sets[preset.id] = own.mean, found.rows[0].model == yi, (own.low, own.high)
    assert means["four"] == pytest.approx(0.70715, abs=1e-6)
    assert means["six"] == pytest.approx(0.69422, abs=1e-5)
    assert means["seven"] == pytest.approx(0.68676, abs=1e-5)
    assert (first["four"], first["six"], first["seven"]) == (True, False, True)
    assert sets["four"] == (1, 2)  # 0.2 points on the mean of four: no rank can be told
    assert sets["seven"] == (1, 1)
