"""What is held out for judging: whole units, chosen by the hash of their names.

Comes in: the names and bytes of units (modules, files, documents). Goes out: the names of the held-out ones.
Must never happen: a choice that depends on the run's seed, or a unit of which one part is trained on and another judged.

A unit's place in the order is the SHA-256 of its name, so that the same modules are held out of two Python versions and a
file added to a folder moves few others.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from puna.corpus.near import MIN_SHINGLES, Shingles

_SAMPLES = 4_000_000  # shingles looked at, in all units together
_BYTES_PER_SHINGLE = 6  # of text, about, in English, Chinese and code
_COMMON = 32  # units: of a shingle found in more of them not every pair is counted, but each unit with the first
# Of the near-duplicate threshold: joins a family, because what is not joined costs training text when one is held out.
_ALIKE = 0.6
_LARGEST = 4  # a held-out unit has at most 1/4 of the held-out bytes where there are enough smaller ones
_CANDIDATES = 100_000  # units of a source from which the held-out ones are chosen
_MOST = 0.2  # of all bytes: more is never held out


def hash_order(names: Iterable[str]) -> list[str]:
    """Names in the order of their SHA-256."""
    return sorted(names, key=_hash)


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class Candidates:
    """The units of a source and their bytes. Of very many only those that come first by their hash are kept: no later one
    could be held out, and memory stays bounded. A near-duplicate among the others is taken out of the training side later."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.total = 0  # bytes of all units
        self._beyond: bytes | None = None  # units whose hash is not below this are not kept

    def add(self, name: str, size: int) -> None:
        """A row of `size` bytes of the unit `name`."""
        self.total += size
        if name in self.sizes:
            self.sizes[name] += size
        elif self._beyond is None or _hash(name) < self._beyond:
            self.sizes[name] = size
            if len(self.sizes) > 2 * _CANDIDATES:
                order = hash_order(self.sizes)[:_CANDIDATES]
                self.sizes = {name: self.sizes[name] for name in order}
                self._beyond = _hash(order[-1])

    @property
    def count(self) -> int:
        """How many units there are, or at least are."""
        return len(self.sizes)


def choose(
    sizes: Mapping[str, int],
    share: float,
    *,
    pinned: Collection[str] = (),
    family: Mapping[str, str] | None = None,
    total: int | None = None,
) -> set[str]:
    """The held-out units: about `share` of `total` (the bytes in `sizes`), families of near-duplicates whole, none of `pinned`.

    Empty where no choice of whole units stays below a fifth of the bytes.
    """
    family = family or {}
    total = total or sum(sizes.values())
    groups: dict[str, list[str]] = {}
    for name in sizes:
        groups.setdefault(family.get(name, name), []).append(name)
    weights = {head: sum(sizes[name] for name in names) for head, names in groups.items()}
    barred = {head for head, names in groups.items() if any(name in pinned for name in names)}
    order = [head for head in hash_order(weights) if head not in barred and weights[head] > 0]
    target = share * total
    for largest in (target / _LARGEST, target * 1.1):
        taken = _fill(order, weights, target, largest)
        if sum(weights[head] for head in taken) >= target / 2:
            return {name for head in taken for name in groups[head]}
    # Few large units: one that is somewhat too large is better than none, and than one too small to judge by.
    fit = [head for head in order if target / 2 <= weights[head] <= max(_MOST, share) * total]
    return set(groups[min(fit, key=lambda head: weights[head])]) if fit and len(weights) > 1 else set()


def _fill(order: list[str], weights: Mapping[str, int], target: float, largest: float) -> list[str]:
    taken: list[str] = []
    used = 0
    for head in order:
        if weights[head] <= largest and used + weights[head] <= target * 1.02:
            taken.append(head)
            used += weights[head]
    return taken


def sample_of(found: Shingles, corpus_bytes: int) -> Shingles:
    """The shingles whose hash falls into a sample that stays small for a corpus of any size: the same ones in every text."""
    one_in = max(1, corpus_bytes // (_BYTES_PER_SHINGLE * _SAMPLES))
    return found if one_in == 1 else found[found % np.uint64(one_in) == 0]


def families(units: list[str], found: list[Shingles], threshold: float) -> dict[str, str]:
    """Which units are near-duplicates of each other: {unit: the first name of its family}, lone units left out.

    `found[i]` are the shingles of `units[i]`, or a sample. Two units are of one family where 0.6 * `threshold` or more of
    the smaller one's shingles stand in the larger one; families are the connected parts of that graph.
    """
    sampled = [np.unique(part) for part in found]
    sizes = np.array([len(part) for part in sampled])
    if not len(units) or sizes.sum() == 0:
        return {}
    values = np.concatenate(sampled)
    owners = np.repeat(np.arange(len(units)), sizes)
    order = np.lexsort((owners, values))
    values, owners = values[order], owners[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    counts = np.diff(np.append(starts, len(values)))
    parent = list(range(len(units)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for (left, right), shared in _pairs(owners, starts, counts, len(units)):
        smaller = min(sizes[left], sizes[right])
        if smaller >= MIN_SHINGLES and shared >= _ALIKE * threshold * smaller:
            first, second = sorted((root(left), root(right)))
            parent[second] = first
    members: dict[int, list[str]] = {}
    for node, name in enumerate(units):
        members.setdefault(root(node), []).append(name)
    return {name: min(names) for names in members.values() if len(names) > 1 for name in names}


def _pairs(owners: np.ndarray, starts: np.ndarray, counts: np.ndarray, units: int) -> list[tuple[tuple[int, int], int]]:
    """How many sampled shingles each two units share, for the pairs that share any."""
    keys: list[np.ndarray] = []
    for count in range(2, _COMMON + 1):
        at = starts[counts == count]
        if len(at) == 0:
            continue
        groups = owners[at[:, None] + np.arange(count)]  # (shingles found in `count` units, count)
        for left in range(count):
            for right in range(left + 1, count):
                keys.append(groups[:, left] * units + groups[:, right])
    for at, count in zip(starts[counts > _COMMON], counts[counts > _COMMON], strict=True):
        keys.append(owners[at] * units + owners[at + 1 : at + count])
    if not keys:
        return []
    pairs, shared = np.unique(np.concatenate(keys), return_counts=True)
    return [((int(key // units), int(key % units)), int(n)) for key, n in zip(pairs, shared, strict=True)]
