"""What a model is, for the page's panel: facts, scores with intervals, what is inherited and what is its maker's own.

In: a hosted model's files, its ledger, comparisons of weights kept by `puna lineage`. Out: plain text in JSON. Must never happen: a thing
said that is not in the files, a shared architecture told as shared weights, or a ledger that is not believed and is quoted all the same.

All is read at the first question, as answering does not need it, and again when `puna lineage` has kept another comparison. Names and
sentences are strangers': nothing in them stays hidden, and each has an end.
"""

import asyncio
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator

from puna.called import PUNA
from puna.engine import Engine
from puna.errors import PunaError
from puna.files import file_sha256
from puna.judge.asking.facts import model_facts
from puna.judge.measured import ModelFacts
from puna.ledger.chain import Entry
from puna.ledger.licences import licence_named
from puna.ledger.logged import BASE, Logged, read_logged, record_of
from puna.lineage.records import FOLDER, load
from puna.lineage.verdict import LAYERS, Lineage
from puna.reading import read_object
from puna.serve.errors import RESPONSES, ApiError
from puna.serve.models import Hosted
from puna.words import brief, listed, number

router = APIRouter(tags=["models"])
_Stamp = tuple[tuple[str, int], ...]  # the kept comparisons, by name and time of change
_KNOWN: WeakKeyDictionary[Hosted, tuple[_Stamp, "About"]] = WeakKeyDictionary()
_MOST = 40  # scores, sources, parents or comparisons that are shown
_LONGEST = 2000  # characters of one text: a licence's obligations need most of it
_RESULTS = "results.json"
_TRAINING = ("pretrain", "tune-")  # stages
_TITLES = {
    "heldout": "held-out text, bits per byte", "quiz": "four-choice quiz about functions", "parse": "functions written that parse",
}  # fmt: skip
SHARED = (
    "Its architecture is published and many models have it. A shared architecture is no evidence of shared weights."
)

Text = Annotated[str, BeforeValidator(lambda text: brief(text, _LONGEST) if isinstance(text, str) else text)]


class Fact(BaseModel):
    """One line: what it is called, and what it is."""

    name: Text
    value: Text


class AboutScore(BaseModel):
    """A score; `low` and `high` are its 95 % interval, None where none could be made. `chance`: what guessing gets."""

    name: Text
    of: Text  # "base" or "chat"
    value: float
    low: float | None
    high: float | None
    chance: float | None
    n: int
    higher_is_better: bool
    note: Text = ""


class Verdict(BaseModel):
    """One of the six layers of evidence, as far as it was compared."""

    layer: Text
    verdict: Text
    sentence: Text


class Compared(BaseModel):
    """What a comparison with another model found, layer by layer."""

    reference: Text
    layers: list[Verdict]


class About(BaseModel):
    """The panel's content. Every text is to be shown as text."""

    model: Text
    kind: Text
    facts: list[Fact]
    scores: list[AboutScore]
    no_scores: Text
    own: list[Text]
    inherited: list[Text]
    compared: list[Compared]
    not_compared: Text
    licences: list[Fact]
    notes: list[Text]


@router.get("/about/{model}", response_model=About, responses={404: RESPONSES[404]})
async def about(request: Request, model: str) -> About:
    """What a loaded model is, where it comes from, and what is known of both."""
    hosted: Hosted = request.app.state.models.get(model)
    store: Path = request.app.state.settings.results
    known = _KNOWN.get(hosted)
    try:
        stamp = await asyncio.to_thread(_stamp, store)
        if known is None or known[0] != stamp:
            known = _KNOWN[hosted] = stamp, await asyncio.to_thread(about_model, hosted, store)
    except (PunaError, OSError) as error:  # its files were changed since it was loaded
        told = error.what if isinstance(error, PunaError) else error.strerror
        raise ApiError(500, f"{model}: its files cannot be read any more: {told}") from error
    return known[1]


def _stamp(store: Path) -> _Stamp:
    return tuple(sorted((path.name, path.stat().st_mtime_ns) for path in (store / FOLDER).glob("*.json")))


def about_model(hosted: Hosted, store: Path) -> About:
    """Read all of it. `store`: the folder of results in which `puna lineage` keeps comparisons. Raises `PunaError`."""
    path, engine = hosted.path, hosted.engine
    facts = model_facts(path, hosted.name, engine)
    record, top = record_of(path)
    logged = read_logged(record / "ledger.jsonl", path) if record is not None else Logged(broken="there is none")
    scores, of_scores = _scores(record, top, logged) if record is not None else ([], "")
    notes = [f"{note[:1].upper()}{note[1:]}." for note in facts.notes[:_MOST]]
    if scores and of_scores:
        notes.append(of_scores)
    if record is None:
        notes.append("No record of its making lies beside this model: only its own files are told of here.")
    compared, wrong = _compared(store, facts)
    return About(
        model=hosted.name,
        kind="chat" if engine.chats else "base",
        facts=_facts(hosted, facts, logged),
        scores=scores,
        no_scores="" if scores else of_scores or "No scores lie beside this model.",
        own=_own(logged, top),
        inherited=_inherited(facts, logged, record is not None and top and (path / BASE / "config.json").is_file()),
        compared=compared,
        not_compared=""
        if compared
        else f"Its weights were not compared with other models here. {PUNA} lineage MODEL REFERENCE does that.",
        licences=_licences(facts, logged),
        notes=notes + wrong,
    )


def _facts(hosted: Hosted, facts: ModelFacts, logged: Logged) -> list[Fact]:
    engine: Engine = hosted.engine
    config = engine.config
    heads = f"{config.num_attention_heads} heads, {config.num_key_value_heads} for keys and values"
    trained = None if facts.train_tokens is None else f"{number(facts.train_tokens)} tokens"
    trainings = [entry for entry in logged.entries if entry["kind"] == "stage" and _stage(entry).startswith(_TRAINING)]
    made = trainings[-1]["time"][:10] if trainings else None
    lines: list[tuple[str, Any]] = [
        ("Parameters", number(config.parameters)),
        ("Architecture", f"{config.architecture}, {config.num_hidden_layers} layers of {config.hidden_size}, {heads}"),
        ("Vocabulary", f"{number(engine.tokenizer.vocab_size)} tokens"),
        ("Context", f"{number(engine.context)} tokens, prompt and reply together"),
        ("Trained on", trained),
        ("Made", made),
        ("Served in", f"{engine.precision}, by {'OpenVINO' if engine.backend == 'openvino' else 'PyTorch'}"),
        ("SHA-256", facts.digest),
    ]  # fmt: skip
    return [Fact(name=name, value=str(value)) for name, value in lines if value]


def _scores(record: Path, top: bool, logged: Logged) -> tuple[list[AboutScore], str]:
    """The release's own scores (of the base inside a release, the base's alone), and what a reader must know of them, or why there are none."""
    try:
        found = read_object(record, _RESULTS).get("scores")
    except PunaError as error:
        return [], f"Its scores cannot be read: {error.what}."
    told = logged.body("results").get("sha256")
    if told is not None and told != file_sha256(record / _RESULTS):
        return [], "The scores beside it are not those that its ledger logged: they are left out."
    scores = [score for one in (found if isinstance(found, list) else []) if (score := _score(one)) is not None]
    scores = [score for score in scores if top or score.of == "base"][:_MOST]
    doubt = "Its scores are as its maker states them: no ledger that is believed ties them to these weights."
    return scores, doubt if scores and logged.broken else ""


def _score(one: Any) -> AboutScore | None:
    """One entry of a stranger's results; None where it is no score."""
    value = _figure(one.get("value")) if isinstance(one, dict) else None
    if value is None:
        return None
    interval, detail, n, task = one.get("interval"), one.get("detail"), one.get("n"), one.get("task")
    pair = [_figure(end) for end in interval] if isinstance(interval, list) and len(interval) == 2 else [None, None]
    low, high = pair if None not in pair else (None, None)
    why = detail.get("no_interval") if isinstance(detail, dict) and low is None else None
    name = task if isinstance(task, str) else "a score without a name"
    return AboutScore(
        name=_TITLES.get(name, name),
        of="base" if one.get("model") == "base" else "chat",
        value=value,
        low=low,
        high=high,
        chance=_figure(one.get("chance")),
        n=n if type(n) is int and 0 <= n < 1 << 53 else 0,
        higher_is_better=one.get("higher_is_better") is not False,
        note=f"No interval: {why}." if isinstance(why, str) and why else "",
    )


def _figure(value: Any) -> float | None:
    """A number that JSON and a page can show; None for everything else."""
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None


def _own(logged: Logged, top: bool) -> list[str]:
    """What its maker made, by a ledger that is believed. `top`: of the tuned model, and not of the base inside its release."""
    if not logged.entries:
        return []
    said = []
    stages = [_stage(entry) for entry in logged.entries if entry["kind"] == "stage"]
    tuned = top and any(stage.startswith("tune-") for stage in stages)
    step0 = next((entry["body"] for entry in logged.entries if entry["kind"] == "step0"), None)
    if not _from_scratch(logged):
        said.append("Training: the weights named under what is inherited were trained further by its maker.")
    elif isinstance(step0, dict) and step0.get("from") == "seed":
        said.append(
            "Weights: they began as random numbers drawn from a seed that was committed to before training; anyone can draw them again."
        )
    else:
        said.append("Weights: they began as random numbers.")
    if _from_scratch(logged) and "tokenizer" in stages:
        said.append("Tokenizer: trained by its maker.")
    for source in _sources(logged):
        size = _figure(source.get("bytes"))
        megabytes = f", {size / 1e6:,.1f} MB" if size is not None else ""
        said.append(f"Text: {_word(source.get('name'))}{megabytes}, licence {_word(source.get('licence'))}.")
    if tuned:
        said.append("Chat: tuned by its maker after pretraining.")
    return said


def _inherited(facts: ModelFacts, logged: Logged, base_inside: bool) -> list[str]:
    """What comes from others, as far as the files say. `base_inside`: the first parent is the same maker's base, in the same release."""
    said = [SHARED]
    for parent in facts.parents[1 if base_inside else 0 :][:_MOST]:
        relation = f" ({parent.relation})" if parent.relation else ""
        said.append(f"Weights: from {parent.name}{relation}; {parent.evidence}.")
    if len(said) > 1:
        return said
    if _from_scratch(logged):
        said.append("Weights: none, by its ledger. Only a comparison of weights can test that.")
    else:
        said.append("Weights: where they come from is not known from these files.")
    return said


def _from_scratch(logged: Logged) -> bool:
    """Whether a ledger that is believed names no weights that the training began with."""
    recipe = logged.body("recipe").get("recipe")
    return logged.last("base") is None and isinstance(recipe, dict) and recipe.get("base") is None


def _stage(entry: Entry) -> str:
    return str(entry["body"].get("stage")) if isinstance(entry["body"], dict) else ""


def _sources(logged: Logged) -> list[dict[str, Any]]:
    sources = logged.body("sources").get("sources")
    return [one for one in sources if isinstance(one, dict)][:_MOST] if isinstance(sources, list) else []


def _word(value: Any) -> str:
    """A name of a stranger's within a sentence."""
    return brief(value) if isinstance(value, str) and value and value != "unstated" else "not stated"


def _licences(facts: ModelFacts, logged: Logged) -> list[Fact]:
    lines = [Fact(name="These weights", value=_licence(facts.licence))]
    texts: dict[str, list[str]] = {}
    for source in _sources(logged):
        texts.setdefault(_word(source.get("licence")), []).append(_word(source.get("name")))
    return lines + [
        Fact(name=f"The text: {listed(names[:4])}", value=_licence(named)) for named, names in texts.items()
    ]


def _licence(named: str | None) -> str:
    if named in (None, "", "unstated", "not stated"):
        return "not stated"
    facts = licence_named(named)
    if facts is None:
        return f"{named} (not in our table: read it)"
    asks = "; ".join(one.asks for one in facts.obligations)
    return f"{facts.title} ({named})" + (f": {asks}" if asks else "")


def _compared(store: Path, facts: ModelFacts) -> tuple[list[Compared], list[str]]:
    """The kept comparisons of these very weights, by their digest: a name says nothing. And a note where a file of the store is none."""
    problems: list[PunaError] = []
    ours = [
        one for one in load(store, problems)
        if one.model_facts is not None and one.model_facts.digest is not None and one.model_facts.digest == facts.digest
    ]  # fmt: skip
    notes = ["A file of the store of comparisons cannot be read, and is left out."] if problems else []
    return [_layers(one) for one in ours[:_MOST]], notes


def _layers(one: Lineage) -> Compared:
    found = [(name, getattr(one.layers, name)) for name in LAYERS]
    return Compared(
        reference=one.reference,
        layers=[Verdict(layer=name, verdict=layer.verdict, sentence=layer.sentence) for name, layer in found],
    )
