"""What a model is, for the page's panel: facts, scores with intervals, what is inherited and what is its maker's own.

In: a hosted model's files, its ledger, comparisons of weights kept by `puna lineage`. Out: plain text in JSON. Must never happen: a thing
said that is not in the files, a shared architecture told as shared weights, or a ledger that is not believed and is quoted all the same.

All is read once, at the first question: it is not needed for answering.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Request
from pydantic import BaseModel

from puna.called import PUNA
from puna.engine import Engine
from puna.errors import PunaError
from puna.judge.asking.facts import model_facts
from puna.judge.measured import ModelFacts
from puna.ledger.licences import licence_named
from puna.ledger.logged import Logged, read_logged, record_of
from puna.lineage.records import load
from puna.lineage.verdict import LAYERS, Lineage
from puna.reading import read_object
from puna.serve.errors import RESPONSES, ApiError
from puna.serve.models import Hosted
from puna.words import listed, number

router = APIRouter(tags=["models"])
_KNOWN: WeakKeyDictionary[Hosted, "About"] = WeakKeyDictionary()
_MOST_SCORES = 40
_TITLES = {
    "heldout": "held-out text, bits per byte", "quiz": "four-choice quiz about functions", "parse": "functions written that parse",
}  # fmt: skip
SHARED = "Its architecture is LLaMA's, as that of every model of this family. A shared architecture is no evidence of shared weights."


class Fact(BaseModel):
    """One line: what it is called, and what it is."""

    name: str
    value: str


class AboutScore(BaseModel):
    """A score; `low` and `high` are its 95 % interval, None where none could be made. `chance`: what guessing gets."""

    name: str
    of: str  # "base" or "chat"
    value: float
    low: float | None
    high: float | None
    chance: float | None
    n: int
    higher_is_better: bool
    note: str = ""


class Verdict(BaseModel):
    """One of the six layers of evidence, as far as it was compared."""

    layer: str
    verdict: str
    sentence: str


class Compared(BaseModel):
    """What a comparison with another model found, layer by layer."""

    reference: str
    layers: list[Verdict]


class About(BaseModel):
    """The panel's content. Every text is to be shown as text."""

    model: str
    kind: str
    facts: list[Fact]
    scores: list[AboutScore]
    no_scores: str
    own: list[str]
    inherited: list[str]
    compared: list[Compared]
    not_compared: str
    licences: list[Fact]
    notes: list[str]


@router.get("/about/{model}", response_model=About, responses={404: RESPONSES[404]})
async def about(request: Request, model: str) -> About:
    """What a loaded model is, where it comes from, and what is known of both."""
    hosted: Hosted = request.app.state.models.get(model)
    if hosted not in _KNOWN:
        try:
            _KNOWN[hosted] = await asyncio.to_thread(about_model, hosted, Path("results"))
        except PunaError as error:  # its files were changed since it was loaded
            raise ApiError(500, f"{model}: its files cannot be read any more: {error.what}") from error
    return _KNOWN[hosted]


def about_model(hosted: Hosted, store: Path) -> About:
    """Read all of it. `store`: the folder of results in which `puna lineage` keeps comparisons. Raises `PunaError`."""
    path, engine = hosted.path, hosted.engine
    facts = model_facts(path, hosted.name, engine)
    record, top = record_of(path)
    logged = read_logged(record / "ledger.jsonl", path) if record is not None else Logged(broken="there is none")
    scores = _scores(record, top) if record is not None else []
    compared = [_compared(one) for one in load(store, []) if _is_ours(one, facts)]
    notes = list(facts.notes)
    if record is None:
        notes.append("No record of its making lies beside this model: only its own files are told of here.")
    elif logged.broken:
        notes.append(f"Its ledger is not believed: {logged.broken}.")
    return About(
        model=hosted.name,
        kind="chat" if engine.chats else "base",
        facts=_facts(hosted, facts, logged),
        scores=scores,
        no_scores="" if scores else "No scores lie beside this model.",
        own=_own(logged),
        inherited=_inherited(facts),
        compared=compared,
        not_compared=""
        if compared
        else f"Its weights were not compared with other models here. {PUNA} lineage MODEL REFERENCE does that.",
        licences=_licences(facts, logged),
        notes=notes,
    )


def _facts(hosted: Hosted, facts: ModelFacts, logged: Logged) -> list[Fact]:
    engine: Engine = hosted.engine
    config = engine.config
    heads = f"{config.num_attention_heads} heads, {config.num_key_value_heads} for keys and values"
    trained = None if facts.train_tokens is None else f"{number(facts.train_tokens)} tokens"
    made = (
        logged.entries[-1]["time"][:10] if logged.entries and isinstance(logged.entries[-1].get("time"), str) else None
    )
    lines: list[tuple[str, Any]] = [
        ("Parameters", number(config.parameters)),
        ("Architecture", f"{'Qwen3' if config.qk_norm else 'LLaMA'}, {config.num_hidden_layers} layers of {config.hidden_size}, {heads}"),
        ("Vocabulary", f"{number(engine.tokenizer.vocab_size)} tokens"),
        ("Context", f"{number(engine.context)} tokens, prompt and reply together"),
        ("Trained on", trained),
        ("Made", made),
        ("Served in", f"{engine.precision}, by {'OpenVINO' if engine.backend == 'openvino' else 'PyTorch'}"),
        ("SHA-256", facts.digest),
    ]  # fmt: skip
    return [Fact(name=name, value=str(value)) for name, value in lines if value]


def _scores(record: Path, top: bool) -> list[AboutScore]:
    """The release's own scores; of the base inside a release, the base's alone."""
    try:
        found = read_object(record, "results.json").get("scores")
    except PunaError:
        return []  # an older release has none, and a damaged one was refused at loading by its manifest
    scores = []
    for one in found[:_MOST_SCORES] if isinstance(found, list) else []:
        score = _score(one)
        if score is not None and (top or score.of == "base"):
            scores.append(score)
    return scores


def _score(one: Any) -> AboutScore | None:
    if not isinstance(one, dict) or not isinstance(one.get("value"), int | float):
        return None
    interval, detail = one.get("interval"), one.get("detail")
    pair = interval if isinstance(interval, list) and len(interval) == 2 else [None, None]
    note = detail.get("no_interval", "") if isinstance(detail, dict) and pair[0] is None else ""
    task = str(one.get("task"))
    return AboutScore(
        name=_TITLES.get(task, task),
        of=str(one.get("model") or "chat"),
        value=one["value"],
        low=pair[0],
        high=pair[1],
        chance=one.get("chance"),
        n=one.get("n") or 0,
        higher_is_better=bool(one.get("higher_is_better", True)),
        note=f"No interval: {note}." if note else "",
    )


def _own(logged: Logged) -> list[str]:
    """What its maker made, by a ledger that is believed."""
    if not logged.entries:
        return []
    said = []
    first: dict[str, Any] = next((entry["body"] for entry in logged.entries if entry["kind"] == "step0"), {})
    if first.get("from") == "seed":
        said.append(
            "Weights: they began as random numbers drawn from a seed that was committed to before training; anyone can draw them again."
        )
    stages = {str(entry["body"].get("stage")) for entry in logged.entries if entry["kind"] == "stage"}
    if "tokenizer" in stages and first.get("from") == "seed":
        said.append("Tokenizer: trained on the same text.")
    sources = logged.body("sources").get("sources")
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict):
            size = source.get("bytes")
            megabytes = f", {size / 1e6:,.1f} MB" if isinstance(size, int) else ""
            said.append(f"Text: {source.get('name')}{megabytes}, licence {source.get('licence') or 'not stated'}.")
    if any(stage.startswith("tune") for stage in stages):
        said.append("Chat: tuned by its maker after pretraining.")
    return said


def _inherited(facts: ModelFacts) -> list[str]:
    """What comes from others, as far as the files say."""
    said = [SHARED]
    for parent in facts.parents:
        relation = f" ({parent.relation})" if parent.relation else ""
        said.append(f"Weights: from {parent.name}{relation}; {parent.evidence}.")
    if facts.no_parent:
        said.append(f"Weights: none inherited, as far as is known: {facts.no_parent}.")
    elif not facts.parents:
        said.append("Weights: where they come from is not known from these files.")
    return said


def _licences(facts: ModelFacts, logged: Logged) -> list[Fact]:
    lines = [Fact(name="These weights", value=_licence(facts.licence))]
    sources = logged.body("sources").get("sources")
    texts: dict[str, list[str]] = {}
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict):
            texts.setdefault(str(source.get("licence") or "unstated"), []).append(str(source.get("name")))
    return lines + [
        Fact(name=f"The text: {listed(names[:4])}", value=_licence(named)) for named, names in texts.items()
    ]


def _licence(named: str | None) -> str:
    if not named or named == "unstated":
        return "not stated"
    facts = licence_named(named)
    if facts is None:
        return f"{named} (not in our table: read it)"
    asks = "; ".join(one.asks for one in facts.obligations)
    return f"{facts.title} ({named})" + (f": {asks}" if asks else "")


def _is_ours(one: Lineage, facts: ModelFacts) -> bool:
    subject = one.model_facts
    if subject is not None and subject.digest and facts.digest:
        return subject.digest == facts.digest
    return one.model == facts.name


def _compared(one: Lineage) -> Compared:
    layers: Sequence[str] = LAYERS
    found = [(name, getattr(one.layers, name)) for name in layers]
    return Compared(
        reference=one.reference,
        layers=[Verdict(layer=name, verdict=layer.verdict, sentence=layer.sentence) for name, layer in found],
    )
