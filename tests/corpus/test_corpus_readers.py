"""Files of every kind, in every encoding, and hostile ones."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import charset, readers, streams
from puna.corpus.readers import SourceFile, Tally
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


def test_one_endless_line_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with open(path, "wb") as stream:
        stream.truncate(2 << 30)  # a hole of NULs: no disk is used
    assert read(path)[1].skipped  # binary
    for name in ("a.txt", "a.jsonl"):
        block = zstandard.compress(b"a" * (1 << 20))
        path = put(tmp_path / f"{name}.zst", block * 100)
        with pytest.raises(PunaError, match=r"longer than 64 MiB|times its size"):
            read(path)
    path = tmp_path / "long.txt"
    with open(path, "wb") as stream:
        for _ in range(66):
            stream.write(b"a" * (1 << 20))
    with pytest.raises(PunaError, match="longer than 64 MiB"):
        read(path)


def test_a_long_text_file_comes_in_pieces_of_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_FLUSH", 100)
    monkeypatch.setattr(streams, "_BLOCK", 64)
    path = put(tmp_path / "a.txt", (ZH * 20).encode())
    found = list(readers.read_file(SourceFile(path, "a.txt"), None, "x", Tally()))
    assert "".join(d.text for d in found) == ZH * 20
    assert len(found) > 5
    assert {d.source for d in found} == {"a.txt"}


def test_bombs_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    lines = b"\n" * (1 << 20)
    for name, data in [("a.txt.gz", gzip.compress(lines) * 80), ("a.txt.zst", zstandard.compress(lines) * 80)]:
        with pytest.raises(PunaError, match="times its size"):
            read(put(tmp_path / name, data))
    whole = gzip.compress(os.urandom(5000))
    for name, data in [
        ("b.txt.gz", whole[:-100]),
        ("b.txt.gz", b"no gzip"),
        ("b.txt.zst", b"no zstd"),
        ("b.jsonl", b'{"text": '),
        ("b.jsonl", b"[" * 100_000),
        ("b.jsonl", b'{"text": "x", "n": ' + b"9" * 9999 + b"}"),
        ("b.parquet", b"PAR1 nothing PAR1"),
        ("b.csv", b'id,text\n1,"' + (b"x" * 1023 + b"\n") * (17 << 10)),
    ]:
        with pytest.raises(PunaError) as error:
            read(put(tmp_path / name, data))
        assert name in error.value.line()


def test_a_dictionary_bomb_in_parquet_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_PARQUET_FLOOR", 1 << 20)
    table = pa.table({"text": pa.array(["x" * 100_000] * 600).dictionary_encode()})
    pq.write_table(table.cast(pa.schema([("text", pa.string())])), tmp_path / "a.parquet")
    with pytest.raises(PunaError, match="far over its size"):
        read(tmp_path / "a.parquet")


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
