"""Scores as a table for the console: 80 columns, no colour.

Comes in: results as `judge_model` returns them. Goes out: text. Must never happen: a line wider than the console's.
"""

import textwrap
import unicodedata
from collections.abc import Mapping
from typing import Any

WIDTH = 80
_LABELS = {
    ("heldout", None): "model", ("heldout", "uniform"): "uniform chance", ("heldout", "xz"): "xz -9e",
    ("heldout", "xz_primed"): "xz -9e, primed", ("heldout", "ngram5"): "5-gram", ("heldout", "reference"): "reference model",
    ("quiz", None): "quiz, right", ("quiz", "shared_letters"): "quiz, by shared letters", ("parse", None): "functions that parse",
}  # fmt: skip


def format_scores(results: Mapping[str, Any]) -> str:
    """Every score and baseline with its interval, then the verdicts, what was left out, and how much text it was."""
    scores, baselines = list(results["scores"]), list(results["baselines"])
    bits = [score for score in [*scores, *baselines] if score["task"] == "heldout"]
    shares = [score for score in [*scores, *baselines] if score["task"] != "heldout"]
    lines = _table("bits per byte, less is better", bits, "model minus it")
    if shares:
        lines += ["", *_table("share, more is better", shares, "chance / p")]
    if results["verdicts"]:
        lines += [
            "",
            *(
                line
                for said in results["verdicts"]
                for line in _wrap(f"{said['words'][:1].upper()}{said['words'][1:]}.")
            ),
        ]
    for left in results["left_out"]:
        lines += _wrap(f"Left out: {left['task']}: {left['reason']}.")
    text = results["text"]["heldout"]
    used = f"{text['bytes_used']:,} bytes of held-out text"
    lines += ["", *_wrap(f"Measured on {used}{' (a seeded sample)' if text['sampled'] else ''}; intervals are 95 %.")]
    return "\n".join(lines)


def _table(title: str, scores: list[Any], last: str) -> list[str]:
    rule = "-" * WIDTH
    return [f"{title:<32}{'value':>8}{'95 % interval':>18}{'n':>7}{last:>15}", rule, *map(_row, scores)]


def _row(score: Mapping[str, Any]) -> str:
    label = _LABELS.get((score["task"], score.get("name")), f"{score['task']} {score.get('name') or ''}".strip())
    interval = f"{score['interval'][0]:.3f} to {score['interval'][1]:.3f}" if score["interval"] else "-"
    return f"{_fit(label, 31)} {score['value']:>8.3f}{interval:>18}{score['n']:>7}{_beside(score):>15}"


def _beside(score: Mapping[str, Any]) -> str:
    if score["task"] == "heldout":
        paired = score["detail"].get("paired")
        return f"{paired['value']:+.3f}" if paired else ""
    if score["chance"] is None:
        return ""
    if score["p_value"] is None:
        return f"{score['chance']:.2f}"
    return f"{score['chance']:.2f} / {score['p_value']:.1g}"


def _fit(text: str, width: int) -> str:
    """`text` padded or cut to `width` columns; Chinese characters take two."""
    kept, used = "", 0
    for char in text:
        size = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used + size > width:
            break
        kept, used = kept + char, used + size
    return kept + " " * (width - used)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")
