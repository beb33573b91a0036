"""From the store to a board: which results share a column, which one counts, and what happens to those that cannot be read."""

from pathlib import Path

from board_sample import MODELS, TASKS, measurement, published, task

from puna.board.gather import Gathered, gather
from puna.judge.measured import Measurement, TaskFacts
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


def test_equal_ids_of_other_questions_are_not_paired(tmp_path):
    bare = {"digest": "", "data_digest": "", "prompt_digest": ""}
    one, two = measurement(0, 0), measurement(1, 0)
    one, two = (m.model_copy(update={"task": m.task.model_copy(update=bare)}) for m in (one, two))
    other = [
        item.model_copy(update={"question": f"other {k}", "prompt": f"other {k}"}) for k, item in enumerate(two.items)
    ]
    (found,) = gathered(tmp_path, one, two.model_copy(update={"items": tuple(other)})).board.pairs[0].values()
    assert not found.paired and "McNemar" not in found.test and "prompts differ" in found.test
    mixed = two.model_copy(update={"items": (*other[:30], *two.items[30:])})
    (found,) = gathered(tmp_path / "b", one, mixed).board.pairs[0].values()
    assert (found.paired, found.n) == (True, 90) and "30 items that were not asked alike are left out" in found.test


def test_a_sample_is_paired_with_a_larger_one(tmp_path):
    one, two = measurement(0, 0), measurement(1, 0)
    facts = two.task.model_copy(update={"prompt_digest": "of the sample"})
    (found,) = (
        gathered(tmp_path, one, two.model_copy(update={"items": two.items[:60], "task": facts})).board.pairs[0].values()
    )
    assert (found.paired, found.n) == (True, 60) and "60 items that only one of them has are left out" in found.test


def other_facts(measured: Measurement, **facts) -> Measurement:
    return measured.model_copy(update={"task": measured.task.model_copy(update=facts)})


def test_other_examples_and_chat_are_columns_of_their_own(tmp_path):
    one, two, third = measurement(0, 0), measurement(1, 0), measurement(2, 0)
    chat = two.model_copy(update={"settings": two.settings.model_copy(update={"chat": True})})
    board = gathered(tmp_path, one, chat, other_facts(third, shots=0)).board
    assert sorted(column.facts.title for column in board.tasks) == [
        "ARC-Challenge, 0-shot", "ARC-Challenge, 5-shot", "ARC-Challenge, 5-shot, chat",
    ]  # fmt: skip
    assert all(pairs == {} for pairs in board.pairs)
    # One model both ways: two cells, and neither hides the other.
    both = one.model_copy(update={"settings": one.settings.model_copy(update={"chat": True})})
    board = gathered(tmp_path / "b", one, both).board
    assert len(board.tasks) == 2 and all(cell is not None for cell in board.scores[0])


def test_a_published_score_joins_by_its_examples_where_it_states_them(tmp_path):
    base = published()[0]
    stated = other_facts(base, shots=3)
    board = gathered(tmp_path, measurement(0, 0), measurement(1, 0), stated).board
    assert len(board.tasks) == 2
    silent = other_facts(base, shots=3, notes=("the number of examples (shots) is not stated",))
    board = gathered(tmp_path / "b", measurement(0, 0), measurement(1, 0), silent).board
    assert len(board.tasks) == 1 and "examples (shots): 5, not stated" in board.tasks[0].variants


def test_another_metric_direction_is_not_tested(tmp_path):
    one, two = (
        m.model_copy(update={"task": TASKS[0].model_copy(update={"digest": "", "data_digest": ""})})
        for m in (measurement(0, 0), measurement(1, 0))
    )
    lower = other_facts(two, higher_is_better=False)
    (found,) = gathered(tmp_path, one, lower).board.pairs[0].values()
    assert (found.p, found.variance, found.interval) == (None, None, None) and found.test.startswith(
        "cannot be compared: "
    )


def test_an_unknown_chance_level_has_no_normalised_score(tmp_path):
    origin = published()[0].origin
    facts = TaskFacts(name="hle", title="HLE", kind="choices", metric="acc")
    made = [
        published()[0].model_copy(
            update={"task": facts, "model": MODELS[k].model_copy(update={"digest": None}), "origin": origin}
        )
        for k in range(2)
    ]
    board = gathered(tmp_path, *made).board
    assert all(row[0].norm is None and row[0].clipped is None for row in board.scores)
    (found,) = board.pairs[0].values()
    assert found.p is not None and found.norm is None


def test_notes_of_every_result_are_the_models(tmp_path):
    one, two = measurement(0, 0), measurement(0, 1)
    noted = two.model_copy(update={"model": two.model.model_copy(update={"notes": ("its ledger is not believed",)})})
    assert gathered(tmp_path, one, noted).board.models[0].facts.notes == ("its ledger is not believed",)
