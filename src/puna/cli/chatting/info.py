"""What a model is, in a few lines: `/info`. What the chat page's panel shows, as text.

In: a loaded model. Out: lines. Must never happen: a figure that is not in the model's own files, or that the panel does not show.
"""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from puna.cli.chatting.speaker import Speaker
from puna.words import number

if TYPE_CHECKING:
    from puna.serve.about import AboutScore
    from puna.serve.models import Hosted


def facts(speaker: Speaker, store: Path) -> list[str]:
    """The lines for one model. `store`: where `puna lineage` keeps comparisons. Raises PunaError where its files cannot be read."""
    from puna.serve.about import about_model

    if speaker.path is None:
        parameters, context = number(speaker.engine.config.parameters), number(speaker.engine.context)
        return [f"{speaker.name}: {parameters} parameters, context {context} tokens"]
    # Of a served model it reads the name, the path and the engine; a speaker has these.
    told = about_model(cast("Hosted", speaker), store)
    lines = [f"{told.model} ({'a chat model' if told.kind == 'chat' else 'goes on with text'})"]
    lines += [f"  {fact.name:<13} {fact.value}" for fact in told.facts]
    lines.append("  Scores, with 95 % intervals" if told.scores else f"  {told.no_scores}")
    lines += [f"    {_score(score)}" for score in told.scores]
    for title, texts in (
        ("Its own", told.own),
        ("Inherited", told.inherited),
        ("Licences", [f"{fact.name}: {fact.value}" for fact in told.licences]),
        ("Notes", told.notes),
    ):
        lines += [f"  {title}", *(f"    {text}" for text in texts)] if texts else []
    for one in told.compared:
        lines.append(f"  Compared with {one.reference}")
        lines += [f"    {layer.layer}: {layer.sentence}" for layer in one.layers]
    return lines if told.compared else [*lines, f"  {told.not_compared}"]


def _score(score: "AboutScore") -> str:
    interval = f" ({score.low:.3f} to {score.high:.3f})" if score.low is not None and score.high is not None else ""
    chance = f", chance {score.chance:g}" if score.chance is not None else ""
    return f"{score.name}: {score.value:.3f}{interval}{chance}, n {score.n:,}"
