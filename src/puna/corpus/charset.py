"""The encoding of bytes that are not UTF-8, by the letters they would give.

Comes in: a sample of bytes. Goes out: a codec's name, or None where no guess is better than chance.
Must never happen: a guess that depends on the locale or on the machine.

Each candidate is scored by the share of characters outside ASCII that are common in its language: the 3,755 characters
of GB 2312's level 1 and the 5,401 of Big5's level 1 cover over 99 % of running Chinese, kana half of Japanese, and so on.
A wrong decoding spreads over rare characters; where it does not (Korean read as GB 2312 falls on level 1), the few commonest
characters of each language tell: they are a fifth of any running text.
"""

import re

_FOREIGN = re.compile(r"[^\x00-\x7f]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_CYRILLIC = re.compile(r"[\u0430-\u044f\u0451]{2,}")
_COMMONEST = {
    "gb18030": "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民之其者",
    "big5hkscs": "的一是在不了有和人這中大為上個國我以要他時來用們生到作地於出就分對成會可主發年動同工也能下過子說產種面而方後多定行學法所民之其者",
    "cp949": "이다는을의에고가한를하지은로도기사리나자어서있그인시대들것해수라니보아일정부으전주",
}  # fmt: skip
_LATIN = re.compile(
    r"(?:(?<=[A-Za-z])[\u00df-\u00ff\u0153\u0161]|[\u00c0-\u00de](?=[a-z])|[\u2018-\u201d\u2013\u2014])"
)
_PUNCTUATION = re.compile(r"[\u3000-\u303f\uff01-\uff5e\u2014\u2026\u201c\u201d\u2018\u2019]")
_CONTROL_BYTES = bytes(range(7)) + bytes(range(14, 27)) + bytes(range(28, 32))
_COMMONEST_SHARE = 0.15
_BOMS = (b"\xff\xfe", b"\xfe\xff")


def looks_binary(head: bytes) -> bool:
    """Whether a file's first bytes hold a NUL, more than 1 control byte in 20, or open a PDF."""
    if head.startswith(_BOMS):
        return False
    controls = len(head) - len(head.translate(None, _CONTROL_BYTES))
    return b"\x00" in head or controls * 20 > len(head) or head.startswith(b"%PDF-")


def _level_one(text: str, codec: str, low: int, high: int) -> int:
    lead = (char.encode(codec, "ignore")[:1] for char in text)
    return sum(1 for byte in lead if byte and low <= byte[0] <= high)


def _share(text: str, codec: str) -> float:
    foreign = "".join(_FOREIGN.findall(text))
    if not foreign:
        return 0.0
    good = len(_PUNCTUATION.findall(foreign)) if codec not in ("cp1252", "cp1251", "koi8_r") else 0
    if codec == "gb18030":
        good += _level_one(foreign, "gb2312", 0xB0, 0xD7)
    elif codec == "big5hkscs":
        good += _level_one(foreign, "big5", 0xA4, 0xC6)
    elif codec in ("shift_jis", "euc_jp"):
        kana = len(_KANA.findall(foreign))
        good += 2 * kana  # kana are about half of Japanese; half-width katakana, the usual false match, are not counted
    elif codec == "cp949":
        good += len(_HANGUL.findall(foreign)) if len(_HANGUL.findall(foreign)) > 0.5 * len(foreign) else 0
    elif codec in ("cp1251", "koi8_r"):
        good += sum(map(len, _CYRILLIC.findall(text)))
    else:
        good += len(_LATIN.findall(text))
    share = min(1.0, good / len(foreign))
    if commonest := _COMMONEST.get(codec):
        found = sum(map(foreign.count, commonest)) / len(foreign)
        share *= 0.5 + 0.5 * min(1.0, found / _COMMONEST_SHARE)
    return share


def guess_encoding(sample: bytes) -> str | None:
    """The likeliest codec of `sample`: gb18030, big5hkscs, shift_jis, euc_jp, cp949, cp1251, koi8_r or cp1252.

    None if under half of the characters outside ASCII are common in the language of the best candidate.
    """
    best, best_score = None, 0.0
    for codec in ("gb18030", "big5hkscs", "shift_jis", "euc_jp", "cp949", "cp1251", "koi8_r", "cp1252"):
        text = sample.decode(codec, "replace")
        damage = text.count("\ufffd") / max(1, len(_FOREIGN.findall(text)))
        score = _share(text, codec) - 5 * damage
        if score > best_score:
            best, best_score = codec, score
    return best if best_score >= 0.5 else None
