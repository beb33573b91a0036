"""To a size asked for: which layers are doubled, silenced or left out, which widths are cut, and why.

Comes in: `Weights`, the size wanted, a calibration batch where something is to be chosen. Goes out: `Weights` and a report that
names every choice. Must never happen: a choice that the report does not show.
"""

from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from puna.errors import PunaError
from puna.model.surgery.depth import (
    choose_layers,
    drop_layers,
    even_places,
    insert_silent_layers,
    layer_cosines,
    repeat_layers,
    silent_order,
    silent_places,
    solar_order,
    yi_order,
)  # fmt: skip
from puna.model.surgery.width import measure_importance, narrow
from puna.model.weights import Weights

_PLACES = 4


def grow(
    weights: Weights, *, layers: int, how: Literal["duplicate", "solar", "silent"] = "duplicate",
    span: tuple[int, int] | None = None, ids: Int[Tensor, "b t"] | None = None,
) -> tuple[Weights, dict[str, Any]]:  # fmt: skip
    """The model with `layers` layers, and how it came to have them.

    duplicate: the layers begin..end-1 of `span` twice, as Yi-9B; without a span, the run of layers whose cosine on `ids` is
    highest. solar: two copies that overlap, as SOLAR 10.7B. silent: layers that change nothing at first, evenly spread.

    The report: how, layers_before, layers_after, order (the source of each layer), silent (the new layers that are), span,
    chosen_by ("span", "cosine" or "rule"), cosines (of each old layer on `ids`, where given; for solar and silent only shown).
    Raises `PunaError` where the numbers do not fit, or neither a span nor ids say which layers.
    """
    before = weights.config.num_hidden_layers
    count = layers - before
    if count < 1:
        raise PunaError(f"the model has {before} layers already, {layers} are no more", where="layers")
    if span is not None and how != "duplicate":
        raise PunaError(f"{how} chooses its layers by rule; a span is for duplicate", where="span")
    cosines = None if ids is None else layer_cosines(weights, ids)
    report: dict[str, Any] = {"how": how, "layers_before": before, "layers_after": layers, "silent": [], "chosen_by": "rule",
                              "cosines": cosines and [round(value, _PLACES) for value in cosines]}  # fmt: skip
    if how == "silent":
        after = even_places(before, count)
        report |= {"order": silent_order(before, after), "silent": silent_places(before, after)}
        return insert_silent_layers(weights, after), report
    if how == "solar":
        if layers % 2:
            raise PunaError(
                f"two equal copies that overlap make an even number of layers, not {layers}", where="layers"
            )
        order = solar_order(before, before - layers // 2)
    else:
        begin, end = _span(before, count, span, cosines)
        report |= {"span": [begin, end], "chosen_by": "cosine" if span is None else "span"}
        order = yi_order(before, begin, end)
    return repeat_layers(weights, order), report | {"order": order}


def prune(
    weights: Weights, ids: Int[Tensor, "b t"], *, layers: int | None = None, intermediate: int | None = None,
    heads: int | None = None, hidden: int | None = None,
) -> tuple[Weights, dict[str, Any]]:  # fmt: skip
    """The model with fewer layers (those go whose cosine on `ids` is highest), then narrower by what the rest shows on `ids`.

    The report: layers_before, layers_after, kept and dropped (layers), cosines, parameters_before and parameters_after, and the
    widths asked for. Raises `PunaError` where nothing gets smaller or the numbers do not fit.
    """
    before = weights.config.num_hidden_layers
    report: dict[str, Any] = {"parameters_before": weights.config.parameters, "layers_before": before, "intermediate": intermediate,
                              "heads": heads, "hidden": hidden}  # fmt: skip
    if layers is not None:
        if not 2 <= layers < before:
            raise PunaError(
                f"{layers} layers are not fewer than {before}, and at least the first and the last", where="layers"
            )
        cosines = layer_cosines(weights, ids)
        dropped = choose_layers(cosines, before - layers, contiguous=False)
        kept = [index for index in range(before) if index not in dropped]
        weights = drop_layers(weights, kept)
        report |= {"kept": kept, "dropped": dropped, "cosines": [round(value, _PLACES) for value in cosines]}
    if (intermediate, heads, hidden) != (None, None, None):
        importance = measure_importance(weights, ids)
        weights = narrow(weights, importance=importance, intermediate=intermediate, heads=heads, hidden=hidden)
    if weights.config.parameters >= report["parameters_before"]:
        raise PunaError("nothing of the model gets smaller", where="pruning")
    return weights, report | {
        "layers_after": weights.config.num_hidden_layers,
        "parameters_after": weights.config.parameters,
    }


def _span(before: int, count: int, span: tuple[int, int] | None, cosines: list[float] | None) -> tuple[int, int]:
    if span is None:
        if cosines is None:
            raise PunaError("which layers to double is not said", where="span", mend="give a span or text to choose by")
        chosen = choose_layers(cosines, count)
        return chosen[0], chosen[-1] + 1
    begin, end = span
    if end - begin != count:
        raise PunaError(
            f"the span {begin} to {end} (exclusive) holds {end - begin} layers; {count} are to be added", where="span"
        )
    return begin, end
