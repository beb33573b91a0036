"""Texts cut into tokens, a batch at a time: what every metric, shingle and n-gram of the corpus is counted in.

Comes in: texts. Goes out: arrays over the whole batch: a 64-bit hash, a place and a script for every token. Must never
happen: a hash that depends on the process, the batch or the platform; time or memory that is not linear in the text.

There are two ways to cut. `segment` is for finding copies: letters and digits only (so that a changed comma changes
nothing), lower case, Chinese, Japanese and Korean character by character. `words` is for metrics, whose thresholds were set
on words with punctuation among them (spaCy's and jieba's, in FineWeb-2): case stays, punctuation counts, Chinese is cut by
jieba, Japanese where the script changes, Korean before its particles.

A token's hash is the polynomial sum of its code points' random values times powers of an odd number, modulo 2^64 (Karp and
Rabin 1987), taken from one running sum over the text; so a line, a paragraph or an n-gram costs no more than a word.
"""

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Points = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]

CHUNK = 1 << 18  # characters worked on together: what the caches hold; a longer document is a chunk of its own

# The lowest three bits of a character's flags are its kind; a token of words() never spans two kinds.
SPACE, WORD, HAN, HIRAGANA, KATAKANA, OTHER = range(6)
KIND = np.uint16(7)
CJK, ALPHA, DIGIT, LETTERLIKE, TERMINAL, HANGUL, CLOSING = (1 << bit for bit in range(3, 10))

_LAST = 0x32400  # no letter has a code point beyond
_CJK_RANGES = (
    (0x3041, 0x30FA),
    (0x30FC, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xAC00, 0xD7A3),
)
_CJK_MORE = ((0x3005, 0x3007), (0xFF66, 0xFF9F), (0x20000, _LAST - 1))
# What datatrove and FineWeb-2 count as no word (PUNCTUATION in datatrove's utils/text.py, Apache-2.0), controls too.
_SYMBOLS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
# Unicode's Sentence_Terminal, as in datatrove's TERMINAL_PUNCTUATION: a line or sentence ends with one of these.
_TERMINAL = (
    "!.?։؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"
    "𐩖𐩗𐽕𐽖𐽗𐽘𐽙𐾆𐾇𐾈𐾉𑁇𑁈𑂾𑂿𑃀𑃁𑅁𑅂𑅃𑇅𑇆𑇍𑇞𑇟𑈸𑈹𑈻𑈼𑊩𑑋𑑌𑗂𑗃𑗉𑗊𑗋𑗌𑗍𑗎𑗏𑗐𑗑𑗒𑗓𑗔𑗕𑗖𑗗𑙁𑙂𑜼𑜽𑜾𑥄𑥆𑩂𑩃𑪛𑪜𑱁𑱂𑻷𑻸𑽃𑽄𖩮𖩯𖫵𖬷𖬸𖭄𖺘𛲟𝪈\u061d"
)
_CLOSING = "\"'’”»›」』）)】]〉》"
_APOSTROPHES = (0x27, 0x2019)
_ELIDED = {"fr", "it", "ca", "oc"}  # l'homme is l' + homme, where English has don + 't
_WHOLE_HAN = {"ja", "ko"}  # a run of kanji or hanja is one word: jieba's dictionary knows Chinese alone
# Korean particles and verb endings that stand at the end of a word: the morphemes that FineWeb-2's stop words are.
_ENDINGS_2 = ("에서", "으로", "부터", "까지", "에게", "처럼", "하고", "이다", "니다")
_ENDINGS_1 = "은는이가을를의에도로와과만다고"
_BASE = np.uint64(0x9E6C63D0876A9A99)  # odd: it has an inverse modulo 2^64


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of n texts, one after the other.

    codes: a hash for each token (t,); starts, ends: its place in the characters of its own text (t,); cjk: whether it is
    one character of a script without spaces (t,); offsets: text i has the tokens offsets[i]:offsets[i + 1] (n + 1,).
    """

    codes: Hashes
    starts: Places
    ends: Places
    cjk: Mask
    offsets: Places

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def owners(self) -> Places:
        """The text that each token belongs to: (t,)."""
        return owners_of(self.offsets)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some neighbouring texts as code points, a line feed after each: text i is points[offsets[i]:offsets[i + 1] - 1].

    `first` is the place of text 0 among all that were given.
    """

    first: int
    joined: str
    points: Points
    flags: Flags
    offsets: Places

    def __len__(self) -> int:
        return len(self.offsets) - 1


def segment(texts: Sequence[str]) -> Batch:
    """The tokens to find copies by: lower-case runs of letters, digits and marks; CJK and Hangul by the character.

    Punctuation, symbols and space only part tokens. Lower case is taken character by character, so places stay true.
    """
    parts = [_segment_chunk(chunk) for chunk in chunks(texts)]
    if not parts:
        none = np.empty(0, np.int64)
        return Batch(none.astype(np.uint64), none, none, none.astype(bool), np.zeros(1, np.int64))
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return Batch(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.ends for part in parts]),
        np.concatenate([part.cjk for part in parts]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
    )


def _segment_chunk(chunk: Chunk) -> Batch:
    kind = chunk.flags & KIND
    word = (kind != SPACE) & (kind != OTHER)
    alone = (chunk.flags & CJK) != 0
    begins = word.copy()
    begins[1:] &= alone[1:] | alone[:-1] | ~word[:-1]
    # A text ends with a line feed, so the last character is never of a token.
    finishes = word[:-1] & (begins[1:] | ~word[1:])
    starts, ends = np.flatnonzero(begins), np.flatnonzero(finishes) + 1
    codes = hashes_of(running_sum(_values(lower=True)[chunk.points]), starts, ends)
    offsets = np.searchsorted(starts, chunk.offsets)
    base = np.repeat(chunk.offsets[:-1], np.diff(offsets))
    return Batch(codes, starts - base, ends - base, alone[starts], offsets)


def chunks(texts: Sequence[str]) -> Iterator[Chunk]:
    """The texts in order, as many together as CHUNK holds. Memory: some 40 bytes for each character of one chunk."""
    first, size = 0, 0
    for place, text in enumerate(texts):
        if place > first and size + len(text) >= CHUNK:
            yield _chunk(first, texts[first:place])
            first, size = place, 0
        size += len(text) + 1
    if first < len(texts):
        yield _chunk(first, texts[first:])


def _chunk(first: int, texts: Sequence[str]) -> Chunk:
    joined = "\n".join((*texts, ""))
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32, copy=False)
    offsets = np.cumsum([0, *(len(text) + 1 for text in texts)])
    return Chunk(first, joined, points, _flags()[points], offsets)


def words(chunk: Chunk, langs: Sequence[str]) -> tuple[Places, Places]:
    """Where the words of a chunk begin and end: two arrays (w,), in characters of the chunk, in order.

    A word is a run of letters, digits and marks ("3.14" and "1,000" are one; "don't" is don + 't, in French "l'homme" is
    l' + homme); a run of one punctuation mark or symbol; a word of jieba's in Chinese; a run of kanji, of hiragana or of
    katakana in Japanese. spaCy differs in keeping abbreviations ("Mr.") and URLs in one piece and "!!" in two.
    """
    points, flags = chunk.points, chunk.flags
    kind = flags & KIND
    _join_numbers(points, flags, kind)
    begins = np.empty(len(points), bool)
    begins[0] = True
    np.not_equal(kind[1:], kind[:-1], out=begins[1:])
    begins[1:] |= (kind[1:] == OTHER) & (points[1:] != points[:-1])
    _join_apostrophes(chunk, langs, kind, begins)
    finishes = np.empty(len(points), bool)
    _cut_chinese(chunk, langs, kind, begins)
    if (flags & HANGUL).any():
        _cut_korean(points, flags, kind, begins)
    finishes[:-1] = begins[1:]
    finishes[-1] = True
    solid = kind != SPACE
    return np.flatnonzero(begins & solid), np.flatnonzero(finishes & solid) + 1


def _join_numbers(points: Points, flags: Flags, kind: Flags) -> None:
    places = np.flatnonzero((points == 0x2E) | (points == 0x2C))
    places = places[places > 0]  # the last character of a chunk is a line feed: there is always a next one
    inside = places[(flags[places - 1] & flags[places + 1] & DIGIT) != 0]
    kind[inside] = WORD


def _join_apostrophes(chunk: Chunk, langs: Sequence[str], kind: Flags, begins: Mask) -> None:
    places = np.flatnonzero((chunk.points == _APOSTROPHES[0]) | (chunk.points == _APOSTROPHES[1]))
    places = places[places > 0]
    places = places[(kind[places - 1] == WORD) & (kind[places + 1] == WORD)]
    kind[places] = WORD
    begins[places], begins[places + 1] = True, False
    elided = np.array([lang in _ELIDED for lang in langs])
    if elided.any():
        here = places[elided[np.searchsorted(chunk.offsets, places, "right") - 1]]
        begins[here], begins[here + 1] = False, True


def _cut_chinese(chunk: Chunk, langs: Sequence[str], kind: Flags, begins: Mask) -> None:
    """Mark the beginnings of Chinese words in `begins`, by jieba's dictionary and hidden Markov model (rjieba, MIT)."""
    han = kind == HAN
    whole = [place for place, lang in enumerate(langs) if lang in _WHOLE_HAN]
    for place in whole:
        han[chunk.offsets[place] : chunk.offsets[place + 1]] = False
    if not han.any():
        return
    import rjieba

    # The runs of Chinese characters, one line feed after each: jieba never looks beyond a run, so no text changes another.
    kept = han.copy()
    kept[1:] |= han[:-1]
    places = np.flatnonzero(kept)
    runs = np.where(han[places], chunk.points[places], np.uint32(10)).astype("<u4")
    # The words in a row with a NUL after each, as code points: the places of the NULs are cheaper than a len() for each.
    cut = "\0".join(rjieba.cut(runs.tobytes().decode("utf-32-le")))
    bounds = np.flatnonzero(np.frombuffer(cut.encode("utf-32-le"), "<u4") == 0)
    starts = bounds - np.arange(len(bounds))
    begins[places[starts]] = True


def _cut_korean(points: Points, flags: Flags, kind: Flags, begins: Mask) -> None:
    """Mark the particle or ending that closes a Korean word as a word of its own, by rule: the longest that is known."""
    last = np.flatnonzero((flags[:-1] & HANGUL != 0) & (kind[1:] != WORD))
    last = last[(last > 0) & ~begins[last]]  # a word of one syllable has nothing to part
    single = np.isin(points[last], np.array([ord(c) for c in _ENDINGS_1], np.uint32))
    pairs = (points[last - 1].astype(np.uint64) << np.uint64(32)) | points[last]
    known = np.array([(ord(pair[0]) << 32) | ord(pair[1]) for pair in _ENDINGS_2], np.uint64)
    double = np.isin(pairs, known) & ~begins[last - 1]
    begins[last[double] - 1] = True
    begins[last[single & ~double]] = True


def lines(chunk: Chunk) -> tuple[Places, Places, Places]:
    """The lines of a chunk, cut at every line feed as str.split("\\n") does: starts and ends (l,), offsets (len(chunk) + 1,)."""
    ends = np.flatnonzero(chunk.points == 10)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    return starts, ends, np.searchsorted(ends, chunk.offsets)


def per_text(values: npt.NDArray[Any], offsets: Places) -> Places:
    """The sum of `values` (k,) over each text's share of them, values[offsets[i]:offsets[i + 1]]: (len(offsets) - 1,)."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums[offsets[1:]] - sums[offsets[:-1]]


def owners_of(offsets: Places) -> Places:
    """The text that each of the things belongs to which `offsets` (n + 1,) deals out: (offsets[-1],)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def hashes_of(sums: Hashes, starts: Places, ends: Places) -> Hashes:
    """The hash of each stretch starts[i]:ends[i] of the characters that `sums` (see running_sum) was taken over: (n,)."""
    return mix((sums[ends] - sums[starts]) * _powers(len(sums))[1][starts])


def running_sum(values: Hashes) -> Hashes:
    """0, then the sums of values[i] * base^i over the first 1, 2, ... characters, modulo 2^64: (len(values) + 1,)."""
    sums = np.empty(len(values) + 1, np.uint64)
    sums[0] = 0
    np.cumsum(values * _powers(len(values))[0][: len(values)], out=sums[1:])
    return sums


def case_kept(points: Points) -> Hashes:
    """The random 64-bit value of each code point, upper and lower case apart: what running_sum takes."""
    return _values(lower=False)[points]


def word_hash(word: str) -> int:
    """The hash that hashes_of gives a stretch of text that reads `word`, case kept."""
    points = np.frombuffer(word.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32)
    sums = running_sum(case_kept(points))
    return int(hashes_of(sums, np.array([0]), np.array([len(points)]))[0])


def mix(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele et al. 2014): any change of `values` (n,) changes every bit with even odds."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _powers(length: int) -> tuple[Hashes, Hashes]:
    return _kept_powers() if length <= CHUNK + 1 else _make_powers(length)


@lru_cache(maxsize=1)
def _kept_powers() -> tuple[Hashes, Hashes]:
    return _make_powers(CHUNK + 1)


def _make_powers(length: int) -> tuple[Hashes, Hashes]:
    """base^i and base^-i modulo 2^64 for i under `length`."""
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    powers = []
    for base in (_BASE, inverse):
        factors = np.full(length, base, np.uint64)
        factors[0] = 1
        powers.append(np.multiply.accumulate(factors))
    return powers[0], powers[1]


@lru_cache(maxsize=2)
def _values(lower: bool) -> Hashes:
    """A random 64-bit value for each code point: (0x110000,); with `lower`, of its lower case where that is one character."""
    points = np.arange(sys.maxunicode + 1, dtype=np.uint64)
    if lower:
        for point in range(_LAST):
            small = chr(point).lower()
            if len(small) == 1:
                points[point] = ord(small)
    return mix(mix(points))


@lru_cache(maxsize=1)
def _flags() -> Flags:
    """What each code point is: its kind and its bits (0x110000,), from the Unicode tables of the running Python."""
    flags = np.full(sys.maxunicode + 1, OTHER | LETTERLIKE, np.uint16)
    for point in range(_LAST):
        char = chr(point)
        category = unicodedata.category(char)
        if char.isspace():
            flags[point] = SPACE
        elif char.isalnum() or category[0] in "LNM":
            flags[point] = WORD | LETTERLIKE | ALPHA * char.isalpha() | DIGIT * char.isdecimal()
    # Joiners stand inside words of Persian and Hindi, the underscore in names; a variant's selector changes no character.
    flags[[0x200C, 0x200D, ord("_")]] = WORD | LETTERLIKE
    flags[0xFE00:0xFE10] = OTHER | LETTERLIKE
    for first, last in (*_CJK_RANGES, *_CJK_MORE):
        found = (flags[first : last + 1] & KIND) == WORD
        flags[first : last + 1][found] |= CJK
    for kind, ranges in _SCRIPTS.items():
        for first, last in ranges:
            found = (flags[first : last + 1] & CJK) != 0
            flags[first : last + 1][found] += kind - WORD
    flags[0xAC00:0xD7A4] |= HANGUL
    for char in _SYMBOLS + _TERMINAL + "".join(map(chr, (*range(32), *range(127, 160)))):
        flags[ord(char)] &= 0xFFFF ^ LETTERLIKE
    for bit, chars in ((TERMINAL, _TERMINAL), (CLOSING, _CLOSING)):
        for char in chars:
            flags[ord(char)] |= bit
    return flags


_SCRIPTS = {
    HAN: ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, _LAST - 1)),
    HIRAGANA: ((0x3041, 0x309F),),
    KATAKANA: ((0x30A1, 0x30FF), (0xFF66, 0xFF9F)),
}
