"""phi_U: are hidden units matched to the units of the same place?

Comes in: two views and the pairs of blocks to look at. Goes out: the exact test of Zhu et al., "Independence Tests for Language Models"
(ICML 2025, arXiv 2502.12292, section 2.2), as a `verdict.Test`. Must never happen: a matching that was helped by the units' order.

Each block's up-projection rows are matched by assignment on their cosines; under the null the matching is any injection with equal
chance, so its Spearman correlation with the identity has a known distribution, and blocks combine by Fisher. Where the widths differ
(pruned in width) the matching is an injection of the smaller set, and keeps its order if the cut did. A drawn part of the units is
matched to the nearest of all; an index may then stand twice, and the null is exact all the same (`statistics.spearman`): which rows were
drawn and what is taken of two equals is decided by lot, never by what the rows hold.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from puna.lineage.verdict import Test
from puna.lineage.weights.matching import Effort, match_rows, nearest_rows
from puna.lineage.weights.places import NULL
from puna.lineage.weights.statistics import fisher, spearman
from puna.lineage.weights.view import View
from puna.progress import QUIET, Progress

TITLE = "phi_U: units matched to their own place"
_SEED = 2502


def phi_u(
    ours: View,
    theirs: View,
    blocks: Sequence[tuple[int, int]],
    effort: Effort | None = None,
    progress: Progress = QUIET,
) -> Test:
    """The test over pairs (block of MODEL, block of REFERENCE), which must not have been chosen by this test. Each block of MODEL at most
    once: blocks are then independent under the null.

    Where a block has experts, the first stands for it: an expert that was copied from an MLP keeps the order of its units. A test that
    cannot run, as the streams differ in width, says so.
    """
    if not blocks:
        return Test(name="phi_U", title=TITLE, why_not="no block of one is beside a block of the other")
    sizes = theirs.checkpoint.sizes
    width = _width(ours)
    if width != sizes.hidden:
        return Test(name="phi_U", title=TITLE, why_not=f"the streams are {width:,} and {sizes.hidden:,} wide")
    effort = effort or Effort.for_sizes(sizes.hidden, max(sizes.ffn, ours.checkpoint.sizes.ffn))
    found = []
    progress.start("phi_U", len(blocks), "blocks")
    for done, (i, j) in enumerate(blocks, start=1):
        found.append(
            _order_p(ours.up(i, 0 if ours.experts else None), theirs.up(j, 0 if theirs.experts else None), effort)
        )
        progress.update(done)
    progress.finish()
    log10_p = fisher([p for _, p in found])
    return Test(
        name="phi_U", title=TITLE, null=NULL.format(what="hidden units"), exact=True, log10_p=log10_p, p_value=10**log10_p,
        statistic=float(np.mean([rho for rho, _ in found])), statistic_name=f"mean Spearman correlation over {len(found)} blocks",
        sampled=_said(effort, ours.checkpoint.sizes.ffn, sizes.hidden),
        details={"blocks": [[i, j, p] for (i, j), (_, p) in zip(blocks, found, strict=True)]},
    )  # fmt: skip


def _order_p(ours: Float[Tensor, "n d"], theirs: Float[Tensor, "m d"], effort: Effort) -> tuple[float, float]:
    """(rho, log10 p) of one pair of blocks."""
    draw = torch.Generator().manual_seed(_SEED)
    if effort.columns is not None and ours.shape[1] > effort.columns:
        columns = torch.randperm(ours.shape[1], generator=draw)[: effort.columns]
        ours, theirs = ours[:, columns], theirs[:, columns]
    if effort.units is not None and len(ours) > effort.units:
        rows = torch.randperm(len(ours), generator=draw)[: effort.units].sort().values
        order = nearest_rows(ours[rows], theirs)
    else:
        order = match_rows(ours, theirs)
    return spearman(order[order >= 0])  # of the units that have a partner


def _width(view: View) -> int:
    """Of the stream that the view's rows read, in its basis."""
    return view.basis.apply(torch.zeros(1, view.checkpoint.sizes.hidden)).shape[1]


def _said(effort: Effort, ffn: int, hidden: int) -> str:
    parts = []
    if effort.units is not None and effort.units < ffn:
        parts.append(f"{effort.units:,} of {ffn:,} units of each block")
    if effort.columns is not None and effort.columns < hidden:
        parts.append(f"{effort.columns:,} of {hidden:,} columns")
    return ", ".join(parts)
