"""Norm gains, and why their cosine says nothing.

Comes in: two checkpoints. Goes out: a second opinion. Must never happen: a likeness of 0.99 that any two models have.

Gains begin at 1 and stay near it, so the plain cosine of two strangers' gains is about 0.99: on this an accusation was built and withdrawn
(Solar-Open and GLM-4.5-Air, January 2026). What a model learns is how each gain departs from the mean of its layer. Only that is
compared, dimension of the stream by dimension, against all other orders of the dimensions (`places.py`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from puna.lineage.verdict import Test
from puna.lineage.weights.places import NULL, in_place
from puna.lineage.weights.reading import Checkpoint

TITLE = "norm gains, centred"
_FLAT = 1e-6  # spread below which gains were never learnt, or were folded away


def norm_gains(model: Checkpoint, reference: Checkpoint) -> Test:
    """The test over all norms that both have, in one stream. `details["norms"]` holds for each (name, raw cosine, centred correlation), so that
    a reader sees why the first is worthless; only the second counts. A permuted or rotated stream is not undone: then it finds nothing."""
    if model.sizes.hidden != reference.sizes.hidden:
        return Test(
            name="norms", title=TITLE, why_not=f"the streams are {model.sizes.hidden} and {reference.sizes.hidden} wide"
        )
    roles = [role for role in model.roles if role.kind in ("attn_norm", "mlp_norm", "norm") and role in reference.roles]
    pairs = {role: (model.read(*role), reference.read(*role)) for role in roles}
    pairs = {role: pair for role, pair in pairs.items() if all(_usable(gain, model.sizes.hidden) for gain in pair)}
    if not pairs:
        return Test(name="norms", title=TITLE, why_not="they have no norms in common that can be read")
    ours, theirs = (torch.stack(gains, dim=1) for gains in zip(*pairs.values(), strict=True))
    raw = float(torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0))
    if float((ours - ours.mean(0)).abs().max()) < _FLAT or float((theirs - theirs.mean(0)).abs().max()) < _FLAT:
        return Test(name="norms", title=TITLE, why_not="all gains of one are the same (never learnt, or folded into the matrices)",
                    details={"raw_cosine": raw})  # fmt: skip
    a, b = _centred(ours), _centred(theirs)
    found = in_place(a, b)
    plain = torch.cosine_similarity(ours, theirs, dim=0).tolist()
    each = [
        [model.roles[role].name, before, after]
        for role, before, after in zip(pairs, plain, (a * b).sum(dim=0).tolist(), strict=True)
    ]
    centred = float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))
    return Test(
        name="norms", title=TITLE, null=NULL.format(what="stream dimensions"), exact=True, log10_p=found.log10_p, p_value=10**found.log10_p,
        statistic=centred, statistic_name="correlation of centred gains", details={"raw_cosine": raw, "norms": each},
    )  # fmt: skip


def _usable(gain: Tensor, width: int) -> bool:
    return gain.shape == (width,) and bool(torch.isfinite(gain).all())


def _centred(gains: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
    """Each norm about its own mean, at its own spread."""
    centred = gains - gains.mean(dim=0, keepdim=True)
    spread = centred.norm(dim=0, keepdim=True)
    return centred / torch.where(spread > 0, spread, torch.ones_like(spread))
