"""What a model leans to before it has read anything: a second opinion after SeedPrints.

Comes in: two decoders of one width. Goes out: a test. Must never happen: a leaning that the text taught both of them, told as one that both
were born with.

A random start makes some dimensions of the last hidden state low and others high, whatever the input, and training keeps a part of that
(SeedPrints, arXiv 2509.26404, ICLR 2026). So both models read the same random ids, and the order of the dimensions by their mean output is
compared. Null: the stream's dimensions have no order, so that any order of one model's means is as likely given the other's; the rank
correlation's tail is exact (`statistics.spearman`).

Only the hidden state's dimensions will do. The outputs for tokens (logits) have names that both models share: all who read one text lean to
its frequent tokens. Between ten strangers of one text Kendall's tau is 0.83 for the logits and 0.01 for the hidden state's dimensions;
`details` shows the former as a warning. Two trainings from one random start are found too, though neither stems from the other.
"""

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from puna.lineage.verdict import Test
from puna.lineage.weights.activations import random_ids
from puna.lineage.weights.places import NULL
from puna.lineage.weights.statistics import spearman
from puna.model.decoder import Decoder

NAME, TITLE = "initialisation", "leanings from the random start"
ROWS, LENGTH = 32, 64
_LOWEST = 8  # of the dimensions one in so many: SeedPrints' lowest ones
_AT_ONCE = 8  # rows


def initialisation(ours: Decoder, theirs: Decoder) -> Test:
    """The test over the dimensions of the last hidden state, on 2,048 random ids that both vocabularies hold.

    The stream has to stand in the same order in both: a copy whose stream was permuted or turned is not found. Raises nothing: where the
    widths differ, or a model gives no numbers, `why_not` says so.
    """
    widths = ours.config.hidden_size, theirs.config.hidden_size
    if widths[0] != widths[1]:
        return Test(name=NAME, title=TITLE, why_not=f"the streams are {widths[0]:,} and {widths[1]:,} wide")
    sizes = ours.config.vocab_size, theirs.config.vocab_size
    length = min(LENGTH, ours.config.max_position_embeddings, theirs.config.max_position_embeddings)
    ids = random_ids(min(sizes), ROWS, length)
    a, b = leanings(ours, ids), leanings(theirs, ids)
    if not bool(torch.isfinite(a).all() & torch.isfinite(b).all()):
        return Test(name=NAME, title=TITLE, why_not="a model's hidden states are not finite")
    if float(a.max() - a.min()) == 0.0 or float(b.max() - b.min()) == 0.0:
        return Test(name=NAME, title=TITLE, why_not="a model's hidden states are all the same")
    rho, log10_p = spearman(a[b.argsort()].numpy())
    lowest = max(1, widths[0] // _LOWEST)
    both = len(set(a.argsort()[:lowest].tolist()) & set(b.argsort()[:lowest].tolist()))
    details = {
        "kendall_tau": float(stats.kendalltau(a.numpy(), b.numpy()).statistic),
        "lowest": lowest, "lowest_in_both": both, "lowest_in_both_by_chance": lowest**2 / widths[0], "positions": ids.numel(),
    }  # fmt: skip
    if sizes[0] == sizes[1]:
        logits = [model.logits(mean.to(model.head_weight().dtype)) for model, mean in ((ours, a), (theirs, b))]
        details["logits_tau_worthless"] = float(stats.kendalltau(*(one.detach().numpy() for one in logits)).statistic)
    return Test(
        name=NAME, title=TITLE, null=NULL.format(what="dimensions of the last hidden state"), exact=True, log10_p=log10_p, p_value=10**log10_p,
        statistic=rho, statistic_name="rank correlation of mean outputs on random ids", details=details,
    )  # fmt: skip


@torch.no_grad()
def leanings(decoder: Decoder, ids: Int[Tensor, "b t"]) -> Float[Tensor, " d"]:
    """The mean of the last hidden state over all positions, fp64 on the CPU."""
    device = decoder.head_weight().device
    total = sum(decoder(part.to(device)).double().sum(dim=(0, 1)).cpu() for part in ids.split(_AT_ONCE))
    return torch.as_tensor(total) / ids.numel()
