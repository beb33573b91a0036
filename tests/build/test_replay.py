"""Step 0 and segments made again: bit for bit on this machine, also of a build that was killed twice; forgeries are caught."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests_verify_tampering import SHORT, Entry, entries_of, rebuild

import puna.build.replay as module
from puna.build.replay import segments
from puna.build.verify import verify_release
from puna.files import file_sha256, read_json, write_json
from puna.ledger.check import Check, Record


@pytest.fixture(scope="module")
def original(finished: Any) -> Path:
    return Path(finished.path / "runs" / "tiny")


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def replays(release: Path, count: int = 99, seed: int | None = 3, **options: Any) -> list[Check]:
    return [
        check
        for check in verify_release(str(release), replay=count, seed=seed, **options).checks
        if check.name.startswith("replay")
    ]


def test_every_segment_is_equal_bit_for_bit(original: Path) -> None:
    """Of pretraining and of tuning; the build was killed in the second segment of either."""
    done = replays(original)
    assert [check.name for check in done] == ["replay pretrain 0 to 9", "replay pretrain 9 to 19", "replay pretrain 19 to 29",
                                              "replay tune-0 0 to 53", "replay tune-0 53 to 106", "replay tune-0 106 to 159"]  # fmt: skip
    for check in done:
        assert check.state == "passed" and "equal bit for bit" in check.found and "another build" not in check.found, (
            check
        )


def test_segments_are_drawn_by_the_seed(original: Path) -> None:
    assert len(segments(Record(original / "release"))) == 6
    drawn = {tuple(check.name for check in replays(original, 2, seed)) for seed in (1, 2, 2)}
    assert len(drawn) == 2 and all(len(set(names)) == 2 for names in drawn)
    found = verify_release(str(original), replay=1)
    assert found.seed is not None and found.passed


def test_another_build_is_held_to_the_tolerance_and_said(run: Path) -> None:
    """Computed in another precision: not bit for bit, near; and refused where nothing else explains it."""
    artefact = next(run.glob("pretrain-*"))
    record = read_json(artefact / "log" / "run.json")
    record["choice"]["precision"] = "bf16"
    write_json(artefact / "log" / "run.json", record)
    first = _segment(run, 1)
    assert first.state == "failed" and "on the same build they must be equal" in first.found
    record["environment"]["torch"] = "2.10.0"
    write_json(artefact / "log" / "run.json", record)
    other = _segment(run, 1)
    assert other.state == "passed" and "within the 20%" in other.found and "torch 2.10.0 -> " in other.found


def test_other_rows_are_beyond_the_tolerance_also_elsewhere(run: Path) -> None:
    """What a maker would have who trained on the same text in another order than the one committed to."""
    artefact = next(run.glob("pretrain-*"))
    record = read_json(artefact / "log" / "run.json")
    record["seed"] += 1
    record["environment"]["torch"] = "2.10.0"
    write_json(artefact / "log" / "run.json", record)
    found = _segment(run, 1)
    assert found.state == "failed" and "more than the 20% that rounding explains" in found.found, found.found


def _segment(run: Path, number: int) -> Check:
    record = Record(run / "release")
    return module._checked(record, run, segments(record)[number], module.QUIET)


def test_a_forged_checkpoint_whose_every_digest_fits_is_caught_by_its_replay(run: Path) -> None:
    """The forger puts a later checkpoint in the place of an earlier one and writes ledger, roots and manifests anew."""
    artefact = next(run.glob("pretrain-*"))
    kept = artefact / "log" / "milestones"
    shutil.rmtree(kept / "step_00000009")
    shutil.copytree(kept / "step_00000029", kept / "step_00000009")
    state = read_json(kept / "step_00000009" / "state.json")
    write_json(kept / "step_00000009" / "state.json", state | {"step": 9, "cursor": 72})
    own = read_json(kept / "step_00000009" / "MANIFEST.json")
    path = kept / "step_00000009" / "state.json"
    own["files"]["state.json"] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(kept / "step_00000009" / "MANIFEST.json", own)

    def change(entries: list[Entry]) -> None:
        stones = [
            entry["body"]
            for entry in entries
            if entry["kind"] == "milestone" and "pretrain" in entry["body"]["artefact"]
        ]
        stones[1] |= {"tensors": stones[3]["tensors"], "guard": stones[3]["guard"]}

    rebuild(run / "release", change)
    shutil.copyfile(run / "release" / "puna" / "ledger.jsonl", run / "ledger.jsonl")
    found = {check.name: check for check in verify_release(str(run)).checks}
    assert found["milestones"].state == found["root"].state == found["chain"].state == "passed"
    assert [_segment(run, number).state for number in (0, 1, 2)] == ["failed", "failed", "passed"]


def test_without_the_run_it_is_said_what_is_missing(original: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(original / "release", tmp_path / "downloaded"))
    (found,) = replays(alone, 2)
    assert found.state == "failed" and "--run" in found.found
    assert {check.state for check in replays(alone, 2, run=original)} == {"passed"}
    shutil.copytree(original, tmp_path / "tiny")
    shutil.rmtree(next((tmp_path / "tiny").glob("pretrain-*")))
    assert {check.state for check in replays(tmp_path / "tiny", 6)} == {"passed", "failed"}


def test_step_0_is_made_again_and_another_seed_or_start_is_caught(run: Path) -> None:
    release = run / "release"
    found = {check.name: check for check in verify_release(str(release), step0=True).checks}["step0"]
    logged = [entry["body"]["weights"] for entry in entries_of(release) if entry["kind"] == "step0"]
    assert found.state == "passed" and all(digest in found.found for digest in logged)

    def change(entries: list[Entry]) -> None:
        next(entry for entry in entries if entry["kind"] == "step0")["body"]["weights"] = "0" * 64

    rebuild(release, change)
    found = {check.name: check for check in verify_release(str(release), step0=True).checks}["step0"]
    assert found.state == "failed" and "was logged as 0000" in found.found


def test_no_milestones_is_said(run: Path) -> None:
    def change(entries: list[Entry]) -> None:
        entries[:] = [entry for entry in entries if entry["kind"] != "milestone"]

    rebuild(run / "release", change)
    (found,) = replays(run / "release", 2, run=run)
    assert found.state == "failed" and "train.milestones was 0" in found.found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_compiled_build_replays_bit_for_bit_too(workplace: Any) -> None:
    from puna.model.device import can_compile

    if not can_compile()[0]:
        pytest.skip("nothing to compile with here")
    settings = [*SHORT, "--set", "train.compile=on", "--set", "train.milestones=2", "--set", "tune=[]"]
    done = workplace.make(*settings)
    assert done.returncode == 0, done.stderr
    run = workplace.path / "runs" / "tiny"
    assert read_json(next(run.glob("pretrain-*")) / "log" / "run.json")["choice"]["compile"] is True
    found = replays(run, 2)
    assert len(found) == 2 and all("equal bit for bit" in check.found for check in found), found
