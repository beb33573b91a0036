"""From the store to a board: which results share a column, which one counts, and what happens to those that cannot be read."""

from pathlib import Path

from board_sample import MODELS, measurement, published, task

from puna.board.gather import Gathered, gather
from puna.judge.measured import Measurement
from puna.judge.store.store import Store


def gathered(folder: Path, *every: Measurement | tuple[Measurement, float]) -> Gathered:
    store = Store(folder)
    for one in every:
        measured, now = one if isinstance(one, tuple) else (one, 1.0)
        store.add(measured, now=now)
    return gather(store.results(), title="t")


def test_equal_names_of_unequal_questions_are_two_columns(tmp_path):
    one, two = measurement(0, 0), measurement(1, 0)
    other = two.model_copy(update={"task": two.task.model_copy(update={"data_digest": "other"})})
    board = gathered(tmp_path, one, other).board
    assert len(board.tasks) == 2 and len({column.slug for column in board.tasks}) == 2
    assert all(pairs == {} for pairs in board.pairs)


def test_a_published_score_joins_the_column_of_its_name(tmp_path):
    board = gathered(tmp_path, measurement(0, 0), measurement(1, 0), published()[0]).board
    assert len(board.tasks) == 1 and board.tasks[0].facts.digest  # described by those who measured
    assert len(board.pairs[0]) == 3 and sum(found.paired for found in board.pairs[0].values()) == 1


def test_the_table_shows_the_fullest_and_newest_and_says_why(tmp_path):
    whole = measurement(0, 0)
    part = whole.model_copy(
        update={"items": whole.items[:50], "settings": whole.settings.model_copy(update={"limit": 50})}
    )
    failed = whole.model_copy(
        update={"items": (), "failed": "no", "settings": whole.settings.model_copy(update={"seed": 9})}
    )
    found = gathered(tmp_path, (whole, 1.0), (part, 2.0), (failed, 3.0))
    why = {(one.score.n, bool(one.score.failed)): one.why for one in found.results}
    assert why == {(120, False): "", (50, False): "another has more items", (0, True): "it failed"}
    assert found.board.at(0, 0).n == 120


def test_two_models_of_one_name_are_two_rows_with_two_files(tmp_path):
    one, two = measurement(0, 0), measurement(1, 0)
    twin = two.model_copy(update={"model": two.model.model_copy(update={"name": one.model.name})})
    board = gathered(tmp_path, one, twin).board
    assert len(board.models) == 2 and len({row.slug for row in board.models}) == 2


def test_facts_that_one_result_lacks_come_from_another(tmp_path):
    one, two = measurement(1, 0), measurement(1, 1)
    bare = one.model_copy(update={"model": one.model.model_copy(update={"flops": None, "licence": None})})
    assert gathered(tmp_path, bare, two).board.models[0].facts == MODELS[1]


def test_items_that_vanish_are_refused_and_named_and_the_rest_goes_on(tmp_path):
    store = Store(tmp_path)
    bad = store.add(measurement(0, 0), now=1)
    store.add(measurement(1, 0), now=1)
    results = store.results()
    bad.samples.write_text("{}\n")
    board = gather(results, title="t").board
    cell = next(
        row[0] for row, model in zip(board.scores, board.models, strict=True) if model.facts.name == MODELS[0].name
    )
    assert cell.value is None and "changed" in cell.failed
    assert [path for path, _ in board.refused] == [str(bad.samples)]


def test_a_gain_over_the_parent_is_paired_and_over_shared_tasks(tmp_path):
    board = gathered(tmp_path, *(measurement(model, which) for model, which in ((0, 0), (0, 1), (1, 0)))).board
    child = next(i for i, row in enumerate(board.models) if row.facts.name == "grown-400K")
    gain = board.gains[child][0]
    truth = sum(a.score - b.score for a, b in zip(measurement(1, 0).items, measurement(0, 0).items, strict=True)) / 120
    # 120 items, McNemar's interval shrinks nothing of the difference itself.
    assert (len(gain.tasks), gain.paired) == (1, True) and abs(gain.value - truth) < 1e-8
    assert gain.interval[0] < gain.value < gain.interval[1]


def test_the_first_choice_is_what_most_models_have(tmp_path):
    # Of three models two have both tasks, one has only the second: what all have is the second.
    board = gathered(
        tmp_path / "a", measurement(0, 0), measurement(0, 1), measurement(1, 0), measurement(1, 1), measurement(2, 1)
    ).board
    assert [board.tasks[t].facts.name for t in board.presets[board.start].tasks] == ["hellaswag"]
    # Nothing that all have: the set that most have.
    board = gathered(tmp_path / "b", measurement(0, 0), measurement(1, 0), measurement(2, 1)).board
    assert [board.tasks[t].facts.name for t in board.presets[board.start].tasks] == ["arc_challenge"]


def test_points_and_bits_are_never_in_a_mean(tmp_path):
    points = task("points", "Points", unit="points", chance=None, items_in_all=20)
    one = measurement(0, 0).model_copy(update={"task": points})
    board = gathered(tmp_path, one, measurement(0, 5)).board
    assert not any(column.in_mean for column in board.tasks) and board.presets == []
