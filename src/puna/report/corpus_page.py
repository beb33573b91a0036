"""The report of a corpus: one HTML page that says where every document and byte went.

Comes in: a dict of `report.corpus_data.CorpusData`'s shape. Goes out: an HTML file like the build's report: its styles
and drawings inside, readable without scripts, network or colour. Must never happen: text of a stranger's that becomes
markup or turns the words around it about (each quotation has its own direction), or a page of a gigabyte: long tables
and texts are cut, and say so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna import words
from puna.report import corpus_plots, corpus_words
from puna.report.corpus_data import Amount, CorpusData, Histogram, Stage
from puna.report.data import Removed
from puna.report.page import filled, write_page
from puna.visible import clean

_ROWS = 40  # of a table; the rest is one row of its sums
_SPREADS = 12  # languages whose histograms are drawn
_MEASURES = 24  # of each
_REASONS, _SAMPLES = 12, 3  # of each stage, and texts of each reason
_WORDS = 12  # of a topic


@dataclass(frozen=True)
class Row:
    """A row of an amounts table; `share` is of the bytes, or of the documents where none have bytes, 0 to 1."""

    name: str
    documents: int
    bytes: int
    share: float


def render_corpus(data: dict[str, Any], out: Path) -> None:
    """Write the report of one corpus to `out`, whole or not at all.

    Raises pydantic's `ValidationError` where `data` has not the shape of `CorpusData`, or its accounts do not add up.
    """
    write_page(corpus_html(CorpusData.model_validate(data)), out)


def corpus_html(data: CorpusData) -> str:
    """The page as a string."""
    flow = corpus_words.flow(data)
    return filled(
        "corpus.html.j2",
        data=data,
        of="corpus",
        title=clean(data.title or data.run),
        summary=corpus_words.headline(data),
        hills=corpus_plots.ridge(flow),
        hills_are="the bytes that each stage of this run left, and behind them the documents",
        figures=_figures(data),
        sections=_sections(data),
        flow=flow,
        gaps=corpus_words.gaps(data),
        account=corpus_words.account(data),
        corpus_plots=corpus_plots,
        spreads=_spreads(data),
        spreads_left=max(0, len(data.histograms) - _SPREADS),
        removed=[(step, _by_reason(step)) for step in data.steps if step.samples],
        languages=amounts(data.languages),
        scripts=amounts(data.scripts),
        licences=amounts(data.licences),
        topics=sorted(data.topics, key=lambda topic: -topic.bytes),
        mixture=sorted(data.mixture, key=lambda row: -(row.share or row.tokens or row.bytes)),
        sizes=_sizes(data),
        versions=[(key, value) for key, value in data.versions.items() if value is not None],
        most_rows=_ROWS,
        most_words=_WORDS,
    )


def amounts(found: Mapping[str, Amount], most: int = _ROWS) -> list[Row]:
    """Rows by size, largest first; what comes after the first `most` is summed in one row."""
    ordered = sorted(found.items(), key=lambda pair: (-pair[1].bytes, -pair[1].documents, pair[0]))
    rows = [(name, amount.documents, amount.bytes) for name, amount in ordered]
    if len(rows) > most:
        rest = rows[most:]
        rows = [*rows[:most], (f"{len(rest):,} others", sum(row[1] for row in rest), sum(row[2] for row in rest))]
    in_bytes = any(size for _, _, size in rows)
    total = sum(size if in_bytes else documents for _, documents, size in rows)
    return [
        Row(name, documents, size, (size if in_bytes else documents) / total if total else 0.0)
        for name, documents, size in rows
    ]


def _figures(data: CorpusData) -> list[tuple[str, str, str]]:
    """(what, figure, beside it) for the numbers that are read first; only those that were counted."""
    found: list[tuple[str, str, str]] = []
    if data.documents:
        held = f"and {words.number(data.documents.heldout)} to judge by" if data.documents.heldout else ""
        found.append(("documents to train on", words.compact(data.documents.train), held))
    if data.bytes:
        held = f"and {words.size_bytes(data.bytes.heldout)} to judge by" if data.bytes.heldout else ""
        found.append(("of text to train on", words.size_bytes(data.bytes.train), held))
    gone = corpus_words.gone_bytes(corpus_words.flow(data))
    if gone is not None:
        found.append(
            ("of the bytes removed", words.percent(max(0.0, gone)), f"in {words.counted(len(data.steps), 'stage')}")
        )
    tokens = [row.tokens for row in data.mixture if row.tokens is not None]
    if tokens:
        found.append(("tokens to train on", words.compact(sum(tokens)), ""))
    if data.languages:
        most = amounts(data.languages)[0]
        found.append(("languages" if len(data.languages) > 1 else "language", words.number(len(data.languages)),
                      f"{words.brief(most.name, 12)} {words.percent(most.share, 0)}"))  # fmt: skip
    return found


def _spreads(data: CorpusData) -> list[tuple[str, int, list[tuple[str, Histogram]]]]:
    """(language, documents, its histograms), the languages with most documents first; measures with limits first."""
    found = []
    for lang, measures in data.histograms.items():
        counted = data.languages[lang].documents if lang in data.languages else 0
        documents = max((sum(one.counts) for one in measures.values()), default=counted)
        ordered = sorted(measures.items(), key=lambda pair: pair[1].low is None and pair[1].high is None)
        found.append((lang, documents, ordered[:_MEASURES]))
    return sorted(found, key=lambda row: (-row[1], row[0]))[:_SPREADS]


def _by_reason(step: Stage) -> list[tuple[str, int | None, list[Removed]]]:
    """(reason, how often, its first samples), the most frequent reason first."""
    groups: dict[str, list[Removed]] = {}
    for sample in step.samples:
        groups.setdefault(sample.reason, []).append(sample)
    ordered = sorted(groups.items(), key=lambda pair: -step.removed.get(pair[0], 0))
    return [(reason, step.removed.get(reason), samples[:_SAMPLES]) for reason, samples in ordered[:_REASONS]]


def _sizes(data: CorpusData) -> list[tuple[str, int, int]]:
    """(documents in a group, groups, documents in all) in classes that double: 2, 3 to 4, 5 to 8, ..."""
    if not data.duplicates:
        return []
    classes: dict[int, tuple[int, int]] = {}
    for size, count in data.duplicates.sizes.items():
        power = max(0, (size - 1).bit_length())
        groups, documents = classes.get(power, (0, 0))
        classes[power] = (groups + count, documents + size * count)
    return [
        (words.number(2**power) if power < 2 else f"{2 ** (power - 1) + 1:,} to {2**power:,}", groups, documents)
        for power, (groups, documents) in sorted(classes.items())
        if groups
    ]


def _sections(data: CorpusData) -> list[tuple[str, str]]:
    """(anchor, title) of the sections that have something to show, in the page's order."""
    every: Iterable[tuple[str, str, Any]] = [
        ("stages", "Stages", data.steps or data.accounts),
        ("limits", "Thresholds", any(data.histograms.values())),
        ("removed", "Removed text", any(step.samples for step in data.steps)),
        ("languages", "Languages", data.languages or data.scripts),
        ("topics", "Topics", data.topics),
        ("mixture", "Mixture", data.mixture),
        ("sources", "Sources", data.sources or data.licences),
        ("quality", "Quality", data.quality or data.perplexity),
        ("duplicates", "Duplicates", data.duplicates),
        ("personal", "Personal data", data.personal),
        ("safety", "Safety", data.safety),
        ("contamination", "Contamination", data.contamination),
        ("reading", "Passed over", any(data.skipped.values()) or any(data.encodings.values())),
        ("made", "How it was made", data.versions or data.split or data.notes or data.seconds is not None),
    ]
    return [(anchor, title) for anchor, title, present in every if present]
