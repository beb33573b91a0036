"""The model card of a release: README.md with the front matter that model hubs read.

Comes in: a dict of `report.data.ReportData`'s shape. Goes out: Markdown. Must never happen: a stranger's name or text that
becomes markup or a key of the front matter; every value there is written as JSON, which YAML reads as it stands.
"""

import json
import re
from typing import Any

from puna import words
from puna.report import verdict
from puna.report.data import ReportData, Score
from puna.report.page import template_environment

# The identifiers that the hub's `license` field takes and that a build is likely to name; others go under "other".
_HUB_LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-4.0",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "isc",
        "unlicense",
        "zlib",
        "openrail",
    ]
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
_SMALL = 300e6  # parameters below which a model's text reads well only on the ground it was trained on


def render_card(data: dict[str, Any]) -> str:
    """The model card of a release, as the text of its README.md.

    Raises pydantic's `ValidationError` where `data` has not the shape of `ReportData`.
    """
    return card_text(ReportData.model_validate(data))


def card_text(data: ReportData) -> str:
    """The card as a string."""
    environment = template_environment(autoescape=False)
    environment.filters.update(md=markdown, fence=fence)
    scores = data.results.scores if data.results else []
    baselines = data.results.baselines if data.results else []
    rows = [_row(verdict.task_label(score), score) for score in scores]
    rows += [_row(verdict.baseline_label(score), score) for score in baselines]
    text = environment.get_template("card.md.j2").render(
        data=data,
        front="\n".join(f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in front_matter(data).items()),
        title=data.title or data.run,
        summary=verdict.summary(data),
        headline=verdict.headline(data.results),
        said=[sentence for _, sentence in verdict.verdict(data)],
        rows=rows,
        chats=bool(data.tuning),
        question=json.dumps(
            "What does str.split do?" if _reads_python(data) else "你好" if _languages(data) == ["zh"] else "Hello."
        ),
        commands="\n".join(words.clean(item.command) for item in verdict.command_pairs(data)),
        limits=_limits(data),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def card_limits(data: dict[str, Any]) -> list[str]:
    """What the card says of the model's limits, one sentence or two each. Raises as `render_card` does."""
    return _limits(ReportData.model_validate(data))


def _limits(data: ReportData) -> list[str]:
    inherited = "what its base knew and " if data.results and data.results.inheritance else ""
    return [
        _size_limit(data),
        f"It knows only {inherited}what its text said, up to the day that the text was gathered. What it states may be wrong: check it.",
        "Nothing was done to make its answers safe or fair beyond the choice of its text.",
        *([] if data.tuning else ["It continues text. It was not tuned to answer questions."]),
        "The scores are those of the one test above. They say nothing of other tasks or languages.",
    ]


def front_matter(data: ReportData) -> dict[str, Any]:
    """The card's metadata: licence, languages, what the model does, and its scores as a model index."""
    named = (data.licence or "").strip()
    front: dict[str, Any] = {"license": named.lower() if named.lower() in _HUB_LICENCES else "other"}
    if front["license"] == "other":
        front["license_name"] = re.sub(r"[^a-z0-9.]+", "-", named.lower()).strip("-") or "unstated"
    languages = _languages(data)
    if languages:
        front["language"] = languages
    if data.base.get("names"):
        names = [str(name) for name in data.base["names"]]
        front["base_model"] = names[0] if len(names) == 1 else names
        front["base_model_relation"] = "merge" if len(names) > 1 else "finetune"
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["puna", "llama"]}
    results = [_hub_result(score) for score in (data.results.scores if data.results else []) if score.value is not None]
    if results:
        front["model-index"] = [{"name": data.title or data.run, "results": results}]
    return front


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(words.clean(text).split()))


def fence(text: str, kind: str = "") -> str:
    """A fenced block whose fence is longer than any run of backticks inside."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{kind}\n{text.rstrip()}\n{ticks}"


def _row(name: str, score: Score) -> list[str]:
    share = not verdict.is_bits(score) and score.higher_is_better and score.value is not None and 0 <= score.value <= 1
    write = words.percent if share else words.decimal
    interval = f"{write(score.interval[0])} to {write(score.interval[1])}" if score.interval else "–"
    return [
        name,
        words.label(score.metric),
        write(score.value),
        interval,
        write(score.chance),
        verdict.counted_in(score),
    ]


def _hub_result(score: Score) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": verdict.task_label(score), "type": score.task},
        "metrics": [{"type": score.metric, "value": score.value, "name": words.label(score.metric)}],
    }


def _languages(data: ReportData) -> list[str]:
    """Language codes that the corpus names, most text first; code and the unknown are left out."""
    found = data.corpus.languages if data.corpus else {}
    if found:
        ordered = sorted(found, key=lambda code: (-found[code].bytes, code))
        return [code for code in ordered if re.fullmatch(r"[a-z]{2,3}", code) and code not in ("und",)]
    return ["en"] if _reads_python(data) else []


def _reads_python(data: ReportData) -> bool:
    return bool(data.corpus) and any(source.name == "python" for source in data.corpus.sources)  # type: ignore[union-attr]


def _size_limit(data: ReportData) -> str:
    if not data.model or not data.model.parameters:
        return "Its size is not stated."
    count = words.in_words(data.model.parameters)
    if data.model.parameters < _SMALL:
        return f"With {count} parameters it is small: it writes in the manner of its text, and knows little and reasons less."
    return f"It has {count} parameters; judge from the scores what it can do."
