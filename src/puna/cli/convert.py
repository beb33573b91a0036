"""`puna convert`: a model in another form, and the parity check's table.

In: the verb's arguments. Out: the table on stdout (or one JSON object), progress on stderr. Must never happen: a failed check that
ends with 0.
"""

import sys
from pathlib import Path
from typing import Any

import typer

from puna.cli.terminal import terminal_progress
from puna.cli.verbs import print_json
from puna.errors import EXIT_INTERNAL

LANGUAGES = {"en": "English", "zh": "Chinese", "own": "own text"}


def run_convert(
    source: str, target: Path, *, to: str | None, shard_size: str, calibrate: Path | None, tokenizer: Path | None,
    adapter: Path | None, text: Path | None, runs: Path, json: bool,
) -> None:  # fmt: skip
    """Convert and print. Raises `PunaError` for a mistake of the user's; a failed parity check exits with 1 and one line."""
    from puna.build.convert import convert
    from puna.build.parity import ParityError
    from puna.engine import resolve_model

    try:
        with terminal_progress() as progress:
            report = convert(resolve_model(source, runs), target.expanduser(), to=to, shard_size=shard_size, calibrate=calibrate,
                             tokenizer=tokenizer, adapter=adapter, text=text, progress=progress)  # fmt: skip
    except ParityError as error:
        if json:
            print_json({**(error.report or {}), "passed": False, "error": error.line()})
        sys.stderr.write(f"puna: {error.line()}\n")
        raise typer.Exit(EXIT_INTERNAL) from None
    if json:
        print_json(report)
    else:
        typer.echo("\n".join(table(report)))


def table(report: dict[str, Any]) -> list[str]:
    """The report as lines of at most 80 columns (paths excepted)."""
    from puna.build.convert import NAMES

    sizes, check, weights = report["bytes"], report["parity"], report["weights"]
    kind = "as stored" if report["kind"] == "stored" else report["kind"]
    lines = [
        f"Wrote {report['target']}",
        f"{NAMES[report['form']]}, {kind}: {report['parameters'] / 1e6:,.1f} M parameters, {_size(sizes['before'])} before, "
        f"{_size(sizes['after'])} now, {report['seconds']:.0f} s",
        "",
        "Parity with the source",
        _row("tensors", f"{weights['equal']} of {weights['tensors']} equal to the bit"),
    ]
    if weights["equal"] < weights["tensors"]:
        lines.append(_row("largest rounding", f"{weights['largest_difference']:.2g} ({weights['tensor']})"))
    found, greedy = check["logits"], check["greedy"]["languages"]
    bound = f" (allowed: {found['allowed']:.1g})" if check["exact"] else ""
    lines.append(_row("largest logit difference", f"{found['largest_difference']:.2g}{bound}"))
    if found["largest_difference"] > 0:
        lines.append(_row("", f"at token {found['position'] + 1} of {_short(found['prompt'])}"))
    same = (f"{row['identical']} of {row['texts']} {LANGUAGES[name]}" for name, row in greedy.items())
    lines.append(_row("identical greedy texts", ", ".join(same)))
    for name, row in check["bits_per_byte"].items():
        words = f"{row['before']:.4f} before, {row['after']:.4f} now ({row['change']:+.2%})"
        lines.append(_row(f"bits per byte, {LANGUAGES[name]}", words))
    lines += ["", "Read again by", _row("Puna", "the figures above")]
    for reader in report["readers"]:
        lines.append(_row(reader["program"], _reader(reader)))
    return lines + [f"Note: {line}" for line in report["notes"]]


def _reader(reader: dict[str, Any]) -> str:
    """What another program made of it, beside Puna's own reading."""
    if not reader["took_part"]:
        return f"took no part: {reader['why']}"
    same = reader["greedy"]
    return f"logits within {reader['logits']['largest_difference']:.2g}, {same['identical']} of {same['texts']} greedy texts"


def _row(name: str, value: str) -> str:
    return f"  {name:<27} {value}"


def _short(text: str) -> str:
    """The beginning of a prompt; a Chinese character takes two columns."""
    width = 28 if text.isascii() else 14
    return repr(text if len(text) <= width else text[: width - 3] + "...")


def _size(count: int) -> str:
    for bound, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= bound:
            return f"{count / bound:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"
