"""The stages that end a build: judgement, release, report.

Comes in: trained model folders. Goes out: scores, the release folder, the report. Must never happen: a release that
did not pass its gate.
"""

import shlex
import shutil
from pathlib import Path
from typing import Any

import puna
from puna.build.documents import write_documents
from puna.build.facts import actual_config, actual_shape
from puna.build.frozen import frozen_recipe
from puna.build.gate import check_release
from puna.build.graph import LEDGER, Context, Stage, contents_of
from puna.build.mixture import mixture_of
from puna.build.origin import ADAPTER, EXTENSION, first_weights
from puna.build.seed import reveal_seed
from puna.build.store import LOG, MANIFEST
from puna.called import PUNA
from puna.errors import PunaError
from puna.files import file_sha256, read_json, write_json
from puna.ledger.release import LEDGER as LEDGER_FILE
from puna.ledger.release import TOLD_BY_A_RELEASE, describe_files, log_release
from puna.recipe.schema import Recipe

CHANGES = {
    "grown",
    "pruned",
    "widened",
    "rope",
    "vocabulary",
}  # that make the model of step 0 another one than the base
MODEL_CARD, RESULTS = "README.md", "results.json"
RECORDS = (("judge", RESULTS), ("corpus", "corpus.json"))  # (stage, file) that a release carries in `puna/`
SCORE_KEYS = ("task", "metric", "value", "n", "interval")
BASE = "base"  # the base model's folder inside a release whose top is the tuned model


def last_tune(recipe: Recipe) -> str | None:
    """The name of the stage that makes the chat model, or None where there is only a base model."""
    return f"tune-{len(recipe.tune) - 1}" if recipe.tune else None


def judge_stage(recipe: Recipe, with_reference: bool) -> Stage:
    """Scores of the base and the chat model beside their baselines."""
    chat = last_tune(recipe)

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.judge.judge import judge_model

        results = judge_model(
            context.done["pretrain"], context.done[chat] if chat else None, context.done["corpus"], context.recipe.judge,
            context.seed, folder, context.progress, reference=context.done["reference"] if with_reference else None,
        )  # fmt: skip
        if recipe.base is not None:
            results |= _beside_the_base(context, folder)
            write_json(folder / "results.json", results)
        scores = [{key: score.get(key) for key in SCORE_KEYS} for score in results["scores"]]
        told = [["results", {"artefact": work.name, "sha256": file_sha256(folder / RESULTS), "scores": scores}]]
        return {"scores": len(results["scores"]), LEDGER: told}

    base = first_weights(recipe) and {
        "base",
        *first_weights(recipe),
        *(["old"] if recipe.base and recipe.base.old else []),
    }
    inputs = (
        "corpus",
        *sorted(base),
        "pretrain",
        *([chat] if chat else []),
        *(["reference"] if with_reference else []),
    )
    return Stage("judge", "judging", ("judge", "engine", "model", "tokens"), inputs,
                 lambda context: {"judge": context.recipe.judge.model_dump(), "seed": context.seed}, run)  # fmt: skip


def _beside_the_base(context: Context, folder: Path) -> dict[str, Any]:
    """What the run's model has of its base and what it has learnt itself; a longer context measured by position and by needles."""
    from puna.judge.inheritance import judge_inheritance
    from puna.judge.long_context import judge_long_context

    recipe, done = context.recipe, context.done
    models = [
        ("inherited", done["base"]),
        *([("init", done["start"])] if set(context.facts("start") if "start" in done else ()) & CHANGES else []),
        ("own", done["pretrain"]),
    ]
    domains = {"new": done["corpus"], **({"old": done["old"]} if "old" in done else {})}
    made: dict[str, Any] = {"inheritance": judge_inheritance(
        models, domains, draws=recipe.judge.bootstrap, seed=context.seed, progress=context.progress)}  # fmt: skip
    if recipe.base is not None and recipe.base.context is not None:
        made["long_context"] = judge_long_context([models[0], models[-1]], done["corpus"], context=recipe.base.context,
                                                  draws=recipe.judge.bootstrap, seed=context.seed, progress=context.progress)  # fmt: skip
    return made


def release_stage(recipe: Recipe) -> Stage:
    """What every engine loads: the tuned model at the top, the base model beside it, the record in `puna/`."""
    chat = last_tune(recipe)
    top = chat or "pretrain"

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.report.card import render_card

        _copy_model(context.done[top], folder)
        if chat:
            _copy_model(context.done["pretrain"], folder / BASE)
        gate = check_release(folder, folder / BASE if chat else None, context) if context.recipe.release.gate else []
        failed = [check for check in gate if not check["passed"]]
        if failed:
            told = "; ".join(f"{check['check']}: {check['value']}" for check in failed)
            raise PunaError(f"the release does not pass its gate: {told}", where=str(folder))
        record = folder / "puna"
        record.mkdir()
        write_json(record / "gate.json", gate)
        for stage, name in RECORDS:
            shutil.copyfile(context.done[stage] / name, record / name)
        contamination = context.done["corpus"] / "contamination.json"
        if contamination.is_file():  # of every evaluation item what stood in the corpus: it goes where the scores go
            shutil.copyfile(contamination, record / contamination.name)
        (record / "recipe.toml").write_text(frozen_recipe(context, private=True), encoding="utf-8")
        report = report_data(context, gate)
        write_documents(context, folder, report)
        (folder / MODEL_CARD).write_text(render_card(report), encoding="utf-8")
        context.ledger.append_once("gate", {"checks": gate})
        reveal_seed(context.ledger)
        # Last: the entry names every file of the release, so nothing may be written after it but the ledger itself.
        log_release(context.ledger, {
            "artefact": work.name, "files": describe_files(folder), "inputs": contents_of(context, inputs),
            "models": {"": top, **({f"{BASE}/": "pretrain"} if chat else {})},
            "records": {f"puna/{name}": [stage, name] for stage, name in RECORDS},
        })  # fmt: skip
        shutil.copyfile(context.ledger.path, folder / LEDGER_FILE)
        return {"gate": len(gate)}

    inputs = ("corpus", "tokenizer", "pretrain", *([chat] if chat else []), "judge")
    return Stage("release", "checking and writing the release", ("build", "report", "engine", "model", "tokens"), inputs,
                 lambda context: {"release": context.recipe.release.model_dump(exclude={"sign"}), "title": context.recipe.title}, run)  # fmt: skip


def _copy_model(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != MANIFEST:
            shutil.copyfile(path, folder / path.name)
    if (source / ADAPTER).is_dir():
        shutil.copytree(source / ADAPTER, folder / ADAPTER)


def report_stage(recipe: Recipe, with_reference: bool) -> Stage:
    """One page that tells what was built, from what, and how good it is."""
    chat = last_tune(recipe)

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.report import render_report

        gate = read_json(context.done["release"] / "puna" / "gate.json")
        render_report(report_data(context, gate, run=context.store.run), folder / "report.html")
        return {}

    inputs = ("corpus", "tokenizer", "pack", "pretrain", *([chat] if chat else []),
              *(["reference"] if with_reference else []), "judge", "release")  # fmt: skip
    return Stage("report", "writing the report", ("report", "build"), inputs, lambda context: {}, run)


_OF_THE_CORPUS = ("documents", "bytes", "steps", "accounts", "histograms", "languages", "scripts", "topics", "sources",
                  "licences", "quality", "perplexity", "duplicates", "personal", "safety", "encodings", "skipped", "split",
                  "versions", "notes")  # fmt: skip


def corpus_data(context: Context) -> dict[str, Any]:
    """Everything that the corpus' own page shows, in the shape of `puna.report.corpus_data`."""
    made = read_json(context.done["corpus"] / "corpus.json")
    tasks = (made.get("contamination") or {}).get("tasks", {})
    return {"run": context.recipe.name, "title": context.recipe.title, "puna_version": puna.__version__,
            "created": context.ledger.entries()[-1]["time"], "seconds": context.facts("corpus")["seconds"],
            **{key: made[key] for key in _OF_THE_CORPUS if made.get(key) is not None}, "contamination": tasks,
            "mixture": mixture_of(context)}  # fmt: skip


def _shortened(corpus: dict[str, Any]) -> dict[str, Any]:
    """corpus.json with the steps that took away or changed something: a curated text passes most of them as it is."""
    steps = [step for step in corpus["steps"] if step["removed"] or step["changed"] or step["step"] == "read"]
    return {**corpus, "steps": steps}


def report_data(context: Context, gate: list[dict[str, Any]], run: Path | None = None) -> dict[str, Any]:
    """Everything the report and the model card show, in the shape of `puna.report.data`.

    `run`: where the run's folder is, for the maker's own page; unset, for what is published, only its last two names.
    """
    recipe, shape, config = context.recipe, actual_shape(context), actual_config(context)
    run = run or Path(*context.store.run.parts[-2:])
    corpus = context.done["corpus"]
    calibration = read_json(context.done["calibrate"] / "plan.json")
    tuned = [name for name in context.done if name.startswith("tune-")]
    # Without what the release itself tells: a release that is made once more after a kill has the same card.
    entries = [entry for entry in context.ledger.entries() if entry["kind"] not in TOLD_BY_A_RELEASE]
    seed = [entry["body"]["commitment"] for entry in entries if entry["kind"] == "seed"]
    return {
        "run": recipe.name, "title": recipe.title or recipe.name, "created": entries[-1]["time"],
        "recipe_toml": frozen_recipe(context, private=True), "machine": calibration["device"],
        "corpus": _shortened(read_json(corpus / "corpus.json")), "tokenizer": context.facts("tokenizer"),
        "model": {"shape": shape.model_dump(), "parameters": config.parameters, "architecture": config.architecture},
        "training": {**_training(context, "pretrain"), "peak_share": calibration["share_of_peak"]},
        "tuning": [_training(context, name) for name in tuned], **_base_data(context),
        "chat_data": {name: read_json(context.done[name] / "chat.json") for name in context.done
                      if name.startswith("chat-") and (context.done[name] / "chat.json").is_file()},
        "results": read_json(context.done["judge"] / "results.json"), "gate": gate,
        "stages": [row for row in context.log if row["name"] not in ("release", "report")],
        "ledger": {"entries": len(entries), "head": entries[-1]["hash"], "seed_commitment": seed[-1] if seed else None, "step0": _first_weights(entries)},
        "licence": recipe.release.licence, "puna_version": puna.__version__,
        "commands": [f"{PUNA} chat {recipe.name if run.parent == Path('runs') else shlex.quote(str(run))}",
                     f"{PUNA} make {shlex.quote(str(run / 'recipe.toml'))}"],
    }  # fmt: skip


def _first_weights(entries: list[Any]) -> str | None:
    """The logged digest of the weights that the build's first training began with."""
    return next((str(entry["body"]["weights"]) for entry in entries if entry["kind"] == "step0"), None)


def _base_data(context: Context) -> dict[str, Any]:
    """The base and what was changed in it before training, where there is one."""
    if context.recipe.base is None:
        return {}
    extension = context.done["tokenizer"] / EXTENSION
    packed = context.facts("pack")
    return {
        "base": {**context.facts("base"), "start": context.facts("start") if "start" in context.done else {},
                 "replay_share": packed.get("replay_share", 0.0), "lr_share": context.recipe.base.lr_share},
        **({"extension": read_json(extension)["languages"]} if extension.is_file() else {}),
    }  # fmt: skip


def _training(context: Context, stage: str) -> dict[str, Any]:
    from puna.train.metrics import read_metrics

    facts, rows = context.facts(stage), context.facts("pack" if stage == "pretrain" else f"chat-pack-{stage[5:]}")
    metrics = read_metrics(context.done[stage] / LOG / "metrics.jsonl")
    return {"plan": facts["plan"], "metrics": metrics, "seconds": facts["seconds"], "skipped": facts["skipped"],
            "passes": facts["tokens"] / rows["tokens"]}  # fmt: skip
