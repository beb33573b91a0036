"""The documents of a release: bills of materials, checklists, the hub's results; all from one record of evidence.

Comes in: what a build measured and logged. Goes out: files in the release's `puna/` folder. Must never happen: a document that says more than
the ledger and the artefacts do.
"""

from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import file_sha256, write_json
from puna.ledger.cyclonedx import cyclonedx_json
from puna.ledger.evidence import Ancestor, Evidence, File, Measure, Source, Training
from puna.ledger.openness import openness, openness_markdown
from puna.ledger.spdx import spdx_json
from puna.progress import Progress

_WEIGHTS = (".safetensors", "config.json", "tokenizer.json")
CYCLONEDX, SPDX, OPENNESS = "cyclonedx.json", "spdx.json", "openness"
_PLAN = ("method", "precision", "rows", "context", "lr_matrix", "lr_embed", "weight_decay", "warmup", "batch_tokens")


def write_documents(folder: Path, evidence: Evidence, progress: Progress) -> None:
    """`puna/cyclonedx.json`, `puna/spdx.json`, `puna/openness.{json,md}` of the release in `folder`.

    Where the libraries for the bills are not installed (the extra `documents`), a note says that these two are left out.
    """
    record = folder / "puna"
    for name, write in ((CYCLONEDX, cyclonedx_json), (SPDX, spdx_json)):
        try:
            (record / name).write_bytes(write(evidence))
        except PunaError as error:
            progress.note(f"  puna/{name} is left out: {error.line()}")
    # The ledger, the card and these two files are written after this; they will be there.
    coming = ["README.md", "puna/ledger.jsonl", f"puna/{OPENNESS}.json", f"puna/{OPENNESS}.md"]
    there = sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} | set(coming))
    found = openness(evidence, there)
    write_json(record / f"{OPENNESS}.json", found.model_dump(mode="json"))
    (record / f"{OPENNESS}.md").write_text(openness_markdown(found), encoding="utf-8")


def evidence_of(folder: Path, report: dict[str, Any], limits: list[str], environment: dict[str, str]) -> Evidence:
    """The record of a release whose model files lie in `folder`. `report`: as `finish.report_data` makes it; `limits`: the card's."""
    files = [File(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_sha256(path))
             for path in sorted(folder.rglob("*")) if path.is_file()]  # fmt: skip
    corpus, results = report.get("corpus") or {}, report.get("results") or {}
    base = report.get("base") or {}
    return Evidence(
        name=report["run"], title=report["title"], created=report["created"], puna=report["puna_version"], architecture=report["model"]["architecture"],
        parameters=report["model"]["parameters"], shape={key: value for key, value in report["model"]["shape"].items() if value is not None},
        licence=report.get("licence"), languages=tuple(corpus.get("languages") or ()), chats=bool(report.get("tuning")),
        weights=tuple(file for file in files if file.path.endswith(_WEIGHTS)), others=tuple(file for file in files if not file.path.endswith(_WEIGHTS)),
        sources=tuple(_source(one) for one in corpus.get("sources", [])),
        ancestors=tuple(Ancestor(name=str(name), sha256=base.get("weights") if len(base.get("names", [])) == 1 else None, relation="continued")
                        for name in base.get("names", [])),
        training=tuple(_training(name, one) for name, one in [("pretraining", report["training"]),
                                                              *((f"tuning {number}", one) for number, one in enumerate(report.get("tuning", []), start=1))]),
        measures=tuple(_measure(one) for one in results.get("scores", []) if one.get("value") is not None),
        environment=environment, machine=str(report.get("machine") or ""), seed_commitment=report["ledger"]["seed_commitment"],
        step0=report["ledger"].get("step0"), ledger_entries=report["ledger"]["entries"], ledger_head=report["ledger"]["head"],
        contamination_checked=bool(corpus.get("contamination")), limits=tuple(limits),
    )  # fmt: skip


def _source(one: dict[str, Any]) -> Source:
    return Source(
        name=one["name"],
        sha256=one.get("digest") or None,
        bytes=one.get("bytes"),
        files=one.get("files"),
        licence=one.get("licence"),
    )


def _training(name: str, one: dict[str, Any]) -> Training:
    plan = one["plan"]
    settings = {key: plan[key] for key in _PLAN if plan.get(key) is not None}
    return Training(
        name=name, tokens=plan.get("tokens"), steps=plan.get("steps"), seconds=one.get("seconds"), settings=settings
    )


def _measure(one: dict[str, Any]) -> Measure:
    low, high = one["interval"] if one.get("interval") else (None, None)
    return Measure(task=one["task"], metric=one["metric"], value=one["value"], low=low, high=high, n=one.get("n"), chance=one.get("chance"),
                   higher_is_better=one.get("higher_is_better", True), model=str(one.get("model") or ""))  # fmt: skip
