"""Deeper and shallower: layers repeated, silent layers put in, layers left out.

Comes in: `Weights`. Goes out: `Weights` whose layers are those of the first in another order. Must never happen: silent layers
that change one bit of the logits.

Repeated layers change what the model computes and must be trained on (Yi-9B: Yi report 2024, section 7.3; SOLAR 10.7B: Kim et
al. 2023, arXiv:2312.15166). Silent ones change nothing at first (LLaMA Pro's block expansion: Wu et al. 2024, arXiv:2401.02415).
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from puna.errors import PunaError
from puna.model.decoder import Decoder
from puna.model.surgery.stream import activations
from puna.model.weights import Weights

MOST_LAYERS = 1000  # as the config allows
_SILENCED = (
    "self_attn.o_proj.weight",
    "mlp.down_proj.weight",
)  # all that a layer adds to the stream comes out of these two
_PREFIX = "model.layers."


def repeat_layers(weights: Weights, order: Sequence[int]) -> Weights:
    """The model whose layer i is a copy of layer `order[i]`. Raises `PunaError` for a layer that there is not, or none at all."""
    return _relayered(weights, order, frozenset())


def yi_order(layers: int, begin: int, end: int) -> list[int]:
    """0..end-1, then from `begin` to the last: the layers begin..end-1 come twice, one run after the other.

    Yi-9B is `yi_order(32, 12, 28)`: the 16 layers 12..27 of Yi-6B twice, 48 in all.
    """
    if not 0 <= begin < end <= layers:
        raise PunaError(f"layers {begin} to {end} (exclusive) are no span of {layers} layers", where="layers to repeat")
    return [*range(end), *range(begin, layers)]


def solar_order(layers: int, drop: int) -> list[int]:
    """Two copies of the model, the first without its last `drop` layers, the second without its first.

    SOLAR 10.7B is `solar_order(32, 8)`: layers 0..23, then 8..31, 48 in all (Kim et al. 2023, section 2).
    """
    if not 0 <= drop < layers:
        raise PunaError(f"{drop} layers cannot be dropped of {layers}", where="layers to repeat")
    return [*range(layers - drop), *range(drop, layers)]


def insert_silent_layers(weights: Weights, after: Sequence[int]) -> Weights:
    """The same function, deeper: after each layer named, a copy of it whose output projections are zero.

    Such a layer adds 0 to the stream, so the logits stay as they are bit for bit; its first gradient reaches the two
    projections, and through them, a step later, all of it (Wu et al. 2024, section 3.2).
    """
    _require(after, weights.config.num_hidden_layers)
    order = silent_order(weights.config.num_hidden_layers, after)
    return _relayered(weights, order, frozenset(silent_places(weights.config.num_hidden_layers, after)))


def silent_order(layers: int, after: Sequence[int]) -> list[int]:
    """The source of each layer once silent copies stand behind the layers named."""
    return sorted([*range(layers), *after])


def silent_places(layers: int, after: Sequence[int]) -> list[int]:
    """Which layers of the new model are silent: in `silent_order`, all but the first of each source."""
    order = silent_order(layers, after)
    return [place for place, source in enumerate(order) if place and order[place - 1] == source]


def even_places(layers: int, count: int) -> list[int]:
    """After which layers `count` new ones stand, evenly: behind each of `count` groups (Wu et al. 2024, figure 3)."""
    return [max(0, (number + 1) * layers // count - 1) for number in range(count)]


def drop_layers(weights: Weights, keep: Sequence[int]) -> Weights:
    """The model of the layers `keep` alone. Raises `PunaError` where they do not rise."""
    if any(a >= b for a, b in zip(keep, keep[1:], strict=False)):
        raise PunaError("each layer to keep stands once, in rising order", where="layers to keep")
    return repeat_layers(weights, keep)


def layer_cosines(model: Weights | Decoder, ids: Int[Tensor, "b t"]) -> list[float]:
    """The mean cosine between what goes into each layer and what comes out, over all tokens of the batch.

    Near 1: the layer turns the stream little. Yi chose by it the layers to repeat (Yi report 2024, section 7.3); 1 minus it is
    ShortGPT's Block Influence (Men et al. 2024, arXiv:2403.03853, equation 1). Memory: one layer, and the batch's streams.
    """
    sums = [0.0] * (model.config.num_hidden_layers)
    for index, seen in activations(model, ids):
        sums[index] += float(torch.cosine_similarity(seen.before, seen.after, dim=-1).sum(dtype=torch.float64))
    return [value / ids.numel() for value in sums]


def choose_layers(cosines: Sequence[float], count: int, *, contiguous: bool = True) -> list[int]:
    """The `count` layers that change the stream least: one run of them as Yi took, or wherever they stand as ShortGPT does.

    Never the first or the last: what they do, no other layer does. Of equals, the first. Raises `PunaError` where fewer are left.
    """
    inner = range(1, len(cosines) - 1)
    if not 1 <= count <= len(inner):
        raise PunaError(
            f"{count} layers cannot be chosen of the {len(inner)} between the first and the last", where="layers"
        )
    if contiguous:
        starts = range(1, len(cosines) - count)
        start = max(starts, key=lambda begin: (sum(cosines[begin : begin + count]), -begin))
        return list(range(start, start + count))
    return sorted(sorted(inner, key=lambda index: (-cosines[index], index))[:count])


def _require(sources: Iterable[int], layers: int) -> None:
    wrong = sorted({index for index in sources if not 0 <= index < layers})
    if wrong:
        raise PunaError(
            f"there is no layer {', '.join(map(str, wrong[:8]))}: the model has layers 0 to {layers - 1}",
            where="layers",
        )


def _relayered(weights: Weights, order: Sequence[int], silent: frozenset[int]) -> Weights:
    """Layer i from layer `order[i]`; those in `silent` add nothing to the stream."""
    _require(order, weights.config.num_hidden_layers)
    if not 1 <= len(order) <= MOST_LAYERS:
        raise PunaError(f"a model has 1 to {MOST_LAYERS} layers, not {len(order)}", where="layers")

    def split(name: str) -> tuple[int | None, str]:
        if not name.startswith(_PREFIX):
            return None, name
        index, _, rest = name.removeprefix(_PREFIX).partition(".")
        return int(index), rest

    def source(name: str) -> str:
        index, rest = split(name)
        return name if index is None else f"{_PREFIX}{order[index]}.{rest}"

    def read(name: str) -> Tensor:
        tensor = weights.read(source(name))
        index, rest = split(name)
        return torch.zeros_like(tensor) if index in silent and rest in _SILENCED else tensor

    config = weights.config.model_copy(update={"num_hidden_layers": len(order)})
    types = {name: weights.types[source(name)] for name in config.shapes if source(name) in weights.types}
    return Weights(config, read, types, weights.where)
