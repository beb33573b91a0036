"""The weights of one model beside those of others: identities, exact tests, the block map, what was done.

Comes in: opened models. Goes out: `verdict.Weights`, one a reference. Must never happen: "independent" said where no test could have
seen a descent, or "derived" on a second opinion.

Who decides: tensors that are the same numbers; else the exact tests (`stream`, `in_place`, phi_U) and phi_MATCH, Holm over those that ran,
against `DERIVED_BELOW`. Attention, initialisation and norms are second opinions: shown, never counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from puna.lineage.names import compare_names
from puna.lineage.opened import Opened
from puna.lineage.tokenizer import shared_tokens
from puna.lineage.verdict import DERIVED_BELOW, NOTHING_ABOVE, Block, Coefficient, Test, Verdict, Weights
from puna.lineage.weights import opinions, relation, sentences
from puna.lineage.weights.blocks import BlockMap, map_blocks
from puna.lineage.weights.difference import measure
from puna.lineage.weights.identity import Identity, find_identities
from puna.lineage.weights.merged import Mixture, mixture
from puna.lineage.weights.places import units_in_place
from puna.lineage.weights.reading import Checkpoint
from puna.lineage.weights.relation import Measured, Relation
from puna.lineage.weights.statistics import holm
from puna.lineage.weights.stream import Stream, find_stream
from puna.lineage.weights.undo import Origin, pairs
from puna.lineage.weights.units import Effort, phi_u
from puna.lineage.weights.view import View
from puna.progress import QUIET, Progress

DECIDING = ("stream", "in_place", "phi_U", "phi_MATCH")


@dataclass
class _Pair:
    """What is known of MODEL and one reference while it is being found."""

    reference: Opened
    tokens: Int[Tensor, "n 2"]
    stream: Stream
    identities: dict[str, Identity]
    tests: list[Test]
    blocks: BlockMap | None
    decided_by: str = ""
    log10_p: float | None = None
