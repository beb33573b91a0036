"""The whole pipeline on real text: every document accounted for, nothing that depends on parts, workers or kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

from puna.corpus import build_documents, context, read_documents
from puna.corpus.parts import Shelf
from puna.errors import PunaError
from puna.files import file_sha256
from puna.recipe.corpus import Corpus

DATA = Path(__file__).parents[3] / "shared" / "data"
SHELVES = ("read", "clean", "scorers", "scores", "reduced", "finished", "train")

CHILD = """
import sys
from pathlib import Path
from puna.corpus import build_documents, context
from puna.recipe.corpus import Corpus
context._LEAST_PART = context._MOST_PART = 1 << 18
context._SMALL = 0
build_documents(Corpus.model_validate_json(sys.argv[1]), Path(sys.argv[2]), work=Path(sys.argv[3]))
"""


def rows_of(name: str, most: int) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}")
    with open(path, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        lines = stream.read().decode().splitlines()
    return [json.loads(line) for line in lines[:most]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Curated English and Chinese, and a small crawl: C4 pages, copies of some, a damaged page, a page of another language."""
    root = tmp_path_factory.mktemp("sources")
    for name, most in (("en_open", 120), ("zh_modern", 120)):
        rows = rows_of(f"train/{name}.jsonl.zst", most)
        (root / f"{name}.jsonl").write_text("".join(json.dumps({"text": r["text"][:6000]}) + "\n" for r in rows))
    web = root / "web"
    web.mkdir()
    pages = [row["text"] for row in rows_of("dirty/c4_demo.jsonl.zst", 200)]
    pages += [
        pages[3],
        pages[5] + "\nOne line more.",
        *("\n".join(f"{line} Indeed." for line in pages[n].split("\n")) for n in range(10, 20)),
    ]
    pages += [
        "The cat sat on the mat and that was all there was to say. " * 40,
        "短" * 5,
        "Der schnelle braune Fuchs springt ueber den faulen Hund und freut sich sehr darueber. " * 8,
    ]
    pages += [pages[9] + "\nContact: maria.rossi@mail.example.org or +1 415 263 9842."]
    lines = [json.dumps({"text": page}) for page in pages]
    (web / "crawl.jsonl").write_text("\n".join([*lines[:100], "{not json", *lines[100:]]) + "\n")
    return root


def recipe(sources: Path, **more: Any) -> Corpus:
    named = [
        str(sources / "en_open.jsonl"),
        str(sources / "zh_modern.jsonl"),
        {"path": str(sources / "web"), "profile": "web"},
    ]
    return Corpus.model_validate({"sources": named, "language": {"keep": ["en", "zh"]}, **more})


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def built(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("built")
    return out, build_documents(recipe(sources), out)


def test_every_document_is_kept_changed_or_removed_by_a_named_step(built: tuple[Path, dict[str, Any]]) -> None:
    out, report = built
    accounts = report["accounts"]
    went = accounts["kept"] + accounts["changed"] + sum(accounts["removed"].values())
    assert accounts["documents_in"] + accounts["split_off"] == went
    assert accounts["documents_in"] == 120 + 120 + 216
    assert accounts["kept"] + accounts["changed"] == read_documents(out, "train").num_rows
    assert accounts["removed"]["hold out"] >= report["documents"]["heldout"]
    assert report["skipped"] == {"line that is no valid JSON": 1}
    for before, after in zip(report["steps"], report["steps"][1:], strict=False):
        assert (before["documents_out"], before["bytes_out"]) == (after["documents_in"], after["bytes_in"])


def test_each_stage_takes_what_it_is_there_for(built: tuple[Path, dict[str, Any]]) -> None:
    _, report = built
    steps = {step["step"]: step for step in report["steps"]}
    assert steps["language"]["removed"]["de is not kept"] == 1
    assert steps["duplicate documents"]["removed"]["the same text came before"] == 1
    assert steps["near duplicates"]["removed"]["nearly the same text came before"] >= 1
    assert any(step["samples"] for step in report["steps"])
    assert steps["repetition"]["removed"] or steps["metrics"]["removed"]
    assert steps["personal data"]["changed"]["e-mail"] >= 1
    for name in ("perplexity", "quality"):
        gone = sum(steps[name]["removed"].values())
        assert 0 < gone < 0.5 * steps[name]["documents_in"], name
    assert 0.5 < report["quality"]["auc"] <= 1
    # Curated text is repaired and freed of repetition, and judged by nothing else.
    curated = {sample["source"] for name in ("metrics", "quality", "perplexity") for sample in steps[name]["samples"]}
    assert all(source.startswith("web/") for source in curated)


def test_nothing_depends_on_parts_or_workers(
    sources: Path, built: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "_LEAST_PART", 1 << 17)
    monkeypatch.setattr(context, "_MOST_PART", 1 << 17)
    build_documents(recipe(sources, scale={"workers": 1}), tmp_path / "small", work=tmp_path / "work")
    assert len(Shelf(tmp_path / "work" / "clean").names()) > 5
    whole, small = digests(built[0]), digests(tmp_path / "small")
    assert {name: whole[name] for name in whole if name != "corpus.json"} == {
        name: small[name] for name in small if name != "corpus.json"
    }


def test_a_part_that_was_cut_short_is_found_and_made_again(sources: Path, tmp_path: Path) -> None:
    config, work = recipe(sources), tmp_path / "work"
    build_documents(config, tmp_path / "first", work=work)
    part = work / "finished" / Shelf(work / "finished").names()[0] / "documents.parquet"
    good = part.read_bytes()
    part.write_bytes(good[: len(good) // 2])
    with pytest.raises(PunaError, match="is cut short"):
        Shelf(work / "finished").file(part.parent.name, part.name)
    build_documents(config, tmp_path / "second", work=work)
    assert part.read_bytes() == good
    assert digests(tmp_path / "second") == digests(tmp_path / "first")


def test_weights_decide_how_often_a_document_is_read(sources: Path, tmp_path: Path) -> None:
    named = [
        {"path": str(sources / "en_open.jsonl"), "weight": 2.5},
        {"path": str(sources / "zh_modern.jsonl"), "weight": 0.5},
    ]
    report = build_documents(Corpus.model_validate({"sources": named}), tmp_path)
    table = read_documents(tmp_path, "train")
    copies = dict.fromkeys(("en_open.jsonl", "zh_modern.jsonl"), 0)
    for label, count in zip(table["label"].to_pylist(), table["copies"].to_pylist(), strict=True):
        copies[label] += count
    assert 2.2 < copies["en_open.jsonl"] / 114 < 2.8
    steps = {step["step"]: step for step in report["steps"]}
    assert 40 < steps["mixture"]["removed"]["left out by its weight"] < 80
    assert sum(row["share"] for row in report["mixture"]) == pytest.approx(1)


@pytest.mark.parametrize("key", ["safety.drop", "language.keep", "language.weights"])
def test_a_name_that_is_none_is_refused_before_anything_is_read(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.txt").write_text("Text of nobody's. " * 50)
    table, name = key.split(".")
    given = {"nonsense": 2.0} if name == "weights" else ["nonsense"]
    with pytest.raises(PunaError, match=rf"corpus.{key}: there is no 'nonsense'"):
        build_documents(Corpus.model_validate({"sources": [str(tmp_path)], table: {name: given}}), tmp_path / "out")


def test_examples_that_hold_nothing_are_a_mistake_and_an_idle_topic_is_told(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(PunaError, match="empty.txt: holds no text to learn from"):
        build_documents(recipe(sources, quality={"good": [str(tmp_path / "empty.txt")]}), tmp_path / "out")
    report = build_documents(recipe(sources, topics={"weights": {"zzqq": 0}}), tmp_path / "out")
    assert "topics: no cluster is labelled 'zzqq', so its weight says nothing" in report["notes"]


def test_one_broken_file_of_a_folder_is_passed_over_by_name_and_one_that_is_named_is_a_mistake(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"Note {number}. " + " ".join(f"word{number}{n}" for n in range(200)))
    for name in ("cut.parquet", "no.zip"):
        (folder / name).write_bytes(b"PAR1 and no more")
    report = build_documents(Corpus(sources=[str(folder)], heldout_share=0.2), tmp_path / "out")
    assert report["skipped"] == {f"file passed over, damaged: folder/{name}": 1 for name in ("cut.parquet", "no.zip")}
    assert report["accounts"]["documents_in"] == 12
    with pytest.raises(PunaError, match="is not a Parquet file"):
        build_documents(Corpus(sources=[str(folder / "cut.parquet")]), tmp_path / "other")


def _start(config: Corpus, out: Path, work: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", CHILD, config.model_dump_json(), str(out), str(work)]
    return subprocess.Popen(command, start_new_session=True)


@pytest.mark.slow
def test_killed_in_each_pass_a_build_goes_on_and_ends_with_the_same_bytes(sources: Path, tmp_path: Path) -> None:
    config = recipe(sources)
    assert _start(config, tmp_path / "whole", tmp_path / "w0").wait(300) == 0
    expected = digests(tmp_path / "whole")
    work = tmp_path / "work"
    for shelf in SHELVES:
        child = _start(config, tmp_path / "killed", work)
        until = time.monotonic() + 120
        # In the middle of the pass: one part of its shelf is there, or its first is being written.
        while not (work / shelf).is_dir() and child.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        assert child.poll() is None, f"it was over before {shelf}"
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert _start(config, tmp_path / "killed", work).wait(300) == 0
    assert digests(tmp_path / "killed") == expected


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers_makes_the_same_documents(
    sources: Path, built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        config = recipe(sources, scale={"ray": cluster.address})
        child = subprocess.run(
            [sys.executable, "-P", "-c", CHILD, config.model_dump_json(), str(tmp_path / "ray"), str(tmp_path / "work")],
            timeout=280, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert child.returncode == 0, child.stderr[-2000:]
    finally:
        cluster.shutdown()
    ours, theirs = digests(built[0]), digests(tmp_path / "ray")
    assert {name: ours[name] for name in ours if name != "corpus.json"} == {
        name: theirs[name] for name in theirs if name != "corpus.json"
    }
