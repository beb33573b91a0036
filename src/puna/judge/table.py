"""Scores as a table for the console: 80 columns, no colour.

Comes in: results as `judge_model` returns them. Goes out: text. Must never happen: a line wider than the console's.
"""

from collections.abc import Mapping
from typing import Any

from puna.judge.columns import WIDTH, fit, wrap
from puna.judge.inheritance import format_inheritance
from puna.judge.long_context import format_long_context

_LABELS = {
    ("heldout", None): "model", ("heldout", "uniform"): "uniform chance", ("heldout", "xz"): "xz -9e",
    ("heldout", "xz_primed"): "xz -9e, primed", ("heldout", "ngram5"): "5-gram", ("heldout", "reference"): "reference model",
    ("quiz", None): "quiz, right", ("quiz", "shared_letters"): "quiz, by shared letters", ("parse", None): "functions that parse",
}  # fmt: skip


def format_scores(results: Mapping[str, Any]) -> str:
    """Every score and baseline with its interval, then the verdicts, what was left out, and how much text it was.

    Where the results hold them, what is inherited and the long context stand below.
    """
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
                for line in wrap(f"{said['words'][:1].upper()}{said['words'][1:]}.")
            ),
        ]
    for left in results["left_out"]:
        lines += wrap(f"Left out: {left['task']}: {left['reason']}.")
    text = results["text"]["heldout"]
    used = f"{text['bytes_used']:,} bytes of held-out text"
    lines += ["", *wrap(f"Measured on {used}{' (a seeded sample)' if text['sampled'] else ''}; intervals are 95 %.")]
    for part, write in (("inheritance", format_inheritance), ("long_context", format_long_context)):
        if results.get(part):
            lines += ["", write(results[part])]
    return "\n".join(lines)


def _table(title: str, scores: list[Any], last: str) -> list[str]:
    rule = "-" * WIDTH
    return [f"{title:<32}{'value':>8}{'95 % interval':>18}{'n':>7}{last:>15}", rule, *map(_row, scores)]


def _row(score: Mapping[str, Any]) -> str:
    label = _LABELS.get((score["task"], score.get("name")), f"{score['task']} {score.get('name') or ''}".strip())
    interval = f"{score['interval'][0]:.3f} to {score['interval'][1]:.3f}" if score["interval"] else "-"
    return f"{fit(label, 31)} {score['value']:>8.3f}{interval:>18}{score['n']:>7}{_beside(score):>15}"


def _beside(score: Mapping[str, Any]) -> str:
    if score["task"] == "heldout":
        paired = score["detail"].get("paired")
        return f"{paired['value']:+.3f}" if paired else ""
    if score["chance"] is None:
        return ""
    if score["p_value"] is None:
        return f"{score['chance']:.2f}"
    return f"{score['chance']:.2f} / {score['p_value']:.1g}"
