"""Pages out of WARC and WET files, whole and damaged."""

import gzip
import resource
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard

from puna.corpus import extract, readers, warc
from puna.corpus.documents import Document
from puna.corpus.readers import SourceFile, Tally
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data/dirty"
PAGE = b"<p>The quick brown fox jumps over the lazy dog.</p>"
ZH = "中华人民共和国公民在法律面前一律平等。国家尊重和保障人权。"


def record(body: bytes, kind: str = "response", length: int | None = None, **more: str) -> bytes:
    fields = {
        "WARC-Type": kind,
        "WARC-Target-URI": "<http://example.org/>",
        "WARC-Record-ID": "<urn:uuid:1>",
        "Content-Type": "application/http; msgtype=response",
        "Content-Length": str(len(body) if length is None else length),
    }
    fields.update({name.replace("_", "-"): value for name, value in more.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"WARC/1.0\r\n{head}\r\n".encode() + body + b"\r\n\r\n"


def http(body: bytes, status: str = "200 OK", content: str = "text/html; charset=utf-8", **more: str) -> bytes:
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
    return f"HTTP/1.1 {status}\r\nContent-Type: {content}\r\n{head}\r\n".encode() + body


GOOD = record(http(PAGE))


def read(path: Path, data: bytes) -> tuple[list[str], Tally]:
    path.write_bytes(data)
    tally = Tally()
    return [d.text for d in readers.read_file(SourceFile(path, path.name), None, "x", tally)], tally


def test_pages_come_as_markup_with_their_address(tmp_path: Path) -> None:
    plain = record(http(ZH.encode("gb18030"), content="text/plain; charset=gb2312"))
    data = record(b"software: x", "warcinfo") + record(b"GET / HTTP/1.1", "request") + GOOD + plain
    for name, packed in [
        ("a.warc", data),
        ("a.warc.gz", gzip.compress(data[:500]) + gzip.compress(data[500:])),
        ("a.warc.zst", zstandard.compress(data)),
    ]:
        path = tmp_path / name
        path.write_bytes(packed)
        tally = Tally()
        found = list(readers.read_file(SourceFile(path, "crawl/a"), None, "cc", tally))
        assert found == [
            Document("crawl/a#3", PAGE.decode(), "crawl/a", "html", "cc", "und", "http://example.org/"),
            Document("crawl/a#4", ZH, "crawl/a", "text", "cc", "und", "http://example.org/"),
        ]
        assert tally.skipped == {"WARC: warcinfo record": 1, "WARC: request record": 1}
        assert tally.encodings["utf-8"] == 1


def test_a_wet_file_holds_texts(tmp_path: Path) -> None:
    texts = [f"{ZH}\nline two", "The quick brown fox"]
    data = b"".join(record(text.encode(), "conversion", Content_Type="text/plain") for text in texts)
    assert read(tmp_path / "a.wet.gz", gzip.compress(data))[0] == texts


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(PAGE)),
        ("x-gzip", gzip.compress(PAGE)),
        ("deflate", zlib.compress(PAGE)),
        ("deflate", zlib.compress(PAGE)[2:-4]),
        ("br", brotli.compress(PAGE)),
        ("zstd", zstandard.compress(PAGE)),
        ("gzip", PAGE),  # unpacked by the crawler, under the old header
        ("br", PAGE),
        ("deflate, gzip", gzip.compress(zlib.compress(PAGE))),
        ("identity", PAGE),
    ],
)
def test_bodies_are_unpacked(tmp_path: Path, coding: str, body: bytes) -> None:
    assert read(tmp_path / "a.warc", record(http(body, Content_Encoding=coding)))[0] == [PAGE.decode()]
    chunks = b"".join(
        f"{len(body[n : n + 7]):x};x=y\r\n".encode() + body[n : n + 7] + b"\r\n" for n in range(0, len(body), 7)
    )
    for message in (chunks + b"0\r\n\r\n", chunks, body):
        packed = record(http(message, Content_Encoding=coding, Transfer_Encoding="chunked"))
        assert read(tmp_path / "a.warc", packed)[0] == [PAGE.decode()]


def test_a_body_that_is_a_bomb_is_counted(tmp_path: Path) -> None:
    zeros = b"a" * (64 << 20)
    bombs = {"gzip": gzip.compress(zeros), "br": brotli.compress(zeros, quality=3), "zstd": zstandard.compress(zeros)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for coding, body in bombs.items():
        texts, tally = read(tmp_path / "a.warc", record(http(body, Content_Encoding=coding)) + GOOD)
        assert texts == [PAGE.decode()]
        assert tally.skipped == {"WARC: body that cannot be unpacked": 1}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


SHORT, PLACE = "WARC: record cut short", "WARC: damaged place between records"
HEADER = "WARC: record with a damaged header"


@pytest.mark.parametrize(
    ("data", "pages", "skipped"),
    [
        (record(http(PAGE), length=10**12) + GOOD, 0, {SHORT: 1}),  # over the limit, it is believed
        (record(http(PAGE), length=10**4) + GOOD * 3, 3, {SHORT: 1, PLACE: 1}),
        (record(http(PAGE), length=70) + GOOD, 1, {SHORT: 1, PLACE: 1}),
        (GOOD + GOOD[:-30], 1, {SHORT: 1, PLACE: 1}),
        (GOOD + GOOD[:30], 1, {HEADER: 1, PLACE: 1}),
        (GOOD + b"junk\r\n\r\n" * 9 + GOOD, 2, {PLACE: 1}),
        (GOOD.replace(b"Length: ", b"Length: -") + GOOD, 1, {HEADER: 1, PLACE: 1}),
        (GOOD.replace(b"Length: ", b"Length: 9999999999999999") + GOOD, 1, {HEADER: 1, PLACE: 1}),
        (GOOD.replace(b"Length: ", "Length: ²".encode()) + GOOD, 1, {HEADER: 1, PLACE: 1}),
        (b"WARC/1.0\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n" + GOOD, 1, {HEADER: 1, PLACE: 1}),
        (record(b"no HTTP") + GOOD, 1, {"WARC: response that is not HTTP": 1}),
        (record(http(PAGE, "404 Not Found")) + GOOD, 1, {"WARC: HTTP status other than 200": 1}),
        (record(http(PAGE, content="image/png")) + GOOD, 1, {"WARC: neither HTML nor plain text": 1}),
        (record(http(b"\0\1\2\3" * 99)) + GOOD, 1, {"WARC: page in no known encoding": 1}),
        (record(http(b"")) + GOOD, 1, {"WARC: page without text": 1}),
        (record(b"", "revisit") + record(b"", "metadata") + GOOD, 1, {"WARC: revisit record": 1, "WARC: metadata record": 1}),
        (record(http(PAGE), WARC_Truncated="length"), 1, {"WARC: end of a page, cut by the crawler": 1}),
        (record(http(gzip.compress(PAGE)[:-9], Content_Encoding="gzip")) + GOOD, 1, {"WARC: body that cannot be unpacked": 1}),
        (record(http(b"a" * (33 << 20))) + GOOD, 1, {"WARC: record over 32 MiB": 1}),
    ],
)  # fmt: skip
def test_one_bad_record_costs_itself(tmp_path: Path, data: bytes, pages: int, skipped: dict[str, int]) -> None:
    texts, tally = read(tmp_path / "a.warc", data)
    assert texts == [PAGE.decode()] * pages
    assert tally.skipped == skipped


def test_many_marks_take_linear_time(tmp_path: Path) -> None:
    for data in (b"WARC/1.0\r\n" * 100_000, (b"WARC/1.0\r\n" * 6000 + b"\r\n\r\n") * 20):
        with pytest.raises(PunaError, match=r"a\.warc: holds no WARC record"):
            read(tmp_path / "a.warc", data)


def test_a_file_that_is_cut_short_gives_what_stands_before(tmp_path: Path) -> None:
    packed = b"".join(gzip.compress(GOOD) for _ in range(5))
    texts, tally = read(tmp_path / "a.warc.gz", packed[:-40])
    assert texts == [PAGE.decode()] * 4
    assert tally.skipped["compressed file cut short"] == 1
    with pytest.raises(PunaError, match="holds no WARC record"):
        read(tmp_path / "b.warc", b"some text\n" * 99)


def test_records_do_not_depend_on_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = GOOD * 3 + b"junk" * 99 + record(http(PAGE), length=700) + GOOD + record(b"x" * 999, "request") + GOOD
    expected = read(tmp_path / "a.warc", data)
    assert len(expected[0]) == 5
    for block in (1, 7, 64, 1000):
        monkeypatch.setattr(warc, "_BLOCK", block)
        assert read(tmp_path / "a.warc", data) == expected


def test_real_crawls() -> None:
    if not DATA.is_dir():
        pytest.skip("needs ../shared/data/dirty")
    tally = Tally()
    found = [page for number in (0, 1) for page in warc.pages(DATA / f"sample-000{number}.warc.gz", tally)]
    assert len(found) == 37
    assert all(page.markup and page.url.startswith("https://") for page in found)
    assert sum(len(extract.main_text(page.text, page.url)) > 100 for page in found) == 37
    assert set(tally.skipped) <= {"WARC: request record", "WARC: warcinfo record", "WARC: metadata record",
                                  "WARC: neither HTML nor plain text"}  # fmt: skip
