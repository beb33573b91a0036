"""Pages and texts out of WARC and WET files (ISO 28500).

Comes in: a stream of records. Goes out: HTML markup and plain text with their addresses. Must never happen: a record passed
over without a count, one bad record that ends the file, or a body that unpacks without bound.

The format is a few header lines and a length; the libraries for it (fastwarc, warcio) end a file at the first record whose
length lies, and let a body unpack without a limit. Here a bad place costs the records up to the next line "WARC/1.".
"""

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from puna.corpus import html
from puna.corpus.compressed import Readable, open_bytes
from puna.corpus.tally import Tally
from puna.errors import PunaError

BODY_LIMIT = 32 << 20  # bytes of one page, packed and unpacked; crawlers cut pages at 1 to 5 MiB
_HEADER_LIMIT = 64 << 10  # bytes
_BLOCK = 1 << 18
_MARK = re.compile(rb"WARC/1\.[0-9]\r?\n")
_MARK_SIZE = 16  # bytes, at most
_FIELD = re.compile(rb"^([A-Za-z0-9!#$%&'*+.^_`|~-]{1,100})[ \t]*:[ \t]*([^\r\n]*)", re.MULTILINE)
_HEADERS_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"\s{0,4}([0-9a-fA-F]{1,8})[^\r\n]{0,1000}\r?\n")
_CHARSET = re.compile(r"charset\s{0,8}=\s{0,8}[\"']?([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)
_PASSED = frozenset(["request", "revisit", "warcinfo", "metadata", "continuation"])


@dataclass(frozen=True, slots=True)
class Page:
    """One record's text; `markup` says whether it is HTML that is still to be extracted."""

    number: int
    url: str
    text: str
    markup: bool


def pages(path: Path, tally: Tally) -> Iterator[Page]:
    """The HTML and plain text of a WARC or WET file, records numbered from 1. Raises PunaError where it holds no record."""
    number = 0
    with open_bytes(path, tally.skipped) as stream:
        for number, (headers, body) in enumerate(_records(stream, tally), 1):
            page = _page(number, headers, body, tally) if body is not None else None
            if page is not None:
                yield page
    if not number:
        raise PunaError("holds no WARC record", where=str(path))


class _Reader:
    """A stream of which a bounded part is held and looked at."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self.held, self.ended = stream, bytearray(), False

    def fill(self, size: int) -> None:
        """Hold at least `size` bytes, or all that is left."""
        while len(self.held) < size and not self.ended:
            block = self._stream.read(_BLOCK)
            self.ended = not block
            self.held += block

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or all that is left."""
        self.fill(size)
        data = bytes(self.held[:size])
        del self.held[:size]
        return data

    def pass_over(self, size: int) -> int:
        """Drop the next `size` bytes; the number that was there."""
        left = size
        while left and (len(self.held) or not self.ended):
            left -= len(self.take(min(left, _BLOCK)))
        return size - left

    def find_mark(self) -> bool:
        """Drop everything before the next record; whether there is one, and nothing but blanks was before it."""
        clean = True
        while True:
            self.fill(max(_BLOCK, 2 * _MARK_SIZE))
            found = _MARK.search(self.held)
            end = found.start() if found else len(self.held) - (0 if self.ended else _MARK_SIZE)
            clean = clean and not self.held[:end].strip()
            del self.held[:end]
            if found or self.ended:
                return clean


def _records(stream: Readable, tally: Tally) -> Iterator[tuple[dict[str, str], bytes | None]]:
    # (header fields in lower case, body), body None where the record was counted instead.
    reader = _Reader(stream)
    while True:
        if not reader.find_mark():
            tally.skipped["WARC: damaged place between records"] += 1
        if not reader.held:
            return
        reader.fill(_HEADER_LIMIT)
        end = _HEADERS_END.search(reader.held, 0, _HEADER_LIMIT)
        headers = _fields(bytes(reader.held[: end.start()])) if end else {}
        length = headers.get("content-length", "")
        if end is None or not (length.isascii() and length.isdigit() and len(length) < 16):
            tally.skipped["WARC: record with a damaged header"] += 1
            # On to the last mark before the place where this header was given up, so that no byte is searched often.
            given_up = end.start() if end else _HEADER_LIMIT
            reader.take(max(8, reader.held.rfind(b"WARC/1.", 8, given_up)))
            continue
        reader.take(end.end())
        yield headers, _body(reader, int(length), headers.get("warc-type", "").lower(), tally)


def _body(reader: _Reader, size: int, kind: str, tally: Tally) -> bytes | None:
    if kind in _PASSED or size > BODY_LIMIT:
        short = reader.pass_over(size) < size
        why = f"{kind} record" if kind in _PASSED else f"record over {BODY_LIMIT >> 20} MiB"
        tally.skipped[f"WARC: {'record cut short' if short else why}"] += 1
        return None
    reader.fill(size + 4)
    after = bytes(reader.held[size : size + 4])
    # After a record stand two line ends, or the file ends. Anything else means that its length lies, and then the next
    # record may well begin inside it: nothing is passed over.
    if len(reader.held) < size or after.strip() or (after and after[:1] not in (b"\r", b"\n")):
        tally.skipped["WARC: record cut short"] += 1
        return None
    return reader.take(size)


def _fields(data: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(data):
        fields.setdefault(name.decode("ascii").lower(), value.strip().decode("utf-8", "replace"))
    return fields


def _page(number: int, headers: dict[str, str], body: bytes, tally: Tally) -> Page | None:
    kind = headers.get("warc-type", "").lower()
    content = headers.get("content-type", "")
    url = headers.get("warc-target-uri", "").strip("<>")
    if kind == "response":
        if not content.lower().startswith("application/http"):
            tally.skipped["WARC: response that is not HTTP"] += 1
            return None
        response = _response(body)
        if isinstance(response, str):
            tally.skipped[f"WARC: {response}"] += 1
            return None
        content, body = response
    elif kind not in ("conversion", "resource"):
        tally.skipped["WARC: record of an unknown type"] += 1
        return None
    media = content.partition(";")[0].strip().lower()
    if media not in ("text/html", "application/xhtml+xml", "text/plain") or (kind == "resource" and not _is_web(url)):
        tally.skipped["WARC: neither HTML nor plain text"] += 1
        return None
    charset = _CHARSET.search(content)
    decoded = html.decode_page(body, charset.group(1) if charset else "")
    if decoded is None or decoded[1] == "empty":
        tally.skipped["WARC: page without text" if decoded else "WARC: page in no known encoding"] += 1
        return None
    tally.encodings[decoded[1]] += 1
    if "warc-truncated" in headers:
        tally.skipped["WARC: end of a page, cut by the crawler"] += 1
    return Page(number, url, decoded[0], media != "text/plain")


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))  # and not the crawler's own log


def _response(message: bytes) -> tuple[str, bytes] | str:
    """(content type, body) of an HTTP response of status 200, or why it has none."""
    end = _HEADERS_END.search(message, 0, _HEADER_LIMIT)
    status = message[:64].split(maxsplit=2)
    if end is None or not message.startswith(b"HTTP/") or len(status) < 2:
        return "response that is not HTTP"
    if status[1] != b"200":
        return "HTTP status other than 200"
    fields = _fields(message[: end.start()])
    body = message[end.end() :]
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body = _dechunked(body)
    for coding in reversed(fields.get("content-encoding", "").lower().split(",")):
        unpacked = _decoded(body, coding.strip())
        if unpacked is None:
            return "body that cannot be unpacked"
        body = unpacked
    return fields.get("content-type", "text/html"), body


def _dechunked(body: bytes) -> bytes:
    # Many crawlers store the body already joined and leave the header: what does not look like chunks is the body.
    parts: list[bytes] = []
    place = 0
    while found := _CHUNK.match(body, place):
        size = int(found.group(1), 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[found.end() : found.end() + size])
        place = found.end() + size
    return b"".join(parts) if parts and not body[place:].strip() else body


def _decoded(body: bytes, coding: str) -> bytes | None:
    """The body without one content coding; itself where it carries none after all, None where it is bad or too large."""
    if coding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        return _unpacked(zlib.decompressobj(31), body)
    if coding == "deflate":
        return _unpacked(zlib.decompressobj(), body) or _unpacked(zlib.decompressobj(-15), body)
    if coding == "br":
        return _brotli(body)
    if coding == "zstd" and body.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(body)
    return body


def _unpacked(frame: Any, body: bytes) -> bytes | None:
    try:
        data: bytes = frame.decompress(body, BODY_LIMIT)
    except zlib.error:
        return None
    return data if frame.eof else None


def _brotli(body: bytes) -> bytes | None:
    import brotli

    frame = brotli.Decompressor()
    try:
        data: bytes = frame.process(body, output_buffer_limit=BODY_LIMIT)
    except brotli.error:
        # A joined and unpacked body under the old header is common; binary rubbish has no encoding and is counted there.
        return body if body.lstrip()[:1] == b"<" else None
    return data if frame.is_finished() else None


def _zstd(body: bytes) -> bytes | None:
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(io.BytesIO(body)) as reader:
            data: bytes = reader.read(BODY_LIMIT + 1)
    except zstandard.ZstdError:
        return None
    return data if len(data) <= BODY_LIMIT else None
