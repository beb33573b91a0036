"""Repair of one text, and cutting of long ones.

Comes in: text as it was decoded. Goes out: NFC text with "\\n" line ends, no control characters, no lone surrogates,
mojibake read as what it was, in pieces of at most `max_chars`. Must never happen: a repair that nobody counts; quotes,
ligatures, full- or half-width forms changed; time that grows faster than the text.
"""

import re
import unicodedata
from collections.abc import Iterator

_LINE_ENDS = re.compile(r"[\r\x85\u2028\u2029]")
# C0 and C1 controls but tab and line feed, noncharacters, and marks of byte order inside text. C1 falls later than the
# rest: in text that was UTF-8 and was read as Latin-1 they are halves of characters.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff]")
_CONTROLS_C1 = re.compile(r"[\x80-\x84\x86-\x9f]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_BLANK_RUN = re.compile(r"\n{4,}")
_ROUNDS = 8  # until nothing changes: taking a control away can bring the halves of a character together

# What UTF-8 looks like in the code pages that it is most often misread in: a lead byte's character and one of 80..BF.
_TAIL_1252 = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_TAIL_1251 = "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—™љ›њќћџЎўЈ¤Ґ¦§Ё©Є«¬®Ї°±Ііґµ¶·ё№є»јѕї"
_SUSPECT = re.compile(
    rf"[\xc2-\xf4][{_TAIL_1252}]|[\x80-\x9f]|[ВГРС][{_TAIL_1251}][ВГРС]|вЂ|‚[Äâó]|√[±∂†≠®™´≤≥¥µø]|≈[°¢]|[βā]€|[ÃÂ] "
)
_LEAD = re.compile(r"[\x80-\x9f\xc2-\xf4ВГРСв‚√≈βā]")  # without one of these nothing is suspect, and the look is quick
# The same for Chinese in GBK: these ideographs are hardly ever written, but begin the UTF-8 of the commonest characters.
_SUSPECT_GBK = re.compile(r"[銆锛鐨鏄鍦鈥涓]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]{4,}")
_CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff01-\uff5e‘’“”…—]")
_DAMAGE = re.compile("\ufffd+[?\ufffd]*")
_LOST = 0.25  # of a run that is read again: more characters lost than this, or not Chinese, and it stays as it was


def repair(text: str) -> tuple[str, list[str]]:
    """The repaired text and the names of the repairs that changed it. Repairing twice changes nothing more."""
    done: list[str] = []

    def step(name: str, new: str, old: str) -> str:
        if new != old and name not in done:
            done.append(name)
        return new

    for _ in range(_ROUNDS):
        ascii_only, before = text.isascii(), text
        if not ascii_only:
            text = step("lone surrogates", _SURROGATES.sub("\ufffd", text), text)
        text = step("control characters", _CONTROLS.sub("", text), text)
        if not ascii_only:
            text = step("mojibake", _read_again(text), text)
        text = step("line ends", _LINE_ENDS.sub("\n", text.replace("\r\n", "\n")), text)
        if not ascii_only:
            text = step("control characters", _CONTROLS_C1.sub("", text), text)
            text = step("NFC", unicodedata.normalize("NFC", text), text)  # quick where it is NFC already
        again = not ascii_only and text != before
        if " \n" in text or "\t\n" in text:
            text = step("trailing blanks", "\n".join(line.rstrip(" \t") for line in text.split("\n")), text)
        if "\n\n\n\n" in text:
            text = step("trailing blanks", _BLANK_RUN.sub("\n\n\n", text), text)
        if not again:
            break
    return text.strip("\n"), done


def _read_again(text: str) -> str:
    """Lines that were UTF-8 and were decoded as something else, decoded as UTF-8.

    ftfy (R. Speer, Apache-2.0) judges and mends the single-byte code pages; of what it can do, only its reading again is
    used. UTF-8 read as GBK is mended run by run, where what comes out is Chinese; a third of its characters lost a byte
    on the way there, and those stay U+FFFD.
    """
    single = _LEAD.search(text) and _SUSPECT.search(text)
    double = _SUSPECT_GBK.search(text)
    if not single and not double:
        return text
    lines = text.split("\n")
    if single:
        from ftfy import fix_encoding
        from ftfy.badness import badness

        for number, line in enumerate(lines):
            if _SUSPECT.search(line):
                fixed = fix_encoding(line)
                if badness(fixed) < badness(line):
                    lines[number] = fixed
    if double:
        lines = [_BEYOND_ASCII.sub(_from_gbk, line) if _SUSPECT_GBK.search(line) else line for line in lines]
    return "\n".join(lines)


def _from_gbk(run: re.Match[str]) -> str:
    read = run[0].replace("\ufffd", "?").encode("gb18030", "replace").decode("utf-8", "replace")
    read = _DAMAGE.sub("\ufffd", read)
    good = len(_CHINESE.findall(read))
    return read if good >= (1 - _LOST) * len(read) and len(read) < 0.8 * len(run[0]) else run[0]


def without_surrogates(text: str) -> str:
    """The text with lone surrogates, which no file can hold, as U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def split_long(text: str, max_chars: int) -> Iterator[str]:
    """Pieces of at most `max_chars` characters: cut at a line end, else at a sentence's end or a space, else anywhere.

    Joined again the pieces are the text, but for line feeds at the cuts.
    """
    start = 0
    while len(text) - start > max_chars:
        end = _cut(text, start, start + max_chars)
        piece = text[start:end].strip("\n")
        if piece:
            yield piece
        start = end
    rest = text[start:].strip("\n")
    if rest or start == 0:
        yield rest


def _cut(text: str, start: int, limit: int) -> int:
    # A cut in the first half would make many small pieces of a text with one early line end.
    floor = start + (limit - start) // 2
    for mark in ("\n", "。", ". ", " "):
        found = text.rfind(mark, floor, limit)
        if found > floor:
            return found + len(mark)
    return limit


def cut_at_paragraph(text: str, share: float) -> int:
    """Where to cut `text` so that about its last `share` falls away: the boundary nearest to that point.

    Boundaries are, in this order, blank lines, line ends, sentence ends; the first kind found within a tenth of the
    text from the wished point wins. With none of them the wished point itself.
    """
    wish = int(len(text) * (1 - share))
    reach = max(1, len(text) // 10)
    low, high = max(0, wish - reach), min(len(text), wish + reach)
    for mark in ("\n\n", "\n", "。", ". "):
        before, after = text.rfind(mark, low, wish), text.find(mark, wish, high)
        places = [place + len(mark) for place in (before, after) if place >= 0]
        if places:
            return min(places, key=lambda place: abs(place - wish))
    return wish
