"""Safety: how much of a text's wording is that of unsafe text, by category.

Comes in: word lists (`words/safety.toml` and the user's own), a sample to learn from, then documents. Goes out: a score from 0
to 1 by category and the terms that were found. Must never happen: a medical, legal or news text judged by one word.

From the lists: r terms a thousand tokens, d different ones, score min(d, ENOUGH) / ENOUGH x (1 - exp(-r / RATE)); one term
never comes above 1 / ENOUGH, however often, and the rate is taken over LEAST tokens at least. A classifier (quality.py's) learns
from documents that the lists are sure about (weak supervision, as in Snorkel, Ratner et al. 2017), so that context counts:
the score is then the geometric mean of both, and 0 without any term. Where the user labels examples of a category, the
classifier learns from these and is the score.
"""

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.corpus.features import (
    F32,
    I64,
    U64,
    Index,
    Tokens,
    chunks,
    joined,
    load_arrays,
    save_arrays,
    tokenise,
)
from puna.corpus.quality import LEAST as LEAST_DOCUMENTS
from puna.corpus.quality import Quality
from puna.errors import PunaError

ENOUGH = 3  # different terms that make the rate count in full; 0.5 takes two
RATE = 5.0  # terms a thousand tokens
LEAST = 200  # tokens that a rate is taken over
SURE = 0.5  # list score from which a document is an example of its category
OPTIONAL = frozenset({"politics"})  # what counts as propaganda is for the user to say
_LONGEST = 16  # tokens of a term as it may be written
_DIGITS = str.maketrans("oieastl", "0000000")  # tokenise() reads every digit as 0
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_WIDE = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B)}

Lists = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A user's own examples of one category: texts with their languages, unsafe ones and safe ones."""

    unsafe: Sequence[str]
    unsafe_langs: Sequence[str]
    safe: Sequence[str]
    safe_langs: Sequence[str]


def read_lists(own: Sequence[str | Path] = ()) -> Lists:
    """The terms of each category: those shipped and those of the user's files (`[category]`, language = ["term", ...]).

    Raises PunaError for a file that cannot be read or has another form.
    """
    lists: Lists = {}
    shipped = files("puna.corpus").joinpath("words/safety.toml").read_text(encoding="utf-8")
    for place, text in [("words/safety.toml", shipped), *((str(path), _read(Path(path))) for path in own)]:
        try:
            found = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PunaError(f"this is no TOML: {error}", where=place) from error
        for category, by_lang in found.items():
            langs = list(by_lang.values()) if isinstance(by_lang, dict) else [None]
            terms: list[Any] = [term for own in langs for term in (own if isinstance(own, list) else [None])]
            if not all(isinstance(term, str) and term.strip() for term in terms):
                raise PunaError(
                    f"[{category}] must hold lists of words", where=place, mend='write en = ["one", "two words"]'
                )
            lists[category] = sorted({*lists.get(category, []), *terms})
    return lists


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PunaError(f"this word list cannot be read: {error}", where=str(path)) from error


class Safety:
    """The terms of each category, and the classifiers of those that could be learned."""

    def __init__(
        self, lists: Mapping[str, Sequence[str]], learned: dict[str, Quality], labelled: Sequence[str]
    ) -> None:
        self._lists = {category: list(lists[category]) for category in sorted(lists)}
        self._learned, self._labelled = learned, frozenset(labelled)
        self._terms = [(category, term) for category, terms in self._lists.items() for term in terms]
        forms: list[dict[int, int]] = [{} for _ in range(_LONGEST + 1)]
        spelled = [(number, form) for number, (_, term) in enumerate(self._terms) for form in _forms(term)]
        tokens = tokenise([form for _, form in spelled])
        for (number, _), first, last in zip(
            spelled, tokens.offsets[:-1].tolist(), tokens.offsets[1:].tolist(), strict=True
        ):
            if 0 < last - first <= _LONGEST:
                forms[last - first].setdefault(int(_hash(tokens.codes[first:last])), number)
        self._begins = np.zeros(1 << 16, bool)
        self._begins[(tokens.codes[tokens.offsets[:-1][tokens.lengths() > 0]] >> np.uint64(48)).astype(np.int64)] = True
        self._index = [Index(np.array(sorted(form), np.uint64)) for form in forms]
        self._number = [np.array([form[key] for key in sorted(form)], np.int64) for form in forms]

    @property
    def categories(self) -> list[str]:
        """The categories, sorted."""
        return list(self._lists)

    @classmethod
    def train(
        cls,
        texts: Sequence[str],
        langs: Sequence[str],
        *,
        words: str | Path | None = None,
        also: Sequence[str] = (),
        labelled: Mapping[str, Labelled] | None = None,
        seed: int = 0,
    ) -> tuple["Safety", dict[str, Any]]:
        """From a sample of the corpus, a file of the user's own words, and the user's examples by category: the scorer and,
        by category, what is known of it: `learned_from` ("labels", "lists"; None for too few examples), `examples`, `auc`.

        The categories are those of the lists and of the examples; those in OPTIONAL only where `also` names them. An AUC of
        a category learned from the lists says how well these are imitated, not how well people would agree. Raises PunaError
        where `also` names what no list has, where the user's file is no word list, and where examples are too few.
        """
        own = dict(labelled or {})
        lists = read_lists([words] if words else [])
        if unknown := sorted(set(also) - {*lists, *own}):
            raise PunaError(
                f"no word list has the category {unknown[0]!r}", mend=f"name one of {', '.join(sorted(lists))}"
            )
        used = ({*lists} - OPTIONAL) | {*also, *own}
        plain = cls({category: lists.get(category, []) for category in used}, {}, [])
        scores = plain.score(texts, langs)
        learned, facts = dict[str, Quality](), dict[str, Any]()
        clean = [row for row in range(len(texts)) if all(found[row] < SURE / 5 for found in scores.values())]
        for category in plain.categories:
            facts[category] = {"terms": len(plain._lists[category]), "learned_from": None}
            if category in own:
                its = own[category]
                learned[category], about = Quality.train(
                    its.unsafe, its.unsafe_langs, its.safe, its.safe_langs, seed=seed
                )
                facts[category] |= {"learned_from": "labels", "examples": len(its.unsafe), **about}
                continue
            sure = np.flatnonzero(scores[category] >= SURE).tolist()
            facts[category]["examples"] = len(sure)
            enough = [
                lang for lang in set(langs) if min(_of(sure, langs, lang), _of(clean, langs, lang)) >= LEAST_DOCUMENTS
            ]
            if enough:
                picked = [[of[row] for row in rows] for rows in (sure, clean) for of in (texts, langs)]
                learned[category], about = Quality.train(*picked, seed=seed)
                facts[category] |= {"learned_from": "lists", **about}
        return cls(plain._lists, learned, sorted(own)), facts

    def score(self, texts: Sequence[str], langs: Sequence[str]) -> dict[str, F32]:
        """How unsafe each text is in each category, 0 to 1: arrays (n,)."""
        out = {category: np.zeros(len(texts), np.float32) for category in self.categories}
        of = np.array([self.categories.index(category) for category, _ in self._terms], np.int64)
        for first, last in chunks(texts):
            tokens, text, term = self._find(texts[first:last])
            size = np.maximum(tokens.lengths(), LEAST)
            for place, category in enumerate(self.categories):
                mine = of[term] == place
                count = np.bincount(text[mine], minlength=last - first)
                pairs = np.unique(text[mine] * len(self._terms) + term[mine]) // max(len(self._terms), 1)
                different = np.minimum(np.bincount(pairs, minlength=last - first), ENOUGH)
                out[category][first:last] = different / ENOUGH * (1 - np.exp(-1000 * count / size / RATE))
        for category, model in self._learned.items():
            if category in self._labelled:
                out[category] = np.nan_to_num(model.score(texts, langs), nan=0.0)
                continue
            rows = np.flatnonzero(out[category] > 0).tolist()  # without a term it stays 0, whatever the classifier says
            judged = model.score([texts[row] for row in rows], [langs[row] for row in rows])
            by_list = out[category][rows]
            out[category][rows] = np.where(np.isnan(judged), by_list, np.sqrt(by_list * judged))
        return out

    def hits(self, text: str) -> dict[str, dict[str, int]]:
        """The terms found in a text, by category, with how often: for a person to read."""
        found: dict[str, dict[str, int]] = {}
        for number, count in zip(*np.unique(self._find([text])[2], return_counts=True), strict=True):
            category, term = self._terms[int(number)]
            found.setdefault(category, {})[term] = int(count)
        return found

    def _find(self, texts: Sequence[str]) -> tuple[Tokens, I64, I64]:
        """The tokens of texts; of each occurrence of a term, the text (h,) and the term (h,)."""
        tokens = tokenise([_folded(text) for text in texts])
        at = np.flatnonzero(self._begins[(tokens.codes >> np.uint64(48)).astype(np.int64)])
        owner = np.searchsorted(tokens.offsets, at, side="right") - 1
        room = tokens.offsets[owner + 1] - at
        grams, found = tokens.codes[at], []
        for length in range(1, _LONGEST + 1):
            if length > 1:
                still = room >= length
                at, owner, room, grams = at[still], owner[still], room[still], grams[still]
                grams = joined(grams, tokens.codes[at + length - 1])
            place = self._index[length].find(grams)
            found.append((owner[place >= 0], self._number[length][place[place >= 0]]))
        return tokens, np.concatenate([text for text, _ in found]), np.concatenate([term for _, term in found])

    def save(self, path: Path) -> None:
        """Writes lists and classifiers; equal ones are equal bytes."""
        held: dict[str, npt.NDArray[Any]] = {"labelled": np.array(sorted(self._labelled), np.str_)}
        held |= {f"{category}/terms": np.array(terms, np.str_) for category, terms in self._lists.items()}
        for category, model in self._learned.items():
            held |= {f"{category}/{name}": array for name, array in model.arrays().items()}
        save_arrays(path, "safety", held)

    @classmethod
    def load(cls, path: Path) -> "Safety":
        """Reads what `save` wrote. Raises PunaError where it is something else."""
        held = load_arrays(path, "safety")
        by = {name.rpartition("/")[0] for name in held if "/" in name}
        parts = {
            own: {n.rpartition("/")[2]: held[n] for n in held if n.rpartition("/")[0] == own} for own in sorted(by)
        }
        learned = {category: Quality.of(part) for category, part in parts.items() if "weights" in part}
        return cls({own: part["terms"].tolist() for own, part in parts.items()}, learned, held["labelled"].tolist())


def _of(rows: Sequence[int], langs: Sequence[str], lang: str) -> int:
    return sum(langs[row] == lang for row in rows)


def _hash(codes: U64) -> U64:
    """The hash of all of `codes` (t,) as one n-gram, a scalar: what `_find` comes to."""
    total = codes[:1]
    for place in range(1, len(codes)):
        total = joined(total, codes[place : place + 1])
    return total[0]


def _folded(text: str) -> str:
    """Without characters that have no width, and with full-width letters and digits as plain ones."""
    if text.isascii():
        return text
    if _HIDDEN.search(text):
        text = _HIDDEN.sub("", text)
    return text.translate(_NARROW) if _WIDE.search(text) else text


def _forms(term: str) -> list[str]:
    """A term as it may be written: plain, with a letter or two as digits, with one mark between all its letters."""
    term = _folded(term.lower())
    forms = [term]
    if len(term) >= 4 and term.isascii():
        places = [place for place, letter in enumerate(term) if letter.translate(_DIGITS) != letter]
        for count in (1, 2)[: 1 + (len(term) > 5)]:
            for chosen in itertools.combinations(places, count):
                forms.append("".join(it.translate(_DIGITS) if at in chosen else it for at, it in enumerate(term)))
    if " " not in term and len(term) <= _LONGEST // 2:
        forms += [mark.join(term) for mark in "*.-_·"]
    return forms
