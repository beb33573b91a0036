"""Which items stand in training text: marks, passages, what cannot be decided, and the kept scan."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puna.corpus.itemindex import ItemIndex
from puna.errors import PunaError
from puna.judge.contamination import exact, passages, words
from puna.judge.measured import Item, TaskFacts

TASK = TaskFacts(name="made", title="Made", kind="choices", metric="acc")
LONG = "Which of the seven old stone bridges over the river was carried away by the flood of the year before last?"
PART = (
    "Why did the keeper of the lighthouse on the northern cape put out the lamp when the two ships came near at night?"
)
CLEAN = "How many of the farmers who sold their wool at the spring market came back in autumn to buy winter feed again?"
CHINESE = "下列关于高原草地上放牧的羊驼和骆马的说法中，哪一项符合当地牧民的经验？"
FILLER = "The valley lay quiet under the snow, and nobody spoke of what had been seen there in the summer. " * 6


def item(number: int, question: str, right: str = "the third one from the mill", **more: Any) -> Item:
    fields = {
        "question": question,
        "prompt": f"Question: {question}\nAnswer:",
        "choices": ("another", right),
        "target": (1,),
        **more,
    }
    return Item(id=f"i{number}", **fields)


def corpus(folder: Path, texts: list[str], **columns: list[Any]) -> Path:
    folder.mkdir(parents=True)
    rows = {"id": [f"d{n}" for n in range(len(texts))], "text": texts, "source": ["book"] * len(texts),
            "copies": [1] * len(texts), **columns}  # fmt: skip
    pq.write_table(pa.table(rows), folder / "train.parquet")
    return folder


def test_what_stands_in_the_text_is_flagged_with_its_passage(tmp_path: Path) -> None:
    half = " ".join(PART.split()[:15])
    texts = [
        FILLER,
        f"{FILLER}\nQuestion: {LONG}\nAnswer: the third one from the mill\n{FILLER}",
        f"{FILLER} {half} and so on. {FILLER}",
        f"导言。{CHINESE}答案。",
    ]
    folder = corpus(tmp_path / "corpus-0", texts, copies=[1, 8, 1, 1])
    items = [item(0, LONG), item(1, PART), item(2, CLEAN), item(3, CHINESE, "耐寒"), item(4, "Which one?", "this")]
    marked, report = exact.mark(items, TASK, [folder])
    dirty = [one.dirty for one in marked]
    assert dirty[0] == 1.0 and dirty[2] == 0.0 and dirty[3] == 1.0 and dirty[4] is None
    assert dirty[1] is not None and 0 < dirty[1] < exact.DIRTY
    assert {key: report[key] for key in ("items", "clean", "touched", "contaminated", "undecidable", "unknown")} == {
        "items": 5, "clean": 1, "touched": 1, "contaminated": 2, "undecidable": 1, "unknown": 0}  # fmt: skip
    assert report["undecidable_items"] == ["i4"]
    found = {row["id"]: row for row in report["found"]}
    assert (
        set(found) == {"i0", "i1", "i3"}
        and found["i0"]["verdict"] == "contaminated"
        and found["i1"]["verdict"] == "touched"
    )
    (place,) = found["i0"]["places"]
    assert (place["document"], place["source"], place["copies"], place["corpus"]) == ("d1", "book", 8, "corpus-0")
    assert place["passage"].startswith("Which of the seven") and place["before"].endswith("Question: ")
    assert texts[1].count(place["before"] + place["passage"] + place["after"]) == 1
    assert "2 stand in the model's own training text" in report["says"] and "other words" in report["says"]
    json.dumps(report)
    exact.check(report)


def test_a_short_question_is_found_as_the_task_writes_it(tmp_path: Path) -> None:
    """Neither the question nor question and answer end to end have an n-gram of the text: what the task puts between is in the way."""
    short = item(0, "Who built the first windmill here?", "a widow from the coast whose sons had gone to sea")
    text = f"{FILLER}\n{short.prompt} {short.choices[1]}\n{FILLER}"
    found = exact.mark([short], TASK, [corpus(tmp_path / "a", [text])])[0][0].dirty
    bare = exact.mark([short.model_copy(update={"prompt": ""})], TASK, [corpus(tmp_path / "b", [text])])[0][0].dirty
    assert found == 1.0 and bare is not None and bare < exact.DIRTY
    assert exact.as_asked(short, TASK) == f"{short.question}\nAnswer: {short.choices[1]}"


def test_an_item_that_is_not_found_is_not_clean_where_text_is_missing(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "c", [f"{FILLER} {LONG}"])
    marked, report = exact.mark([item(0, LONG), item(1, CLEAN)], TASK, [folder], whole=False)
    assert [one.dirty for one in marked] == [1.0, None] and report["unknown"] == 1 and report["clean"] == 0
    marked, report = exact.mark([item(0, LONG)], TASK, [])
    assert marked[0].dirty is None and report["unknown"] == 1 and "not known" in report["says"]


def test_a_reworded_item_is_suspected_and_not_dirty(tmp_path: Path) -> None:
    other = (
        LONG.replace("stone bridges", "wooden bridges")
        .replace("was carried", "got carried")
        .replace("before last", "past")
    )
    marked, report = exact.mark([item(0, LONG)], TASK, [corpus(tmp_path / "c", [f"{FILLER} {other} {FILLER}"])])
    assert marked[0].dirty == 0.0 and report["suspected"] == 1 and report["suspicions"][0]["id"] == "i0"


def test_tuning_data_and_corpus_are_both_looked_through(tmp_path: Path) -> None:
    talks = tmp_path / "chat-0-abc"
    talks.mkdir()
    turns = [{"role": "user", "content": LONG}, {"role": "assistant", "content": "the third one from the mill"}]
    (talks / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    marked, report = exact.mark([item(0, LONG), item(1, PART)], TASK, [corpus(tmp_path / "corpus-1", [PART]), talks])
    assert [one.dirty for one in marked] == [1.0, 1.0]
    assert [row["places"][0]["corpus"] for row in report["found"]] == ["chat-0-abc", "corpus-1"]
    assert [row["name"] for row in report["texts"]] == ["corpus-1", "chat-0-abc"]


def test_a_scan_is_kept_for_the_same_text_and_items_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = corpus(tmp_path / "c", [f"{FILLER} {LONG}"]), tmp_path / "cache"
    items = [item(0, LONG), item(1, CLEAN)]
    first = exact.mark(items, TASK, [folder], cache=cache)
    (kept,) = cache.iterdir()
    scans: list[int] = []
    scan = ItemIndex.scan
    monkeypatch.setattr(ItemIndex, "scan", lambda self, texts: scans.append(1) or scan(self, texts))
    assert exact.mark(items, TASK, [folder], cache=cache) == first and not scans
    exact.mark(items[:1], TASK, [folder], cache=cache)
    assert len(scans) == 1
    exact.mark(items, TASK, [corpus(tmp_path / "d", [FILLER])], cache=cache)
    assert len(scans) == 2
    kept.write_text(kept.read_text()[:-20])  # damaged: made again, and whole again
    assert exact.mark(items, TASK, [folder], cache=cache) == first and len(scans) == 3
    forged = json.loads(kept.read_text())
    forged["found"][0]["item"] = 99
    kept.write_text(json.dumps(forged))
    assert exact.mark(items, TASK, [folder], cache=cache) == first and len(scans) == 4


def test_the_cut_into_batches_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{FILLER} {LONG if n % 3 else PART} {n}" for n in range(20)]
    folder, items = corpus(tmp_path / "c", texts), [item(0, LONG), item(1, PART)]
    whole = exact.mark(items, TASK, [folder])
    monkeypatch.setattr(passages, "_BATCH_CHARS", 1)
    assert exact.mark(items, TASK, [folder]) == whole
    assert [row["documents"] for row in whole[1]["found"]] == [13, 7] and len(whole[1]["found"][0]["places"]) == 3
    assert [place["document"] for place in whole[1]["found"][1]["places"]] == ["d0", "d3", "d6"]


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="neither train.parquet nor chat.jsonl"):
        exact.mark([item(0, LONG)], TASK, [tmp_path])
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(PunaError, match="not a table of documents"):
        exact.mark([item(0, LONG)], TASK, [tmp_path])
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(PunaError, match="no column id, source"):
        exact.mark([item(0, LONG)], TASK, [tmp_path])
    with pytest.raises(PunaError, match="no report"):
        exact.check({"format": exact.FORMAT, "items": True})


def test_what_a_base_brings_along_is_said() -> None:
    assert "12 of 300 items stand" in words.inherited("llama-7b", 12, 300)
    assert "is not known" in words.inherited("llama-7b", None, None)
