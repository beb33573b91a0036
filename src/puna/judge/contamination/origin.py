"""From a model, through its ledger, to the text that it was trained on.

Comes in: the folder of a release, of a run or of a stage. Goes out: the folders of its corpora and conversations, each checked
against the digest in the ledger, and the base that it was started from. Must never happen: a text taken for a model's own because
it lies beside it: what binds the two is the chain of digests from the weights to the text.

    weights -> the stage whose contents they are -> its inputs' contents -> ... -> the stages that hold text

A ledger can be written anew by whoever holds it (see puna.ledger.chain), so this shows what the maker says that the model was trained
on, and that the text here is that text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import digest_of, file_sha256
from puna.judge.measured import Parent
from puna.ledger import Entry, Ledger
from puna.reading import MAX_BYTES, find_inside, read_object

MANIFEST, LEDGER, RECORD, RUN_RELEASE = "MANIFEST.json", "ledger.jsonl", "puna", "release"
_NOT_OF_THE_MODEL = frozenset(
    [MANIFEST, "README.md"]
)  # what a release adds beside the files of the stage that it is made of
_ADAPTER = "adapter"
_STAGE, _DIGEST = re.compile(r"[a-z][a-z0-9-]{0,63}"), re.compile(r"[0-9a-f]{64}")
TABLE, TALKS = "train.parquet", "chat.jsonl"


@dataclass(frozen=True)
class Text:
    """One artefact of training text that the ledger names. `path` is None where it is not here; `why` then says so."""

    stage: str  # "corpus", "old" (a base's old text that was mixed in), "chat-0"
    content: str  # the digest of what it holds
    path: Path | None
    why: str = ""


@dataclass(frozen=True)
class Origin:
    """What a ledger says of a model's training text."""

    ledger: Path | None  # None: the model has none, and nothing is known
    texts: tuple[Text, ...] = ()
    parents: tuple[Parent, ...] = ()

    @property
    def folders(self) -> list[Path]:
        """The texts that are here."""
        return [text.path for text in self.texts if text.path is not None]

    @property
    def whole(self) -> bool:
        """True where all text that the ledger names is here, so that an item that is not found does not stand in it."""
        return bool(self.texts) and all(text.path is not None for text in self.texts)

    @property
    def missing(self) -> list[str]:
        """A sentence for each text that is not here."""
        return [text.why for text in self.texts if text.path is None]


def origin_of(model: Path) -> Origin:
    """What the ledger of the model at `model` (a release, its `base` folder, a run, or a stage of one) says of its training text.

    A model without a ledger gives `Origin(None)`. Raises PunaError where the ledger is damaged, where the weights are none that it
    records, and where a text lies in its place but is not the one that the ledger names.
    """
    model = Path(model)
    if not model.is_dir():
        return Origin(None)
    if not (model / "config.json").is_file() and (model / RUN_RELEASE / "config.json").is_file():
        model = model / RUN_RELEASE
    ledger = _ledger_of(model)
    if ledger is None:
        return Origin(None)
    if ledger.stat().st_size > MAX_BYTES:
        raise PunaError(f"larger than {MAX_BYTES >> 20} MiB", where=str(ledger))
    entries = Ledger(ledger).entries()
    content = content_of(model)
    made = [entry for entry in _stages(entries, ledger) if entry["body"]["content"] == content]
    if not made:
        raise PunaError("these weights are none that the ledger records", where=str(model),
                        mend=f"{ledger} belongs to another model, or a file here was changed")  # fmt: skip
    ancestors = _ancestors(made[-1], _stages(entries, ledger))
    run = _run_of(model)
    texts = tuple(_text(entry["body"], run) for entry in ancestors if _holds_text(entry["body"]["stage"]))
    bases = [entry for entry in ancestors if entry["body"]["stage"] == "base"]
    return Origin(ledger, texts, tuple(parent for entry in bases for parent in _parents(entry, entries)))


def corpus_of(model: Path) -> list[Path]:
    """The folders of the text that `model` was trained on, checked. Raises PunaError where one is not here, and as `origin_of`."""
    origin = origin_of(model)
    if origin.ledger is None:
        raise PunaError("has no ledger: what it was trained on is not known", where=str(model))
    if origin.missing:
        raise PunaError("; ".join(origin.missing), where=str(origin.ledger))
    return origin.folders


def content_of(model: Path) -> str:
    """The digest of a model folder's files as the ledger's stages have it: SHA-256 over the names and digests of the files, without
    what a release adds, and without what its owner has put there since."""
    files = [path for path in model.iterdir() if path.is_file() and path.name not in _NOT_OF_THE_MODEL]
    files += [path for path in (model / _ADAPTER).rglob("*") if path.is_file()]
    names = sorted(path.relative_to(model).as_posix() for path in files)
    for release, before in ((model, ""), (model.parent, f"{model.name}/")):
        listed = read_object(release / RECORD, MANIFEST).get("files") if (release / RECORD).is_dir() else None
        if isinstance(listed, dict):
            names = [name for name in names if f"{before}{name}" in listed]
            break
    return digest_of({name: file_sha256(path) for name in names if (path := find_inside(model, name)) is not None})


def _ledger_of(model: Path) -> Path | None:
    """The ledger of a release, of the release that holds this base model, or of the run that holds this stage."""
    for folder, name in ((model, f"{RECORD}/{LEDGER}"), (model.parent, f"{RECORD}/{LEDGER}"), (model.parent, LEDGER)):
        found = find_inside(folder, name) if folder.is_dir() else None
        if found is not None:
            return found
    return None


def _run_of(model: Path) -> Path:
    """Where the stages of a model's run would lie: beside it, or beside the release that it is in."""
    release = model.resolve()
    if not (release / RECORD / LEDGER).is_file() and (release.parent / RECORD / LEDGER).is_file():
        release = release.parent
    return release.parent


def _stages(entries: list[Entry], ledger: Path) -> list[Entry]:
    found = [entry for entry in entries if entry["kind"] == "stage"]
    for entry in found:
        body = entry["body"]
        good = (
            isinstance(body, dict)
            and isinstance(body.get("stage"), str)
            and _STAGE.fullmatch(body["stage"])
            and all(isinstance(body.get(key), str) and _DIGEST.fullmatch(body[key]) for key in ("digest", "content"))
            and isinstance(body.get("inputs"), dict)
        )
        if not good:
            raise PunaError("the entry is no stage of a build", where=f"{ledger}:{entry['n'] + 1}")
    return found


def _ancestors(last: Entry, stages: list[Entry]) -> list[Entry]:
    """`last` and all that it was made of, in the order of the ledger."""
    named: dict[tuple[str, str], Entry] = {(e["body"]["stage"], e["body"]["content"]): e for e in stages}
    seen: dict[int, Entry] = {}
    todo = [last]
    while todo:
        entry = todo.pop()
        if entry["n"] not in seen:
            seen[entry["n"]] = entry
            pairs = [(name, content) for name, content in entry["body"]["inputs"].items() if isinstance(content, str)]
            todo += [named[pair] for pair in pairs if pair in named]
    return [seen[number] for number in sorted(seen)]


def _holds_text(stage: str) -> bool:
    return stage in ("corpus", "old") or (stage.startswith("chat-") and not stage.startswith("chat-pack-"))


def _text(body: dict[str, Any], run: Path) -> Text:
    stage, content = body["stage"], body["content"]
    folder = run / f"{stage}-{body['digest'][:12]}"
    if not folder.is_dir():
        return Text(
            stage, content, None, f"the ledger names the {_name(stage)} {content[:12]}, which is not here ({folder})"
        )
    manifest = read_object(folder, MANIFEST)
    files = manifest.get("files")
    digests = (
        {name: file.get("sha256") for name, file in files.items() if isinstance(file, dict)}
        if isinstance(files, dict)
        else {}
    )
    own = {name: digest for name, digest in digests.items() if not name.startswith("log/")}
    if not own or digest_of(own) != content:
        raise PunaError(f"is not the {_name(stage)} {content[:12]} that the ledger names", where=str(folder),
                        mend="remove this folder and make again")  # fmt: skip
    for name in (TABLE, TALKS):
        if name in own and ((path := find_inside(folder, name)) is None or file_sha256(path) != own[name]):
            raise PunaError(f"{name} was changed or lost since it was built", where=str(folder),
                            mend="remove this folder and make again")  # fmt: skip
    if not own.keys() & {TABLE, TALKS}:
        raise PunaError(f"holds neither {TABLE} nor {TALKS}", where=str(folder))
    return Text(stage, content, folder)


def _name(stage: str) -> str:
    return {"corpus": "corpus", "old": "old text"}.get(stage, "conversations")


def _parents(stage: Entry, entries: list[Entry]) -> Iterator[Parent]:
    """The models of the last "base" entry before a "base" stage's own."""
    told = [e["body"] for e in entries if e["kind"] == "base" and e["n"] < stage["n"] and isinstance(e["body"], dict)]
    if not told:
        return
    names = [name for name in told[-1].get("names", []) if isinstance(name, str)]
    merged = len(names) > 1
    digest = told[-1].get("weights")
    for name in names:
        yield Parent(name=name[:200], relation="merged and continued" if merged else "continued",
                     digest=digest if isinstance(digest, str) and not merged else None, evidence="its ledger says so")  # fmt: skip
