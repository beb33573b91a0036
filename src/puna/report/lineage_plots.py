"""Drawings of a comparison: the block map and the map of differences, as heat maps that read in black and white.

Comes in: a `verdict.Weights`. Goes out: SVG, or None where there is nothing to draw. Must never happen: a shade without its number in the text
alternative.
"""

import math

from markupsafe import Markup

from puna import svg
from puna.lineage.verdict import Weights

_KINDS = ("embed", "attn_norm", "q", "k", "v", "o", "mlp_norm", "router", "gate", "up", "down", "norm", "head")
_WORDS = {
    "embed": "embedding",
    "attn_norm": "norm before",
    "mlp_norm": "norm between",
    "norm": "last norm",
    "head": "output head",
}
_MOST = 96  # blocks that a drawing shows
_STRANGERS = math.sqrt(2)  # the relative difference of two unrelated tensors of one size
_FULL = 30.0  # power of ten of a p-value that is drawn darkest


def block_map(found: Weights, name: str, width: int) -> Markup | None:
    """A cell a pair of blocks: rows MODEL's, columns REFERENCE's, darker for a smaller p-value; sources are framed."""
    rows = found.block_map
    if not rows or not rows[0] or len(rows) > _MOST or len(rows[0]) > _MOST:
        return None
    left, top = 46.0, 38.0
    side = max(3.0, min(30.0, (width - left - 4) / len(rows[0]), 560 / len(rows)))
    body = [svg.label(left, 12, "block of the reference", "axis-title"), svg.label(0, 32, "model", "axis-title")]
    step = max(1, math.ceil(22 / side))
    for column in range(0, len(rows[0]), step):
        body.append(svg.label(left + side * (column + 0.5), 32, str(column), "tick", "middle"))
    for row, values in enumerate(rows):
        y = top + side * row
        if row % step == 0:
            body.append(svg.label(left - 8, y + side / 2 + 4, str(row), "tick", "end"))
        for column, value in enumerate(values):
            x = left + side * column
            shade = min(1.0, max(0.0, -(value or 0.0)) / _FULL)
            body += _cell(x, y, side - 1, side - 1, shade)
    for block in found.blocks:
        if block.source is not None:
            x, y = left + side * block.source, top + side * block.block
            body.append(svg.element("rect", x=x, y=y, width=side - 1, height=side - 1, class_="limit", fill="none"))
    said = "; ".join(
        f"block {block.block} from {'none' if block.source is None else block.source}" for block in found.blocks
    )
    return svg.frame(name, width, top + side * len(rows) + 4, "Which block comes from which", said + ".", body)


def difference_map(found: Weights, name: str, width: int) -> Markup | None:
    """A cell a tensor: how much it differs from the one it is beside, white for equal, darkest for strangers."""
    cells = {
        (tensor.kind, tensor.layer): tensor.difference for tensor in found.tensors if tensor.difference is not None
    }
    kinds = [kind for kind in _KINDS if any(key[0] == kind for key in cells)]
    layers = sorted({layer for _, layer in cells if layer is not None})
    if not kinds or len(layers) > _MOST:
        return None
    left, top = 104.0, 38.0
    columns: list[int | None] = list(layers) or [None]
    wide = min(44.0, (width - left - 4) / len(columns))
    tall = 22.0
    body = [svg.label(left, 12, "block of the model", "axis-title")]
    step = max(1, math.ceil(24 / wide))
    for at in range(0, len(layers), step):
        body.append(svg.label(left + wide * (at + 0.5), 32, str(layers[at]), "tick", "middle"))
    said = []
    for row, kind in enumerate(kinds):
        y = top + tall * row
        body.append(svg.label(left - 8, y + 15, _WORDS.get(kind, kind), "tick", "end"))
        single = (kind, None) in cells
        for at, layer in enumerate([None] if single else columns):
            value = cells.get((kind, layer))
            x = left + wide * at
            body += _cell(x, y, wide - 1, tall - 1, 0.0 if value is None else 0.5 * min(1.0, value / _STRANGERS))
            if value is None:
                continue
            if wide >= 36:
                body.append(svg.label(x + wide / 2, y + 15, f"{value:.2f}", "label", "middle"))
        values = [cells[key] for key in cells if key[0] == kind]
        said.append(f"{_WORDS.get(kind, kind)}: {min(values):.3f} to {max(values):.3f}")
    return svg.frame(
        name, width, top + tall * len(kinds) + 2, "How much each tensor differs", "; ".join(said) + ".", body
    )


def _cell(x: float, y: float, width: float, height: float, shade: float) -> list[str]:
    """A cell of a heat map; a shade too faint to see is left out."""
    empty = svg.rect(x, y, width, height, "rival-bar")
    if shade <= 0.02:
        return [empty]
    return [
        empty,
        svg.element("rect", x=x, y=y, width=width, height=height, class_="own-mark", fill_opacity=f"{shade:.2f}"),
    ]
