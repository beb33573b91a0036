"""What a model is, in a few lines: `/info`.

In: a loaded model and its folder. Out: lines. Must never happen: a figure that is not in the release's own files, or a score
without its interval where it has one.
"""

from pathlib import Path
from typing import Any

from puna.card import card_of
from puna.cli.chatting.speaker import Speaker
from puna.errors import PunaError
from puna.reading import read_object

_TASKS = {
    "heldout": "held-out text",
    "quiz": "four-choice quiz",
    "parse": "functions that parse",
}  # as the card names them
_METRICS = {"bits_per_byte": "bits per byte"}


def facts(speaker: Speaker) -> list[str]:
    """The lines for one model."""
    config, engine = speaker.engine.config, speaker.engine
    lines = [
        f"{speaker.name}: {config.parameters / 1e6:,.1f} M parameters, context {engine.context} tokens",
        f"  shape      {config.num_hidden_layers} layers of {config.hidden_size}, {config.num_attention_heads} heads, "
        f"{engine.tokenizer.vocab_size:,} entries in the tokenizer",
        f"  answers    {'in the chat format ChatML' if engine.chats else 'by going on with the text: it has no chat format'}",
    ]
    if speaker.path is None:
        return lines
    lines.append(f"  files      {speaker.path}")
    try:
        card = card_of(speaker.path)
        lines += [f"  licence    {card.licence}"] if card.licence else []
        lines += [f"  made from  {', '.join(card.parents)}"] if card.parents else []
        if speaker.path.is_dir() and (speaker.path / "puna").is_dir():
            lines += [*_text(speaker.path / "puna"), *_scores(speaker.path / "puna")]
    except PunaError as error:
        lines.append(f"  [{error.line()}]")
    return lines


def _text(folder: Path) -> list[str]:
    """How much text it was trained on, and how many documents."""
    told = read_object(folder, "corpus.json")
    size, documents = _number(told.get("bytes"), "train"), _number(told.get("documents"), "train")
    if size is None:
        return []
    of = f" in {documents:,.0f} documents" if documents is not None else ""
    return [f"  trained on {size / 1e6:,.1f} MB of text{of}"]


def _scores(folder: Path) -> list[str]:
    """One line a score: value, 95 % interval, chance."""
    scores = read_object(folder, "results.json").get("scores")
    lines: list[str] = []
    for score in scores if isinstance(scores, list) else []:
        value = _number(score, "value")
        if value is None:
            continue
        task, metric = str(score.get("task", ""))[:40], str(score.get("metric", ""))[:40]
        share = metric in ("accuracy", "share")
        interval, chance = score.get("interval"), _number(score, "chance")
        line = f"{_TASKS.get(task, task)}: {_figure(value, share)} {'' if share else _METRICS.get(metric, metric)}".rstrip()
        if isinstance(interval, list) and len(interval) == 2 and all(isinstance(end, int | float) for end in interval):
            line += f" (95 %: {_figure(interval[0], share)} to {_figure(interval[1], share)})"
        lines.append(
            f"  {'scores' if not lines else '':<10} {line}" + (f", chance {_figure(chance, share)}" if chance else "")
        )
    return lines


def _number(told: Any, key: str) -> float | None:
    value = told.get(key) if isinstance(told, dict) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _figure(value: float, share: bool) -> str:
    return f"{100 * value:.1f} %" if share else f"{value:.3f}"
