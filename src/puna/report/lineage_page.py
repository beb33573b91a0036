"""A comparison as one page that holds all it shows: six findings, the tests, the maps.

Comes in: the `Lineage` of each reference. Goes out: HTML. Must never happen: the six findings made into one; a page that loads anything.
"""

from collections.abc import Sequence
from pathlib import Path

import puna
from puna.lineage.verdict import LAYERS, Lineage
from puna.report import lineage_plots
from puna.report.lineage_text import TITLES, power_of_ten, runs_of_blocks, verdict_words
from puna.report.page import filled, write_page
from puna.visible import clean

_SIGN = {"same": "=", "derived": "←", "independent": "≠", "cannot tell": "?", "not decidable from outside": "–"}


def write_lineage_page(found: Sequence[Lineage], out: Path) -> None:
    """Write the page, whole or not at all. Raises `ValueError` for no comparison."""
    write_page(lineage_html(found), out)


def lineage_html(found: Sequence[Lineage]) -> str:
    """The page as a string."""
    if not found:
        raise ValueError("there is no comparison to show")
    model = found[0].model
    sections = [(f"reference-{number}", f"Beside {clean(one.reference)}") for number, one in enumerate(found)]
    return filled(
        "lineage.html.j2", data={"created": "", "puna_version": puna.__version__, "run": model}, of="comparison", title=clean(model), hills=None,
        hills_are="", summary=_summary(found), figures=[], sections=[*sections, ("method", "How to read this")], found=list(enumerate(found)),
        layers=[(key, TITLES[key]) for key in LAYERS], signs=_SIGN, verdict_words=verdict_words, power=power_of_ten, runs=runs_of_blocks,
        lineage_plots=lineage_plots,
    )  # fmt: skip


def _summary(found: Sequence[Lineage]) -> str:
    """One sentence a reference, the weights first: it is what people ask."""
    return " ".join(one.layers.weights.sentence for one in found[:3])
