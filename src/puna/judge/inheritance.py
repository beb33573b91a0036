"""What a model has from its base and what is its maker's own: one row a model, one column a domain, and the differences.

Comes in: the models in the order of their making ("inherited", where there is one "init", "own"), corpus folders by domain
("new": the run's own text; "old": text of the kind that the base was made for). Goes out: bits per byte with intervals,
paired differences, sentences. Must never happen: two models compared on different text, "forgot" or "gained" where
the interval of the difference holds zero, or two models in memory at once where they were given as folders.

The form is that of Yi's table for the 9B model grown out of the 6B (Young et al. 2024, arXiv:2403.04652, section 7.3): a row
for the base, one for the grown model before any training, one after it. What training added is the last less the others.
Bits per byte compare models whose tokenizers differ.
"""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.engine import Engine
from puna.files import file_sha256
from puna.judge.bits_per_byte import document_bits
from puna.judge.columns import WIDTH, cell, fit, wrap
from puna.judge.compare import paired
from puna.judge.documents import HELDOUT_BYTES, load
from puna.judge.heldout import Text
from puna.judge.results import PLACES, harness, weights_digest
from puna.judge.stats import Units, ratio_interval
from puna.progress import QUIET, Progress

INHERITED, INIT, OWN = "inherited", "init", "own"
NEW, OLD = "new", "old"
_FORMAT = 1  # of the dict
Floats = npt.NDArray[np.float64]
Model = tuple[str, Engine | Path]


def judge_inheritance(
    models: Sequence[Model], domains: Mapping[str, Path], *, draws: int, seed: int, progress: Progress = QUIET
) -> dict[str, Any]:
    """Measure every model on the held-out text of every domain; see the module for names and form.

    `domains` are corpus folders (heldout.parquet). A model given as a path is loaded, read with and let go before the next.
    Raises `PunaError` for a damaged model or corpus; ValueError for fewer than two models, or names that occur twice.
    """
    names = [name for name, _ in models]
    if len(names) < 2 or len(set(names)) != len(names) or not domains:
        raise ValueError(
            f"two models or more with names of their own, and a domain, are needed; got {names}, {list(domains)}"
        )
    texts = {
        domain: Text.of(load(folder, "heldout", HELDOUT_BYTES, seed), draws, seed) for domain, folder in domains.items()
    }
    bits: dict[str, dict[str, Floats]] = {domain: {} for domain in texts}  # of each document
    tokens: dict[str, dict[str, Floats]] = {
        domain: {} for domain in texts
    }  # of each document, where languages are known
    rows = []
    for name, model in models:
        engine = model if isinstance(model, Engine) else Engine.load(model)
        scores = {}
        for domain, text in texts.items():
            title = f"reading {_domain(domain)} ({name})"
            bits[domain][name], how = document_bits(engine, text.documents.texts, progress, title)
            scores[domain] = text.score(text.units.sums(bits[domain][name]), text.units, how, model=name)
            if text.documents.langs:
                counts = [len(ids) for ids in engine.tokenizer.encode_batch(text.documents.texts)]
                tokens[domain][name] = np.array(counts, np.float64)
        rows.append({"model": name, "scores": scores})
        del engine
        gc.collect()  # a decoder's modules refer to each other: without this the next model would be loaded beside it
    result: dict[str, Any] = {
        "format": _FORMAT, "draws": draws, "seed": seed, "harness": harness(),
        "inputs": {"models": {name: _digest(model) for name, model in models},
                   "domains": {domain: file_sha256(folder / "heldout.parquet") for domain, folder in domains.items()}},
        "models": names, "text": {domain: text.documents.note for domain, text in texts.items()}, "rows": rows,
        "differences": [_difference(texts[domain], bits[domain], before, after, domain)
                        for domain in texts for before, after in _pairs(names)],
        "languages": {domain: found for domain, text in texts.items()
                      if (found := _languages(text, bits[domain], tokens[domain], names))},
    }  # fmt: skip
    result["words"] = [said["words"] for said in result["differences"] if said["words"]] + _notes(result)
    return result


def _digest(model: Engine | Path) -> str | None:
    return file_sha256(model) if isinstance(model, Path) and model.is_file() else weights_digest(model)


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(before, after): the last against the first, and each against the one before it where that is another pair."""
    return list(dict.fromkeys([(names[0], names[-1]), *zip(names, names[1:], strict=False)]))


def _difference(text: Text, bits: Mapping[str, Floats], before: str, after: str, domain: str) -> dict[str, Any]:
    """Bits per byte of `after` minus `before` on the same units; `holds`: did it get better? None: cannot tell."""
    sums = text.units.sums
    gap = paired(
        sums(bits[after]), sums(bits[before]), sums(text.documents.sizes), text.units.kind, text.draws, text.seed
    )
    interval = gap["interval"]
    holds = None if interval is None or interval[0] <= 0 <= interval[1] else interval[1] < 0
    said = {"domain": domain, "before": before, "after": after, "difference": gap, "holds": holds}
    same = bool(np.array_equal(bits[before], bits[after]))
    return {**said, "words": _words(gap, domain, before, after, holds, same)}


def _words(gap: Mapping[str, Any], domain: str, before: str, after: str, holds: bool | None, same: bool) -> str:
    """The difference as a sentence: what training gained, what was forgotten, what the new form alone changed."""
    where, size = f"on the {_domain(domain)}", _size(gap["value"])
    if same:
        return f"{_verb(before, after)} left every prediction {where} as it was."
    if gap["interval"] is None:
        way = "fewer" if gap["value"] < 0 else "more"
        return f"Cannot tell what {_lower(_verb(before, after))} did {where}: {size} {way}, and too few {gap['drawn']} for an interval."
    if holds is None:
        low, high = gap["interval"]
        what = "forgetting" if domain == OLD else "change" if after == INIT else "gain"
        more = f"{size} {'fewer' if gap['value'] < 0 else 'more'} (95 % interval {_way(low)} to {_way(high)})"
        return f"{_verb(before, after)} brought no {what} that the data can show {where}: {more}."
    nearer, farther = sorted(abs(value) for value in gap["interval"])
    within = f"(95 % interval {nearer:.3f} to {farther:.3f})"
    if domain == OLD:
        if holds:
            return f"{_verb(before, after)} forgot nothing: {where} too it gained {size} {within}."
        return f"{_verb(before, after)} forgot {size} {where} {within}."
    return f"{_verb(before, after)} {'gained' if holds else 'lost'} {size} {where} {within}."


def _verb(before: str, after: str) -> str:
    if after == INIT:
        return "The new form alone, before any training,"
    if before == INIT:
        return "Training from the new form on"
    if (before, after) == (INHERITED, OWN):
        return "All that was done to the base"
    return f"From {before} to {after} the work"


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know beside the differences."""
    said = []
    if OLD not in result["text"]:
        said.append("Forgetting was not measured: no text of the base's old domain was named.")
    for row in result["rows"]:
        dropped = sum(score["detail"]["documents_not_lossless"] for score in row["scores"].values())
        if dropped:
            said.append(
                f"The tokenizer of {row['model']} does not spell every byte of {dropped:,} "
                f"{'document' if dropped == 1 else 'documents'}: there its bits per byte may look better than they are."
            )
    contexts = {row["model"]: next(iter(row["scores"].values()))["detail"]["context"] for row in result["rows"]}
    if len(set(contexts.values())) > 1:
        said.append(
            "Each reads by its own context: " + ", ".join(f"{name} {n:,} tokens" for name, n in contexts.items()) + "."
        )
    return said


def _languages(
    text: Text, bits: Mapping[str, Floats], tokens: Mapping[str, Floats], names: Sequence[str]
) -> dict[str, Any]:
    """By language: bits per byte and bytes per token of every model, and the last minus the first; most bytes first."""
    sizes, langs = text.documents.sizes, np.array([lang or "" for lang in text.documents.langs])
    found: dict[str, Any] = {}
    for lang in sorted(set(langs.tolist()) - {""}, key=lambda one: (-int(sizes[langs == one].sum()), one)):
        here = np.flatnonzero(langs == lang)
        units = Units.of([text.documents.sources[place] for place in here])
        weights = units.sums(sizes[here])
        rows = {}
        for name in names:
            sums = units.sums(bits[name][here])
            interval = ratio_interval(sums, weights, text.draws, text.seed)
            rows[name] = {
                "bits_per_byte": round(float(sums.sum() / weights.sum()), PLACES),
                "interval": None if interval is None else [round(value, PLACES) for value in interval],
                "bytes_per_token": round(float(weights.sum() / tokens[name][here].sum()), PLACES),
            }
        first, last = units.sums(bits[names[0]][here]), units.sums(bits[names[-1]][here])
        found[lang] = {"documents": len(here), "bytes": int(weights.sum()), "n": units.count, "n_is": units.kind, "rows": rows,
                       "difference": paired(last, first, weights, units.kind, text.draws, text.seed)}  # fmt: skip
    return found


def _domain(name: str) -> str:
    return f"{name} text"


def _size(value: float) -> str:
    return f"{'less than 0.001' if abs(value) < 0.0005 else f'{abs(value):.3f}'} bits per byte"


def _way(value: float) -> str:
    return f"{abs(value):.3f} {'fewer' if value < 0 else 'more'}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def format_inheritance(result: Mapping[str, Any]) -> str:
    """The table for the terminal: rows are models and differences, columns domains; then languages and sentences.

    80 columns, no colour; more than two domains stand below each other.
    """
    domains, lines = list(result["text"]), []
    for first in range(0, len(domains), 2):
        lines += [*_block(result, domains[first : first + 2]), ""]
    for domain, found in result["languages"].items():
        lines += [*_language_block(result["models"], domain, found), ""]
    for sentence in result["words"]:
        lines += wrap(sentence)
    return "\n".join(lines)


def _block(result: Mapping[str, Any], domains: Sequence[str]) -> list[str]:
    pad = " " * (30 * (2 - len(domains)))
    heads = "".join(fit(_domain(domain), 30, right=True) for domain in domains)
    lines = [fit("bits per byte", 20) + pad + heads, "-" * WIDTH]
    for row in result["rows"]:
        cells = [cell(row["scores"][domain]["value"], row["scores"][domain]["interval"]) for domain in domains]
        lines.append(fit(row["model"], 20) + pad + "".join(cells))
    for before, after in _pairs(result["models"]):
        gaps = [
            next(said["difference"] for said in result["differences"]
                 if (said["domain"], said["before"], said["after"]) == (domain, before, after))
            for domain in domains
        ]  # fmt: skip
        cells = [cell(gap["value"], gap["interval"], "+") for gap in gaps]
        lines.append(fit(f"{after} - {before}", 20) + pad + "".join(cells))
    last = [result["rows"][-1]["scores"][domain] for domain in domains]
    counts = [f"{score['n']:,} {score['detail']['n_is']}" for score in last]
    lines.append(fit("n", 20) + pad + "".join(fit(count, 30, right=True) for count in counts))
    return lines


def _language_block(models: Sequence[str], domain: str, found: Mapping[str, Any]) -> list[str]:
    """Bits per byte and bytes per token of the first and the last model, by language."""
    first, last = models[0], models[-1]
    lines = [
        f"{fit(_domain(domain), 14)}{'bits per byte':>22}{'difference':>28}{'bytes per token':>16}",
        "-" * WIDTH,
    ]
    for lang, told in found.items():
        one, other, gap = told["rows"][first], told["rows"][last], told["difference"]
        bits = f"{one['bits_per_byte']:.3f} -> {other['bits_per_byte']:.3f}"
        change = f"{gap['value']:+.3f}" + (
            "" if gap["interval"] is None else f" ({gap['interval'][0]:+.3f} to {gap['interval'][1]:+.3f})"
        )
        sizes = f"{one['bytes_per_token']:.2f} -> {other['bytes_per_token']:.2f}"
        lines.append(f"{fit(lang, 14)}{bits:>22}{change:>28}{sizes:>16}")
    return lines
