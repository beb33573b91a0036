"""Odd files that once lost text in silence or ended in a traceback."""

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from puna.corpus import readers
from puna.corpus.conversations import read_conversations
from puna.corpus.fields import TextField
from puna.corpus.readers import SourceFile, Tally
from puna.errors import PunaError

TEXT = "The quick brown fox jumps over the lazy dog, 敏捷的棕色狐狸跳过懒狗。\n" * 50


def read(path: Path, field: str | None = None) -> tuple[list[str], Tally]:
    tally = Tally()
    return [d.text for d in readers.read_file(SourceFile(path, path.name), field, "x", tally)], tally


@pytest.mark.parametrize("kept", [2, 9, -1])
def test_a_zst_file_that_was_cut_short_is_told(tmp_path: Path, kept: int) -> None:
    whole = zstandard.compress((TEXT + os.urandom(200).hex()).encode())
    path = tmp_path / "a.txt.zst"
    path.write_bytes(whole[:kept])
    with pytest.raises(PunaError, match=r"a\.txt\.zst: damaged"):
        read(path)
    path.write_bytes(whole + zstandard.compress(b"and more")[:kept])
    texts, tally = read(path)
    assert texts[0].startswith(TEXT) and tally.skipped == {"compressed file cut short": 1}


def test_frames_of_a_zst_file_are_read_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    many = os.urandom(300_000).hex()
    path.write_bytes(b"".join(zstandard.compress(text.encode()) for text in (TEXT, "", many)))
    assert read(path)[0] == [TEXT + many]


def test_a_field_is_not_taken_because_the_first_row_has_no_text_in_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a1", "text": null}\n{"id": "a2", "text": "hello there"}\n')
    texts, tally = read(path)
    assert texts == ["hello there"] and tally.skipped == {"row without text": 1}


def test_a_lone_string_beside_a_list_is_no_text() -> None:
    field = TextField(None, Path("squad.json"), Counter())
    assert field.of({"version": "1.1", "data": [{"paragraphs": []}]}) is None
    with pytest.raises(PunaError, match="no text field is found; its fields are version, data"):
        field.check()


def test_rows_longer_than_the_header_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,Hello, world\n2,"Hello, again"\n')
    texts, tally = read(path)
    assert texts == ["Hello, again"] and tally.skipped == {"row with more fields than the header": 1}


@pytest.mark.parametrize("column", [pa.array([b"bytes"]), pa.array([5])])
def test_a_parquet_column_of_another_type_is_one_error(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    for field in (None, "text"):
        with pytest.raises(PunaError):
            read(tmp_path / "a.parquet", field)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_a_file_name_that_is_no_utf8_is_spelled_out(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/\xc4\xe3.jsonl")).write_text('{"instruction": "a", "output": "b"}\n')
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert [file.name for file in readers.list_files(tmp_path, "t")] == ["t/\\xc4\\xe3.jsonl"]
    assert next(read_conversations(tmp_path))["source"].encode()
