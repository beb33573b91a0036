"""One model beside others: all six layers, each by its own means.

Comes in: opened models. Goes out: a `Lineage` for each reference. Must never happen: what one layer found changing another's verdict; only the
licence layer asks the weights, as what a licence asks follows what was taken.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import puna
from puna.lineage.architecture import compare_architectures
from puna.lineage.behaviour import LocalModel, NextToken, compare_behaviour, default_contexts
from puna.lineage.calibration import with_rates
from puna.lineage.licence import compare_licences
from puna.lineage.names import compare_names
from puna.lineage.opened import Opened
from puna.lineage.provenance import compare_data
from puna.lineage.tokenizer import compare_tokenizers
from puna.lineage.verdict import Behaviour, DataLayer, Direction, Layers, Lineage, Subject, Weights
from puna.lineage.weights.compare import compare_weights
from puna.lineage.weights.direction import direction
from puna.lineage.weights.matching import Effort
from puna.lineage.weights.run import at_work
from puna.lineage.weights.sentences import with_behaviour
from puna.progress import QUIET, Progress
from puna.reading import read_text

SAMPLED = Effort(units=256, columns=512)


def compare(
    model: Opened, references: Sequence[Opened], *, controls: Sequence[NextToken] = (), text: Path | None = None, sampled: bool = False,
    progress: Progress = QUIET,
) -> list[Lineage]:  # fmt: skip
    """The six layers of MODEL beside each of `references`.

    `controls`: models that are known to be strangers; with them the behaviour is compared too, on lines of `text` (None: a text of the
    running Python's and some lines of Chinese). `sampled`: look at a drawn part of large blocks even where all could be looked at.
    Raises `PunaError` where a model cannot be read at all.
    """
    began = time.monotonic()
    weights = compare_weights(model, references, effort=SAMPLED if sampled else None, progress=progress)
    weights = [one.model_copy(update={"tests": (*one.tests, *more)})
               for one, more in zip(weights, at_work(model, references, progress), strict=True)]  # fmt: skip
    if controls:
        weights = _spoken(model, references, weights, controls, text, progress)
    seconds = (time.monotonic() - began) / len(references)
    return [
        _one(model, reference, found, seconds, progress) for reference, found in zip(references, weights, strict=True)
    ]


def _one(model: Opened, reference: Opened, weights: Weights, seconds: float, progress: Progress) -> Lineage:
    began = time.monotonic()
    inherited = {"same": True, "derived": True, "independent": False}.get(weights.verdict)
    data = compare_data(model, reference)
    if weights.verdict in ("same", "derived"):
        weights = weights.model_copy(update={"direction": _direction(model, reference, weights, data, progress)})
    layers = Layers(
        names=compare_names(model.checkpoint, reference.checkpoint), architecture=compare_architectures(model, reference),
        tokenizer=compare_tokenizers(model, reference, progress), weights=with_rates(weights), data=data,
        licence=compare_licences(model, reference, inherited),
    )  # fmt: skip
    return Lineage(
        model=model.name, reference=reference.name, layers=layers, model_facts=_subject(model), reference_facts=_subject(reference),
        seconds=round(seconds + time.monotonic() - began, 2), puna=puna.__version__,
    )  # fmt: skip


def _direction(model: Opened, reference: Opened, weights: Weights, data: DataLayer, progress: Progress) -> Direction:
    """From the ledger that names the other's weights, else from what the tensors show."""
    if data.verdict == "derived":
        return Direction(known=True, sentence=data.sentence, evidence=(data.sentence,))
    return direction(
        model.checkpoint, reference.checkpoint, names=(model.name, reference.name), found=weights, progress=progress
    )


def _subject(opened: Opened) -> Subject:
    from math import prod

    return Subject(
        name=opened.name,
        digest=opened.digest,
        parameters=sum(prod(one.shape) for one in opened.checkpoint.stored.values()),
    )


def _spoken(
    model: Opened,
    references: Sequence[Opened],
    weights: list[Weights],
    controls: Sequence[NextToken],
    text: Path | None,
    progress: Progress,
) -> list[Weights]:
    contexts = default_contexts() if text is None else [line for line in read_text(text).splitlines() if line.strip()]
    speaker = _speaker(model)
    found: list[Behaviour] = [
        compare_behaviour(speaker, _speaker(reference), controls, contexts, progress) for reference in references
    ]
    return [with_behaviour(one, behaviour) for one, behaviour in zip(weights, found, strict=True)]


def _speaker(opened: Opened) -> NextToken:
    return LocalModel(opened.path, opened.name) if opened.path is not None else opened  # type: ignore[return-value]
