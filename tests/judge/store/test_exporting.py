"""What is exported validates with the public schema and comes back as the same results."""

from collections.abc import Callable
from pathlib import Path

import pytest

from puna.errors import PunaError
from puna.judge.measured import Origin, Published, TaskFacts
from puna.judge.store import known
from puna.judge.store.exporting import export_eee, export_hf
from puna.judge.store.importing import import_results
from puna.judge.store.store import Store

from .conftest import measurement
from .test_from_lm_eval import lm_eval_file
from .test_leaderboard_2023 import LEADERBOARD


def fill(store: Store, folder: Path) -> None:
    """One result of every kind that the store can hold."""
    store.add(measurement())
    store.add(measurement(name="org/羊驼 <b>", metric="f1", items=3))
    store.add(measurement(task="text", items=4, metric="bits_per_byte").model_copy(update={"task": TaskFacts(name="text", title="Text", kind="text", metric="bits_per_byte", unit="bits per byte", higher_is_better=False)}))  # fmt: skip
    store.add(measurement(items=0, failed="NaN"))
    store.add(measurement(task="gsm8k", items=0, metric="exact_match", published=Published(score=0.5, n=1319), origin=Origin(form="table", name="a paper", url="https://example.org")))  # fmt: skip
    import_results(lm_eval_file(folder / "lm"), store)
    import_results(LEADERBOARD, store)


def test_every_exported_record_validates_and_comes_back(
    store: Store, tmp_path: Path, validate: Callable[[Path], None]
) -> None:
    fill(store, tmp_path)
    results = store.results(older=True)
    written = export_eee(results, tmp_path / "out")
    records = [path for path in written if path.suffix == ".json"]
    assert len(records) == len(results) == 90
    for path in records:
        validate(path)
        assert path.parts[-5] == "data"
    again = Store(tmp_path / "again")
    import_results(tmp_path / "out", again)
    import_results(tmp_path / "out", store)  # back to where they come from: nothing new
    assert {one.id for one in store.results(older=True)} == {one.id for one in results}
    came = [one.measurement() for one in again.results(older=True)]
    ours = [one.measurement() for one in results]
    assert len(came) == len(ours)
    for one in ours:
        own = one.origin is None
        assert any(one == (other.model_copy(update={"origin": None}) if own else other) for other in came)
    assert sum(one.origin is None for one in ours) == sum(
        one.origin.name == "Puna elsewhere" for one in came if one.origin
    )


def test_a_result_changed_since_it_was_listed_is_not_exported(store: Store, tmp_path: Path) -> None:
    store.add(measurement())
    results = store.results()
    results[0].path.write_text(results[0].path.read_text().replace("puna-60m", "puna-61m"))
    with pytest.raises(PunaError, match="was changed"):
        export_eee(results, tmp_path / "out")


def test_nothing_is_exported_through_a_link(store: Store, tmp_path: Path) -> None:
    store.add(measurement())
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "data" / "arc_challenge").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PunaError, match="link"):
        export_eee(store.results(), tmp_path / "out")
    assert not [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]


def test_eval_results_files_are_those_of_the_hub_library_and_come_back(store: Store, tmp_path: Path) -> None:
    yaml, hub = pytest.importorskip("yaml"), pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "EvalResultEntry"):
        pytest.skip("this huggingface_hub has no EvalResultEntry")
    from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries

    fill(store, tmp_path)
    left_out: list[str] = []
    paths = export_hf(store.results(), tmp_path / "hub", left_out)
    assert all(path.parent.name == ".eval_results" for path in paths)
    assert any("failed (NaN)" in line for line in left_out) and any(
        "Text" in line or "on text" in line for line in left_out
    )
    for path in paths:
        value = yaml.safe_load(path.read_text())
        assert eval_result_entries_to_yaml(parse_eval_result_entries(value)) == value
    again = Store(tmp_path / "again")
    found = import_results(tmp_path / "hub" / "01-ai", again)
    scores = {(one.task.name): one.summary.score for one in found if one.model.name == "Yi-34B"}
    assert scores == {one.task.name: one.summary.score for one in store.results() if one.model.name == "01-ai/Yi-34B"}
    assert len(scores) == 7


def test_hub_names_are_those_of_known_tests_only() -> None:
    assert (
        known.on_hub("mmlu") == ("cais/mmlu", "mmlu") and known.on_hub("mine") is None and known.on_hub("arc") is None
    )
