"""From weights through the ledger to the text: what is found, what is refused, what is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puna.build.store import Store, read_manifest
from puna.errors import PunaError
from puna.files import digest_of
from puna.judge.contamination.origin import content_of, corpus_of, origin_of
from puna.ledger import Ledger


class Run:
    """A run folder with stages made by the real store and a real ledger; no weights worth the name."""

    def __init__(self, folder: Path) -> None:
        self.store, self.ledger = Store(folder), Ledger(folder / "ledger.jsonl")
        folder.mkdir()

    def stage(self, name: str, files: Callable[[Path], object], *inputs: Path) -> Path:
        contents = {path.name.rsplit("-", 1)[0]: read_manifest(path)["content"] for path in inputs}
        digest = digest_of([name, contents, len(self.ledger.entries())])

        def fill(folder: Path) -> dict[str, Any]:
            files(folder)
            return {}

        made = self.store.build(name, digest, fill, {"inputs": contents})
        body = {
            "stage": name,
            "digest": digest,
            "content": read_manifest(made)["content"],
            "inputs": contents,
            "code": "c",
        }
        self.ledger.append("stage", body)
        return made

    def corpus(self, text: str, name: str = "corpus") -> Path:
        return self.stage(name, lambda folder: pq.write_table(
            pa.table({"id": ["d"], "text": [text], "source": ["s"]}), folder / "train.parquet"))  # fmt: skip

    def model(self, name: str, weights: str, *inputs: Path) -> Path:
        def write(folder: Path) -> None:
            (folder / "config.json").write_text("{}")
            (folder / "model.safetensors").write_text(weights)
            (folder / "log").mkdir()
            (folder / "log" / "metrics.jsonl").write_text("{}")

        return self.stage(name, write, *inputs)

    def release(self, top: Path, base: Path | None = None) -> Path:
        folder = self.store.run / "release"
        shutil.copytree(top, folder, ignore=shutil.ignore_patterns("MANIFEST.json", "log"))
        if base is not None:
            shutil.copytree(base, folder / "base", ignore=shutil.ignore_patterns("MANIFEST.json", "log"))
        (folder / "README.md").write_text("the card")
        (folder / "puna").mkdir()
        shutil.copyfile(self.ledger.path, folder / "puna" / "ledger.jsonl")
        return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def pack(run: Run, *inputs: Path, name: str = "pack") -> Path:
    return run.stage(name, lambda folder: (folder / "rows.bin").write_text(str(inputs)), *inputs)


def test_the_text_of_a_release_a_run_and_a_stage(run: Run) -> None:
    before = run.corpus("an older text that another model of this run was trained on")
    run.model("pretrain", "old weights", pack(run, before))
    corpus = run.corpus("the text")
    base = run.model("pretrain", "weights", pack(run, corpus))
    talks = run.stage("chat-0", lambda folder: (folder / "chat.jsonl").write_text("{}"))
    tuned = run.model("tune-0", "tuned", pack(run, talks, name="chat-pack-0"), base)
    release = run.release(tuned, base)
    assert corpus_of(base) == corpus_of(release / "base") == [corpus]
    assert corpus_of(release) == corpus_of(run.store.run) == corpus_of(tuned) == [corpus, talks]
    assert content_of(release) == read_manifest(tuned)["content"]
    assert origin_of(release).whole and [text.stage for text in origin_of(release).texts] == ["corpus", "chat-0"]


def test_what_an_owner_adds_to_a_release_with_a_manifest_does_not_matter(run: Run) -> None:
    corpus = run.corpus("the text")
    release = run.release(run.model("pretrain", "weights", pack(run, corpus)))
    listed = [path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()]
    (release / "puna" / "MANIFEST.json").write_text(json.dumps({"files": {name: {} for name in listed}}))
    (release / "notes.txt").write_text("mine")
    assert corpus_of(release) == [corpus]


def test_a_corpus_that_is_not_the_ledgers_is_refused(run: Run) -> None:
    corpus = run.corpus("the text")
    release = run.release(run.model("pretrain", "weights", pack(run, corpus)))
    (corpus / "train.parquet").write_bytes(b"something else")
    with pytest.raises(PunaError, match=r"train\.parquet was changed"):
        origin_of(release)
    other = Run(run.store.run.parent / "other").corpus("another text, with a manifest of its own")
    shutil.rmtree(corpus)
    shutil.copytree(other, corpus)
    with pytest.raises(PunaError, match="is not the corpus [0-9a-f]{12} that the ledger names"):
        origin_of(release)
    (corpus / "MANIFEST.json").unlink()
    with pytest.raises(PunaError, match="is not the corpus"):
        origin_of(release)


def test_a_release_away_from_its_run_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    release = run.release(run.model("pretrain", "weights", pack(run, run.corpus("the text"))))
    away = shutil.copytree(release, tmp_path / "elsewhere" / "model")
    origin = origin_of(away)
    assert origin.folders == [] and not origin.whole
    assert (
        len(origin.missing) == 1
        and "the ledger names the corpus" in origin.missing[0]
        and "not here" in origin.missing[0]
    )
    with pytest.raises(PunaError, match="which is not here"):
        corpus_of(away)


def test_weights_that_the_ledger_does_not_record_are_refused(run: Run) -> None:
    release = run.release(run.model("pretrain", "weights", pack(run, run.corpus("the text"))))
    (release / "model.safetensors").write_text("other weights")
    with pytest.raises(PunaError, match="none that the ledger records"):
        origin_of(release)
    ledger = release / "puna" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"stage":"pack"', '"stage":"rack"'))
    with pytest.raises(PunaError, match="does not match its content"):
        origin_of(release)


def test_a_base_is_inherited(run: Run) -> None:
    run.ledger.append("base", {"names": ["llama-7b"], "weights": "ab" * 32})
    base = run.model("base", "weights of somebody else")
    old, corpus = run.corpus("old text", "old"), run.corpus("new text")
    release = run.release(run.model("pretrain", "continued", pack(run, corpus, old), base))
    origin = origin_of(release)
    (parent,) = origin.parents
    assert (parent.name, parent.relation, parent.digest, parent.evidence) == (
        "llama-7b",
        "continued",
        "ab" * 32,
        "its ledger says so",
    )
    assert origin.folders == [old, corpus]
    assert origin_of(base).parents == (parent,) and origin_of(base).texts == ()


def test_no_ledger_no_knowledge(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert origin_of(tmp_path).ledger is None and not origin_of(tmp_path).whole
    assert origin_of(tmp_path / "model.gguf").ledger is None
    with pytest.raises(PunaError, match="has no ledger"):
        corpus_of(tmp_path)


@pytest.mark.parametrize("change", [{"stage": "../corpus"}, {"digest": "/etc"}, {"content": 3}, {"inputs": []}])
def test_a_strangers_ledger_leads_nowhere(run: Run, change: dict[str, Any]) -> None:
    corpus = run.corpus("the text")
    release = run.release(run.model("pretrain", "weights", pack(run, corpus)))
    ledger = Ledger(release / "puna" / "ledger.jsonl")
    ledger.append("stage", {"stage": "corpus", "digest": "0" * 64, "content": "0" * 64, "inputs": {}, **change})
    with pytest.raises(PunaError, match="no stage of a build"):
        origin_of(release)
