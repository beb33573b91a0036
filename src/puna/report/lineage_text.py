"""A comparison of two models as a terminal shows it: six verdicts first, then what each rests on.

Comes in: a `Lineage`. Goes out: lines of at most 80 columns that read well in black and white. Must never happen: the six made into one
score, or a p-value without its null.
"""

import textwrap
from collections.abc import Iterator, Sequence

from puna.lineage.claim import ClaimResult
from puna.lineage.scan import ScanRow
from puna.lineage.verdict import Behaviour, Lineage, Rate, Weights
from puna.visible import clean

WIDTH = 80
_INDENT = "  "
TITLES = {"names": "Names", "architecture": "Architecture", "tokenizer": "Tokenizer", "weights": "Weights", "data": "Data, recipe",
          "licence": "Licence"}  # fmt: skip
_SHADES = " .:-=+*#%@"  # of the block map, by the p-value's power of ten
_MOST_BLOCKS = 36


def lineage_text(found: Lineage) -> str:
    """The whole view, without a line end at its end."""
    return "\n".join(_lines(found))


def _lines(found: Lineage) -> Iterator[str]:
    layers = found.layers
    yield from _wrapped(f"{clean(found.model)} beside {clean(found.reference)}", "")
    yield ""
    for key, title in TITLES.items():
        layer = getattr(layers, key)
        yield f"{title:<14}{verdict_words(found, key)}"
    yield ""
    for key, title in TITLES.items():
        layer = getattr(layers, key)
        yield title.upper()
        yield from _wrapped(layer.sentence, _INDENT)
        for line in layer.evidence:
            yield from _wrapped(line, _INDENT + "- ", _INDENT + "  ")
        if key == "weights":
            yield from _weights(layers.weights)
        yield ""
    yield from _wrapped("Six findings, never one score: a shared architecture says nothing about the weights.", "")


def verdict_words(found: Lineage, key: str) -> str:
    """A layer's verdict with what belongs to it: "same after 2 renames", "derived: fine-tuned"."""
    layer = getattr(found.layers, key)
    if key == "names" and layer.verdict == "same" and layer.renames:
        count = len(layer.renames)
        return f"same after {count} rename{'s' if count > 1 else ''}"
    if key == "weights" and layer.relation:
        words: str = layer.verdict if layer.relation == "copy" else f"{layer.verdict}: {layer.relation}"
        return words
    return str(layer.verdict)


def _weights(found: Weights) -> Iterator[str]:
    ran = [test for test in found.tests if test.ran]
    if ran:
        yield ""
        yield f"{_INDENT}{'test':<36}{'p':>10}  {'null':<9}{'false pos.':>10}{'power':>10}"
        for test in ran:
            yield (f"{_INDENT}{_cut(test.title, 35):<36}{power_of_ten(test.log10_p):>10}  {'exact' if test.exact else 'measured':<9}"
                   f"{_rate(test.false_positives):>10}{_rate(test.power):>10}")  # fmt: skip
    for test in found.tests:
        if not test.ran:
            yield from _wrapped(f"not run: {test.title}: {test.why_not}", _INDENT, _INDENT + "  ")
    if found.null:
        yield from _wrapped(f"p is the chance to see so much or more if {found.null}.", _INDENT)
    if found.coefficients:
        yield ""
        for one in found.coefficients:
            yield from _wrapped(f"{one.value:7.3f} of {one.reference} (95 %: {one.low:.3f} to {one.high:.3f})", _INDENT)
    yield from _block_lines(found)
    yield from _difference_lines(found)
    if found.behaviour:
        yield from _behaviour(found.behaviour)
    if found.verdict in ("same", "derived"):
        yield from _wrapped(found.direction.sentence, _INDENT)


def _block_lines(found: Weights) -> Iterator[str]:
    known = [block for block in found.blocks if block.source is not None]
    if not known:
        return
    yield ""
    yield from _wrapped("blocks: " + runs_of_blocks(found), _INDENT, _INDENT + "  ")
    rows = found.block_map
    if 1 < len(rows) <= _MOST_BLOCKS and len(rows[0]) <= _MOST_BLOCKS:
        yield f"{_INDENT}block map: a row a block of MODEL, a column a block of REFERENCE; the"
        yield f"{_INDENT}darker ({_SHADES.strip()}), the smaller the p-value"
        for number, row in enumerate(rows):
            yield f"{_INDENT}{number:>4} |{''.join(_shade(value) for value in row)}|"


def runs_of_blocks(found: Weights) -> str:
    """Runs of blocks in words: "0-11 from 0-11, 12-23 from 4-15"."""
    return ", ".join(_runs([(block.block, block.source) for block in found.blocks]))


def _runs(blocks: Sequence[tuple[int, int | None]]) -> Iterator[str]:
    start = 0
    for end in range(1, len(blocks) + 1):
        if end < len(blocks) and _goes_on(blocks[end - 1], blocks[end]):
            continue
        first, last = blocks[start], blocks[end - 1]
        span = f"{first[0]}" if first[0] == last[0] else f"{first[0]}-{last[0]}"
        if first[1] is None:
            yield f"{span} from none"
        else:
            yield f"{span} from {first[1]}" if first[1] == last[1] else f"{span} from {first[1]}-{last[1]}"
        start = end


def _goes_on(before: tuple[int, int | None], after: tuple[int, int | None]) -> bool:
    if before[1] is None or after[1] is None:
        return before[1] is after[1]
    return after[1] == before[1] + 1


def _difference_lines(found: Weights) -> Iterator[str]:
    """The size of what changed, a line a kind of tensor."""
    kinds: dict[str, list[float]] = {}
    for tensor in found.tensors:
        if tensor.difference is not None:
            kinds.setdefault(tensor.kind, []).append(tensor.difference)
    if not kinds or found.verdict not in ("same", "derived"):
        return
    yield ""
    yield f"{_INDENT}{'difference to the reference':<30}{'least':>9}{'median':>9}{'most':>9}"
    for kind, values in kinds.items():
        values = sorted(values)
        cells = "".join(f"{value:>9.4f}" for value in (values[0], values[len(values) // 2], values[-1]))
        yield f"{_INDENT}{kind:<30}{cells}"
    undone = dict.fromkeys(word for tensor in found.tensors for word in tensor.undone)
    if undone:
        yield from _wrapped("undone before measuring: " + ", ".join(undone), _INDENT)


def _behaviour(found: Behaviour) -> Iterator[str]:
    yield ""
    yield from _wrapped(found.sentence, _INDENT)
    for name, agreement in found.controls.items():
        yield from _wrapped(f"{agreement:.1%} control {name}", _INDENT + "  ")


def power_of_ten(log10_p: float | None) -> str:
    """A p-value for people: 0.43, 0.0021, 1e-12, 1e-310."""
    if log10_p is None:
        return "-"
    if log10_p > -4:
        return f"{10**log10_p:.2g}"
    return f"1e{round(log10_p):d}"


def _rate(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.hits}/{rate.n}"


def _shade(log10_p: float | None) -> str:
    if log10_p is None:
        return "?"
    return _SHADES[min(len(_SHADES) - 1, int(max(0.0, -log10_p) / 3))]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _wrapped(text: str, first: str, rest: str | None = None) -> list[str]:
    return textwrap.wrap(
        clean(text), WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest
    ) or [first]


def scan_text(model: str, rows: Sequence[ScanRow]) -> str:
    """The folder's models, the most suspicious first."""
    lines = [
        f"{clean(model)} beside {len(rows)} models",
        "",
        f"{'model':<34}{'fingerprint p':>14}  exactly",
        "-" * WIDTH,
    ]
    for row in rows:
        if row.why_not:
            lines += _wrapped(f"{row.name}: not compared: {row.why_not}", "", "  ")
            continue
        exact = row.exact
        words = (
            "not compared (nothing suspicious)"
            if exact is None
            else f"{verdict_words(exact, 'weights')}, p {power_of_ten(exact.layers.weights.log10_p)}"
        )
        p = "-" if row.kin is None else power_of_ten(row.kin.log10_p)
        lines.append(f"{_cut(clean(row.name), 33):<34}{p:>14}  {words}")
    lines += [
        "",
        *_wrapped("A fingerprint is a small sample: it finds, and cannot clear. Compare exactly what matters.", ""),
    ]
    return "\n".join(lines)


def claim_text(found: ClaimResult) -> str:
    """The maker's own test in words, and what it rests on."""
    lines = _wrapped(found.sentence, "")
    lines += [
        "",
        f"  p            {power_of_ten(found.log10_p)}",
        f"  rows asked   {found.rows:,} of {found.rows_in_all:,}",
    ]
    lines += ["", *_wrapped(f"Null hypothesis: {found.null}.", "")] if found.null else []
    for line in found.evidence:
        lines += _wrapped(line, "- ", "  ")
    return "\n".join(lines)
