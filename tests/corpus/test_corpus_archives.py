"""Tar and zip archives, whole, damaged and hostile."""

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from puna.corpus import archives, compressed, readers
from puna.corpus.compressed import Hostile
from puna.corpus.readers import SourceFile, Tally
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data/dirty"
EN = "The quick brown fox jumps over the lazy dog.\n"
ZH = "中华人民共和国公民在法律面前一律平等。\n"
ROWS = (json.dumps({"text": EN}) + "\n" + json.dumps({"text": ZH}) + "\n").encode()


def tar_of(members: list[tuple[str, bytes]], mode: str = "w", kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=kind) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def read(path: Path, data: bytes) -> tuple[dict[str, str], Tally]:
    path.write_bytes(data)
    tally = Tally()
    found = list(readers.read_file(SourceFile(path, path.name), None, "x", tally))
    assert len({document.id for document in found}) == len(found)
    return {document.id: document.text for document in found}, tally


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar", tar_of),
        ("a.tar.gz", lambda members: tar_of(members, "w:gz")),
        ("a.tgz", lambda members: tar_of(members, "w:gz")),
        ("a.tar.bz2", lambda members: tar_of(members, "w:bz2")),
        ("a.txz", lambda members: tar_of(members, "w:xz")),
        ("a.tar.zst", lambda members: zstandard.compress(tar_of(members))),
        ("a.tar", lambda members: tar_of(members, kind=tarfile.GNU_FORMAT)),
        ("a.zip", zip_of),
        ("a.zip", lambda members: zip_of(members, zipfile.ZIP_STORED)),
        ("a.zip", lambda members: zip_of(members, zipfile.ZIP_LZMA)),
        ("a.zip", lambda members: zip_of(members, zipfile.ZIP_BZIP2)),
    ],
)
def test_members_are_read_by_their_own_suffix(
    tmp_path: Path, name: str, pack: Callable[[list[tuple[str, bytes]]], bytes]
) -> None:
    members = [
        ("b.txt", EN.encode()),
        (f"{'long/' * 50}第一章.md", ZH.encode()),
        ("rows.jsonl.gz", gzip.compress(ROWS)),
        ("page.html", b"<p>x</p>"),
        ("inner.zip", zip_of([("x.txt", b"x")])),
        ("inner.tar.gz", b"x"),
        ("inner.7z", b"x"),
        (".hidden.txt", b"x"),
        ("__MACOSX/b.txt", b"x"),
        ("picture.png", b"x"),
        ("../../etc/passwd.txt", ZH.encode()),
        ("empty.txt", b""),
    ]
    texts, tally = read(tmp_path / name, pack(members))
    assert texts == {
        f"{name}/b.txt": EN,
        f"{name}/{'long/' * 50}第一章.md": ZH,
        f"{name}/rows.jsonl.gz@0": EN,
        f"{name}/rows.jsonl.gz@{ROWS.index(b'{', 1)}": ZH,
        f"{name}/page.html": "<p>x</p>",
        f"{name}/../../etc/passwd.txt": ZH,
    }
    assert tally.skipped == {
        "archive inside an archive": 3,
        "hidden file": 2,
        "unknown kind .png": 1,
        "empty file": 1,
    }
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_members_of_one_name_are_two_documents(tmp_path: Path) -> None:
    members = [("a.txt", EN.encode()), ("a.txt", ZH.encode())]
    assert read(tmp_path / "a.tar", tar_of(members))[0] == {"a.tar/a.txt": EN, "a.tar/a.txt~2": ZH}


def test_links_and_devices_are_counted_and_never_followed(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("a.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    texts, tally = read(tmp_path / "a.tar", out.getvalue())
    assert texts == {}
    assert tally.skipped == {"archive member that is no plain file": 4}


def test_a_damaged_member_costs_itself(tmp_path: Path) -> None:
    noise = os.urandom(3000).hex().encode()
    data = bytearray(zip_of([("a.txt", EN.encode()), ("b.txt", noise), ("c.txt", ZH.encode()), ("d.json", b"{bad")]))
    data[data.index(b"b.txt") + 700] ^= 255
    texts, tally = read(tmp_path / "a.zip", bytes(data))
    assert texts == {"a.zip/a.txt": EN, "a.zip/c.txt": ZH}
    assert tally.skipped == {"archive member cut short or damaged": 1, "archive member that cannot be read": 1}
    locked = bytearray(zip_of([("a.txt", EN.encode())]))
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        locked[locked.index(mark) + place] |= 1
    assert read(tmp_path / "b.zip", bytes(locked))[1].skipped == {"archive member that is encrypted": 1}


def test_an_archive_that_is_cut_short_gives_what_stands_before(tmp_path: Path) -> None:
    noise = os.urandom(30_000).hex().encode()
    whole = tar_of([("a.txt", EN.encode()), ("b.txt", noise), ("c.txt", ZH.encode())])
    texts, tally = read(tmp_path / "a.tar", whole[:9000])
    assert texts == {"a.tar/a.txt": EN}
    assert tally.skipped == {"archive member cut short or damaged": 1, "archive cut short": 1}
    texts, tally = read(tmp_path / "a.tar.gz", gzip.compress(whole)[:9000])
    assert texts == {"a.tar.gz/a.txt": EN}
    assert tally.skipped["compressed file cut short"] == 1
    # A damaged header costs its member; the next good one is found again.
    damaged = bytearray(whole)
    damaged[damaged.index(b"b.txt") + 120] ^= 1
    texts, tally = read(tmp_path / "b.tar", bytes(damaged))
    assert texts == {"b.tar/a.txt": EN, "b.tar/c.txt": ZH}
    assert tally.skipped == {"archive with damaged headers": 1}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", b"no zip"),
        ("a.zip", zip_of([("a.txt", EN.encode())])[:-30]),
        ("a.tar", b"no tar" * 1000),
        ("a.tar.gz", b"no gzip"),
        ("a.tar", tar_of([("a.txt", EN.encode() * 100)])[:1000]),
    ],
)
def test_an_archive_of_nothing_but_damage_is_an_error(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(PunaError, match=name):
        read(tmp_path / name, data)


def test_bombs_stop_with_the_name_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_FLOOR", 1 << 20)
    monkeypatch.setattr(compressed, "RATIO_FLOOR", 1 << 20)
    zeros = b"x" * (3 << 20)
    for name, data in [
        ("a.zip", zip_of([("a.txt", zeros)])),
        ("a.tar.gz", tar_of([("a.txt", zeros)], "w:gz")),
        ("a.tar.zst", zstandard.compress(tar_of([("a.png", zeros * 4)]))),
        ("b.zip", zip_of([("a.txt.gz", gzip.compress(zeros))])),
    ]:
        with pytest.raises(Hostile, match=rf"{name}.*: expands to over 300 times its size"):
            read(tmp_path / name, data)
    # Many entries of one compressed block: 42 kB that name petabytes.
    kernel = zip_of([("a.txt", b"x" * (1 << 20))])
    entry = kernel[kernel.index(b"PK\1\2") : kernel.index(b"PK\5\6")]
    body = kernel[: kernel.index(b"PK\1\2")]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 800, 800, len(entry) * 800, len(body), 0)
    with pytest.raises(Hostile, match=r"c\.zip: expands to over"):
        read(tmp_path / "c.zip", body + entry * 800 + end)
    monkeypatch.setattr(archives, "MEMBERS_LIMIT", 10)
    with pytest.raises(Hostile, match=r"d\.tar: holds over 10 files"):
        read(tmp_path / "d.tar", tar_of([(f"{n}.txt", b"x") for n in range(11)]))
    monkeypatch.setattr(archives, "MEMBER_LIMIT", 1000)
    with pytest.raises(Hostile, match=r"e\.tar: holds a file of over"):
        read(tmp_path / "e.tar", tar_of([("a.txt", b"x" * 1001)]))


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(Hostile, match=r"a\.tar: a tar header claims an absurd size"):
        read(tmp_path / "a.tar", tar_of([("a.txt", b"x")])[:1024] + header + b"\0" * 4096)
    info = tarfile.TarInfo("a.txt")
    info.size = 1 << 50
    texts, tally = read(
        tmp_path / "b.tar", tar_of([("b.txt", b"x")])[:1024] + info.tobuf(tarfile.GNU_FORMAT) + b"x" * 900
    )
    assert texts == {"b.tar/b.txt": "x"}
    assert tally.skipped == {"archive member cut short or damaged": 1, "archive cut short": 1}


def test_the_real_archive_of_pages() -> None:
    path = DATA / "web_html.tar.zst"
    if not path.is_file():
        pytest.skip("needs ../shared/data/dirty")
    tally = Tally()
    found = list(readers.read_file(SourceFile(path, "web"), None, "x", tally))
    assert len(found) == 224
    assert {document.kind for document in found} == {"html"}
    assert not tally.skipped
