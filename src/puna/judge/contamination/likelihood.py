"""Min-K% and Min-K%++: how expected a text's least expected tokens are, for a model whose training text is not known.

Comes in: a model in the engine, texts. Goes out: two numbers for each text, higher where the text looks more as if it had been read.
Must never happen: a text cut without a count, or a number that depends on the texts beside it.

With z over the vocabulary, and mean and deviation taken under the model itself, the score of a token (Zhang et al. 2024, arXiv 2404.02936,
eq. 3) is

    s(t) = (log p(x_t | x_<t) - mu_t) / sigma_t,   mu_t = E_z[log p(z | x_<t)],   sigma_t^2 = Var_z[log p(z | x_<t)]

and the text's is the mean of s over the k % of its tokens with the lowest s. Min-K% (Shi et al. 2024, arXiv 2310.16789) is the same with
log p itself in place of s.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.engine import Engine, prefixes
from puna.errors import PunaError
from puna.files import canonical_json
from puna.judge.bits_per_byte import batch_tokens, start_id
from puna.judge.contamination import exact, words
from puna.judge.contamination.membership import beside_controls, membership, twin
from puna.judge.measured import Item, TaskFacts
from puna.progress import QUIET, Progress

Floats = npt.NDArray[np.float64]
K = 0.2  # share of a text's tokens; the papers' choice, and what they found to matter little
_LEAST_SIGMA = 1e-6  # nats: where the model is certain of the next token the deviation is 0


@dataclass(frozen=True)
class Scores:
    """Numbers of each text (n,), and what was cut."""

    minkpp: Floats  # Min-K%++, no unit
    mink: Floats  # Min-K%, nats a token
    tokens: npt.NDArray[np.int64]  # that were read
    cut: int  # texts that the model's context could not hold; of these only the beginning was read
    k: float


def scores(engine: Engine, texts: Sequence[str], k: float = K, progress: Progress = QUIET) -> Scores:
    """Min-K%++ and Min-K% of each text.

    A text longer than the context is read up to it. Raises ValueError for a `k` outside 0 < k <= 1, PunaError for an empty text and where
    the model gives a number that is not finite.
    """
    if not 0 < k <= 1:
        raise ValueError(f"k must be above 0 and at most 1; got {k}")
    start, context = start_id(engine), engine.context
    encoded = [list(ids) for ids in engine.tokenizer.encode_batch(list(texts))]
    if any(not ids for ids in encoded):
        raise PunaError("a text without a token has no likelihood", where="Min-K%++")
    rows = [([start], ids[:context]) for ids in encoded]
    out, done = np.full((2, len(rows)), np.nan), 0
    progress.start("reading texts token by token", sum(len(ids) for _, ids in rows), "tokens")
    for number, score in prefixes.scores(engine.model, rows, context, batch_tokens(engine), tokens=True):
        if score.tokens is None:
            raise RuntimeError("the figures of single tokens were asked for and are not there")
        likely, mean, deviation = map(np.array, (score.tokens.logprobs, score.tokens.means, score.tokens.deviations))
        out[:, number] = lowest((likely - mean) / np.maximum(deviation, _LEAST_SIGMA), k), lowest(likely, k)
        done += len(likely)
        progress.update(done)
    progress.finish()
    if not np.isfinite(out).all():
        raise PunaError("the model gives log-probabilities that are not finite", where="Min-K%++")
    sizes = np.array([len(ids) for _, ids in rows], np.int64)
    return Scores(out[0], out[1], sizes, sum(len(ids) > context for ids in encoded), k)


def examine(
    engine: Engine, items: Sequence[Item], task: TaskFacts, others: Sequence[str] | None = None, *,
    controls: Mapping[str, Engine] | None = None, k: float = K, seed: int = 0, progress: Progress = QUIET,
) -> dict[str, Any]:  # fmt: skip
    """Min-K%++ of a task's items, as the task writes them with their right answer, against other texts: for `Measurement.contamination`.

    others: texts of the same sort that the model cannot have seen (newer than it, or never published); None: the items with their words
    shuffled (`membership.twin`), which tells something beside `controls` only, so that then no p-value stands alone.
    controls: models that read the same texts.
    """
    texts = [exact.as_asked(item, task) for item in items]
    rest = [twin(text, seed) for text in texts] if others is None else list(others)
    clusters = [f"{item.subtask}\0{item.cluster}" if item.cluster else "" for item in items]
    found = scores(engine, [*texts, *rest], k, progress)
    own, theirs = found.minkpp[: len(texts)], found.minkpp[len(texts) :]
    read = {name: scores(other, [*texts, *rest], k, progress).minkpp for name, other in (controls or {}).items()}
    beside = beside_controls(own, theirs, {name: (one[: len(texts)], one[len(texts) :]) for name, one in read.items()},
                             clusters=clusters, seed=seed)  # fmt: skip
    whole = asdict(membership(own, theirs, clusters=clusters, seed=seed))
    if others is None:
        whole |= {"p": None, "says": f"{words.SHUFFLED} {words.LIKELIHOOD}"}
    report = {"method": "Min-K%++", "k": k, "against": "items with their words shuffled" if others is None else "other texts",
              "cut": found.cut, **whole, "beside": [asdict(row) for row in beside]}  # fmt: skip
    plain: dict[str, Any] = json.loads(canonical_json(report))  # as a result holds it: lists, no tuples
    return plain


def lowest(values: Floats, k: float) -> float:
    """The mean of the lowest share `k` of some values, of one at least."""
    count = max(1, int(len(values) * k))
    return float(np.partition(values, count - 1)[:count].mean())
