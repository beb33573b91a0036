"""The model card of a release: README.md with the front matter that model hubs read.

Comes in: a dict of `report.data.ReportData`'s shape. Goes out: Markdown. Must never happen: a stranger's name or text that
becomes markup or a key of the front matter; every value there is written as JSON, which YAML reads as it stands.
"""

import json
import re
from typing import Any

from puna import words
from puna.ledger.hub import base_fields, licence_fields
from puna.ledger.licences import NOT_ADVICE, UNREAD, licence_named
from puna.report import verdict
from puna.report.data import ReportData, Score, Training
from puna.report.page import template_environment

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
_SAMPLE = 400  # characters of a text in the card
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
    rows = [_row(_label(data, score), score) for score in scores]
    rows += [_row(verdict.baseline_label(score), score) for score in baselines]
    text = environment.get_template("card.md.j2").render(
        data=data,
        front="\n".join(f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in front_matter(data).items()),
        title=data.title or data.run,
        summary=verdict.summary(data),
        headline=verdict.headline(data.results),
        said=[sentence for _, sentence in verdict.verdict(data)],
        rows=rows,
        samples=_samples(data),
        chats=bool(data.tuning),
        question=json.dumps(
            "What does str.split do?" if _reads_python(data) else "你好" if _languages(data) == ["zh"] else "Hello."
        ),
        commands="\n".join(words.clean(item.command) for item in verdict.command_pairs(data)),
        limits=_limits(data), names=_names(data), merged=len(_names(data)) > 1, changes=_changes(data), trainings=_trainings(data),
        machine=_machine(data), energy=_energy(data), contamination=_contamination(data), licences=_licences(data), not_advice=NOT_ADVICE,
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def card_limits(data: dict[str, Any]) -> list[str]:
    """What the card says of the model's limits, one sentence or two each. Raises as `render_card` does."""
    return _limits(ReportData.model_validate(data))


def _limits(data: ReportData) -> list[str]:
    inherited = "what its base knew and " if data.results and data.results.inheritance else ""
    scores = data.results.scores if data.results else []
    unsure = next(
        (told for score in scores if isinstance(score.detail, dict) and (told := score.detail.get("no_interval"))), None
    )
    context = data.model.shape.get("context") if data.model else None
    return [
        _size_limit(data),
        f"It knows only {inherited}what its text said, up to the day that the text was gathered. What it states may be wrong: check it.",
        *_language_limit(data, bool(inherited)),
        *([f"It reads at most {words.number(context)} tokens at once."] if isinstance(context, int) else []),
        "Nothing was done to make its answers safe or fair beyond the choice of its text.",
        *([] if data.tuning else ["It continues text. It was not tuned to answer questions."]),
        *(["The scores are those of the tests above, made by its maker's own program. They say nothing of other tasks or languages."] if scores else []),
        *([f"A score above has no interval: {words.clean(str(unsure))}. Do not lean on its digits."] if unsure else []),
        *([] if data.gate else ["The export gate was not run: whether other programs compute the same from these files was not checked."]),
    ]  # fmt: skip


def _language_limit(data: ReportData, inherited: bool) -> list[str]:
    found = data.corpus.languages if data.corpus else {}
    total = sum(amount.bytes for amount in found.values())
    if not total:
        return []
    ordered = sorted(found, key=lambda code: (-found[code].bytes, code))
    shares = words.listed([f"{words.percent(found[code].bytes / total)} {words.clean(code)}" for code in ordered[:4]])
    other = "In others it knows at most what its base knew." if inherited else "Others it was not taught."
    return [f"By language, its training text is {shares}. {other}"]


def _names(data: ReportData) -> list[str]:
    """What the models are called whose weights it began with."""
    return [str(name) for name in data.base.get("names") or []]


def _changes(data: ReportData) -> list[str]:
    """What was done to the base before training: keys of the stage's facts, in plain words."""
    told = {
        "grown": "grown in depth",
        "pruned": "pruned",
        "widened": "widened",
        "rope": "made to read further",
        "vocabulary": "given more entries",
    }
    start = data.base.get("start")
    return [text for key, text in told.items() if isinstance(start, dict) and start.get(key)]


def _trainings(data: ReportData) -> list[dict[str, Any]]:
    """A row a training, with one clause of it all."""
    named: list[tuple[str, Training]] = [("pretraining", data.training)] if data.training else []
    named += [(one.title or f"tuning {number}", one) for number, one in enumerate(data.tuning, start=1)]
    made = []
    for name, one in named:
        tokens = next((metric.tokens for metric in reversed(one.metrics) if metric.tokens), None)
        steps, method = one.plan.get("steps"), one.plan.get("method")
        counted = (
            f"{words.number(tokens)} tokens"
            if tokens
            else f"{words.number(steps)} steps"
            if steps
            else "length not stated"
        )
        optimiser = {"puna": "Muon, and AdamW for tables and vectors", "reference": "AdamW"}.get(
            str(method), "not stated"
        )
        made.append({"name": name, "tokens": tokens, "steps": steps, "batch": one.plan.get("batch_tokens"), "optimiser": optimiser,
                     "precision": str(one.plan.get("precision") or "not stated"), "seconds": one.seconds, "told": f"{name}, {counted}"})  # fmt: skip
    return made


def _machine(data: ReportData) -> str:
    told = [data.machine.get(key) for key in ("name", "processor", "system")]
    return ", ".join(words.clean(str(one)) for one in told if one)


def _energy(data: ReportData) -> str:
    joules = [stage.joules for stage in data.stages if stage.joules is not None]
    return f"Energy: {words.number(round(sum(joules)))} joules." if joules else "Energy was not measured."


def _contamination(data: ReportData) -> str:
    """How much of the held-out text stands in the training text, where that was counted."""
    found = data.results.contamination if data.results else {}
    value = found.get("value")
    if not isinstance(value, int | float):
        return ""
    return (
        f"Contamination: {words.small_share(value)} ({words.clean(str(found.get('what') or 'of the held-out text'))})."
    )


def _licences(data: ReportData) -> list[dict[str, str]]:
    """A row a licence: of the weights, of each model that they began with, of the texts."""
    rows = [_licence_row("these weights", data.licence)]
    cards = data.base.get("cards") or [{} for _ in _names(data)]
    for name, card in zip(_names(data), cards, strict=False):
        rows.append(_licence_row(f"the weights of {name}", card.get("licence")))
        rows += [
            _licence_row(f"{parent}, from which {name} was made by its own card", None)
            for parent in card.get("parents") or []
        ]
    texts = dict.fromkeys(source.licence for source in data.corpus.sources) if data.corpus else {}
    for licence in texts:
        sources = [source.name for source in data.corpus.sources if source.licence == licence] if data.corpus else []
        rows.append(
            _licence_row(f"the text: {words.listed(sources[:4])}{' and others' if len(sources) > 4 else ''}", licence)
        )
    return rows


def _licence_row(what: str, named: str | None) -> dict[str, str]:
    facts = licence_named(named)
    if not named or named == "unstated":
        return {"what": what, "licence": "not stated", "asks": "not known: ask whoever made it before you pass it on"}
    if facts is None:
        return {"what": what, "licence": named, "asks": "not in our table: read it"}
    asks = [f"{one.asks}{'' if facts.was_read(one) else f' ({UNREAD})'}" for one in facts.obligations]
    return {"what": what, "licence": f"{facts.title} ({named})", "asks": "; ".join(asks) or "nothing"}


def front_matter(data: ReportData) -> dict[str, Any]:
    """The card's metadata: licence, languages, what the model does, and its scores as a model index."""
    front: dict[str, Any] = dict(licence_fields(data.licence))
    languages = _languages(data)
    if languages:
        front["language"] = languages
    front |= base_fields(_names(data))
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


def _label(data: ReportData, score: Score) -> str:
    """The task, and of which of a release's two models the score is."""
    which = {"base": ", before tuning", "chat": ", tuned"}.get(str(getattr(score, "model", ""))) if data.tuning else ""
    return f"{verdict.task_label(score)}{which or ''}"


def _samples(data: ReportData) -> list[tuple[str, str]]:
    """(what, text) of the first text of each kind that the model wrote, shortened; prompt and answer in one."""
    found: dict[str, tuple[str, str]] = {}
    for sample in data.results.samples if data.results else []:
        if sample.kind in found or not sample.text.strip():
            continue
        chat = sample.kind == "chat"
        written = words.clean(sample.text[:_SAMPLE]) + (" […]" if len(sample.text) > _SAMPLE else "")
        text = f"{words.clean(sample.prompt[:_SAMPLE])}{chr(10) * 2 if chat else ' ⟶ '}{written}"
        found[sample.kind] = ("Asked, and its answer" if chat else "Begun, and ⟶ how it went on", text)
    return list(found.values())


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
