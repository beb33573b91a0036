"""The documents of a release: bills of materials, checklists, the hub's results, the report; all from one record of evidence.

Comes in: a build's context and the release's folder with its model files. Goes out: files in the release's `puna/` folder. Must never happen: a
document that says more than the ledger and the artefacts do.
"""

from pathlib import Path
from typing import Any

from puna.build.graph import Context, environment
from puna.errors import PunaError
from puna.files import file_sha256, read_json, write_json
from puna.ledger.chain import Entry
from puna.ledger.cyclonedx import cyclonedx_json
from puna.ledger.evidence import Ancestor, Check, Code, Contamination, Evidence, File, Measure, Source, Training
from puna.ledger.hub import FOLDER, eval_results
from puna.ledger.openness import openness, openness_markdown
from puna.ledger.release import RECORD, TOLD_BY_A_RELEASE
from puna.ledger.spdx import spdx_json
from puna.recipe.schema import DOCSTRINGS

CYCLONEDX, SPDX, OPENNESS, REPORT = "cyclonedx.json", "spdx.json", "openness", "report.html"
_PLAN = ("method", "precision", "batch_tokens", "context", "lr_matrix", "lr_embed", "lr_vector", "weight_decay", "warmup_steps", "decay_share", "final_share",
         "momentum", "beta1", "beta2", "eps", "clip", "neftune", "isolate", "threads", "compile")  # fmt: skip
_OPTIMISERS = {"puna": "Muon for matrices, AdamW for the rest; warm-up, stable, decay", "reference": "AdamW; cosine"}


def write_documents(context: Context, folder: Path, report: dict[str, Any]) -> Evidence:
    """`puna/cyclonedx.json`, `spdx.json`, `openness.{json,md}`, `report.html` and the hub's `.eval_results` of the release in `folder`.

    `report`: as `finish.report_data` makes it for a release. Where the libraries for the bills are not installed (the extra `documents`), a note says
    that these two are left out.
    """
    from puna.report import render_report
    from puna.report.card import card_limits

    evidence, record = evidence_of(context, folder, report, card_limits(report)), folder / RECORD
    # Whether a stage was done before is of this machine's evening, not of the model.
    render_report({**report, "stages": [{**row, "reused": False} for row in report["stages"]]}, record / REPORT)
    _write_eval_results(folder, evidence)
    for name, write in ((CYCLONEDX, cyclonedx_json), (SPDX, spdx_json)):
        try:
            (record / name).write_bytes(write(evidence))
        except PunaError as error:
            context.progress.note(f"  {RECORD}/{name} is left out: {error.line()}")
    # The ledger, the card and these two files are written after this; they will be there.
    coming = ["README.md", f"{RECORD}/ledger.jsonl", f"{RECORD}/{OPENNESS}.json", f"{RECORD}/{OPENNESS}.md"]
    there = sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} | set(coming))
    found = openness(evidence, there)
    write_json(record / f"{OPENNESS}.json", found.model_dump(mode="json"))
    (record / f"{OPENNESS}.md").write_text(openness_markdown(found), encoding="utf-8")
    return evidence


def _write_eval_results(folder: Path, evidence: Evidence) -> None:
    found = eval_results(evidence)
    if not found:
        return
    import yaml

    (folder / FOLDER).mkdir()
    for name, entries in found.items():
        text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)
        (folder / FOLDER / name).write_text(text, encoding="utf-8")


def evidence_of(context: Context, folder: Path, report: dict[str, Any], limits: list[str]) -> Evidence:
    """The record of the release whose model files lie in `folder`. `report`: as `finish.report_data` makes it; `limits`: the card's."""
    entries = [entry for entry in context.ledger.entries() if entry["kind"] not in TOLD_BY_A_RELEASE]
    corpus, results, ledger, model = report["corpus"], report["results"], report["ledger"], report["model"]
    files = [File(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_sha256(path))
             for path in sorted(folder.rglob("*")) if path.is_file()]  # fmt: skip
    top = tuple(file for file in files if "/" not in file.path)
    joules = [row["joules"] for row in report["stages"] if row.get("joules") is not None]
    shares = results.get("contamination") or {}
    return Evidence(
        name=report["run"], title=report["title"], created=report["created"], puna=report["puna_version"], architecture=model["architecture"],
        parameters=model["parameters"], shape={key: value for key, value in model["shape"].items() if value is not None}, licence=report["licence"],
        languages=tuple(corpus.get("languages") or ()), chats=bool(report["tuning"]), weights=top, others=tuple(file for file in files if "/" in file.path),
        sources=tuple(_sources(context, report, entries)), preprocessing=tuple(_step(step) for step in corpus["steps"]),
        ancestors=tuple(_ancestors(report, files)), training=tuple(_trainings(context, report, entries)), measures=tuple(_measures(results)),
        samples=len(results.get("samples") or ()),
        contamination=Contamination(value=shares["value"], what=shares["what"]) if shares.get("value") is not None else None,
        gate=tuple(Check(check=one["check"], passed=one["passed"], value=str(one["value"])) for one in report["gate"]),
        environment=environment(), machine=dict(report["machine"]), joules=sum(joules) if joules else None, code=_code(entries),
        seed_commitment=ledger["seed_commitment"], step0=ledger["step0"], ledger_entries=ledger["entries"], ledger_head=ledger["head"],
        limits=tuple(limits),
    )  # fmt: skip


def _code(entries: list[Entry]) -> Code:
    """What the last entry `environment` says; of several (a build that went on with other code) that any was changed counts."""
    bodies = [entry["body"] for entry in entries if entry["kind"] == "environment"]
    if not bodies:
        return Code()
    commit = bodies[-1].get("commit") or {}
    changed = [body["commit"]["changed"] for body in bodies if body.get("commit")]
    return Code(digest=bodies[-1].get("code"), commit=commit.get("id"), changed=any(changed) if changed else None)


def _sources(context: Context, report: dict[str, Any], entries: list[Entry]) -> list[Source]:
    """What it was trained on, tuned on and tested on."""
    corpus, done = context.done["corpus"], context.done
    read = {entry["body"]["artefact"]: entry["time"] for entry in entries if entry["kind"] == "sources"}
    made = [Source(name=one["name"], sha256=one.get("digest") or None, bytes=one.get("bytes"), files=one.get("files"), licence=one.get("licence"),
                   read=read.get(corpus.name)) for one in report["corpus"]["sources"]]  # fmt: skip
    if "old" in done:
        made += [Source(name=f"{one['name']} (like the base's own)", sha256=one.get("digest") or None, bytes=one.get("bytes"), files=one.get("files"),
                        licence=one.get("licence"), read=read.get(done["old"].name)) for one in read_json(done["old"] / "corpus.json")["sources"]]  # fmt: skip
    for number, section in enumerate(context.recipe.tune):
        talks = done[f"chat-{number}"] / "chat.jsonl"
        name = "questions and answers made from docstrings" if section.data == DOCSTRINGS else Path(section.data).name
        licence = (
            report["corpus"]["sources"][0].get("licence")
            if section.data == DOCSTRINGS and len(report["corpus"]["sources"]) == 1
            else None
        )
        made.append(
            Source(name=name, sha256=file_sha256(talks), bytes=talks.stat().st_size, licence=licence, part="tuning")
        )
    held = corpus / "heldout.parquet"
    if held.is_file():
        made.append(Source(name="held-out text", sha256=file_sha256(held), bytes=report["corpus"]["bytes"].get("heldout"), part="testing",
                           read=read.get(corpus.name)))  # fmt: skip
    return made


def _step(step: dict[str, Any]) -> str:
    removed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in step["removed"].items() if count)
    counts = f"{step['documents_in']:,} to {step['documents_out']:,} documents, {step['bytes_in']:,} to {step['bytes_out']:,} bytes"
    return f"{step['step'].replace('_', ' ')}: {counts}{f'; {removed}' if removed else ''}"


def _ancestors(report: dict[str, Any], files: list[File]) -> list[Ancestor]:
    """The run's own base model where a tuned one was made of it, and the models that the run began with."""
    base = report.get("base") or {}
    inside = tuple(file for file in files if file.path.startswith("base/"))
    made = (
        [
            Ancestor(
                name=f"{report['run']}, before tuning",
                files=inside,
                relation="tuned",
                licence=report["licence"],
                own=True,
            )
        ]
        if inside
        else []
    )
    names = base.get("names") or []
    read, cards = base.get("files") or [[] for _ in names], base.get("cards") or [{} for _ in names]
    for name, parts, card in zip(names, read, cards, strict=True):
        made.append(Ancestor(
            name=name, files=tuple(File(path=path, sha256=digest) for path, digest in parts), digest=base.get("weights") if len(names) == 1 else None,
            relation=f"merged ({base.get('merge')})" if len(names) > 1 else "continued", licence=card.get("licence"), parents=tuple(card.get("parents") or ()),
        ))  # fmt: skip
    return made


def _trainings(context: Context, report: dict[str, Any], entries: list[Entry]) -> list[Training]:
    first = {entry["body"]["artefact"]: entry["body"]["weights"] for entry in entries if entry["kind"] == "step0"}
    tuned = [name for name in context.done if name.startswith("tune-")]
    named = [("pretraining", "pretrain", report["training"])]
    named += [
        (f"tuning {number}", stage, told)
        for number, (stage, told) in enumerate(zip(tuned, report["tuning"], strict=True), start=1)
    ]
    made = []
    for name, stage, told in named:
        facts, plan = context.facts(stage), told["plan"]
        settings = {key: plan[key] for key in _PLAN if plan.get(key) is not None}
        made.append(Training(name=name, tokens=facts.get("tokens"), steps=facts.get("steps"), seconds=told.get("seconds"),
                             optimiser=_OPTIMISERS.get(plan.get("method", ""), ""), began_with=first.get(context.done[stage].name), settings=settings))  # fmt: skip
    return made


def _measures(results: dict[str, Any]) -> list[Measure]:
    """The run's own scores, then the rows of what is inherited and what is own."""
    from puna.judge.store import known

    made = [
        _measure(one, str(one.get("model") or ""), known.on_hub(one["task"]))
        for one in results.get("scores", [])
        if one.get("value") is not None
    ]
    for row in (results.get("inheritance") or {}).get("rows", []):
        made += [
            _measure({**score, "task": f"{domain} text"}, row["model"], None)
            for domain, score in row["scores"].items()
            if score.get("value") is not None
        ]
    return made


def _measure(one: dict[str, Any], model: str, dataset: tuple[str, str] | None) -> Measure:
    low, high = one["interval"] if one.get("interval") else (None, None)
    detail = one.get("detail") if isinstance(one.get("detail"), dict) else {}
    return Measure(task=one["task"], metric=one["metric"], value=one["value"], low=low, high=high, n=one.get("n"), n_is=str((detail or {}).get("n_is") or ""),
                   chance=one.get("chance"), higher_is_better=one.get("higher_is_better", True), model=model, dataset=dataset)  # fmt: skip
