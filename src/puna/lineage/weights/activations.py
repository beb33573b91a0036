"""phi_MATCH by what hidden units do: the same text through both models, each in its own stream.

Comes in: two decoders and the ids of one text (or random ids) for each. Goes out: the block map and the test. Must never happen: a test
that a turned stream blinds, or one that reads more than it keeps.

A copy whose residual stream was rotated, rescaled or reordered computes the same gates and ups, unit for unit; so its units are found by
their activations, each standardised over the positions, whatever basis its weights are in (Zhu et al., ICML 2025, section 2.3). It needs a
model that can be run and a text in both vocabularies; no embedding need be shared and no width equal.

The null, that gates and ups resemble strangers' in unrelated ways, fails more easily here than for weights: both models saw one text, and
units of both that answer to one token answer by gate and up alike. `docs/lineage.md` has what was measured on strangers of one data set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.lineage.weights.blocks import BlockMap, agreement, chosen
from puna.lineage.weights.matching import FULL, Effort
from puna.model.decoder import Decoder
from puna.progress import QUIET, Progress

NAME, TITLE = "phi_MATCH_activations", "phi_MATCH by activations: gates and ups act alike"
NULL = "how a block's gates act alike with the other's has nothing to do with how its ups do"
MOST_POSITIONS = 1024  # kept of each unit; drawn from all that the ids have
_SEED = 1292


@dataclass(frozen=True)
class Activations:
    """What each unit's gate and up gave before the nonlinearity, a row a unit, standardised: [layer][ffn, positions]."""

    gate: Sequence[Float[Tensor, "ffn p"]]
    up: Sequence[Float[Tensor, "ffn p"]]

    @property
    def layers(self) -> int:
        """Blocks."""
        return len(self.gate)


def random_ids(vocab: int, rows: int = 16, length: int = 64, seed: int = _SEED) -> Int[Tensor, "b t"]:
    """Ids of no text: what a model does with them owes nothing to what texts are like."""
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def collect(decoder: Decoder, ids: Int[Tensor, "b t"], positions: int = MOST_POSITIONS) -> Activations:
    """The activations of every block at `positions` drawn places of `ids` (all, where there are fewer): the same places for every model
    that is given as many ids. Keeps 8 · layers · ffn · positions bytes."""
    total = ids.numel()
    places = torch.randperm(total, generator=torch.Generator().manual_seed(_SEED))[:positions]
    kept: dict[tuple[int, str], Tensor] = {}

    def keep(key: tuple[int, str]) -> Callable[[object, object, Tensor], None]:
        def hook(module: object, inputs: object, out: Tensor) -> None:
            kept[key] = _standardised(out.flatten(0, 1)[places].float().T)

        return hook

    layers = range(len(decoder.model.layers))
    kinds = [(number, kind) for number in layers for kind in ("gate", "up")]
    handles = []
    try:
        for number, kind in kinds:
            part = decoder.get_submodule(f"model.layers.{number}.mlp.{kind}_proj")
            handles.append(part.register_forward_hook(keep((number, kind))))
        decoder(ids)
    finally:
        for handle in handles:
            handle.remove()
    return Activations([kept[number, "gate"] for number in layers], [kept[number, "up"] for number in layers])


def phi_match_activations(
    ours: Activations, theirs: Activations, effort: Effort = FULL, progress: Progress = QUIET
) -> BlockMap:
    """All pairs of blocks, as `blocks.map_blocks` does with weights; `units` stays empty. `effort.units`: how many of MODEL's units.

    Raises `ValueError` where the two were collected at different numbers of positions.
    """
    if ours.gate[0].shape[1] != theirs.gate[0].shape[1]:
        raise ValueError(
            f"activations at {ours.gate[0].shape[1]} and at {theirs.gate[0].shape[1]} positions are of different texts"
        )
    table = np.zeros((ours.layers, theirs.layers))
    progress.start("activations", ours.layers, "blocks")
    for i in range(ours.layers):
        for j in range(theirs.layers):
            table[i, j] = agreement(ours.gate[i], ours.up[i], theirs.gate[j], theirs.up[j], effort)
        progress.update(i + 1)
    progress.finish()
    said = (
        ""
        if effort.units is None or effort.units >= len(ours.gate[0])
        else f"{effort.units:,} of {len(ours.gate[0]):,} units"
    )
    found = chosen(table, table, said)
    test = found.test.model_copy(update={"name": NAME, "title": TITLE, "null": NULL})
    return replace(found, test=test)


def _standardised(rows: Float[Tensor, "ffn p"]) -> Float[Tensor, "ffn p"]:
    """Mean 0 and length 1; a unit that always gives the same is a row of zeros, which nothing is matched to."""
    rows = rows - rows.mean(dim=1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    dead = norms <= 1e-6 * norms.max()
    return torch.where(dead, torch.zeros_like(rows), rows / torch.where(dead, torch.ones_like(norms), norms))
