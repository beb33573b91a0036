"""corpus.json: what became of everything, put together from the facts of all parts.

Comes in: the shelves' manifests. Goes out: one dict of JSON types. Must never happen: counts that do not add up.
"""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from puna.corpus import (
    cleaning,
    finishing,
    histograms,
    holdout,
    neardup,
    reading,
    reducing,
    scorers,
    scoring,
    thresholds,
)
from puna.corpus.cleaning import DOCUMENTS
from puna.corpus.context import Setting
from puna.corpus.scoring import Marks
from puna.corpus.steps import Step, accounts, joined
from puna.corpus.tally import Tally


def steps_of(setting: Setting) -> list[dict[str, Any]]:
    """The steps of all passes in order, each over all parts."""
    shelf = setting.shelf(reading.SHELF)
    steps = [joined(shelf.facts(part)["step"] for part in shelf.names())]
    for name in (cleaning.SHELF, reducing.SHELF, finishing.SHELF, holdout.SHELF):
        shelf = setting.shelf(name)
        by_part = [shelf.facts(part)["steps"] for part in shelf.names()]
        steps += [joined(column) for column in zip(*by_part, strict=True)]
    return steps


def of_build(
    setting: Setting, digests: list[dict[str, Any]], tally: Tally, marks: Marks, clusters: neardup.Clusters,
    plan: holdout.Plan, once: Step, *, python: str | None,
) -> dict[str, Any]:  # fmt: skip
    """The report of a finished build, but for what only the default corpus has."""
    steps = steps_of(setting)
    train, clean = setting.shelf(holdout.SHELF), setting.shelf(cleaning.SHELF)
    facts = [train.facts(part) for part in train.names()]
    encodings, skipped = Counter(tally.encodings), Counter(tally.skipped)
    read = setting.shelf(reading.SHELF)
    for part in read.names():
        encodings.update(read.facts(part)["encodings"])
        skipped.update(read.facts(part)["skipped"])
    personal: Counter[str] = Counter()
    for part in clean.names():
        personal.update(clean.facts(part)["personal"])
    learned = setting.shelf(scorers.SHELF).facts(scorers.PART)
    own = setting.config.thresholds
    return {
        "documents": {"train": sum(one["rows"] for one in facts), "heldout": once.documents_out},
        "bytes": {"train": sum(one["bytes"] for one in facts), "heldout": once.bytes_out},
        "steps": steps,
        "judged_once": once.report(),
        "accounts": accounts(steps, sum(one["changed"] for one in facts)),
        "histograms": _histograms(setting, marks),
        "sources": digests,
        "python": python,
        **_tables(setting, learned["facts"].get("topics", {}).get("labels", [])),
        "perplexity": {lang: {"percentile": 100 * (1 - setting.config.perplexity.drop), "threshold": mark}
                       for lang, mark in marks["perplexity"].items()},
        "quality": learned["facts"].get("quality"),
        "marks": marks,
        "safety": _safety(setting, steps),
        "duplicates": _duplicates(clusters),
        "personal": dict(sorted(personal.items())),
        "encodings": dict(sorted(encodings.items())),
        "skipped": {why: count for why, count in sorted(skipped.items()) if count},
        "split": plan.report,
        "notes": [*learned["notes"], *plan.notes],
        "versions": {"thresholds": thresholds.VERSION if own is None else f"{thresholds.VERSION}, changed by the recipe's own"},
    }  # fmt: skip


def _histograms(setting: Setting, marks: Marks) -> dict[str, Any]:
    """The measures and scores by language, each with the thresholds or marks that cut it."""
    clean, scores = setting.shelf(cleaning.SHELF), setting.shelf(scoring.SHELF)
    found = histograms.added(clean.facts(part)["histograms"] for part in clean.names())
    for lang, measures in histograms.added(scores.facts(part)["histograms"] for part in scores.names()).items():
        for name, entry in measures.items():
            entry["high" if name == "perplexity" else "low"] = marks[name].get(lang)
            found.setdefault(lang, {})[name] = entry
    return found


def _safety(setting: Setting, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Documents over the threshold, by category, whether they went or stayed."""
    step = next(step for step in steps if step["step"] == "safety")
    found: Counter[str] = Counter()
    for name, count in step["changed"].items():
        found[name.partition(",")[0]] += count
    return {name: {"documents": n, "threshold": setting.config.safety.threshold} for name, n in sorted(found.items())}


def _duplicates(clusters: neardup.Clusters) -> dict[str, Any]:
    first = clusters.representative()
    sizes = Counter(clusters.size[first].tolist())
    return {"clusters": int(first.sum()), "documents": len(clusters.order),
            "sizes": {str(size): count for size, count in sorted(sizes.items())}}  # fmt: skip


def _tables(setting: Setting, labels: list[list[str]]) -> dict[str, Any]:
    """What there is to train on, by language, script, licence, topic, and by source with its weight."""
    shelf = setting.shelf(holdout.SHELF)
    keys = ["lang", "script", "licence", "topic", "label", "copies"]
    parts = []
    for part in shelf.names():
        with pq.ParquetFile(shelf.file(part, DOCUMENTS)) as file:
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, columns=[*keys, "text"])
                size = pc.binary_length(table.column("text")).cast(pa.int64())
                table = table.drop_columns(["text"]).append_column("bytes", size).append_column(
                    "read", pc.multiply(size, table.column("copies")))  # fmt: skip
                parts.append(table.group_by(keys).aggregate([("bytes", "sum"), ("read", "sum"), ("lang", "count")]))
    rows = pa.concat_tables(parts).to_pylist() if parts else []
    total = sum(row["read_sum"] for row in rows) or 1
    found: dict[str, dict[Any, dict[str, int]]] = {}
    for row in rows:
        for name, key in (("languages", row["lang"]), ("scripts", row["script"]), ("licences", row["licence"]),
                          ("topics", row["topic"]), ("mixture", (row["label"], row["lang"]))):  # fmt: skip
            if key is None or key == "":
                continue
            entry = found.setdefault(name, {}).setdefault(key, {"documents": 0, "bytes": 0, "read": 0})
            entry["documents"] += row["lang_count"]
            entry["bytes"] += row["bytes_sum"]
            entry["read"] += row["read_sum"]

    def amounts(name: str) -> dict[Any, Any]:
        held = sorted(found.get(name, {}).items(), key=lambda item: (-item[1]["bytes"], str(item[0])))
        return {key: {"documents": entry["documents"], "bytes": entry["bytes"]} for key, entry in held}

    mixture = [{"source": label, "lang": lang, "documents": entry["documents"], "bytes": entry["bytes"],
                "weight": round(entry["read"] / max(1, entry["bytes"]), 4), "share": entry["read"] / total}
               for (label, lang), entry in sorted(found.get("mixture", {}).items())]  # fmt: skip
    topics = [{"id": topic, "words": labels[topic], **entry} for topic, entry in amounts("topics").items()]
    return {"languages": amounts("languages"), "scripts": amounts("scripts"), "licences": amounts("licences"),
            "topics": topics, "mixture": mixture}  # fmt: skip


def told(report: dict[str, Any]) -> str:
    """What was made, on one line."""
    documents, size = report["documents"], report["bytes"]
    sides = (("train", "to train on"), ("heldout", "to judge by"))
    line = ", ".join(f"{documents[side]:,} document{'s' * (documents[side] != 1)} ({_size(size[side])}) {use}"
                     for side, use in sides)  # fmt: skip
    skipped = ", ".join(f"{count:,} {why}" for why, count in report["skipped"].items())
    return f"  {line}" + (f"; skipped: {skipped}" if skipped else "")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
