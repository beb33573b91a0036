"""Whole builds of users' text."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from puna.corpus import build_documents, read_documents, source_digest
from puna.corpus.documents import FINAL_SCHEMA
from puna.errors import PunaError
from puna.recipe.schema import Corpus

HAN = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经"


def essay(seed: int, paragraphs: int = 6, chinese: bool = True) -> str:
    draw = random.Random(seed)

    def sentence() -> str:
        if chinese:
            return "".join(draw.choice(HAN) for _ in range(40)) + "。"
        return " ".join(f"word{draw.randrange(2000)}" for _ in range(12)) + "."

    return "\n\n".join("".join(sentence() for _ in range(5)) for _ in range(paragraphs))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "notes"
    root.mkdir()
    for number in range(30):
        (root / f"{number:02d}.md").write_text(f"# 第{number}章\n\n{essay(number)}\n", encoding="utf-8")
    return root


def build(out: Path, *sources: Path, **options: Any) -> dict[str, Any]:
    return build_documents(Corpus(sources=[str(s) for s in sources], **options), out)


def by_step(report: dict[str, Any]) -> dict[str, Any]:
    return {step["step"]: step for step in report["steps"]}


def test_chinese_markdown_is_split_by_file(folder: Path, tmp_path: Path) -> None:
    report = build(tmp_path / "out", folder, licence="CC0-1.0")
    train, heldout = (read_documents(tmp_path / "out", split) for split in ("train", "heldout"))
    assert train.schema == heldout.schema == FINAL_SCHEMA
    assert not set(train["source"].to_pylist()) & set(heldout["source"].to_pylist())
    assert set(train["lang"].to_pylist()) == {"zh"}
    assert set(train["licence"].to_pylist()) == {"CC0-1.0"}
    assert report["split"][0]["by"] == "file"
    assert report["documents"] == {"train": train.num_rows, "heldout": heldout.num_rows}
    assert report["bytes"]["train"] == sum(len(text.encode()) for text in train["text"].to_pylist())
    assert 0.02 < report["bytes"]["heldout"] / sum(report["bytes"].values()) < 0.1
    assert report == json.loads((tmp_path / "out/corpus.json").read_text(encoding="utf-8"))
    assert not (tmp_path / "out/functions.jsonl").exists()
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_equal_input_gives_equal_bytes_and_names_no_path(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "notes"
    moved.parent.mkdir()
    build(tmp_path / "a", folder)
    folder.rename(moved)
    build(tmp_path / "b", moved)
    for name in ("train.parquet", "heldout.parquet", "corpus.json"):
        first, second = (tmp_path / "a" / name).read_bytes(), (tmp_path / "b" / name).read_bytes()
        assert first == second
        assert str(tmp_path).encode() not in first


def test_the_digest_follows_the_bytes(folder: Path) -> None:
    config = Corpus(sources=[str(folder)])
    before = source_digest(config)
    assert before == source_digest(config)
    path = folder / "03.md"
    stat = path.stat()
    path.write_text(path.read_text(encoding="utf-8").replace("第", "弟"), encoding="utf-8")
    os.utime(path, (stat.st_atime, stat.st_mtime))
    assert source_digest(config) != before
    assert before["sources"][0]["files"] == 30


def test_every_step_says_what_it_took(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.md").write_text((folder / "04.md").read_text(encoding="utf-8") + "\r\n", encoding="utf-8")
    (folder / "short.md").write_text("短", encoding="utf-8")
    (folder / "symbols.md").write_text("=-+*" * 60, encoding="utf-8")
    (folder / "z-again.md").write_text(essay(99) + "\n\n" + essay(5).split("\n\n")[0], encoding="utf-8")
    (folder / "gbk.md").write_bytes(essay(77).encode("gb18030"))
    (folder / "image.md").write_bytes(b"\x89PNG\x00\x00")
    (folder / "other.doc").write_bytes(b"x")
    report = build(tmp_path / "out", folder)
    steps = by_step(report)
    assert steps["length"]["removed"] == {"under 80 characters": 1}
    assert steps["symbols"]["removed"] == {"over 60% symbols": 1}
    assert steps["duplicate documents"]["removed"] == {"the same text came before": 1}
    assert steps["duplicate paragraphs"]["removed"] == {"the same paragraph came before": 1}
    assert report["encodings"] == {"gb18030, guessed": 1, "utf-8": 34}
    assert report["skipped"] == {"binary file, or in no known encoding": 1, "unknown kind .doc": 1}
    for before, after in zip(report["steps"], report["steps"][1:], strict=False):
        if after["step"] not in ("held-out text judged once", "near-duplicates of held-out text"):
            assert (after["documents_in"], after["bytes_in"]) == (before["documents_out"], before["bytes_out"])
    assert steps["symbols"]["samples"][0]["source"] == "notes/symbols.md"
    kept = build(tmp_path / "kept", folder, deduplicate=False)
    assert by_step(kept)["duplicate documents"]["removed"] == {}


def test_near_copies_of_heldout_files_leave_the_training_side(folder: Path, tmp_path: Path) -> None:
    heldout = build(tmp_path / "first", folder)["split"][0]["heldout"][0]
    judged = (folder.parent / heldout).read_text(encoding="utf-8")
    victim = next(f"{n:02d}.md" for n in range(30) if f"notes/{n:02d}.md" != heldout)
    quoted = "".join(judged.split("\n\n")[2])
    # Too little to make a family of the two files, and a whole passage all the same.
    with open(folder / victim, "a", encoding="utf-8") as stream:
        stream.write("\n\n" + "甲" + quoted[1:-1] + "乙\n")
    report = build(tmp_path / "second", folder)
    train = "".join(read_documents(tmp_path / "second", "train")["text"].to_pylist())
    assert heldout in report["split"][0]["heldout"]
    assert quoted[5:100] not in train
    assert sum(by_step(report)["near-duplicates of held-out text"]["removed"].values()) == 1


def test_one_file_of_rows_is_split_by_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": essay(n, 2, chinese=False)}) for n in range(60)))
    report = build(tmp_path / "out", path)
    assert report["split"][0]["by"] == "document"
    heldout = read_documents(tmp_path / "out", "heldout")
    assert heldout["source"].to_pylist() == heldout["id"].to_pylist()  # rows are the units that a score is resampled by


def test_one_document_gives_its_end(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    text = essay(1, 200)
    path.write_text(text, encoding="utf-8")
    report = build(tmp_path / "out", path, max_chars=5000)
    train, heldout = (read_documents(tmp_path / "out", split)["text"].to_pylist() for split in ("train", "heldout"))
    assert report["split"][0]["by"] == "tail"
    assert "".join(train + heldout).replace("\n", "") == text.replace("\n", "")
    assert 0.03 < len("".join(heldout)) / len(text) < 0.08


def test_two_sources_give_each_their_share(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "more" / "notes"
    other.mkdir(parents=True)
    for number in range(40):
        (other / f"{number}.txt").write_text(essay(500 + number, chinese=False))
    report = build(tmp_path / "out", folder, other)
    assert [entry["source"] for entry in report["split"]] == ["notes", "notes~2"]
    assert all(entry["heldout_units"] for entry in report["split"])


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"\x00" * 100, "holds no text"),
        ("a.txt", b"short", "nothing is left to go on with"),
        ("a.exe", b"x", "no kind of file"),
        ("a.txt", ("x" * 79 + "\n").encode() * 2, "too little text"),
    ],
)
def test_hopeless_sources_are_refused_and_leave_nothing(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PunaError, match=said):
        build(tmp_path / "out", tmp_path / name)
    assert not list((tmp_path / "out").glob(".*"))


def test_a_broken_artefact_is_named(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match=r"train\.parquet"):
        read_documents(tmp_path, "train")
    with pytest.raises(ValueError, match="train"):
        read_documents(tmp_path, "test")


def test_row_groups_follow_the_rows(folder: Path, tmp_path: Path) -> None:
    build(tmp_path / "out", folder)
    assert pq.ParquetFile(tmp_path / "out/train.parquet").metadata.num_row_groups == 1
