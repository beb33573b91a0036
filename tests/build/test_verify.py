"""`verify_release` on a real build: it passes, and each way of tampering is caught by the check that is meant to, and named."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests_verify_tampering import SHORT, Entry, change_text, entries_of, flip, rebuild, remanifest, the, write_chain

from puna.build.verify import Verdict, verify_release
from puna.errors import PunaError
from puna.files import digest_of, file_sha256, read_json, write_json
from puna.ledger.signing import new_key, sign_once, sign_release


@pytest.fixture(scope="module")
def original(finished: Any) -> Path:
    return Path(finished.path / "runs" / "tiny")


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be tampered with."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("maker.pem", "other.pem"):
        new_key(folder / name)
    return folder


def failed(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.found for check in verdict.checks if check.state == "failed"}


def test_an_honest_release_passes_with_and_without_its_run(original: Path, tmp_path: Path) -> None:
    whole = verify_release(str(original), step0=True)
    assert failed(whole) == {} and whole.run == original.resolve()
    states = {check.name: check.state for check in whole.checks}
    assert {name for name, state in states.items() if state == "absent"} == {"head", "signature"}
    assert {"files", "chain", "root", "sequence", "seed", "weights", "results", "sources", "recipe", "order", "run", "artefacts",
            "milestones", "step0"} <= set(states)  # fmt: skip
    alone = Path(shutil.copytree(original / "release", tmp_path / "downloaded"))
    published = verify_release(str(alone), head=whole.fingerprint, step0=True)
    assert failed(published) == {} and published.run is None and published.fingerprint == whole.fingerprint
    assert "run" not in {check.name for check in published.checks}
    assert failed(verify_release(str(alone), run=original)) == {}
    assert verify_release("tiny", original.parent).folder == original / "release"


def test_the_ledger_holds_what_was_done_in_order_and_once(original: Path) -> None:
    entries = entries_of(original / "release")
    # Where the code is changed while the build runs, as may happen beside these tests, that is logged as well.
    changed = [n for n, entry in enumerate(entries) if entry["kind"] == "environment"][1:]
    kinds = [entry["kind"] for n, entry in enumerate(entries) if n not in changed]
    told = [(entry["kind"], str(entry["body"])) for entry in entries]
    assert len(set(told)) == len(told)
    assert kinds[:3] == ["seed", "recipe", "environment"] and kinds[-3:] == ["gate", "seed-revealed", "release"]
    first = kinds.index("order")
    assert kinds.index("sources") < kinds.index("frozen") < first
    assert kinds[first:][:6] == ["order", "step0", "milestone", "milestone", "milestone", "milestone"]
    steps = [entry["body"]["step"] for entry in entries if entry["kind"] == "milestone"]
    assert steps[:4] == [0, 9, 19, 29] and steps[4] == 0
    environment = the(entries, "environment")["body"]
    assert environment["environment"]["torch"] and len(environment["code"]) == 64
    assert {entry["body"]["environment"] for entry in entries if entry["kind"] == "stage"} == {environment["digest"]}
    assert the(entries, "sources")["body"]["sources"][0].keys() >= {"name", "digest", "bytes", "licence"}
    assert not any("milestones" in name for name in the(entries, "release")["body"]["files"])


Tamper = Callable[[Path], None]


def _change_line(release: Path) -> None:
    change_text(release / "puna" / "ledger.jsonl", '"licence":"unstated"', '"licence":"CC0-1.0"')


def _without_a_line(release: Path) -> None:
    entries = (release / "puna" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (release / "puna" / "ledger.jsonl").write_bytes(b"".join(entries[:5] + entries[6:]))


def _two_lines_swapped(release: Path) -> None:
    lines = (release / "puna" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    lines[4], lines[5] = lines[5], lines[4]
    (release / "puna" / "ledger.jsonl").write_bytes(b"".join(lines))


def _another_seed(release: Path) -> None:
    def change(entries: list[Entry]) -> None:
        the(entries, "seed-revealed")["body"]["seed"] = 6

    change_text(release / "puna" / "recipe.toml", "seed = 5", "seed = 6")
    rebuild(release, change)


def _a_better_score(release: Path) -> None:
    path = release / "puna" / "results.json"
    results = read_json(path)
    results["scores"][0]["value"] = 0.5
    write_json(path, results)
    remanifest(release)


def _another_recipe(release: Path) -> None:
    change_text(release / "puna" / "recipe.toml", "clip = 1.0", "clip = 2.0")
    remanifest(release)


def _another_licence(release: Path) -> None:
    change_text(release / "puna" / "corpus.json", '"licence": "unstated"', '"licence": "CC0-1.0"')
    remanifest(release)


def _changed_weights_and_manifest(release: Path) -> None:
    flip(release / "model.safetensors")
    remanifest(release)


def _trained_before_the_seed(release: Path) -> None:
    def change(entries: list[Entry]) -> None:
        entries.insert(20, entries.pop(0))

    rebuild(release, change)


def _steps_in_another_order(release: Path) -> None:
    def change(entries: list[Entry]) -> None:
        at = [n for n, entry in enumerate(entries) if entry["kind"] == "milestone"]
        entries[at[1]], entries[at[2]] = entries[at[2]], entries[at[1]]

    rebuild(release, change)


def _a_stage_before_its_input(release: Path) -> None:
    def change(entries: list[Entry]) -> None:
        stages = [n for n, entry in enumerate(entries) if entry["kind"] == "stage"]
        entries.insert(stages[0], entries.pop(stages[1]))

    rebuild(release, change)


def _without_the_last_line(release: Path) -> None:
    path = release / "puna" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    remanifest(release)


# What is done, which checks must fail, and what one of them must name.
TAMPERINGS: list[tuple[str, Tamper, set[str], str]] = [
    ("one byte of the weights", lambda r: flip(r / "model.safetensors"), {"files", "root", "weights"}, "model.safetensors was changed"),
    ("weights and manifest", _changed_weights_and_manifest, {"root", "weights"}, "model.safetensors is not what tune-0 gave"),
    ("the base's weights", lambda r: flip(r / "base" / "model.safetensors"), {"files", "root", "weights"}, "base/model.safetensors"),
    ("a ledger line changed", _change_line, {"files", "chain"}, "ledger.jsonl:2: the entry was changed"),
    ("a ledger line removed", _without_a_line, {"files", "chain"}, "ledger.jsonl:6: the chain is broken"),
    ("two ledger lines swapped", _two_lines_swapped, {"files", "chain"}, "ledger.jsonl:5: the chain is broken"),
    ("the last ledger line removed", _without_the_last_line, {"root"}, "does not end with the entry of a release"),
    ("the seed, all else made to fit", _another_seed, {"seed", "order"}, "the revealed seed 6 opens no commitment"),
    ("a score", _a_better_score, {"root", "results"}, "bits_per_byte is 0.5 and was logged as"),
    ("the recipe", _another_recipe, {"root", "recipe"}, "train.clip 1.0 -> 2.0"),
    ("a source's licence", _another_licence, {"root", "sources"}, "the sources in puna/corpus.json are not the logged ones"),
    ("the config", lambda r: change_text(r / "config.json", "rms_norm_eps", "rms_norm_epz"), {"files", "root", "weights"},
     "config.json"),
    ("the tokenizer", lambda r: change_text(r / "tokenizer.json", '"model"', '"mode1"'), {"files", "root", "weights"},
     "tokenizer.json is not what tune-0 gave"),
    ("an added file", lambda r: (r / "modeling_evil.py").write_text("import os"), {"files", "root"}, "modeling_evil.py was added"),
    ("a file removed", lambda r: (r / "generation_config.json").unlink(), {"files", "root", "weights"}, "is missing"),
    ("trained before the seed", _trained_before_the_seed, {"sequence"}, "before any seed was committed to"),
    ("checkpoints swapped", _steps_in_another_order, {"sequence"}, "after step 19"),
    ("a stage before its input", _a_stage_before_its_input, {"sequence"}, "before its input corpus"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tamper", "checks", "named"), [row[1:] for row in TAMPERINGS], ids=[row[0] for row in TAMPERINGS]
)
def test_a_tampered_release_is_caught_and_named(
    run: Path, tmp_path: Path, tamper: Tamper, checks: set[str], named: str
) -> None:
    alone = tmp_path / "downloaded"
    shutil.move(run / "release", alone)
    tamper(alone)
    found = failed(verify_release(str(alone)))
    assert checks <= set(found), found
    assert any(named in text for text in found.values()), found


RUN_TAMPERINGS: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("a data shard", lambda run: flip(next(run.glob("pack-*")) / "tokens.bin"), "artefacts", "/tokens.bin was changed"),
    ("the documents", lambda run: flip(next(run.glob("corpus-*")) / "train.parquet"), "artefacts", "/train.parquet was changed"),
    ("the run's ledger", lambda run: change_text(run / "ledger.jsonl", '"unstated"', '"CC0-1.0"'), "run", "the entry was changed"),
    ("a log", lambda run: flip(next(run.glob("pretrain-*")) / "log" / "metrics.jsonl", 3), "artefacts", "metrics.jsonl was changed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tamper", "check", "named"), [row[1:] for row in RUN_TAMPERINGS], ids=[row[0] for row in RUN_TAMPERINGS]
)
def test_a_tampered_run_is_caught_and_named(run: Path, tamper: Callable[[Path], None], check: str, named: str) -> None:
    tamper(run)
    found = failed(verify_release(str(run)))
    assert set(found) == {check} and named in found[check]


def test_a_changed_checkpoint_is_caught_also_where_its_manifests_fit(run: Path) -> None:
    folder = sorted((next(run.glob("tune-0-*")) / "log" / "milestones").iterdir())[1]
    shard = next(folder.glob("*.safetensors"))
    flip(shard, shard.stat().st_size // 2)  # the end is the random state, which nothing draws from
    found = failed(verify_release(str(run)))
    assert set(found) == {"artefacts", "milestones"} and folder.name[5:].lstrip("0") in found["milestones"]
    own, artefact = folder / "MANIFEST.json", folder.parents[2]
    values = read_json(own)
    values["files"][shard.name]["sha256"] = file_sha256(shard)
    write_json(own, values)
    values = read_json(artefact / "MANIFEST.json")
    for path in (shard, own):
        values["files"][path.relative_to(artefact).as_posix()]["sha256"] = file_sha256(path)
    write_json(artefact / "MANIFEST.json", values)
    found = failed(verify_release(str(run)))
    assert set(found) == {"milestones"} and "tensors is not the logged one" in found["milestones"]


def test_a_ledger_rebuilt_as_a_whole_is_caught_by_what_the_forger_does_not_hold(
    run: Path, keys: Path, tmp_path: Path
) -> None:
    """The honest limit: without a signature, a published head or the run, such a forgery passes."""
    alone = tmp_path / "downloaded"
    shutil.copytree(run / "release", alone)
    sign_release(alone, keys / "maker.pem")
    published = verify_release(str(alone)).fingerprint

    def change(entries: list[Entry]) -> None:
        path = alone / "puna" / "results.json"
        results = read_json(path)
        results["scores"][0]["value"] = 0.5
        write_json(path, results)
        the(entries, "results")["body"]["scores"][0]["value"] = 0.5
        the(entries, "results")["body"]["sha256"] = file_sha256(path)
        stage = next(
            entry["body"] for entry in entries if entry["kind"] == "stage" and entry["body"]["stage"] == "judge"
        )
        stage["files"]["results.json"] = file_sha256(path)
        stage["content"] = digest_of(stage["files"])
        entries[-1]["body"]["inputs"]["judge"] = stage["content"]

    rebuild(alone, change)
    assert failed(verify_release(str(alone))) == {}
    found = failed(verify_release(str(alone), key=keys / "maker.pem.pub", head=published, run=run))
    assert {"signature", "head", "run"} <= set(found)
    assert "it was made for other files" in found["signature"] and "results.json was changed" in found["signature"]


def test_signatures(run: Path, keys: Path) -> None:
    release, public = run / "release", keys / "maker.pem.pub"
    assert "signature" in failed(verify_release(str(release), key=public))  # asked for, and not there
    path = sign_once(release, keys / "maker.pem")
    assert failed(verify_release(str(release), key=public)) == {}
    before = path.read_bytes()
    assert sign_once(release, keys / "maker.pem").read_bytes() == before  # signing is random: a good one stays
    # Changed.
    change_text(path, '"sig":"', '"sig":"AAAA')
    assert "it does not hold" in failed(verify_release(str(release), key=public))["signature"]
    path.write_text("{}")
    assert "signature" in failed(verify_release(str(release), key=public))
    # By another key.
    sign_once(release, keys / "other.pem")
    found = failed(verify_release(str(release), key=public))
    assert found == {"signature": "it was made with another key"}
    # Git's own files are signed like all others.
    sign_once(release, keys / "maker.pem")
    (release / ".gitattributes").write_text("x")
    assert ".gitattributes" in failed(verify_release(str(release), key=public))["signature"]


def test_what_is_no_key_is_told(run: Path, keys: Path, tmp_path: Path) -> None:
    release = run / "release"
    sign_release(release, keys / "maker.pem")
    (tmp_path / "no.pem").write_text("no key")
    for call in (lambda: verify_release(str(release), key=tmp_path / "no.pem"), lambda: sign_release(release, tmp_path / "no.pem"),
                 lambda: verify_release(str(release), key=keys / "maker.pem"), lambda: sign_release(release, tmp_path / "absent"),
                 lambda: new_key(keys / "maker.pem")):  # fmt: skip
        with pytest.raises(PunaError) as told:
            call()
        assert "BEGIN" not in told.value.line()


def test_without_the_extra_it_is_told_how_to_get_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "model_signing" else real(name, *rest)
    )
    (run / "release" / "puna" / "model.sig").write_text("{}")
    assert failed(verify_release(str(run / "release"))) == {}
    with pytest.raises(PunaError, match=r"pip install 'puna\[sign\]'"):
        verify_release(str(run / "release"), key=Path("any.pub"))


def test_what_is_no_release_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("", "nothing", str(tmp_path / "empty"), "../x"):
        with pytest.raises(PunaError):
            verify_release(name, tmp_path)
    (tmp_path / "r" / "puna").mkdir(parents=True)
    with pytest.raises(PunaError, match="--run"):
        verify_release(str(tmp_path / "r"), run=tmp_path / "empty")


def test_a_chain_that_fits_but_is_not_the_runs_is_named(run: Path) -> None:
    entries = entries_of(run / "release")
    the(entries, "recipe")["body"]["recipe"]["title"] = "another"
    write_chain(run / "release", entries)
    assert {"files", "root", "run"} <= set(failed(verify_release(str(run))))


def verb(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "puna", "verify", *arguments]
    return subprocess.run(
        command, cwd=run.parents[1], capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "80"}
    )


def test_the_verb_tells_each_check_in_80_columns_and_exits_by_what_it_found(finished: Any, run: Path) -> None:
    done = verb(finished.path / "runs" / "tiny", "tiny", "--step0", "--replay", "1", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80 and "\x1b" not in done.stdout
    for said in (
        "ok      files",
        "proves:",
        "not:",
        "equal bit for bit",
        "-       signature",
        "Fingerprint ",
        "--seed 1",
        "checks passed.",
    ):
        assert said in done.stdout, said
    flip(run / "release" / "model.safetensors")
    done = verb(run, str(run / "release"), "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1 and "Traceback" not in done.stderr and told["passed"] is False
    assert {"release", "run", "passed", "fingerprint", "seed", "checks"} == set(told)
    assert {"files", "root", "weights"} == {check["name"] for check in told["checks"] if check["state"] == "failed"}
    assert "FAILED  files" in verb(run, str(run / "release")).stdout


def test_a_recipe_that_names_a_key_gives_a_signed_release(finished: Any, keys: Path, tmp_path: Path) -> None:
    place = type(finished)(Path(shutil.copytree(finished.path, tmp_path / "place")))
    signing = ("--set", f"release.sign={keys / 'maker.pem'}")
    assert place.make(*SHORT, *signing).returncode == 0
    release = place.path / "runs" / "tiny" / "release"
    verdict = verify_release(str(release), key=keys / "maker.pem.pub")
    assert failed(verdict) == {} and str(keys) not in (release / "puna" / "recipe.toml").read_text()
    before = (release / "puna" / "model.sig").read_bytes()
    assert place.make(*SHORT, *signing).returncode == 0 and (release / "puna" / "model.sig").read_bytes() == before
