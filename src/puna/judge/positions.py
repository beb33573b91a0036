"""Bits per byte by position: does a model use all of its context, and what happens to one that is read beyond it?

Comes in: a model in the engine, documents. Goes out: bits per byte of the tokens in each range of positions, with
intervals. Must never happen: two models compared on different documents, a range without its count of documents, or a
number from fewer documents than an interval needs.

Each document of `context` tokens or more is read once, from its start, in one window of `context` tokens; nothing slides.
The token at position p is predicted from the p tokens before it and the start of the document, so the curve falls as far
as more context helps (Xiong et al. 2023, arXiv:2309.16039, figure 1). Text differs by position too (a book opens with its
title): between two models on the same documents that cancels, within one curve it does not.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from puna.engine import Engine
from puna.engine.scoring import token_logprobs
from puna.errors import PunaError
from puna.judge.bits_per_byte import batch_tokens, start_id
from puna.judge.compare import paired
from puna.judge.results import PLACES
from puna.judge.stats import LEAST_UNITS, LEVEL, Units, ratio_interval, resampled_weights
from puna.progress import QUIET, Progress

MOST_DOCUMENTS = 64  # of each measurement: the time is bounded by 64 windows, whatever the corpus
_FIRST_EDGE = 128  # tokens; the ranges double from there
_CHARACTERS = 24  # of text for each token wanted, before more of a document is tokenized
Floats = npt.NDArray[np.float64]


def position_edges(context: int) -> list[int]:
    """0, 128, 256, 512, ... up to `context` tokens; below 512 the first range is a quarter of the context."""
    edges = [0, _FIRST_EDGE if context >= 4 * _FIRST_EDGE else max(1, context // 4)]
    while 2 * edges[-1] < context:
        edges.append(2 * edges[-1])
    return [*edges, context] if edges[-1] < context else edges


def bits_by_position(
    engine: Engine, texts: Sequence[str], *, context: int, edges: Sequence[int] | None = None, draws: int, seed: int,
    sources: Sequence[str] | None = None, progress: Progress = QUIET, title: str = "reading long documents",
) -> dict[str, Any]:  # fmt: skip
    """Bits per byte in each range of positions, at most the first MOST_DOCUMENTS documents that are long enough.

    `context` may lie beyond the model's own: it is then read with its positions as they are. `edges` [ranges + 1] rise from
    0 to `context`. `sources`: documents of one source are drawn together. Too few documents: "reason" in place of "ranges".
    Raises `PunaError` where a number is not finite, ValueError for impossible edges.
    """
    return compare_positions(
        [("model", engine)], texts, context=context, edges=edges, draws=draws, seed=seed, sources=sources,
        progress=progress, title=title,
    )["models"]["model"]  # fmt: skip


def compare_positions(
    models: Iterable[tuple[str, Engine]], texts: Sequence[str], *, context: int, edges: Sequence[int] | None = None,
    draws: int, seed: int, sources: Sequence[str] | None = None, progress: Progress = QUIET, title: str = "reading long documents",
) -> dict[str, Any]:  # fmt: skip
    """`bits_by_position` of each model, and each later one minus the first, range by range, on the same bytes.

    Models may be given lazily (an iterator that loads one after the other): each is read once, in order. Where tokenizers
    put different bytes into the ranges, there is no difference to tell, and "differences" stays empty.
    """
    limits = list(edges or position_edges(context))
    if limits[0] != 0 or limits[-1] != context or any(b <= a for a, b in zip(limits, limits[1:], strict=False)):
        raise ValueError(f"edges must rise from 0 to {context}; got {limits}")
    told: dict[str, Any] = {}
    first: tuple[str, Floats, Floats] | None = None
    differences = []
    for name, engine in models:
        rows, owners = _windows(engine, texts, context)
        units = Units.of([sources[owner] for owner in owners] if sources else [str(owner) for owner in owners])
        kind = units.kind if sources else "documents"
        about = {
            "context": context,
            "trained_context": engine.context,
            "documents": len(rows),
            "n": units.count,
            "n_is": kind,
        }
        if units.count < LEAST_UNITS:
            told[name] = {**about, "reason": _too_few(units.count, kind, context)}
            continue
        nats, sizes = _read(engine, rows, progress, f"{title} ({name})")
        del engine  # so that an iterator can load the next one in its place
        bits = np.stack([units.sums(-part.sum(1) / math.log(2)) for part in np.split(nats, limits[1:-1], axis=1)], 1)
        weights = np.stack([units.sums(part.sum(1)) for part in np.split(sizes, limits[1:-1], axis=1)], 1)
        told[name] = {**about, **_ranges(bits, weights, limits, draws, seed)}
        if first is None:
            first = (name, bits, weights)
        elif first[1].shape == bits.shape and np.array_equal(first[2], weights):
            gaps = [
                paired(bits[:, at], first[1][:, at], weights[:, at], kind, draws, seed) for at in range(len(limits) - 1)
            ]
            differences.append({"before": first[0], "after": name, "ranges": gaps})
    return {"context": context, "edges": limits, "models": told, "differences": differences}


def _too_few(count: int, kind: str, context: int) -> str:
    return f"{count} {kind} of {context:,} tokens or more; {LEAST_UNITS} are needed"


def _windows(engine: Engine, texts: Sequence[str], context: int) -> tuple[list[list[int]], list[int]]:
    """[start, first `context` tokens] of each document that has them, and whose they are."""
    start = start_id(engine)
    rows: list[list[int]] = []
    owners: list[int] = []
    for owner, text in enumerate(texts):
        if len(rows) == MOST_DOCUMENTS:
            break
        ids = engine.tokenizer.encode(text[: _CHARACTERS * context])
        if len(ids) <= context and len(text) > _CHARACTERS * context:
            ids = engine.tokenizer.encode(text)
        if len(ids) >= context:
            rows.append([start, *ids[:context]])
            owners.append(owner)
    return rows, owners


def _read(engine: Engine, rows: list[list[int]], progress: Progress, title: str) -> tuple[Floats, Floats]:
    """log P of each token given those before it, in nats, and its UTF-8 bytes, both [documents, context].

    Straight through the decoder: the engine's own scoring refuses rows longer than the model's context, and that is what
    is to be seen here.
    """
    device, step = engine.model.head_weight().device, max(1, batch_tokens(engine) // len(rows[0]))
    size = {id_: len(engine.tokenizer.token_bytes(id_)) for row in rows for id_ in row[1:]}
    parts = []
    progress.start(title, len(rows) * (len(rows[0]) - 1), "tokens")
    with torch.inference_mode():
        for begin in range(0, len(rows), step):
            whole = torch.tensor(rows[begin : begin + step], device=device)
            hidden = engine.model(whole[:, :-1])
            likely = token_logprobs(engine.model, hidden.flatten(0, 1), whole[:, 1:].flatten())
            parts.append(likely.double().cpu().numpy().reshape(len(whole), -1))
            progress.update((begin + len(whole)) * (len(rows[0]) - 1))
    progress.finish()
    nats = np.concatenate(parts)
    if not np.isfinite(nats).all():
        raise PunaError("the model gives log-probabilities that are not finite", where="bits by position")
    return nats, np.array([[size[id_] for id_ in row[1:]] for row in rows], np.float64)


def _ranges(bits: Floats, weights: Floats, edges: Sequence[int], draws: int, seed: int) -> dict[str, Any]:
    """Bits per byte of each range from sums [units, ranges], and the last range minus the first."""
    ranges = []
    for at, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        interval = ratio_interval(bits[:, at], weights[:, at], draws, seed)
        ranges.append({"from": low, "to": high, "bytes": int(weights[:, at].sum()),
                       "bits_per_byte": round(float(bits[:, at].sum() / weights[:, at].sum()), PLACES),
                       "interval": None if interval is None else [round(value, PLACES) for value in interval]})  # fmt: skip
    if len(ranges) < 2:
        return {"ranges": ranges}
    drawn = resampled_weights(len(bits), draws, seed)
    change = (drawn @ bits[:, -1]) / (drawn @ weights[:, -1]) - (drawn @ bits[:, 0]) / (drawn @ weights[:, 0])
    low, high = np.quantile(change, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    means = bits.sum(0) / weights.sum(0)
    value = float(means[-1] - means[0])
    return {"ranges": ranges, "last_minus_first": {"value": round(value, PLACES), "interval": [round(float(low), PLACES), round(float(high), PLACES)],
            "falls": None if low <= 0 <= high else bool(high < 0)}}  # fmt: skip
