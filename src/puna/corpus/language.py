"""Which language a text is in, which Chinese script, and how much of the text its main language is.

Comes in: texts of any length, also mixed ones. Goes out: one row a text (`Languages`). Must never happen: a model loaded
whose bytes nobody checked; an answer that depends on the batch or the process; time that grows with one giant text.

Script first: Hangul is Korean, kana is Japanese, and so on. Where one script writes many languages (Latin, Cyrillic,
Arabic, Devanagari, Bengali), the model of `language_model` decides among the languages of that script.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from puna.corpus import language_model
from puna.corpus.documents import batched

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_WINDOW = 2_000  # characters: of a text longer than three windows, its head, its middle and its tail are read
_BATCH = 1 << 19  # characters that are looked at together: a bound on memory
_PIECE_LETTERS = 120  # short lines of one script are joined until they have so many letters
_PIECE_CHARS = 160  # what is read of a piece
_PIECES = 3  # of one text and script that the model reads, evenly spread over the sample
_ABSORBED = 0.3  # of a line: less than this share in other scripts (brands, names) counts as the line's own language
_HEADING = 24  # characters: a line of ideographs this short, without kana, is Japanese if its text is

# English without the model: three words or more, "the" among them, an eighth or more from this list. Of the UDHR's
# paragraphs in 388 languages it takes 54 English ones, 50 in Scots and 3 in other languages.
_ENGLISH_WORDS = "the and that this with which have has are from you your they their would should been were will his its was of is for"
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_ENGLISH_SURE = 0.95
_UNSURE = 0.5

# Script, the language that alone is written in it here ("" where the model decides, "und" where nobody does), ranges.
_SCRIPTS: tuple[tuple[str, str, tuple[tuple[int, int], ...]], ...] = (
    ("Latn", "", ((0x41, 0x24F), (0x250, 0x2AF), (0x1D00, 0x1DBF), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF),
                  (0xFB00, 0xFB06), (0xFF21, 0xFF5A))),
    ("Cyrl", "", ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F))),
    ("Arab", "", ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE))),
    ("Deva", "", ((0x900, 0x97F), (0xA8E0, 0xA8FF))),
    ("Beng", "", ((0x980, 0x9FF),)),
    ("Hani", "", ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))),
    ("Kana", "ja", ((0x3040, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))),
    ("Hang", "ko", ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF))),
    ("Grek", "el", ((0x370, 0x3FF), (0x1F00, 0x1FFF))),
    ("Hebr", "he", ((0x590, 0x5FF), (0xFB1D, 0xFB4F))),
    ("Armn", "hy", ((0x530, 0x58F), (0xFB13, 0xFB17))),
    ("Geor", "ka", ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F))),
    ("Ethi", "am", ((0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F))),
    ("Thai", "th", ((0xE00, 0xE7F),)),
    ("Laoo", "lo", ((0xE80, 0xEFF),)),
    ("Tibt", "bo", ((0xF00, 0xFFF),)),
    ("Mymr", "my", ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F))),
    ("Khmr", "km", ((0x1780, 0x17FF),)),
    ("Guru", "pa", ((0xA00, 0xA7F),)),
    ("Gujr", "gu", ((0xA80, 0xAFF),)),
    ("Orya", "or", ((0xB00, 0xB7F),)),
    ("Taml", "ta", ((0xB80, 0xBFF),)),
    ("Telu", "te", ((0xC00, 0xC7F),)),
    ("Knda", "kn", ((0xC80, 0xCFF),)),
    ("Mlym", "ml", ((0xD00, 0xD7F),)),
    ("Sinh", "si", ((0xD80, 0xDFF),)),
    ("Thaa", "dv", ((0x780, 0x7BF),)),
)  # fmt: skip
_NAMES = [name for name, _, _ in _SCRIPTS]
_OTHER = len(_SCRIPTS)  # every other letter
_GROUPS = _OTHER + 1
_HANI, _KANA = _NAMES.index("Hani"), _NAMES.index("Kana")
_SOLE = [code for _, code, _ in _SCRIPTS] + ["und"]
# Kinds of ideograph, counted beside their script: only simplified, the same but also Japanese, only traditional, the same
# but also Japanese, only Japanese, only Cantonese.
_HANS, _HANS_JA, _HANT, _HANT_JA, _JAPANESE, _CANTONESE, _NONE = range(_GROUPS, _GROUPS + 7)
_CLASSES = _NONE + 1
_CANTONESE_MARKS = "嘅咗喺佢哋唔冇啲嗰乜嘢睇啱嚟咁噉嚿瞓攞"
# What a character carries beside a Latin letter: the UDHR's English has 3.4 letters for each ideograph of its Chinese
# edition, 2.0 for a Hangul syllable and 2.1 for a character of the Japanese one.
_WEIGHTS = np.ones(_GROUPS)
_WEIGHTS[[_HANI, _KANA, _NAMES.index("Hang")]] = 3.0, 2.0, 2.0


_Part = tuple[str, float, float, int]  # of a text: language, weight, certainty, script


@dataclass(frozen=True, slots=True)
class Languages:
    """The languages of n texts, a column a field.

    `code`: ISO 639-1 (639-3 where there is none), "und" where nothing can be told. `script`: of Chinese alone, "Hans" or
    "Hant", "" where every character is common to both. `score` (n,) 0..1: how sure the main language is in its own parts.
    `share` (n,) 0..1: that language's part of the text's letters, an ideograph counting as three.
    """

    code: list[str]
    script: list[str]
    score: F64
    share: F64


def identify(texts: Sequence[str]) -> Languages:
    """The main language of each text, the script where it is Chinese, the certainty and the share.

    A text is judged line by line (short ones joined), so that a page with a footer in another language is seen as mixed;
    of a text of more than 6,000 characters its head, middle and tail are judged. Equal texts get equal answers in any
    batch. Raises PunaError where the model is missing or not the one that was measured.
    """
    answers: list[tuple[str, str, float, float]] = []
    for batch in batched([_sample(text) for text in texts], _BATCH, lambda sample: len(sample) + 1):
        answers += _identify_batch(batch)
    columns = list(zip(*answers, strict=True)) or [(), (), (), ()]
    return Languages(
        list(columns[0]), list(columns[1]), np.array(columns[2], np.float64), np.array(columns[3], np.float64)
    )


def claimed() -> list[str]:
    """The languages that `identify` can answer with, sorted."""
    sole = {code for code in _SOLE if code not in ("", "und")}
    return sorted(sole | {"zh", "yue"} | {code for code in language_model.shipped().codes if code != "und"})


def _sample(text: str) -> str:
    if len(text) <= 3 * _WINDOW:
        return text
    middle = (len(text) - _WINDOW) // 2
    return "\n".join((text[:_WINDOW], text[middle : middle + _WINDOW], text[-_WINDOW:]))


@lru_cache(maxsize=1)
def _classes() -> npt.NDArray[np.uint8]:
    """For every code point its class: a script, a kind of ideograph, or _NONE. Which ideographs are simplified or
    traditional only is read off the national standards: GB 2312 without Big5, the frequent half of Big5 without GB 2312.
    """
    table = np.full(0x110000, _NONE, np.uint8)
    for group, (_, _, ranges) in enumerate(_SCRIPTS):
        for first, last in ranges:
            table[first : last + 1] = [group if chr(c).isalpha() else _NONE for c in range(first, last + 1)]
    for first, last in ((0x13A0, 0x1CFF), (0x2C00, 0x2DDF), (0xA000, 0xABFF), (0x10000, 0x16FFF)):
        for c in range(first, last + 1):
            if table[c] == _NONE and chr(c).isalpha():
                table[c] = _OTHER
    simplified, big5, often = _ideographs("gb2312", 0xF7), _ideographs("big5", 0xF9), _ideographs("big5", 0xC6)
    japanese = _ideographs("euc_jp", 0xF4)
    table[sorted(japanese - simplified - big5 - _ideographs("euc_kr", 0xFD))] = _JAPANESE
    for kind, chinese in ((_HANS, simplified - big5), (_HANT, often - simplified)):
        table[sorted(chinese - japanese)] = kind
        table[sorted(chinese & japanese)] = kind + 1
    table[[ord(c) for c in _CANTONESE_MARKS]] = _CANTONESE
    return table


def _ideographs(codec: str, last: int) -> set[int]:
    found = set()
    for lead in range(0xA4, last + 1):
        for trail in range(0x40, 0xFF):
            text = bytes((lead, trail)).decode(codec, "ignore")
            if len(text) == 1 and "\u4e00" <= text <= "\u9fff":
                found.add(ord(text))
    return found


def _identify_batch(samples: list[str]) -> list[tuple[str, str, float, float]]:
    joined = "\n".join(samples)
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    breaks = np.flatnonzero(points == 10)
    starts, ends = np.concatenate(([0], breaks + 1)), np.concatenate((breaks, [len(points)]))
    lines = np.repeat(np.arange(len(starts)), np.diff(np.concatenate((starts, [len(points)]))))
    counts = np.bincount(lines * _CLASSES + _classes()[points], minlength=len(starts) * _CLASSES)
    counts = counts.reshape(len(starts), _CLASSES)
    kinds = counts[:, _HANS:_NONE]
    scripts = counts[:, :_GROUPS].astype(np.float64)
    scripts[:, _HANI] += kinds.sum(axis=1)
    weights = scripts * _WEIGHTS
    # Japanese is kana and ideographs together.
    kana = scripts[:, _KANA].copy()
    weights[:, _HANI] += weights[:, _KANA]
    weights[:, _KANA] = 0
    total, main = weights.sum(axis=1), weights.argmax(axis=1)
    weak = (weights > 0) & (weights < _ABSORBED * total[:, None])
    weights[np.arange(len(main)), main] += np.where(weak, weights, 0).sum(axis=1)
    weights[weak] = 0
    chinese = _chinese_lines(scripts[:, _HANI], kana, kinds)

    edges = np.cumsum([0] + [sample.count("\n") + 1 for sample in samples])
    parts: list[list[_Part]] = [[] for _ in samples]  # of a text
    pieces: list[str] = []
    places: list[tuple[int, int, float]] = []  # of a piece: text, script, weight
    spoken = weights.sum(axis=0)
    for group in np.flatnonzero(spoken).tolist():
        rows = np.flatnonzero(weights[:, group])
        texts = np.searchsorted(edges, rows, side="right") - 1
        if group == _HANI:
            _settle_ideographs(parts, rows, texts, weights[:, group], chinese, ends - starts)
        elif _SOLE[group]:
            for text, weight in enumerate(np.bincount(texts, weights[rows, group], len(samples)).tolist()):
                if weight:
                    parts[text].append((_SOLE[group], weight, 1.0 if group != _OTHER else 0.0, group))
        else:
            for text, span, weight in _pieces(rows, texts, weights[:, group], starts, ends):
                piece = joined[span[0] : span[1]]
                if _NAMES[group] == "Latn" and _is_english(piece):
                    parts[text].append(("en", weight, _ENGLISH_SURE, group))
                else:
                    pieces.append(piece)
                    places.append((text, group, weight))
    for (text, group, weight), (code, sure) in zip(
        places, language_model.score(pieces, [_NAMES[p[1]] for p in places]), strict=True
    ):
        parts[text].append((code, weight, sure, group))

    hans, hant = (np.add.reduceat(kinds[:, k] + kinds[:, k + 1], edges[:-1]) for k in (0, 2))
    return [_verdict(part, int(s), int(t)) for part, s, t in zip(parts, hans, hant, strict=True)]


def _chinese_lines(han: F64, kana: F64, kinds: I64) -> npt.NDArray[np.uint8]:
    """Per line of ideographs: 0 Chinese, 1 Japanese, 2 Cantonese."""
    japanese = (kana > 0.1 * (han + kana)) | ((kinds[:, 4] > kinds[:, 0] + kinds[:, 2]) & (kinds[:, 4] >= 0.05 * han))
    cantonese = (kinds[:, 5] >= 2) & (kinds[:, 5] >= 0.03 * han)
    return np.where(japanese, 1, np.where(cantonese, 2, 0)).astype(np.uint8)


def _settle_ideographs(
    parts: list[list[_Part]],
    rows: I64, texts: I64, weights: F64, kinds: npt.NDArray[np.uint8], lengths: I64,
) -> None:  # fmt: skip
    """Add the Chinese, Japanese and Cantonese parts of each text; what is short follows the text's other lines."""
    sums = np.zeros((len(parts), 3))
    np.add.at(sums, (texts, kinds[rows]), weights[rows])
    follows = (kinds[rows] == 0) & (lengths[rows] < _HEADING)
    short = np.bincount(texts[follows], weights[rows][follows], len(parts))
    for text in np.flatnonzero(sums.sum(axis=1)).tolist():
        zh, ja, yue = sums[text].tolist()
        if max(ja, yue) > zh - short[text]:
            zh, moved = zh - short[text], short[text]
            ja, yue = (ja + moved, yue) if ja >= yue else (ja, yue + moved)
        parts[text] += [(code, w, 1.0, _HANI) for code, w in (("zh", zh), ("ja", ja), ("yue", yue)) if w > 0]


def _pieces(
    rows: I64, texts: I64, weights: F64, starts: I64, ends: I64
) -> Iterator[tuple[int, tuple[int, int], float]]:
    """Of each text the pieces that the model reads: (text, (first, behind) in characters of the batch, weight). Their
    weights add up to the text's weight in this script."""
    edges = np.flatnonzero(np.diff(texts, prepend=-1))
    for first, behind in zip(edges.tolist(), [*edges[1:].tolist(), len(rows)], strict=True):
        mine = rows[first:behind]
        sums = np.cumsum(weights[mine])
        # A new piece begins where the running weight passes a multiple of the wished size.
        cuts = np.flatnonzero(np.diff((sums - weights[mine]) // _PIECE_LETTERS, prepend=-1))
        tails = np.append(cuts[1:], len(mine)) - 1
        heavy = np.diff(sums[tails], prepend=0)
        chosen = (
            np.unique(np.linspace(0, len(cuts) - 1, _PIECES).round().astype(int))
            if len(cuts) > _PIECES
            else range(len(cuts))
        )
        scale = float(sums[-1]) / float(sum(heavy[k] for k in chosen))
        for k in chosen:
            begin = int(starts[mine[cuts[k]]])
            yield (
                int(texts[first]),
                (begin, min(int(ends[mine[tails[k]]]), begin + _PIECE_CHARS)),
                float(heavy[k]) * scale,
            )


def _is_english(piece: str) -> bool:
    words = piece.lower().split()
    return "the" in words and 3 <= len(words) <= 8 * sum(map(_ENGLISH.__contains__, words))


def _verdict(parts: list[_Part], hans: int, hant: int) -> tuple[str, str, float, float]:
    total = sum(weight for _, weight, _, _ in parts)
    if not total:
        return "und", "", 0.0, 0.0
    # Certain parts outvote uncertain ones: formulas and names in Latin letters do not make a Chinese text Portuguese.
    sums: dict[str, float] = {}
    votes: dict[str, float] = {}
    for code, weight, certainty, _ in parts:
        sums[code] = sums.get(code, 0.0) + weight
        votes[code] = votes.get(code, 0.0) + weight * certainty
    main = min(votes, key=lambda key: (-votes[key], key))
    sure = votes[main] / sums[main]
    # A piece (names, a list of places) of which the model is not sure follows the rest of what is in its script.
    scripts = {group for code, _, _, group in parts if code == main}
    unsure = sum(
        w for code, w, certainty, g in parts if code != main and certainty < _UNSURE and g in scripts - {_HANI}
    )
    script = "" if main != "zh" or hans == hant else "Hans" if hans > hant else "Hant"
    return main, script, sure, (sums[main] + unsure) / total
