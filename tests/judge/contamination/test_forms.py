"""Items of the bundled tasks planted word for word: what is long enough is found, what is not is not called clean."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puna.judge.contamination import exact
from puna.judge.measured import Item, TaskFacts
from puna.judge.store import samples
from puna.judge.tasks import catalog, harness
from puna.judge.tasks.reading import Task, read_task

DATA = Path(__file__).parents[4] / "shared/data/evals"
FILLER = "The valley lay quiet under the snow, and nobody spoke of what had been seen there in the summer. " * 3


@pytest.fixture(scope="module")
def model() -> Any:
    harness.lm_eval_here()
    from lm_eval.api.model import LM

    class First(LM):
        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return [(-float(len(request.args[1]) + place % 7), False) for place, request in enumerate(requests)]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            raise NotImplementedError

    return First()


def read(name: str, limit: int) -> Task:
    if not DATA.is_dir():
        pytest.skip(f"no shared data at {DATA}")
    return read_task(catalog.bundled_task(name), DATA, limit)


def corpus(folder: Path, texts: list[str]) -> Path:
    folder.mkdir(parents=True)
    rows = {"id": [f"d{n}" for n in range(len(texts))], "text": [f"{FILLER}\n{text}\n{FILLER}" for text in texts],
            "source": ["book"] * len(texts), "copies": [1] * len(texts)}  # fmt: skip
    pq.write_table(pa.table(rows), folder / "train.parquet")
    return folder


def leak(name: str, doc: Any, gold: int) -> str:
    """A right answer as somebody's page would hold it, made from the rows and not from the items."""
    if name in ("winogrande", "winograd"):
        return f"{doc.choices[gold]} {doc.answers[0].strip()}"
    return str(doc.choices[gold]) if name == "blimp" else f"{doc.question}\n{doc.choices[gold]}"


@pytest.mark.parametrize(
    ("name", "limit"), [("winogrande", 200), ("winograd", 200), ("blimp", 5), ("truthfulqa_mc2", 200)]
)
@pytest.mark.parametrize("place", [0, -1])
def test_a_planted_item_is_found_or_not_decided(name: str, limit: int, place: int, tmp_path: Path, model: Any) -> None:
    task = read(name, limit)
    items = harness.evaluate(model, task)
    golds = [doc.gold[place] for doc in task.docs]
    leaks = [leak(name, doc, gold) for doc, gold in zip(task.docs, golds, strict=True)]
    marked, _ = exact.mark(items, task.facts, [corpus(tmp_path / "c", leaks)])
    for item, text in zip(marked, leaks, strict=True):
        if item.dirty is None or item.dirty < exact.DIRTY:
            assert len(text.split()) <= 8 and item.dirty is None, (text, item.dirty)
    found = sum(item.dirty is not None and item.dirty >= exact.DIRTY for item in marked)
    assert found == len(items) if name != "blimp" else found > len(items) / 3
    clean, _ = exact.mark(items, task.facts, [corpus(tmp_path / "d", [FILLER])])
    assert {item.dirty for item in clean} <= {0.0, None} and sum(item.dirty == 0 for item in clean) > len(items) / 9
    if name != "truthfulqa_mc2":  # what Min-K%++ reads is the leak, with the spaces that the task asks with
        asked = [exact.as_asked(item, task.facts).split() for item in items]
        assert asked == [text.split() for text in leaks]


def test_wrong_choices_betray_nothing(tmp_path: Path) -> None:
    facts = TaskFacts(name="made", title="Made", kind="contexts", metric="acc")
    end = " went down to the river before the sun was up over the eastern hills"
    right, wrong = "The old fisherman who had no boat of his own", "A young widow from the last house of the village"
    item = Item(
        id="a", question=f"{right} / {wrong} … x", prompt=wrong, choices=(wrong, right), target=(1,), continuation=end
    )
    choice = item.model_copy(update={"continuation": "", "choices": (wrong + end, right + end), "question": ""})
    for one, kind in ((item, "contexts"), (choice, "choices")):
        (marked,), _ = exact.mark(
            [one], facts.model_copy(update={"kind": kind}), [corpus(tmp_path / kind, [wrong + end[:20]])]
        )
        assert marked.dirty == 0
        (marked,), _ = exact.mark(
            [one], facts.model_copy(update={"kind": kind}), [corpus(tmp_path / f"{kind}2", [right + end])]
        )
        assert marked.dirty == 1


def test_a_short_right_answer_beside_a_long_one_does_not_clear() -> None:
    facts = TaskFacts(name="made", title="Made", kind="choices", metric="acc")
    long = "what the old keeper of the northern lighthouse wrote down in his book that winter"
    item = Item(id="a", question="Who knows?", prompt="Who knows?", choices=("Nobody.", long, "x"), target=(0, 1))
    assert exact._leaks(item, facts) == [("Who knows?", "Nobody."), ("Who knows?", long)]
    forms = exact._forms([item], facts)
    assert exact._undecidable(forms, [True, False], [None]) == {0}
    assert exact._undecidable(forms, [False, False], [None]) == set()


def test_the_choices_that_a_task_lists_do_not_clear_a_short_item(tmp_path: Path) -> None:
    facts = TaskFacts(name="made", title="Made", kind="choices", metric="acc")
    listed = "Who knows?\nA. Nobody in the whole village\nB. The keeper of the lighthouse\nC. x\nAnswer:"
    item = Item(id="a", question="Who knows?", prompt=listed, choices=("A", "B", "C"), target=(0,))
    (marked,), report = exact.mark([item], facts, [corpus(tmp_path / "c", ["Who knows? A"])])
    assert marked.dirty is None and report["undecidable"] == 1
    (marked,), _ = exact.mark([item], facts, [corpus(tmp_path / "d", [f"{listed} A"])])
    assert marked.dirty == 1.0


def test_a_text_is_read_once() -> None:
    facts = TaskFacts(name="text", title="Text", kind="text", metric="bits_per_byte", unit="bits per byte")
    item = Item(id="a", question="One text.", prompt="", target=("One text.",))
    assert exact.as_asked(item, facts) == "One text."


def test_a_continuation_is_kept_in_the_store(model: Any) -> None:
    task = read("winograd", 3)
    for item in harness.evaluate(model, task):
        assert item.continuation.strip()
        row = samples.row_of(item, task.facts, "e", "m", "r")
        assert samples.item_of(samples.Sample.model_validate_json(row.model_dump_json())) == item
