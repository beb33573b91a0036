"""Bits per byte of held-out text: the model, and beside it uniform chance, xz, a 5-gram and, where given, a reference.

Comes in: the model in the engine, held-out and training documents. Goes out: the model's score, the baselines' scores,
each with its paired difference from the model. Must never happen: two predictors compared on different text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.engine import Engine
from puna.errors import PunaError
from puna.judge.baselines import MOST_BLOCKS, UNIFORM_BITS_PER_BYTE, XzRun, start_xz
from puna.judge.bits_per_byte import document_bits
from puna.judge.compare import paired
from puna.judge.documents import Documents
from puna.judge.ngram import ngram_bits
from puna.judge.results import BITS_PER_BYTE, Score, make_score
from puna.judge.stats import LEAST_UNITS, Units, ratio_interval
from puna.progress import QUIET, Progress

Floats = npt.NDArray[np.float64]
_XZ = {
    "xz": "on the held-out text alone",
    "xz_primed": "on the held-out text after the training text, less the training text's own file",
}


@dataclass(frozen=True)
class Text:
    """The held-out text and how it is drawn again: what every figure here shares."""

    documents: Documents
    units: Units
    draws: int
    seed: int

    @classmethod
    def of(cls, documents: Documents, draws: int, seed: int) -> "Text":
        """The documents, drawn again by their sources."""
        return cls(documents, Units.of(documents.sources), draws, seed)

    def score(
        self, bits: Floats, units: Units, detail: Mapping[str, Any], *, against: Floats | None = None, **who: str
    ) -> Score:
        """Bits per byte from bits per unit [units]; `against`: the model's bits of the same units. `who`: name or model."""
        sizes = units.sums(self.documents.sizes)
        told = {"n_is": units.kind, "bytes": int(sizes.sum()), "drawn": units.kind, **detail}
        if units.count < LEAST_UNITS:
            told["no_interval"] = f"{units.count} {units.kind} are too few to be drawn again; {LEAST_UNITS} are needed"
        if against is not None:
            told["paired"] = paired(against, bits, sizes, units.kind, self.draws, self.seed)
        interval = ratio_interval(bits, sizes, self.draws, self.seed)
        return make_score("heldout", BITS_PER_BYTE, bits.sum() / sizes.sum(), units.count, interval, chance=UNIFORM_BITS_PER_BYTE,
                          higher_is_better=False, detail=told, model=who.get("model"), name=who.get("name"))  # fmt: skip

    def by_kind(self, bits: Floats) -> dict[str, float]:
        """Bits per byte of each kind of document, from bits per document."""
        kinds, sizes = np.array(self.documents.kinds), self.documents.sizes
        return {
            kind: round(float(bits[kinds == kind].sum() / sizes[kinds == kind].sum()), 6)
            for kind in sorted(set(kinds.tolist()))
        }


def judge_text(
    engine: Engine,
    reference: Engine | None,
    text: Text,
    train: Documents,
    *,
    compressors: bool,
    progress: Progress = QUIET,
) -> tuple[Score, list[Score]]:
    """The model's score and the baselines', measured on the same documents.

    The compressors work in processes of their own while this one counts and reads.
    """
    blocks = text.units.blocks(MOST_BLOCKS)
    with start_xz(text.documents.texts, blocks, [[], train.texts] if compressors else []) as runs:
        counted, how_counted = _count(engine, text, train, progress)
        bits, how_read = document_bits(engine, text.documents.texts, progress)
        other = (
            document_bits(reference, text.documents.texts, progress, "reading held-out text (reference)")
            if reference
            else None
        )
        compressed = _wait(runs, progress)
    model = text.score(text.units.sums(bits), text.units, {**how_read, "by_kind": text.by_kind(bits)}, model="base")
    uniform = UNIFORM_BITS_PER_BYTE * text.units.sums(text.documents.sizes)
    mine, in_blocks = text.units.sums(bits), blocks.sums(bits)
    baselines = [text.score(uniform, text.units, {"what": "log2(256): every byte alike"}, against=mine, name="uniform")]
    for (name, what), cost in zip(_XZ.items(), compressed, strict=False):
        detail: dict[str, Any] = {"what": f"xz -9e {what}; a unit costs what the file grows by, those before it known"}
        if name == "xz_primed":
            detail |= {"train_bytes": train.note["bytes"], "train_bytes_used": train.note["bytes_used"]}
        baselines.append(text.score(cost, blocks, detail, against=in_blocks, name=name))
    detail = {
        **how_counted,
        "by_kind": text.by_kind(counted),
        "train_bytes": train.note["bytes"],
        "train_bytes_used": train.note["bytes_used"],
    }
    baselines.append(text.score(text.units.sums(counted), text.units, detail, against=mine, name="ngram5"))
    if other is not None:
        detail = {**other[1], "by_kind": text.by_kind(other[0])}
        baselines.append(text.score(text.units.sums(other[0]), text.units, detail, against=mine, name="reference"))
    return model, baselines


def _count(engine: Engine, text: Text, train: Documents, progress: Progress) -> tuple[Floats, dict[str, Any]]:
    tokens = engine.tokenizer
    end = tokens.eos_id if tokens.eos_id is not None else engine.config.bos_token_id
    if end is None:
        raise PunaError("the tokenizer has no token that ends a document", where="tokenizer_config.json")
    progress.start("counting 5-grams", 3, "passes")
    learned = [np.array(ids, np.int32) for ids in tokens.encode_batch(train.texts)]
    progress.update(1)
    asked = [np.array(ids, np.int32) for ids in tokens.encode_batch(text.documents.texts)]
    progress.update(2)
    result = ngram_bits(learned, asked, vocab=tokens.vocab_size, end_id=end)
    progress.finish()
    return result


def _wait(runs: list[XzRun], progress: Progress) -> list[Floats]:
    if not runs:
        return []
    progress.start("compressing with xz -9e", len(runs), "runs")
    result = []
    for number, run in enumerate(runs, 1):
        result.append(run.bits())
        progress.update(number)
    progress.finish()
    return result
