"""An index of evaluation items: which text holds how much of which item, and where.

Comes in: evaluation items once, then texts. Goes out: `Hits`. Must never happen: a hit of the exact tier that the text does
not bear out; a hit that depends on the process, the order or the split of the texts.

Two tiers, told apart everywhere. EXACT: n-grams of 13 words (13 characters from where a Chinese, Japanese or Korean one
stands), case, punctuation, spacing and width ignored, as GPT-3 had it (Brown et al. 2020, appendix C); every hit is compared
with the item token by token. NEAR: n-grams of 4 words or 6 characters that stand close together in a text, which a changed
word or a lost clause leaves standing; only their hashes are compared, and a hit is a suspicion.

A question too short for one n-gram is looked for whole, from 8 words or 10 characters on (PaLM's 8-grams: Chowdhery et al.
2022, section 8). N-grams that over 10 items of one task share are its template, tell nothing and are left out.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from puna.corpus import itemgrams
from puna.corpus.evalitems import EvalItem
from puna.corpus.folding import Folded, canonical, fold
from puna.corpus.itemgrams import Grams, Matches, Rows
from puna.corpus.segment import Batch, segment
from puna.errors import PunaError

Places = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

WORDS, CHARACTERS = 13, 13
WHOLE_WORDS, WHOLE_CHARACTERS = 8, 10  # the shortest question that is looked for whole
NEAR_WORDS, NEAR_CHARACTERS = 4, 6
NEAR_GRAMS = 5  # fewer near n-grams of an item in one place say nothing
# Share of an item's near n-grams in one place that is a suspicion, of items in words and in characters: below it the fixed
# phrases of statutes and of novels begin (measured by bench/decontamination.py --sweep).
NEAR_LEAST_WORDS, NEAR_LEAST_CHARACTERS = 0.2, 0.3
_NEAR_SPREAD = 2  # near n-grams stand in one place within this many times the item's tokens
_GROUP = 1 << 20  # characters worked on together
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Hits:
    """What a batch of texts holds of the items.

    A row for each text and item (p,): `document`, the text's place in the batch; `item`; `share`, the part of the item's
    n-grams that stand in the text, or of its question's where that is more; `near`, the same for the near tier, 0 below
    what is a suspicion. In the order of document and item. A row for each passage of the exact tier (s,): its document and item, and
    `start` and `end` in characters of the text.
    """

    document: Places
    item: Places
    share: Shares
    near: Shares
    span_document: Places
    span_item: Places
    start: Places
    end: Places

    def __len__(self) -> int:
        return len(self.document)


class ItemIndex:
    """The n-grams of evaluation items in both tiers. Read-only; may be sent to processes, or saved and loaded by each."""

    def __init__(
        self,
        keys: list[tuple[str, str]],
        lengths: tuple[int, int],
        digest: str,
        tokens: list[str],
        question_tokens: Places,
        cjk: Mask,
        exact: Grams,
        near: Grams,
    ) -> None:
        self.keys, self.digest, self.exact, self.near = keys, digest, exact, near
        self.words, self.characters = lengths
        self._tokens, self._question_tokens, self._cjk = tokens, question_tokens, cjk
        self.near_least = np.where(cjk, NEAR_LEAST_CHARACTERS, NEAR_LEAST_WORDS)
        self._sizes = np.array([text.count(" ") + 1 for text in tokens], np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def undecidable(self) -> Mask:
        """The items that cannot be looked for: too short, or nothing but their task's template (n,)."""
        return np.asarray(self.exact.totals == 0)

    @classmethod
    def build(cls, items: Sequence[EvalItem], words: int = WORDS, characters: int = CHARACTERS) -> "ItemIndex":
        """The index of `items`, with n-grams of so many words, and so many Chinese, Japanese or Korean characters.

        Raises PunaError for a length outside 2..100, and where two items have one name. Memory: about 200 bytes for each token
        of the items.
        """
        where = "decontamination"
        if not (2 <= words <= 100 and 2 <= characters <= 100):
            raise PunaError(f"n-grams of {words} words and {characters} characters", where=where, mend="take 2 to 100")
        keys: dict[tuple[str, str], int] = {}
        for number, item in enumerate(items):
            if keys.setdefault((item.task, item.id), number) != number:
                raise PunaError(f'two items of the task "{item.task}" have the name "{item.id}"', where=where)
        tasks = {task: number for number, task in enumerate(dict.fromkeys(task for task, _ in keys))}
        questions = [fold(item.question).text for item in items]
        texts = [f"{question}\n{fold(item.answer).text}" for question, item in zip(questions, items, strict=True)]
        whole = min(words, WHOLE_WORDS), min(characters, WHOLE_CHARACTERS)
        tokens: list[str] = []
        sizes, scripts = [np.empty(0, np.int64)], [np.empty(0, bool)]
        exact, near = list[Rows](), list[Rows]()
        for first, group in _groups(texts) if texts else [(0, [""])]:
            batch = segment(group)
            ends = np.array([len(question) for question in questions[first : first + len(group)]] or [0])
            owners = batch.owners()
            size = np.bincount(owners[batch.starts < ends[owners]], minlength=len(group))
            for text, start, end in zip(group, batch.offsets[:-1], batch.offsets[1:], strict=True):
                tokens.append(canonical(text, batch.starts[start:end], batch.ends[start:end]))
            sizes.append(size)
            scripts.append(2 * np.bincount(owners[batch.cjk], minlength=len(group)) > np.diff(batch.offsets))
            least = min(words, characters, WHOLE_WORDS)
            for parts, rows in (
                (exact, itemgrams.rows_of(batch, size, words, characters, least, whole)),
                (near, itemgrams.rows_of(batch, size, NEAR_WORDS, NEAR_CHARACTERS, 0, None)),
            ):
                parts.append(Rows(rows.hash, rows.prefix, rows.item + first, rows.place, rows.length))
        owners = np.array([tasks[task] for task, _ in keys], np.int64)
        question_tokens, cjk = (np.concatenate(parts)[: len(keys)] for parts in (sizes, scripts))
        tables = (itemgrams.table(parts, owners, question_tokens) for parts in (exact, near))
        return cls(list(keys), (words, characters), _digest(items), tokens[: len(keys)], question_tokens, cjk, *tables)

    def save(self, path: Path) -> None:
        """Write the index as one .npz file; the same items give the same bytes."""
        meta = {"version": _VERSION, "words": self.words, "characters": self.characters, "digest": self.digest,
                "near": [NEAR_WORDS, NEAR_CHARACTERS], "keys": self.keys, "tokens": self._tokens}  # fmt: skip
        arrays: dict[str, Any] = {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}
        arrays |= {"question_tokens": self._question_tokens, "cjk": self._cjk}
        for name, grams in (("exact", self.exact), ("near", self.near)):
            arrays |= {f"{name}_{field.name}": getattr(grams, field.name) for field in fields(Grams)}
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "ItemIndex":
        """The index that `save` wrote. Raises PunaError for a file that is none, or one of another version."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            meta = json.loads(arrays["meta"].tobytes())
            if meta["version"] != _VERSION or meta["near"] != [NEAR_WORDS, NEAR_CHARACTERS]:
                raise PunaError("is an index of another version of Puna", where=str(path), mend="build it again")
            exact, near = (
                Grams(*(arrays[f"{name}_{field.name}"] for field in fields(Grams))) for name in ("exact", "near")
            )
            keys = [(task, name) for task, name in meta["keys"]]
            lengths = int(meta["words"]), int(meta["characters"])
            tokens, question_tokens = meta["tokens"], arrays["question_tokens"]
            return cls(keys, lengths, meta["digest"], tokens, question_tokens, arrays["cjk"], exact, near)
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise PunaError(f"is no index of evaluation items ({error})", where=str(path)) from error

    def scan(self, texts: Sequence[str]) -> Hits:
        """What `texts` hold of the items. Time is linear in the texts and in what they hold; memory about 100 bytes for a
        character of the longest text, or of a million characters of them."""
        none = np.empty(0, np.int64)
        parts = [Hits(none, none, none.astype(float), none.astype(float), none, none, none, none)]
        parts += [self._scan(group, first) for first, group in _groups(texts)]
        return Hits(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Hits)))

    def _scan(self, texts: Sequence[str], first: int) -> Hits:
        folded = [fold(text) for text in texts]
        batch = segment([text.text for text in folded])
        owners = batch.owners()
        left = np.repeat(batch.offsets[1:], np.diff(batch.offsets)) - np.arange(len(owners))  # tokens to the text's end
        exact, near = self._find(batch, left)
        exact, spans = self._borne_out(exact, folded, batch, owners)
        key, share = self._shares(self.exact, exact, owners, 1, None)
        near_key, near_share = self._shares(self.near, near, owners, NEAR_GRAMS, _NEAR_SPREAD)
        enough = near_share >= self.near_least[near_key % max(1, len(self))]
        near_key, near_share = near_key[enough], near_share[enough]
        rows = np.union1d(key, near_key)
        both = np.zeros((2, len(rows)))
        both[0, np.searchsorted(rows, key)] = share
        both[1, np.searchsorted(rows, near_key)] = near_share
        count = max(1, len(self))
        document, item, start, end = spans
        return Hits(rows // count + first, rows % count, both[0], both[1], document + first, item, start, end)

    def _find(self, batch: Batch, left: Places) -> tuple[Matches, Matches]:
        """The n-grams of a batch that items hold, in the exact tier (by their hashes alone) and in the near one."""
        prefix = min(self.words, self.characters, WHOLE_WORDS)
        plain = itemgrams.rolling(batch.codes, {prefix, NEAR_WORDS, NEAR_CHARACTERS})
        tokens = np.flatnonzero(self.exact.may_hold(plain[prefix]) & (left >= prefix))
        found: list[Matches] = []
        for length in self.exact.lengths.tolist():
            here = tokens[left[tokens] >= length]
            hashes = itemgrams.hash_at(batch.codes, here, length)
            found.append(self.exact.matches(hashes, here, np.full(len(here), length)))
        exact = itemgrams.joined(found)
        lengths = np.where(batch.cjk, NEAR_CHARACTERS, NEAR_WORDS)
        near = np.where(batch.cjk, plain[NEAR_CHARACTERS], plain[NEAR_WORDS])
        tokens = np.flatnonzero(self.near.may_hold(near) & (left >= lengths))
        return exact, self.near.matches(itemgrams.finish(near[tokens], lengths[tokens]), tokens, lengths[tokens])

    def _borne_out(
        self, found: Matches, folded: Sequence[Folded], batch: Batch, owners: Places
    ) -> tuple[Matches, tuple[Places, Places, Places, Places]]:
        """The matches whose tokens are the item's, and the passages they make: document, item, start, end."""
        order = np.lexsort((found.length, found.token, found.token - found.place, found.item))
        found = found.of(order)
        shift = found.token - found.place
        breaks = np.ones(len(found), bool)  # a run: n-grams one after the other in the text as in the item
        breaks[1:] = (np.diff(found.item) != 0) | (np.diff(shift) != 0) | (np.diff(found.token) > 1)
        begins = np.flatnonzero(breaks)
        ends = np.maximum.reduceat(found.token + found.length, begins) if len(begins) else begins
        true = np.ones(len(found), bool)
        spans: list[tuple[int, int, int, int]] = []
        tokens = {item: self._tokens[item].split(" ") for item in np.unique(found.item).tolist()}
        rows = zip(begins.tolist(), np.append(begins, len(found))[1:].tolist(), ends.tolist(), strict=True)
        for row, behind, end in rows:
            item, begin, place = int(found.item[row]), int(found.token[row]), int(found.place[row])
            document = int(owners[begin])
            text, starts, stops = folded[document], batch.starts[begin:end], batch.ends[begin:end]
            if canonical(text.text, starts, stops) != " ".join(tokens[item][place : place + end - begin]):
                true[row:behind] = False  # two texts with one hash: made by somebody, or one chance in 2^64
                continue
            start = int(text.original(starts[:1], end=False)[0])
            spans.append((document, item, start, int(text.original(stops[-1:], end=True)[0])))
        spans.sort()
        columns = np.array(spans, np.int64).reshape(-1, 4).T
        return found.of(true), (columns[0], columns[1], columns[2], columns[3])

    def _shares(
        self, grams: Grams, found: Matches, owners: Places, least: int, spread: int | None
    ) -> tuple[Places, Shares]:
        """For each text and item (text * items + item, ascending) the greatest share of the item's distinct n-grams, or of its
        question's, that stand in the text; with `spread`, in one stretch of that many times the item's tokens."""
        key = owners[found.token] * len(self) + found.item
        inside = found.place + found.length <= self._question_tokens[found.item]
        width = np.full(len(found), 1) if spread is None else spread * self._sizes[found.item]
        keys, shares = [np.empty(0, np.int64)], [np.empty(0)]
        # Two rows of stretches, one shifted by half: what lies within half a stretch is whole in one of them.
        for shift in (0,) if spread is None else (0, 1):
            cell = np.zeros(len(found), np.int64) if spread is None else (found.token + shift * (width // 2)) // width
            order = np.lexsort((found.gram, cell, key))
            sort_key, sort_cell, gram = key[order], cell[order], found.gram[order]
            group = itemgrams.changes(sort_key) | itemgrams.changes(sort_cell)
            fresh = group | itemgrams.changes(gram)
            begins = np.flatnonzero(group)
            if not len(begins):
                continue
            item = found.item[order][begins]
            count = np.add.reduceat(fresh.astype(np.int64), begins)
            question = np.add.reduceat((fresh & inside[order]).astype(np.int64), begins)
            share = np.maximum(
                np.where(count >= least, count / np.maximum(1, grams.totals[item]), 0),
                np.where(question >= least, question / np.maximum(1, grams.question_totals[item]), 0),
            )
            keys.append(sort_key[begins])
            shares.append(share)
        joined, values = np.concatenate(keys), np.concatenate(shares)
        names, place = np.unique(joined, return_inverse=True)
        best = np.zeros(len(names))
        np.maximum.at(best, place, values)
        return names, best


def _groups(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    first = size = 0
    for place, text in enumerate(texts):
        if place > first and size + len(text) > _GROUP:
            yield first, texts[first:place]
            first, size = place, 0
        size += len(text)
    if first < len(texts):
        yield first, texts[first:]


def _digest(items: Sequence[EvalItem]) -> str:
    rows = [[item.task, item.id, item.question, item.answer] for item in items]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
