"""The text of PDF files, and of those that want to hurt."""

import zlib
from pathlib import Path

import pytest

from puna.corpus import pdf, readers
from puna.corpus.readers import SourceFile, Tally
from puna.errors import PunaError

pytest.importorskip("pypdfium2")

ZH = "中华人民共和国公民在法律面前一律平等"


def make_pdf(pages: list[bytes], extra: bytes = b"") -> bytes:
    """A PDF whose pages have these content streams; F1 is Helvetica, F2 a Chinese font in UTF-16."""
    kids = " ".join(f"{10 + 2 * n} 0 R" for n in range(len(pages)))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        4: b"<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [5 0 R] >>",
        5: b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) "
        b"/Supplement 4 >> /DW 1000 /FontDescriptor 6 0 R >>",
        6: b"<< /Type /FontDescriptor /FontName /STSong-Light /Flags 6 /FontBBox [-25 -254 1000 880] /ItalicAngle 0 "
        b"/Ascent 880 /Descent -120 /CapHeight 880 /StemV 93 >>",
    }
    for number, content in enumerate(pages):
        packed = zlib.compress(content)
        objects[10 + 2 * number] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {11 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>"
        ).encode()
        objects[11 + 2 * number] = (
            f"<< /Length {len(packed)} /Filter /FlateDecode >>\nstream\n".encode() + packed + b"\nendstream"
        )
    body = b"%PDF-1.7\n"
    places = {}
    for number, content in objects.items():
        places[number] = len(body)
        body += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    table = b"xref\n0 1\n0000000000 65535 f \n" + b"".join(
        f"{number} 1\n{place:010} 00000 n \n".encode() for number, place in places.items()
    )
    trailer = f"trailer\n<< /Size {max(objects) + 1} /Root 1 0 R ".encode() + extra + b">>\n"
    return body + table + trailer + f"startxref\n{len(body)}\n%%EOF\n".encode()


def lines(*texts: str) -> bytes:
    """A page's content of lines, one below the other."""
    shown = []
    for number, text in enumerate(texts):
        font, string = ("F1", f"({text})") if text.isascii() else ("F2", f"<{text.encode('utf-16-be').hex()}>")
        shown.append(f"BT /{font} 12 Tf 50 {750 - 20 * number} Td {string} Tj ET")
    return "\n".join(shown).encode()


def read(path: Path, data: bytes) -> tuple[list[str], Tally]:
    path.write_bytes(data)
    tally = Tally()
    return [d.text for d in readers.read_file(SourceFile(path, path.name), None, "x", tally)], tally


def test_english_and_chinese_pages_are_one_document(tmp_path: Path) -> None:
    data = make_pdf([lines("The quick brown fox", "jumps over the lazy dog."), lines(ZH, "Chapter 2"), lines()])
    texts, tally = read(tmp_path / "a.pdf", data)
    assert texts == [f"The quick brown fox\njumps over the lazy dog.\n\n{ZH}\nChapter 2"]
    assert not tally.skipped


def test_pdf_files_without_text_are_counted(tmp_path: Path) -> None:
    good = make_pdf([lines("text")])
    locked = make_pdf([lines("text")], b"/Encrypt << /Filter /Standard /V 1 /R 2 /O <" + b"00" * 32 + b"> /U <" + b"11" * 32
                      + b"> /P -44 >> /ID [<00><00>] ")  # fmt: skip
    for data, reason in [
        (make_pdf([lines(), lines()]), "PDF: pages without text (scanned?)"),
        (locked, "PDF: encrypted"),
        (b"no PDF at all", "PDF: damaged"),
        (b"", "PDF: damaged"),
        (good[:200], "PDF: damaged"),
    ]:
        texts, tally = read(tmp_path / "a.pdf", data)
        assert texts == []
        assert tally.skipped == {reason: 1}


def test_limits_end_the_reader_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "PAGE_LIMIT", 3)
    assert read(tmp_path / "a.pdf", make_pdf([lines("text")] * 4))[1].skipped == {"PDF: over 3 pages": 1}
    monkeypatch.setattr(pdf, "CHARACTER_LIMIT", 1000)
    assert read(tmp_path / "b.pdf", make_pdf([lines("text " * 300)]))[1].skipped == {"PDF: over 1,000 characters": 1}
    monkeypatch.setattr(pdf, "MEMORY_LIMIT", 300 << 20)
    bomb = make_pdf([b"BT /F1 12 Tf " + b" " * (400 << 20) + b"(a) Tj ET"])
    assert len(bomb) < 1 << 20
    texts, tally = read(tmp_path / "c.pdf", bomb)
    assert texts == []
    assert sum(tally.skipped.values()) == 1
    monkeypatch.setattr(pdf, "FILE_LIMIT", 100)
    assert read(tmp_path / "d.pdf", bomb)[1].skipped == {"PDF over 0 MiB": 1}


def test_a_page_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "CPU_SECONDS", 1)
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf([b"BT /F1 12 Tf " + b"(a) Tj " * 3_000_000 + b"ET"]))
    tally = Tally()
    text = pdf.text_of(path, tally)
    assert text is None
    assert tally.skipped == {"PDF that ends its reader (memory, time or a crash)": 1}


def test_without_the_library_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text("import sys; sys.exit(\"ModuleNotFoundError: No module named 'pypdfium2'\")")
    monkeypatch.setattr(pdf, "_CHILD", child)
    with pytest.raises(PunaError, match=r"a\.pdf: reading PDF needs pypdfium2"):
        read(tmp_path / "a.pdf", b"%PDF-1.7")
