"""The report of a build: one HTML page that needs nothing but itself.

Comes in: a dict of `report.data.ReportData`'s shape. Goes out: an HTML file with its styles and drawings inside, readable
without scripts or network. Must never happen: text of a stranger's that becomes markup (autoescape is on, and the
page's content policy lets nothing load or run), or two pages that differ for the same data.
"""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from puna import words
from puna.files import atomic_file
from puna.report import base_plots, plots, verdict
from puna.report.data import Metric, ReportData, Sample, Training
from puna.visible import clean

WIDE, NARROW = 720, 340  # pixels of a drawing on a desk and on a phone
_COSTS = ("seconds", "peak_rss_bytes")  # of the stage: they stand among the costs
_LONGEST = 4000  # characters of one sample


def render_report(data: dict[str, Any], out: Path) -> None:
    """Write the report of one build to `out`, whole or not at all.

    Raises pydantic's `ValidationError` where `data` has not the shape of `ReportData`.
    """
    write_page(report_html(ReportData.model_validate(data)), out)


def write_page(html: str, out: Path) -> None:
    """Write a page whole or not at all."""
    with atomic_file(out) as stream:
        stream.write(html.encode())


def report_html(data: ReportData) -> str:
    """The page as a string."""
    return filled(
        "report.html.j2",
        data=data,
        sections=_sections(data),
        of="build",
        title=clean(data.title or data.run),
        hills=plots.ridge(data.training),
        hills_are="this run’s own loss curve",
        summary=verdict.summary(data),
        headline=verdict.headline(data.results),
        said=verdict.verdict(data),
        figures=key_figures(data),
        comparisons=verdict.comparisons(data.results),
        shares=verdict.share_scores(data.results),
        rivals=verdict.share_rivals(data.results),
        bits=verdict.bits_score(data.results),
        parts=_samples(data),
        runs=_runs(data),
        chats=verdict.chat_counts(data),
        commands=verdict.command_pairs(data),
        total_seconds=verdict.total_seconds(data),
        tokenizer={key: value for key, value in data.tokenizer.items() if key not in _COSTS and value is not None},
    )


def filled(template: str, **values: Any) -> str:
    """A page from one of our templates: our style sheet in it, and a policy that allows that and nothing else."""
    environment = template_environment(autoescape=True)
    css = environment.loader.get_source(environment, "report.css")[0]  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return environment.get_template(template).render(
        css=Markup(css),  # noqa: S704  our own file
        # In a policy a hash is the hash of exactly what stands between the style tags.
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        **values,
    )


def template_environment(*, autoescape: bool) -> Environment:
    """Our own templates, with the words a page needs as filters. An unknown name in a template is an error."""
    environment = Environment(
        loader=PackageLoader("puna.report", "templates"), undefined=StrictUndefined, finalize=_nothing_hidden,
        autoescape=autoescape,  # noqa: S701  the card is Markdown and escapes by its own filter
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(
        number=words.number, compact=words.compact, flops=words.flops, size=words.size_bytes, duration=words.duration, percent=words.percent,
        decimal=words.decimal, p=words.p_value, plain=words.plain, counted=words.counted, words=words.label, lang=words.language, moment=words.moment, counted_in=verdict.counted_in,
        shorten=shorten, brief=words.brief, small_share=words.small_share, task=verdict.task_label, baseline=verdict.baseline_label, in_words=words.in_words,
    )  # fmt: skip
    environment.globals.update(
        share_bar=plots.share_bar, drawing=_drawing, plots=plots, base_plots=base_plots, is_bits=verdict.is_bits
    )
    return environment


def _nothing_hidden(value: Any) -> Any:
    """What every `{{ }}` passes through: no text reaches a page uncleaned."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def shorten(text: str, most: int = _LONGEST) -> str:
    """Cleaned text of at most `most` characters, and a sign where it was cut."""
    cleaned = clean(text[: most + 1])
    return cleaned if len(text) <= most and len(cleaned) <= most else f"{cleaned[:most]} […]"


def _drawing(make: Callable[..., Markup | None], name: str, *values: Any) -> Markup:
    """A drawing in two widths, of which the style sheet shows one; nothing where there is nothing to draw."""
    wide, narrow = make(*values, f"{name}-wide", WIDE), make(*values, f"{name}-narrow", NARROW)
    if wide is None or narrow is None:
        return Markup("")
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


def key_figures(data: ReportData) -> list[tuple[str, str, str]]:
    """(what, figure, beside it) for the numbers that are read first; only those that were measured."""
    found: list[tuple[str, str, str]] = []
    if data.model and data.model.parameters:
        found.append(("parameters", words.compact(data.model.parameters), data.model.architecture))
    seen = verdict.tokens_seen(data)
    if seen and data.training:
        found.append(("tokens seen", words.compact(seen), f"in {words.counted(len(data.training.metrics), 'step')}"))
    seconds = sum(run.seconds or 0.0 for run in [data.training, *data.tuning] if run)
    if seconds:
        found.append(("minutes of training", f"{seconds / 60:.1f}", "tuning included" if data.tuning else ""))
    bits = verdict.bits_score(data.results)
    if bits:
        found.append(("bits per byte", words.decimal(bits.value), _interval(bits.interval, words.decimal)))
    quiz = verdict.quiz_score(data.results)
    if quiz:
        found.append(
            (
                f"right in the {verdict.task_label(quiz)}",
                words.percent(quiz.value),
                _interval(quiz.interval, words.percent),
            )
        )
    return found


def _interval(interval: tuple[float, float] | None, write: Callable[[float], str]) -> str:
    return f"95\u202f%: {write(interval[0])} to {write(interval[1])}" if interval else ""


def _samples(data: ReportData) -> dict[str, list[Sample]]:
    """What the model wrote, by how it is shown: talks, and text that goes on from a prompt."""
    samples = data.results.samples if data.results else []
    talks = [sample for sample in samples if sample.messages or sample.kind.startswith("chat")]
    return {"chat": talks, "base": [sample for sample in samples if sample not in talks]}


def _runs(data: ReportData) -> list[tuple[str, str, Training, list[tuple[str, str]]]]:
    """(key, title, run, facts) of pretraining and of each tuning that logged anything."""
    named = [("pretraining", "Pretraining", data.training)] if data.training else []
    for index, run in enumerate(data.tuning):
        named.append((f"tuning-{index}", run.title or "Tuning on conversations", run))
    return [(key, title, run, _run_facts(run)) for key, title, run in named]


def _run_facts(run: Training) -> list[tuple[str, str]]:
    plan, facts = run.plan, []
    if "steps" in plan and "batch_tokens" in plan:
        facts.append(("steps", f"{words.plain(plan['steps'])} of {words.number(plan['batch_tokens'])} tokens"))
    if plan.get("method"):
        methods = {"puna": "Muon for matrices, AdamW for the rest; warm up, hold, decay", "reference": "AdamW, cosine"}
        facts.append(("method", methods.get(plan["method"], words.plain(plan["method"]))))
    if "lr_matrix" in plan and "lr_embed" in plan:
        facts.append(
            ("peak rates", f"matrices {words.plain(plan['lr_matrix'])}, embedding {words.plain(plan['lr_embed'])}")
        )
    rate = _median([m.tokens_per_second for m in run.metrics if m.tokens_per_second])
    if rate:
        share = f", {words.percent(run.peak_share, 0)} of the machine’s measured matmul peak" if run.peak_share else ""
        facts.append(("speed", f"{words.number(rate)} tokens a second (median){share}"))
    if run.seconds:
        facts.append(("time", words.duration(run.seconds)))
    skipped = run.skipped if run.skipped is not None else sum(bool(metric.skipped) for metric in run.metrics)
    if run.metrics:
        facts.append(("skipped as spikes", words.counted(skipped, "step")))
    last: Metric | None = run.metrics[-1] if run.metrics else None
    if last and last.loss is not None:
        facts.append(("last loss", f"{words.decimal(last.loss)} nats per token"))
    return facts


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _sections(data: ReportData) -> list[tuple[str, str]]:
    """(anchor, title) of the sections that have something to show, in the page's order."""
    results = data.results
    every = [
        ("verdict", "Verdict", verdict.verdict(data)),
        ("data", "Data", data.corpus or data.chat_data),
        ("tokenizer", "Tokenizer", set(data.tokenizer) - set(_COSTS)),
        ("vocabulary", "Vocabulary", data.extension),
        ("model", "Model", data.model),
        ("training", "Training", data.training or data.tuning),
        ("inherited", "Inherited and own", results and results.inheritance),
        ("long-context", "Long context", results and results.long_context),
        ("scores", "Scores", results and (results.scores or results.baselines)),
        ("samples", "Samples", results and results.samples),
        ("costs", "Costs", data.stages or data.machine),
        ("gate", "Export gate", data.gate),
        ("ledger", "Ledger", data.ledger),
        ("again", "Use it", data.commands or data.recipe_toml),
    ]
    return [(anchor, title) for anchor, title, present in every if present]
