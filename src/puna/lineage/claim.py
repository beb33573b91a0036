"""Is a suspect made from our model? The maker's own exact test, from likelihoods alone.

Comes in: who can say how likely given rows of tokens are (a model on disk, or behind an API), and the order of training that a ledger
binds. Goes out: `ClaimResult`, one p-value under a stated null. Must never happen: a control that knows the order, or silence about
what the test cannot see.

After Kuditipudi et al. 2025, "Blackbox model provenance via palimpsestic membership inference" (arXiv:2510.19796): a model remembers the
rows best that it was trained on last, and what is made from it remembers them too. The order of the rows is a draw of its own, so

    null hypothesis: given the rows, the suspect is independent of the order in which they were trained on

and under it every assignment of the places to the rows is as likely: the rank correlation of likelihood and place has a known
distribution, whatever text the suspect was trained on. A stranger trained on the very same rows, in another order, is under the null.

Two things are done for power, and neither touches the null. How hard a row is has nothing to do with its place, so what an n-gram model
of the rows (and any control model that never saw this order) says of it is regressed out. And the place counts by what training can
have left of it (`order.traces`). Where the rows are too many, those with the largest and the smallest trace are asked for: given which
rows these are, their assignment to the places is still a draw.

Not here: deciding from texts that a suspect wrote, without its likelihoods (the paper trains models again on reshuffled data for that).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.stats import rankdata

from puna.engine import Engine
from puna.errors import PunaError
from puna.lineage.order import CommittedOrder
from puna.lineage.verdict import Part, Verdict
from puna.lineage.weights.statistics import log10_t_tail
from puna.progress import QUIET, Progress
from puna.tokens import Tokenizer

RECOGNISED_BELOW, NOTHING_ABOVE = 1e-4, 0.05
MOST_ROWS = 4096
LEAST_ROWS = 100
PERMUTATIONS = 1999
_SEED = 20251022  # of the permutations that check p; the order's own seed is the maker's
_ASKED_TOKENS = 1 << 16  # of rows in one call, so that progress shows
_PRIOR = 5.0  # how many pairs the unigram counts for, in the bigram model
NULL = "given the rows, the suspect is independent of the order in which the maker trained on them"


class Likelihoods(Protocol):
    """Who can be asked how likely texts are."""

    @property
    def name(self) -> str:
        """As the result calls it."""

    def loglikelihoods(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Of each row of the maker's token ids: the log-likelihood in nats of what follows its first token."""


class ClaimResult(Part):
    """What the test found. `exact`: p holds by construction under `null`; below 1 / (`permutations` + 1) it is Student's t for it."""

    suspect: str
    run: str
    verdict: Verdict  # "derived" or "cannot tell": no trace is no proof of independence
    sentence: str
    null: str = NULL
    exact: bool = True
    p_value: float  # one-sided, 0.0 where it is below 1e-300
    log10_p: float
    p_permuted: float  # (1 + orders that reach the statistic) / (permutations + 1)
    permutations: int
    statistic: float
    statistic_name: str = "rank correlation of likelihood and trace"
    rows: int
    rows_in_all: int
    epochs: float
    controls: tuple[str, ...]
    profile: tuple[
        float, ...
    ]  # tenths of the rows by trace, the least first: mean log-likelihood beyond the controls', in nats a row
    own: tuple[float, float] | None = None  # the maker's own model on the same rows: statistic, log10 p
    ledger_head: str
    seed_committed: str
    evidence: tuple[str, ...] = ()


def claim(
    suspect: Likelihoods, order: CommittedOrder, *, controls: Sequence[Likelihoods] = (), own: Likelihoods | None = None,
    most_rows: int = MOST_ROWS, progress: Progress = QUIET,
) -> ClaimResult:  # fmt: skip
    """Test `suspect` against the committed order of `read_order`.

    `controls`: models that never saw this order (trained on the same rows in another, or on like text); never an earlier checkpoint of
    the run, which knows the order too. `own`: the run's own model, to show what the test can see at best.
    Raises `PunaError` where there are too few rows, or an answer is not a finite number for each row.
    """
    chosen = _choose(order, most_rows)
    tokens = order.tokens_of(chosen)
    trace = order.trace[chosen]
    helps = [*_ngrams(tokens, order.batches.vocab_size), *(_asked(one, tokens, progress) for one in controls)]
    residual = _without(_asked(suspect, tokens, progress), helps)
    rho, log10_p = rank_correlation(residual, trace)
    found_own = None if own is None else rank_correlation(_without(_asked(own, tokens, progress), helps), trace)
    p_value = 10**log10_p
    verdict: Verdict = "derived" if p_value < RECOGNISED_BELOW else "cannot tell"
    return ClaimResult(
        suspect=suspect.name, run=order.name, verdict=verdict, sentence=_sentence(suspect.name, order.name, p_value, log10_p, found_own),
        p_value=p_value, log10_p=log10_p, p_permuted=permuted_p(residual, trace), permutations=PERMUTATIONS, statistic=rho,
        rows=len(chosen), rows_in_all=order.rows, epochs=order.epochs,
        controls=("bigrams of the rows", *(one.name for one in controls)), profile=_profile(residual, trace), own=found_own,
        ledger_head=order.head, seed_committed=order.committed, evidence=_evidence(order, len(chosen), controls),
    )  # fmt: skip


def rank_correlation(values: Float64[ndarray, " n"], trace: Float64[ndarray, " n"]) -> tuple[float, float]:
    """(rho, log10 p): Spearman's correlation, ties at their mean rank, and the one-sided p-value by Student's t with n - 2 degrees.

    The t is an approximation to the permutation distribution, good to a few per cent at n = 100 and better above; it never claims less
    than one order in n!.
    """
    a, b = rankdata(values), rankdata(trace)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    n = len(a)
    if n < 3 or size == 0.0:
        return 0.0, 0.0
    rho = float(a @ b) / size
    floor = -math.lgamma(n + 1) / math.log(10)
    if rho > 1 - 1e-12:
        return 1.0, floor
    return rho, max(floor, log10_t_tail(rho * math.sqrt((n - 2) / (1 - rho * rho)), n - 2))


def permuted_p(
    values: Float64[ndarray, " n"], trace: Float64[ndarray, " n"], permutations: int = PERMUTATIONS, seed: int = _SEED
) -> float:
    """The exact one-sided p-value by drawn permutations: (1 + those that reach the statistic) / (permutations + 1)."""
    a, b = rankdata(values), rankdata(trace)
    b = b - b.mean()
    reached, found, draw = 0, float(a @ b), np.random.default_rng(seed)
    slack = 1e-9 * float(np.abs(a) @ np.abs(b))  # equal sums, added up in another order
    for _ in range(permutations):
        reached += float(draw.permutation(a) @ b) >= found - slack
    return (1 + reached) / (permutations + 1)


def _choose(order: CommittedOrder, most: int) -> Int64[ndarray, " n"]:
    """Rows without padding; where they are more than `most`, half with the largest trace and half with the smallest.

    Ties are broken by place and never by the row's number: what is chosen may depend on nothing but the order.
    """
    whole = np.flatnonzero(~order.padded())
    if len(whole) < LEAST_ROWS:
        raise PunaError(
            f"the training has {len(whole)} whole rows; the test needs {LEAST_ROWS}", where=str(order.ledger)
        )
    ranked = whole[np.lexsort((order.place[whole], order.trace[whole]))]
    chosen = (
        ranked
        if len(ranked) <= most
        else np.concatenate([ranked[: most // 2], ranked[len(ranked) - (most - most // 2) :]])
    )
    if order.trace[chosen].min() == order.trace[chosen].max():
        raise PunaError("all rows were trained on alike, so their order tells nothing", where=str(order.ledger))
    return np.sort(chosen)


def _asked(one: Likelihoods, tokens: Int64[ndarray, "n t"], progress: Progress) -> Float64[ndarray, " n"]:
    at_once = max(1, _ASKED_TOKENS // tokens.shape[1])
    answers: list[float] = []
    progress.start(f"likelihoods of {one.name}", len(tokens), "rows")
    for first in range(0, len(tokens), at_once):
        part = tokens[first : first + at_once].tolist()
        got = one.loglikelihoods(part)
        if len(got) != len(part):
            raise PunaError(f"gave {len(got)} likelihoods for {len(part)} rows", where=one.name)
        answers += got
        progress.update(len(answers))
    progress.finish()
    values = np.array(answers, dtype=np.float64)
    if not np.isfinite(values).all():
        raise PunaError(
            f"its likelihood of row {int(np.flatnonzero(~np.isfinite(values))[0])} is not a number", where=one.name
        )
    return values


def _without(values: Float64[ndarray, " n"], helps: Sequence[Float64[ndarray, " n"]]) -> Float64[ndarray, " n"]:
    """What least squares on `helps` leaves. The trace is no part of the fit, so the residual knows nothing of it."""
    columns = np.stack([np.ones_like(values), *((h - h.mean()) / (h.std() or 1.0) for h in helps)], axis=1)
    return values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]


def _ngrams(tokens: Int64[ndarray, "n t"], vocab: int) -> list[Float64[ndarray, " n"]]:
    """log-likelihoods of each row under the unigrams and the bigrams of all of them, each occurrence left out of its own count.

    Made of the rows and not of their order, so it may be regressed out; it explains most of what differs between rows.
    """
    counts = np.bincount(tokens.ravel(), minlength=vocab) + 0.5
    unigram = np.log(counts / counts.sum())[tokens[:, 1:]]
    pairs = tokens[:, :-1] * vocab + tokens[:, 1:]
    _, place, times = np.unique(pairs.ravel(), return_inverse=True, return_counts=True)
    before = np.bincount(tokens[:, :-1].ravel(), minlength=vocab)[tokens[:, :-1]]
    bigram = np.log((times[place].reshape(pairs.shape) - 1 + _PRIOR * np.exp(unigram)) / (before - 1 + _PRIOR))
    return [unigram.sum(axis=1), bigram.sum(axis=1)]


def _profile(residual: Float64[ndarray, " n"], trace: Float64[ndarray, " n"]) -> tuple[float, ...]:
    ranked = residual[np.argsort(trace, kind="stable")]
    return tuple(round(float(part.mean()), 4) for part in np.array_split(ranked, 10))


def _p(p_value: float, log10_p: float) -> str:
    return f"{p_value:.2g}" if p_value > 1e-4 else f"1e{math.floor(log10_p)}"


def _sentence(suspect: str, run: str, p_value: float, log10_p: float, own: tuple[float, float] | None) -> str:
    p = _p(p_value, log10_p)
    if p_value < RECOGNISED_BELOW:
        return (f"{suspect} finds rows the likelier the later {run} was trained on them (p = {p}): it comes from {run}, or from a run "
                "in the same order; a model trained on the same text in another order would not show this.")  # fmt: skip
    if p_value <= NOTHING_ABOVE:
        return f"{suspect} leans to the rows that {run} was trained on last, but chance alone does so too (p = {p}): cannot tell."
    best = "" if own is None else f" {run}'s own model shows it at p = {_p(10 ** own[1], own[1])}."
    return (f"{suspect}'s likelihoods do not follow the order in which {run} was trained (p = {p}). A stranger's do not either; but long "
            f"training afterwards can wear a trace away.{best}")  # fmt: skip


def _evidence(order: CommittedOrder, rows: int, controls: Sequence[Likelihoods]) -> tuple[str, ...]:
    also = ", then one to the first epoch's order" if order.order_committed else ""
    return (
        f"{rows:,} of {order.rows:,} rows, {order.epochs:.2f} epochs",
        f"before the training the ledger holds a commitment to the seed, which fixes the order ({order.committed}){also}",
        f"the ledger ends in {order.head[:16]}: the chain proves what came before what, not when",
        "the seed must have been drawn blindly: whoever tries seeds after the suspect is known can make any p",
        "regressed out: unigrams and bigrams of the rows" + "".join(f", {one.name}" for one in controls),
    )


@dataclass(frozen=True)
class LocalSuspect:
    """A model on disk that is asked here. Rows go in as ids where its ids mean the same bytes as the rows', else as text."""

    path: Path
    name: str
    reader: Tokenizer | None  # of the rows; None where the run has it no more: then the vocabularies must have one size
    vocab_size: int  # of the rows

    @cached_property
    def engine(self) -> Engine:
        """The model in memory, loaded when it is first asked."""
        return Engine.load(self.path)

    @cached_property
    def by_text(self) -> bool:
        """Whether rows are decoded and encoded again. Ids are kept for an extended vocabulary too: its first part is what it learnt by."""
        ours = self.engine.tokenizer
        if self.reader is None:
            if ours.vocab_size != self.vocab_size:
                raise PunaError(
                    "has another vocabulary, and the tokenizer of the rows is not in the run any more", where=self.name
                )
            return False
        plain = set(range(self.reader.vocab_size)) - self.reader.special_ids
        return not all(i < ours.vocab_size and ours.token_bytes(i) == self.reader.token_bytes(i) for i in plain)

    def loglikelihoods(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """See `Likelihoods`. A row longer than the model's context is cut to it, every row in the same way."""
        if self.by_text and self.reader is not None:
            texts = [self.reader.decode(row) for row in rows]
            rows = [self.engine.begin(text) or [0] for text in texts]  # an empty text has nothing to score
        most = self.engine.context + 1
        return self.engine.logprobs([(row[:1], row[1:most]) for row in rows])


def local_suspect(path: Path, name: str, order: CommittedOrder) -> LocalSuspect:
    """The model at `path`, to be asked for the rows of `order`. It is opened when it is asked."""
    reader = None if order.tokenizer is None else Tokenizer.load(order.tokenizer)
    return LocalSuspect(path, name, reader, order.batches.vocab_size)


@dataclass(frozen=True)
class ByText:
    """Whoever scores texts: an API that gives log-likelihoods, wrapped in a function. A text's own first token may be left out."""

    name: str
    score: Callable[[list[str]], list[float]]  # texts -> log-likelihood of each, in nats
    reader: Tokenizer

    def loglikelihoods(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """See `Likelihoods`."""
        return self.score([self.reader.decode(row) for row in rows])
