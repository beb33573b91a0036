"""The store gives back what it was given, and refuses whatever was changed, torn or put there by somebody else."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.files import digest_of
from puna.judge.measured import Item, Measurement, ModelFacts, Origin, Parent, Published, Settings, TaskFacts
from puna.judge.store import form, samples
from puna.judge.store.names import safe_name
from puna.judge.store.store import Store
from puna.judge.summary import summarise

from .conftest import measurement

TEXT = st.text(max_size=20)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
SCORE = st.floats(0, 1)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**60), 2**60) | FLOAT | TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5)  # fmt: skip


@st.composite
def any_item(draw: st.DrawFn, number: int) -> Item:
    return Item(
        id=f"{number}", subtask=draw(st.sampled_from(["", "a", "法"])), cluster=draw(st.sampled_from(["", "p", "q"])),
        question=draw(TEXT), prompt=draw(TEXT), choices=tuple(draw(st.lists(TEXT, max_size=4))),
        target=tuple(draw(st.lists(st.integers(0, 4) | TEXT, max_size=3))), answer=draw(st.none() | st.integers(0, 4) | TEXT),
        loglikelihoods=tuple(draw(st.lists(st.none() | FLOAT, max_size=4))), score=draw(st.none() | SCORE),
        weight=draw(st.floats(0.5, 100)), scores=draw(st.dictionaries(TEXT, SCORE, max_size=3)),
        truncated=draw(st.integers(0, 10)), tie=draw(st.booleans()), dirty=draw(st.none() | SCORE),
    )  # fmt: skip


@st.composite
def any_measurement(draw: st.DrawFn) -> Measurement:
    count = draw(st.integers(0, 6))
    published = st.builds(
        Published, score=SCORE, n=st.none() | st.integers(1, 99), scores=st.dictionaries(TEXT, SCORE, max_size=2)
    )
    return Measurement(
        model=ModelFacts(
            name=draw(TEXT), developer=draw(TEXT), kind=draw(st.sampled_from(["weights", "endpoint", "published"])),
            digest=draw(st.none() | TEXT), flops=draw(st.none() | FLOAT), licence=draw(st.none() | TEXT),
            parents=tuple(draw(st.lists(st.builds(Parent, name=TEXT, relation=TEXT, evidence=TEXT), max_size=2))),
        ),
        task=TaskFacts(
            name=draw(TEXT), title=draw(TEXT), kind="choices", metric=draw(TEXT), unit=draw(st.sampled_from(["share", "bits per byte", "points"])),
            higher_is_better=draw(st.booleans()), chance=draw(st.none() | st.floats(0, 0.9)), notes=tuple(draw(st.lists(TEXT, max_size=2))),
            aggregate=draw(st.sampled_from(["items", "subtasks"])),
        ),
        settings=Settings(limit=draw(st.none() | st.integers(1, 9)), extra=draw(st.dictionaries(TEXT, JSON, max_size=3))),
        items=tuple(draw(any_item(number)) for number in range(count)), failed=draw(st.none() | TEXT), seconds=draw(st.floats(0, 9e9)),
        harness=draw(st.dictionaries(TEXT, TEXT, max_size=2)), command=draw(TEXT),
        origin=draw(st.none() | st.builds(Origin, form=st.just("table"), name=TEXT, url=TEXT, date=TEXT)),
        published=draw(st.none() | published), contamination=draw(st.dictionaries(TEXT, JSON, max_size=2)),
    )  # fmt: skip


@settings(max_examples=40)
@given(any_measurement())
def test_any_measurement_comes_back_and_validates(validate: Callable[[Path], None], given_one: Measurement) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        added = store.add(given_one)
        again = store.results(older=True)
        assert [one.id for one in again] == [added.id]
        assert again[0].measurement() == given_one
        assert again[0].summary == summarise(given_one)
        validate(added.path)


def test_what_a_result_says(store: Store) -> None:
    one = measurement()
    result = store.add(one, now=1_700_000_000)
    assert (result.model, result.task, result.settings) == (one.model, one.task, one.settings)
    assert (result.command, result.harness, result.imported, result.failed) == (one.command, one.harness, None, None)
    assert (result.retrieved, result.contamination) == (1_700_000_000, {})
    assert result.summary.n == 6 and result.summary.score == pytest.approx(2 / 6)
    record = json.loads(result.path.read_text())
    first = record["evaluation_results"][0]
    assert first["score_details"]["score"] == result.summary.score
    assert first["score_details"]["uncertainty"]["num_samples"] == 6
    assert [entry["evaluation_name"] for entry in record["evaluation_results"]] == [
        "arc_challenge", "arc_challenge/anatomy", "arc_challenge/法律", "arc_challenge",
    ]  # fmt: skip
    assert record["model_info"]["additional_details"]["weights_sha256"] == "a" * 64
    assert first["source_data"]["additional_details"]["task_sha256"] == "c" * 64
    assert first["generation_config"]["generation_args"]["execution_command"] == one.command


def test_the_same_result_twice_is_one_file_and_times_do_not_count(store: Store) -> None:
    first = store.add(measurement(), now=1)
    second = store.add(measurement(seconds=9.0), now=2)
    assert first.path == second.path and second.measurement().seconds == 9.0
    other = store.add(measurement(command="another"), now=3)
    assert other.id != first.id
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", first.id)


def test_the_newest_result_wins_and_older_ones_stay(store: Store) -> None:
    old = store.add(measurement(items=4, settings=Settings()), now=10)
    new = store.add(measurement(items=5, settings=Settings(threads=8, device="cuda")), now=20)
    other = store.add(measurement(items=5, settings=Settings(limit=5)), now=5)
    assert {one.id for one in store.results()} == {new.id, other.id}
    assert {one.id for one in store.results(older=True)} == {old.id, new.id, other.id}
    assert store.get(old.id[:8]).id == old.id
    with pytest.raises(PunaError, match="no such result"):
        store.get("ffffffff-0000")


def test_a_failed_task_has_no_score_and_still_validates(store: Store, validate: Callable[[Path], None]) -> None:
    result = store.add(measurement(items=0, failed="the model gave NaN"))
    assert result.failed == "the model gave NaN" and result.summary.score is None
    assert json.loads(result.path.read_text())["evaluation_results"] == []
    validate(result.path)
    items = tuple(item.model_copy(update={"score": None}) if item.id == "2" else item for item in measurement().items)
    partly = store.add(measurement(items=6).model_copy(update={"items": items}))
    assert partly.failed is not None and "1 of 6" in partly.failed
    validate(partly.path)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/abs",
        "..",
        ".",
        "",
        "a/b\\c",
        "羊驼-60M",
        "<script>alert(1)</script>",
        "x" * 5000,
        "con",
        "a\0b",
        "é",
        "e\u0301",
        "\u202egnp.exe",
    ],
)
def test_no_name_leaves_the_store(store: Store, name: str) -> None:
    result = store.add(measurement(name=name))
    assert result.path.resolve().is_relative_to(store.folder.resolve() / "data")
    assert len(result.path.relative_to(store.folder).parts) == 5
    assert all(0 < len(part.encode()) <= 255 and part not in (".", "..") for part in result.path.parts[1:])
    assert result.model.name == name and store.results()[0].model.name == name


@given(st.text(max_size=80), st.text(max_size=80))
def test_different_names_are_different_folders(first: str, second: str) -> None:
    assert (safe_name(first) == safe_name(second)) == (first == second)


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False))


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "score": lambda v: v["evaluation_results"][0]["score_details"].update(score=0.99),
    "name": lambda v: v["model_info"].update(name="better"),
    "detail": lambda v: v["eval_library"]["additional_details"].update({"puna.command": '"rm"'}),
    "time": lambda v: v.update(retrieved_timestamp="1"),
    "removed": lambda v: v.pop("detailed_evaluation_results"),
    "checksum": lambda v: v["detailed_evaluation_results"].update(checksum="0" * 64),
    "added": lambda v: v.update(evaluation_timestamp="now"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_result_edited_by_hand_is_refused(store: Store, edit: str) -> None:
    path = store.add(measurement()).path
    good = store.add(measurement(name="other"))
    _edit(path, EDITS[edit])
    with pytest.raises(PunaError, match="was changed after it was written") as caught:
        store.results()
    assert str(path) in str(caught.value)
    problems: list[PunaError] = []
    assert [one.id for one in store.results(problems)] == [good.id]
    assert len(problems) == 1 and problems[0].where == str(path)


def test_a_new_layout_of_the_same_json_is_no_change(store: Store) -> None:
    one = store.add(measurement())
    one.path.write_text(json.dumps(json.loads(one.path.read_text())))
    assert store.results()[0].measurement() == measurement()


def _forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """An edit with a new digest, as somebody makes who has read the code."""
    value = json.loads(path.read_text())
    change(value)
    details = value["eval_library"]["additional_details"]
    details.pop(form.RECORD)
    details[form.RECORD] = digest_of(value)
    path.write_text(json.dumps(value))


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "leaves the store": (lambda v: v["detailed_evaluation_results"].update(file_path="data/../../x/" + "0" * 8 + "-0000-4000-8000-" + "0" * 12 + "_samples.jsonl"), "not its own"),
    "bad pattern": (lambda v: v["detailed_evaluation_results"].update(file_path="/etc/passwd"), "pattern"),
    "another model": (lambda v: v["model_info"]["additional_details"].update({"puna.model": v["model_info"]["additional_details"]["puna.model"].replace("puna-60m", "x")}), "another place"),
    "no model": (lambda v: v["model_info"]["additional_details"].pop("puna.model"), "lacks"),
    "model of a wrong shape": (lambda v: v["model_info"]["additional_details"].update({"puna.model": "[1]"}), "ModelFacts"),
    "NaN in a detail": (lambda v: v["eval_library"]["additional_details"].update({"puna.seconds": "NaN"}), "NaN"),
    "absurd rows": (lambda v: v["detailed_evaluation_results"].update(total_rows=10**12), "absurdly"),
    "no samples any more": (lambda v: v.pop("detailed_evaluation_results"), "lost its samples"),
    "unknown field": (lambda v: v.update(more=1), "more"),
    "another version": (lambda v: v["eval_library"]["additional_details"].update({"puna.format": "9"}), "version"),
    "no time": (lambda v: v.update(retrieved_timestamp="soon"), "time"),
    "deep": (lambda v: v["eval_library"]["additional_details"].update({"puna.settings": "[" * 100_000}), "recursion"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_record_is_refused_in_one_line(store: Store, forgery: str) -> None:
    change, words = FORGERIES[forgery]
    path = store.add(measurement()).path
    _forge(path, change)
    with pytest.raises(PunaError, match=words) as caught:
        store.results()
    assert "\n" not in str(caught.value)


def _bytes(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


TORN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "not UTF-8": lambda data: b"\xff" + data,
    "deep": lambda data: b"[" * 100_000,
    "list": lambda data: b"[]",
    "a name twice": lambda data: data.replace(b'"schema_version"', b'"schema_version": "0", "schema_version"', 1),
    "NaN": lambda data: data.replace(b'"score": 0', b'"score": NaN, "x": 0', 1),
    "half a letter": lambda data: data.replace(b"puna-60m", b"\\ud800", 1),
    "a huge number": lambda data: data.replace(b'"total_rows": 6', b'"total_rows": ' + b"9" * 5000, 1),
}


@pytest.mark.parametrize("damage", TORN)
def test_a_torn_record_is_refused(store: Store, damage: str) -> None:
    path = store.add(measurement()).path
    before = path.read_bytes()
    _bytes(path, TORN[damage])
    assert path.read_bytes() != before
    with pytest.raises(PunaError, match=re.escape(path.name)):
        store.results()


@pytest.mark.parametrize("damage", ["edit", "cut", "more", "gone", "link", "folder"])
def test_changed_samples_are_refused(store: Store, damage: str, tmp_path: Path) -> None:
    path = store.add(measurement()).samples
    assert path is not None
    data = path.read_bytes()
    if damage == "edit":
        path.write_bytes(data.replace(b"yes", b"yet", 1))
    elif damage in ("cut", "more"):
        path.write_bytes(data[:-40] if damage == "cut" else data + data.split(b"\n")[0] + b"\n")
    else:
        path.unlink()
        if damage == "link":
            (tmp_path / "elsewhere").write_bytes(data)
            path.symlink_to(tmp_path / "elsewhere")
        if damage == "folder":
            path.mkdir()
    with pytest.raises(PunaError, match="samples"):
        store.results()


def test_samples_changed_between_listing_and_reading_are_refused(store: Store) -> None:
    result = store.add(measurement())
    assert result.samples is not None
    result.samples.write_bytes(result.samples.read_bytes().replace(b"yes", b"yet", 1))
    with pytest.raises(PunaError, match="was changed"):
        result.measurement()


def test_samples_of_another_result_are_refused_though_the_checksum_fits(store: Store) -> None:
    first, second = store.add(measurement()), store.add(measurement(name="other"))
    assert first.samples and second.samples
    data = second.samples.read_bytes()
    first.samples.write_bytes(data)
    sums = json.loads(second.path.read_text())["detailed_evaluation_results"]["checksum"]
    _forge(first.path, lambda v: v["detailed_evaluation_results"].update(checksum=sums))
    with pytest.raises(PunaError, match="belongs to another result"):
        first.path and store.load(first.path).measurement()


def test_links_and_strangers_in_the_store_are_told(store: Store, tmp_path: Path) -> None:
    result = store.add(measurement())
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.folder / "data" / "linked").symlink_to(outside)
    (result.path.parent / "notes.json").write_text("{}")
    (result.path.parent / ".half.json.1.tmp").write_text("{")
    (result.path.parent / "README.md").write_text("hello")
    os.mkfifo(result.path.with_name("00000000-0000-4000-8000-000000000000.json"))
    problems: list[PunaError] = []
    assert [one.id for one in store.results(problems)] == [result.id]
    assert sorted(str(one.what).split(":")[0] for one in problems) == [
        "is a link",
        "is not an ordinary file",
        "is not named like a result",
    ]


def test_a_link_inside_the_store_takes_no_result_out_of_it(store: Store, tmp_path: Path) -> None:
    (store.folder / "data").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (store.folder / "data" / "arc_challenge").symlink_to(tmp_path / "out")
    with pytest.raises(PunaError, match="link"):
        store.add(measurement())
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_store_whose_data_are_a_link_is_not_read(store: Store, tmp_path: Path) -> None:
    store.add(measurement())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(store.folder / "data")
    with pytest.raises(PunaError, match="is a link"):
        Store(tmp_path / "other").results()
    (tmp_path / "same").symlink_to(store.folder)  # a link to the whole store is the user's own choice
    assert len(Store(tmp_path / "same").results()) == 1


def test_a_moved_result_is_refused(store: Store) -> None:
    result = store.add(measurement())
    new = store.folder / "data" / "mmlu" / "local" / "puna-60m"
    new.mkdir(parents=True)
    result.path.rename(new / result.path.name)
    with pytest.raises(PunaError, match="another place"):
        store.results()


def test_a_killed_write_leaves_nothing_that_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("puna.judge.store.store.write_json", broken)
    with pytest.raises(KeyboardInterrupt):
        store.add(measurement())
    monkeypatch.undo()
    assert store.results() == []  # the samples were written first; without a record they are no result
    assert store.add(measurement()).measurement() == measurement()


def test_numbers_that_are_none_never_reach_a_file(store: Store) -> None:
    bad = measurement(settings=Settings(extra={"x": float("nan")}))
    with pytest.raises(PunaError, match="cannot be stored"):
        store.add(bad)
    with pytest.raises(PunaError, match="cannot be stored"):
        store.add(measurement(settings=Settings(extra={"x": "\ud800"})))
    with pytest.raises(PunaError, match="cannot be stored"):
        store.add(measurement(settings=Settings(extra={"x": object()})))
    assert not list(store.folder.rglob("*.json*"))


def test_a_line_without_end_is_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    result = store.add(measurement())
    monkeypatch.setattr(samples, "MAX_LINE", 300)
    with pytest.raises(PunaError, match="too long"):
        result.measurement()


def test_an_empty_or_absent_store_has_no_results(tmp_path: Path) -> None:
    assert Store(tmp_path / "nothing").results() == []


def test_the_store_needs_no_torch() -> None:
    code = "import sys, puna.judge.store.store; sys.exit('torch' in sys.modules or 'lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_how_a_name_was_typed_is_no_setting_and_the_tokenizer_and_the_context_are(store: Store) -> None:
    def add(now: int, tokenizer: str = "b" * 64, **extra: Any) -> str:
        model = ModelFacts(name="puna-60m", digest="a" * 64, tokenizer_digest=tokenizer)
        return store.add(measurement(model=model, settings=Settings(extra=extra)), now=now).id

    add(1, model="python", runs="runs", task="arc", context=None)
    add(2, model="python", runs="runs", task="arc", context=None, notes=["said"])
    same = add(3, model="runs/python", runs="other", task="./arc")
    longer = add(4, model="python", runs="runs", task="arc", context=512)
    begun = add(5, model="python", runs="runs", task="arc", bos="<s>")
    other = add(6, "c" * 64, model="python", runs="runs", task="arc")
    assert {one.id for one in store.results()} == {same, longer, begun, other}
    assert len(store.of_task("arc_challenge")) == len(store.results(older=True)) == 6 and store.of_task("../x") == []
