"""Second opinions of two models at work: what they lean to, and what their hidden units answer to, on random ids.

Comes in: two opened models. Goes out: tests that are shown and never counted. Must never happen: a model too large for this machine loaded for
a second opinion.
"""

from collections.abc import Sequence
from math import prod

from puna.errors import PunaError
from puna.lineage.opened import Opened
from puna.lineage.verdict import Test
from puna.lineage.weights import activations, initialisation
from puna.lineage.weights.matching import Effort
from puna.model.decoder import Decoder
from puna.model.formats import load_model
from puna.progress import QUIET, Progress

MOST_PARAMETERS = 200_000_000  # of each model; both are in memory at once, in fp32


def at_work(model: Opened, references: Sequence[Opened], progress: Progress = QUIET) -> list[tuple[Test, Test]]:
    """(leanings, phi_MATCH by activations) beside each reference; tests that could not run say why."""
    ours, why = _loaded(model)
    return [_beside(ours, why, reference, progress) for reference in references]


def _beside(ours: Decoder | None, why: str, reference: Opened, progress: Progress) -> tuple[Test, Test]:
    theirs, why_theirs = _loaded(reference) if ours is not None else (None, "")
    if ours is None or theirs is None:
        told = why or why_theirs
        return (Test(name=initialisation.NAME, title=initialisation.TITLE, why_not=told),
                Test(name=activations.NAME, title=activations.TITLE, why_not=told))  # fmt: skip
    progress.note("  both at work on random ids")
    ids = activations.random_ids(min(ours.config.vocab_size, theirs.config.vocab_size))
    effort = Effort.for_sizes(
        ours.config.hidden_size, max(ours.config.intermediate_size, theirs.config.intermediate_size)
    )
    by_units = activations.phi_match_activations(
        activations.collect(ours, ids), activations.collect(theirs, ids), effort, progress
    )
    return initialisation.initialisation(ours, theirs), by_units.test


def _loaded(opened: Opened) -> tuple[Decoder | None, str]:
    """(the decoder, why there is none)."""
    count = sum(prod(stored.shape) for stored in opened.checkpoint.stored.values())
    if opened.path is None or opened.checkpoint.missing:
        return None, f"{opened.name} is not whole on this disk"
    if count > MOST_PARAMETERS:
        return None, f"{opened.name} has {count:,} parameters; up to {MOST_PARAMETERS:,} are run for a second opinion"
    try:
        return load_model(opened.path), ""
    except PunaError as error:
        return None, f"{opened.name} cannot be run: {error.what[:100]}"
