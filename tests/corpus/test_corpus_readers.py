"""Files of every kind, in every encoding, and hostile ones."""

import bz2
import gzip
import json
import lzma
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import charset, compressed, readers, rows, streams
from puna.corpus.compressed import Hostile
from puna.corpus.documents import Document
from puna.corpus.readers import SourceFile, Split, Tally
from puna.errors import PunaError

EN = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep.\n"
ZH = "中华人民共和国公民在法律面前一律平等。国家尊重和保障人权，任何公民享有宪法和法律规定的权利，同时必须履行义务。\n"
TW = "這個網站提供繁體中文的說明文件，讓使用者可以學習如何使用電腦程式語言，並且解決問題。\n"
JA = "これは日本語の文章です。プログラミング言語の使い方を説明しています。よろしくお願いします。\n"
KO = "이것은 한국어 문장입니다. 프로그래밍 언어를 사용하는 방법을 설명합니다.\n"
RU = "Это предложение на русском языке, которое объясняет, как пользоваться программой.\n"
FR = "L'élève a été très étonné de voir où était passée la forêt, près du château.\n"


def read(path: Path, field: str | None = None) -> tuple[list[str], Tally]:
    tally = Tally()
    return [d.text for d in readers.read_file(SourceFile(path, path.name), field, "x", tally)], tally


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_plain_text_alone_and_compressed(tmp_path: Path) -> None:
    data = (EN + ZH).encode()
    for name, packed in [
        ("a.txt", data),
        ("a.md.gz", gzip.compress(data)),
        ("a.rst.zst", zstandard.compress(data)),
        ("a.txt.bz2", bz2.compress(EN.encode()) + bz2.compress(ZH.encode())),
        ("a.txt.xz", lzma.compress(EN.encode()) + b"\0" * 4 + lzma.compress(ZH.encode())),
        ("b.txt.gz", gzip.compress(EN.encode()) + gzip.compress(ZH.encode()) + b"\0" * 512),
        ("b.txt.zst", zstandard.compress(EN.encode()) + zstandard.compress(ZH.encode())),
    ]:
        assert read(put(tmp_path / name, packed))[0] == [EN + ZH]


def test_json_lines_find_their_text_field(tmp_path: Path) -> None:
    rows = [{"id": "1", "meta": "x", "text": EN}, {"id": "2", "meta": "y", "text": ZH}, {"id": "3"}, "plain", 5]
    texts, tally = read(put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode()))
    assert texts == [EN, ZH, "plain"]
    assert tally.skipped == {"row without text": 1, "row that is no object": 1}


def test_a_named_field_wins_and_a_missing_one_lists_what_there_is(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", json.dumps({"question": EN, "answer": ZH}).encode())
    assert read(path, "answer")[0] == [ZH]
    for field in (None, "text"):
        with pytest.raises(PunaError, match=r"question, answer.*text_field") as error:
            read(path, field)
        assert str(path) in error.value.line()


def test_json_csv_and_parquet(tmp_path: Path) -> None:
    assert read(put(tmp_path / "a.json", json.dumps([{"content": EN}, {"content": ZH}]).encode()))[0] == [EN, ZH]
    quoted = '"' + EN.replace('"', '""') + '"'
    assert read(put(tmp_path / "a.csv", f"id,text\n1,{quoted}\n2,{ZH}".encode()))[0] == [EN, ZH.strip()]
    assert read(put(tmp_path / "a.tsv", f"id\ttext\n1\t{ZH}".encode("utf-8-sig")))[0] == [ZH.strip()]
    pq.write_table(pa.table({"n": [1, 2, 3], "body": [EN, None, ZH]}), tmp_path / "a.parquet")
    texts, tally = read(tmp_path / "a.parquet")
    assert texts == [EN, ZH]
    assert tally.skipped == {"row without text": 1}


@pytest.mark.parametrize(
    ("codec", "text", "reported"),
    [
        ("utf-8-sig", ZH, "utf-8-sig"),
        ("utf-16", ZH, "utf-16"),
        ("utf-32", EN, "utf-32"),
        ("gb18030", ZH, "gb18030, guessed"),
        ("gb2312", ZH, "gb18030, guessed"),
        ("big5", TW, "big5hkscs, guessed"),
        ("shift_jis", JA, "shift_jis, guessed"),
        ("euc_jp", JA, "euc_jp, guessed"),
        ("euc_kr", KO, "cp949, guessed"),
        ("cp1251", RU, "cp1251, guessed"),
        ("koi8_r", RU, "koi8_r, guessed"),
        ("cp1252", FR, "cp1252, guessed"),
    ],
)
def test_encodings_are_found_and_reported(tmp_path: Path, codec: str, text: str, reported: str) -> None:
    texts, tally = read(put(tmp_path / "a.txt", (text * 20).encode(codec)))
    assert texts == [text * 20]
    assert tally.encodings == {reported: 1}


def test_a_little_damage_in_utf8_stays_utf8(tmp_path: Path) -> None:
    texts, tally = read(put(tmp_path / "a.txt", (ZH * 20).encode() + b"\xff\n" + (ZH * 20).encode()))
    assert texts == [ZH * 20 + "\ufffd\n" + ZH * 20]
    assert tally.encodings == {"utf-8, damaged": 1}


def test_html_follows_its_declared_encoding(tmp_path: Path) -> None:
    page = '<meta charset="iso-8859-2"><title>t</title><p>Zażółć gęślą jaźń</p>'
    texts, tally = read(put(tmp_path / "a.html", page.encode("iso-8859-2")))
    assert "Zażółć gęślą jaźń" in texts[0]
    assert tally.encodings == {"iso8859_2, declared": 1}


def test_binary_and_empty_files_are_counted(tmp_path: Path) -> None:
    for data in (b"\x00\x01\x02" * 50, b"%PDF-1.7\n" + os.urandom(10), bytes(range(1, 30)) * 9):
        assert read(put(tmp_path / "a.txt", data))[1].skipped == {"binary file, or in no known encoding": 1}
    assert read(put(tmp_path / "a.txt", b""))[1].skipped == {"empty file": 1}


def test_one_endless_line_is_passed_over_without_holding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    with open(path, "wb") as stream:
        stream.truncate(2 << 30)  # a hole of NULs: no disk is used
    assert read(path)[1].skipped  # binary
    for name in ("a.txt", "a.jsonl"):
        path = put(tmp_path / f"{name}.zst", zstandard.compress(b"a" * (1 << 20)) * 100)
        with pytest.raises(Hostile, match="times its size"):
            read(path)
    monkeypatch.setattr(streams, "LINE_LIMIT", 3 << 20)
    monkeypatch.setattr(readers, "_PIECE", 1 << 20)
    long = b"a" * (9 << 20) + b"\n"
    texts, tally = read(put(tmp_path / "long.txt", EN.encode() * 3 + long + ZH.encode()))
    assert texts == [EN * 3, ZH]
    assert tally.skipped == {"line longer than 3 MiB": 1}
    row = json.dumps({"text": EN}).encode() + b"\n"
    texts, tally = read(put(tmp_path / "long.jsonl", row + b'{"text": "' + long + row + long))
    assert texts == [EN, EN]
    assert tally.skipped == {"line longer than 3 MiB": 2}


def test_a_long_text_file_comes_in_pieces_of_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_PIECE", 1000)
    monkeypatch.setattr(streams, "_BLOCK", 64)
    for name, data in [("a.txt", (ZH * 20).encode()), ("a.md.gz", gzip.compress((ZH * 20).encode()))]:
        path = put(tmp_path / name, data)
        found = list(readers.read_file(SourceFile(path, "a.txt"), None, "x", Tally()))
        assert "".join(d.text for d in found) == ZH * 20
        assert [d.id for d in found] == ["a.txt#0", "a.txt#1", "a.txt#2", "a.txt#3"]
        assert {d.source for d in found} == {"a.txt"}
    utf16 = put(tmp_path / "b.txt", (ZH * 20).encode("utf-16"))
    assert "".join(read(utf16)[0]) == ZH * 20


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (b" " * 1023 + b"\n") * 1024
    for name, data in [
        ("a.txt.gz", gzip.compress(lines) * 80),
        ("a.txt.zst", zstandard.compress(lines) * 80),
        ("a.txt.bz2", bz2.compress(lines) * 80),
        ("a.jsonl.xz", lzma.compress(lines) * 80),
    ]:
        with pytest.raises(Hostile, match=f"{name}: expands to over 300 times its size"):
            read(put(tmp_path / name, data))
    monkeypatch.setattr(compressed, "_XZ_LIMIT", 1 << 20)
    with pytest.raises(PunaError, match=r"damaged.*[Mm]emory"):
        read(put(tmp_path / "b.txt.xz", lzma.compress(b"x", preset=6)))  # wants 9 MiB to unpack


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("b.txt.gz", b"no gzip"),
        ("b.txt.zst", b"no zstd"),
        ("b.txt.bz2", b"no bz2"),
        ("b.txt.xz", b"no xz"),
        ("b.jsonl", b'{"text": '),
        ("b.jsonl", b"[" * 100_000),
        ("b.jsonl", b'{"text": "x", "n": ' + b"9" * 9999 + b"}"),
        ("b.json", b'{"text": '),
        ("b.parquet", b"PAR1 nothing PAR1"),
        ("b.csv", b'id,text\n1,"' + (b"x" * 1023 + b"\n") * (17 << 10)),
    ],
)
def test_a_file_of_nothing_but_damage_is_an_error(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(PunaError, match=name):
        read(put(tmp_path / name, data))


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".zst", zstandard.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_what_stands_before_the_damage_is_kept(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    rows = [json.dumps({"text": f"{number} {os.urandom(20).hex()}"}) for number in range(4000)]
    first, second = pack("\n".join(rows[:2000]).encode() + b"\n"), pack("\n".join(rows[2000:]).encode())
    path = tmp_path / f"a.jsonl{suffix}"
    texts, tally = read(put(path, first + second[: len(second) // 2]))
    assert 2000 <= len(texts) < 4000
    assert [text.split()[0] for text in texts] == list(map(str, range(len(texts))))
    assert tally.skipped["compressed file cut short"] == 1
    assert sum(tally.skipped.values()) <= 2  # and the line that was cut
    texts, tally = read(put(path, first + b"garbage" * 10))
    assert len(texts) == 2000
    assert tally.skipped == {"compressed file damaged": 1}


def test_one_bad_record_does_not_end_a_run(tmp_path: Path) -> None:
    good = json.dumps({"text": EN})
    lines = [good, "{broken", good, "[" * 100_000, good, '{"text": "x", "n": ' + "9" * 9999 + "}", good]
    texts, tally = read(put(tmp_path / "a.jsonl", "\n".join(lines).encode() + b"\n\x00\xff\x01"))
    assert texts == [EN] * 4
    assert tally.skipped == {"line that is no valid JSON": 3, "line in no known encoding": 1}
    table = "id,text\n" + f'1,"{EN}"\n' + "2,a,b,c\n" + '3,"' + ("x" * 1023 + "\n") * (17 << 10) + f'"\n4,"{EN}"\n'
    texts, tally = read(put(tmp_path / "a.csv", table.encode()))
    assert texts[0] == EN
    assert tally.skipped["row with more fields than the header"] == 1
    assert tally.skipped["row that is no valid CSV"] == 1


def test_a_file_of_mostly_bad_records_names_the_first(tmp_path: Path) -> None:
    lines = [json.dumps({"text": EN})] * 9 + ["no json"] * 11
    with pytest.raises(PunaError, match=r"a\.jsonl: 11 of its 20 rows cannot be read, the first: byte 8\d\d"):
        read(put(tmp_path / "a.jsonl", "\n".join(lines).encode()))


def test_lines_in_other_encodings(tmp_path: Path) -> None:
    row = json.dumps({"text": ZH * 4}, ensure_ascii=False)
    texts, tally = read(put(tmp_path / "a.jsonl", f"{row}\n{row}".encode("gb18030")))
    assert texts == [ZH * 4] * 2
    assert tally.encodings == {"gb18030, guessed": 1}
    for codec in ("utf-16", "utf-8-sig"):
        texts, tally = read(put(tmp_path / "a.jsonl", f"{row}\n{row}".encode(codec)))
        assert texts == [ZH * 4] * 2
        assert tally.encodings == {codec: 1}
    mixed = f"{row}\n".encode() * 9 + row.encode("gb18030")
    texts, tally = read(put(tmp_path / "a.jsonl", mixed))
    assert texts == [ZH * 4] * 10
    assert tally.encodings == {"utf-8, damaged": 1, "gb18030, guessed, in a line": 1}


def test_a_field_of_later_rows_is_found(tmp_path: Path) -> None:
    lines = [{"made": "today", "by": "us"}, *({"id": str(n), "meta": "x", "text": EN} for n in range(3))]
    texts, tally = read(put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)).encode()))
    assert texts == [EN] * 3
    assert tally.skipped == {"row without text": 1}


def documents_of(file: SourceFile, target: int) -> tuple[list[Document], Tally]:
    tally = Tally()
    found: list[Document] = []
    splits = readers.splits_of(file, target)
    assert [pickle.loads(pickle.dumps(split)) for split in splits] == splits
    for split in splits:
        part = Tally()
        found += readers.read_split(split, None, "x", part)
        tally.add(part)
    return found, tally


def test_the_documents_do_not_depend_on_the_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_PIECE", 500)
    monkeypatch.setattr(streams, "_BLOCK", 97)
    rows: list[dict[str, object]] = [
        {"meta": "no", "id": "text"},
        *({"id": n, "body": f"{n} {ZH if n % 2 else EN}" * (n % 5 + 1), "n": "x"} for n in range(60)),
    ]
    lines = [json.dumps(row, ensure_ascii=n % 3 == 0) for n, row in enumerate(rows)]
    lines[7] = "{bad"
    cases = {
        "a.jsonl": "\n".join(lines).encode(),
        "b.jsonl": ("\r\n\n".join(lines) + "\n").encode("utf-8-sig"),
        "c.jsonl": "\n".join(lines).encode("utf-16"),
        "d.txt": "\n".join(lines).encode(),
        "e.txt": ("x" * 3000 + "\n" + EN * 30).encode(),
        "f.txt": (ZH * 40).encode("gb18030"),
    }
    pq.write_table(pa.table({"text": [row.get("body") for row in rows]}), tmp_path / "g.parquet", row_group_size=7)
    for name, data in cases.items():
        put(tmp_path / name, data)
    for name in [*cases, "g.parquet"]:
        file = SourceFile(tmp_path / name, name)
        whole, counted = documents_of(file, 1 << 40)
        assert len(whole) >= 6
        assert len({document.id for document in whole}) == len(whole)
        for target in (100, 997, 5000):
            if name != "c.jsonl":
                assert target > 997 or len(readers.splits_of(file, target)) > 1
            found, tally = documents_of(file, target)
            assert found == whole
            assert tally == counted
    with pytest.raises(ValueError, match="positive"):
        readers.splits_of(SourceFile(tmp_path / "a.jsonl", "a"), 0)
    assert list(readers.read_split(Split(SourceFile(tmp_path / "g.parquet", "g"), 1, 1), None, "x", Tally())) == []


def test_hostile_parquet_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_PARQUET_FLOOR", 1 << 20)
    table = pa.table({"text": pa.array(["x" * 100_000] * 600).dictionary_encode()})
    pq.write_table(table.cast(pa.schema([("text", pa.string())])), tmp_path / "a.parquet")
    with pytest.raises(Hostile, match=r"a\.parquet: expands to far over its size"):
        read(tmp_path / "a.parquet")
    monkeypatch.setattr(rows, "_ROWS_FLOOR", 1000)
    empty = pa.table({"text": pa.array([None] * 3_000_000, pa.string())})
    pq.write_table(empty, tmp_path / "b.parquet")
    for work in (read, rows.parquet_groups):
        with pytest.raises(Hostile, match=r"b\.parquet: claims 3,000,000 rows"):
            work(tmp_path / "b.parquet")


def test_a_page_is_markup_until_it_is_extracted(tmp_path: Path) -> None:
    path = put(tmp_path / "a.html", f"<p>{ZH}</p>".encode())
    (found,) = readers.read_file(SourceFile(path, "t/a.html"), None, "cc0", Tally())
    assert found == Document("t/a.html", f"<p>{ZH}</p>", "t/a.html", "html", "cc0", "und", "")
    assert read(put(tmp_path / "b.html", b"\0\1\2" * 99))[1].skipped == {"binary file, or in no known encoding": 1}


def test_folders_are_listed_in_order_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "c.bin", ".hidden.txt", "sub/x.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(EN)
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    tally = Tally()
    assert [f.name for f in readers.list_files(tmp_path, "t", tally)] == ["t/a.md", "t/b.txt", "t/sub/x.jsonl"]
    assert tally.skipped == {"unknown kind .bin": 1, "hidden file": 1, "not a regular file": 1, "link to a folder": 1}


def test_runs_of_puna_inside_a_source_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "a.md", EN.encode())
    run = tmp_path / "runs" / "mine"
    (run / "release").mkdir(parents=True)
    for name in ("ledger.jsonl", "seed.json", "release/config.json"):
        put(run / name, b"{}")
    tally = Tally()
    assert [file.name for file in readers.list_files(tmp_path, "notes", tally)] == ["notes/a.md"]
    assert tally.skipped == {"folder of a Puna run": 1}


def test_missing_empty_and_unreadable_sources(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="no such file"):
        readers.list_files(tmp_path / "none", "t")
    with pytest.raises(PunaError, match="no file that can be read"):
        readers.list_files(tmp_path, "t")
    with pytest.raises(PunaError, match="neither a file nor a folder"):
        readers.list_files(Path("/dev/null"), "t")
    if os.getuid() != 0:
        put(tmp_path / "a.txt", b"x").chmod(0)
        with pytest.raises(PunaError, match="cannot be read"):
            read(tmp_path / "a.txt")


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=300), max_size=20), st.integers(1, 64))
def test_lines_are_the_text_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], block: int
) -> None:
    text = "\n".join(parts)
    path = put(tmp_path_factory.mktemp("lines") / "a.txt", text.encode())
    before, streams._BLOCK = streams._BLOCK, block
    try:
        assert "".join(streams.read_lines(path, streams.Encoding("utf-8", "utf-8"))) == text
    finally:
        streams._BLOCK = before


@given(st.binary(max_size=4000))
def test_any_bytes_give_text_or_a_count(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    texts, tally = read(put(tmp_path_factory.mktemp("any") / "a.txt", data))
    assert len(texts) == 1 or sum(tally.skipped.values()) == 1
    charset.guess_encoding(data)
