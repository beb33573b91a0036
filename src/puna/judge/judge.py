"""First judgement: a base and a chat model beside what chance, compression and counting give on the same text.

Comes in: model folders (or engines), the corpus, the recipe's section. Goes out: results.json and quiz.jsonl. Must never
happen: a number without its interval or the reason why there is none, a task left out in silence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.engine import Engine
from puna.files import atomic_file, canonical_json, digest_of, file_sha256, write_json
from puna.judge.compare import verdict
from puna.judge.documents import HELDOUT_BYTES, LONG_LINE, TRAIN_BYTES, load, verbatim_share
from puna.judge.functions import Function, read_functions
from puna.judge.heldout import Text, judge_text
from puna.judge.parse import parse_score, prompts_of, write_functions
from puna.judge.quiz import LEAST_ITEMS, make_items, run_quiz
from puna.judge.results import Score, harness, weights_digest
from puna.judge.samples import base_samples, chat_samples
from puna.progress import QUIET, Progress
from puna.recipe.schema import Judge

_FORMAT = 1  # of results.json
_NO_FUNCTIONS = "the corpus has no documented Python functions (functions.jsonl)"
LeftOut = dict[str, str]


def judge_model(
    base: Path | Engine, chat: Path | Engine | None, corpus: Path, config: Judge, seed: int, out: Path,
    progress: Progress = QUIET, *, reference: Path | Engine | None = None, extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure, write `out`/results.json (and quiz.jsonl where there is a quiz), and return the results.

    `base` predicts text, `chat` answers the quiz, `reference` is another base model measured on the same text. `extra`
    is kept under "extra" (the command, say). Same inputs on the same machine give the same bytes.
    Raises `PunaError` for a damaged model or corpus, or held-out text that is empty.
    """
    engine, answerer = _engine(base), _engine(chat) if chat is not None else None
    heldout, train = load(corpus, "heldout", HELDOUT_BYTES, seed), load(corpus, "train", TRAIN_BYTES, seed)
    functions = read_functions(corpus)
    left_out: list[LeftOut] = [] if config.compressors else [{"task": "xz", "reason": "judge.compressors is off"}]
    score, baselines = judge_text(
        engine, _engine(reference) if reference is not None else None, Text.of(heldout, config.bootstrap, seed), train,
        compressors=config.compressors, progress=progress,
    )  # fmt: skip
    verdicts = [verdict(baseline["name"], baseline["detail"]["paired"]) for baseline in baselines]
    scores = [score]
    quiz_log = _quiz(answerer, functions, train.texts, config, seed, progress, scores, baselines, left_out)
    _parse(engine, functions, config, seed, progress, scores, left_out)
    progress.start("writing samples")
    samples = base_samples(engine, heldout.texts, seed) + (chat_samples(answerer) if answerer else [])
    progress.finish()
    results: dict[str, Any] = {
        "format": _FORMAT, "seed": seed, "settings": config.model_dump(), "harness": harness(),
        "inputs": _inputs(base, chat, reference, corpus), "text": {"heldout": heldout.note, "train": train.note},
        "contamination": {"value": round(verbatim_share(train.texts, heldout.texts), 6),
                          "what": f"of the held-out lines of {LONG_LINE} characters or more, the share that also stands in training text"},
        "scores": scores, "baselines": baselines, "verdicts": verdicts, "left_out": left_out, "samples": samples,
        "extra": dict(extra or {}),
    }  # fmt: skip
    if quiz_log:
        results["inputs"]["quiz"] = digest_of([[row["question"], row["choices"], row["right"]] for row in quiz_log])
        with atomic_file(out / "quiz.jsonl") as stream:
            stream.writelines(canonical_json(row) + b"\n" for row in quiz_log)
    write_json(out / "results.json", results)
    return results


def _engine(model: Path | Engine) -> Engine:
    return model if isinstance(model, Engine) else Engine.load(model)


def _quiz(
    engine: Engine | None, functions: list[Function] | None, train: list[str], config: Judge, seed: int,
    progress: Progress, scores: list[Score], baselines: list[Score], left_out: list[LeftOut],
) -> list[dict[str, Any]]:  # fmt: skip
    """Add the quiz's score and baseline, or the reason why there is none; the questions and answers."""
    if functions is None or engine is None or not engine.chats:
        missing = (
            _NO_FUNCTIONS
            if functions is None
            else "there is no chat model"
            if engine is None
            else "the model has no chat format"
        )
        left_out.append({"task": "quiz", "reason": missing})
        return []
    items, aside = make_items(functions, config.quiz_items, seed, train)
    result = run_quiz(engine, items, aside, config.bootstrap, seed, progress) if len(items) >= LEAST_ITEMS else None
    if result is None or result.score["n"] < LEAST_ITEMS:
        left = len(items) if result is None else result.score["n"]
        left_out.append(
            {"task": "quiz", "reason": f"{left} held-out functions are fit for a question; {LEAST_ITEMS} are needed"}
        )
        return []
    scores.append(result.score)
    baselines.append(result.baseline)
    return result.log


def _parse(
    engine: Engine, functions: list[Function] | None, config: Judge, seed: int, progress: Progress,
    scores: list[Score], left_out: list[LeftOut],
) -> None:  # fmt: skip
    """Add the share of functions that parse, or the reason why there is none."""
    if functions is None or not config.samples:
        left_out.append({"task": "parse", "reason": _NO_FUNCTIONS if functions is None else "judge.samples is 0"})
        return
    written = write_functions(engine, prompts_of(functions, config.samples, seed), seed, progress)
    if not written:
        left_out.append({"task": "parse", "reason": "no held-out function's opening is short enough and valid Python"})
        return
    scores.append(parse_score(written))


def _inputs(
    base: Path | Engine, chat: Path | Engine | None, reference: Path | Engine | None, corpus: Path
) -> dict[str, Any]:
    """Digests of all that was measured and measured with; null for a model that is only in memory."""
    models = {"base": base, "chat": chat, "reference": reference}
    weights = {name: weights_digest(model) for name, model in models.items() if model is not None}
    files = [corpus / name for name in ("heldout.parquet", "train.parquet", "functions.jsonl")]
    return {"models": weights, **{path.name: file_sha256(path) for path in files if path.exists()}}
