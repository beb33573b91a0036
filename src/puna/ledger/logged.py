"""What a released ledger says of the model that it lies beside, where it can be believed.

Comes in: a model's folder. Goes out: `Logged`, or why it says nothing. Must never happen: a ledger believed that is broken, or that
speaks of other weights.

A Puna release carries its record in `puna/`. It is believed where its chain holds and one of its training stages ended with these very
files. That shows that record and weights belong together; that what was logged is true, only tests of the weights and `verify` can show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import digest_of, file_sha256
from puna.ledger.chain import Entry, Ledger
from puna.ledger.release import RECORD

BASE = "base"  # the base model's folder inside a release whose top is the tuned model
_NOT_OF_THE_STAGE = ("README.md", "MANIFEST.json")
_MAX_LEDGER = 64 << 20


@dataclass(frozen=True)
class Logged:
    """What a ledger says that is believed; `broken`: why it is not."""

    entries: Sequence[Entry] = ()
    broken: str = ""

    def last(self, kind: str) -> Entry | None:
        """The last entry of a kind."""
        return next((entry for entry in reversed(self.entries) if entry["kind"] == kind), None)

    def trained(self, content: str) -> list[Entry]:
        """The entries of training stages that ended with the model folder of this content."""
        return [
            entry for entry in self.entries if entry["kind"] == "stage" and isinstance(entry["body"], dict)
            and str(entry["body"].get("stage")).startswith(("pretrain", "tune-")) and entry["body"].get("content") == content
        ]  # fmt: skip

    def body(self, kind: str) -> dict[str, Any]:
        """The body of the last entry of a kind; empty where there is none."""
        entry = self.last(kind)
        return entry["body"] if entry is not None and isinstance(entry["body"], dict) else {}

    def before(self, content: str) -> dict[str, str]:
        """{content: stage} of every artefact that went into the one of this content, itself included, as logged."""
        stages = [
            entry["body"] for entry in self.entries if entry["kind"] == "stage" and isinstance(entry["body"], dict)
        ]
        made = {body["content"]: body for body in stages if isinstance(body.get("content"), str)}
        found: dict[str, str] = {}
        todo = [content]
        while todo:
            one = todo.pop()
            if one in found or one not in made:
                continue
            found[one] = str(made[one].get("stage"))
            inputs = made[one].get("inputs")
            todo += [value for value in inputs.values() if isinstance(value, str)] if isinstance(inputs, dict) else []
        return found


def record_of(path: Path) -> tuple[Path | None, bool]:
    """The `puna/` folder of the release that the model is, and whether the model is its top one and not the base inside."""
    if path.is_dir():
        if (path / RECORD / "ledger.jsonl").is_file():
            return path / RECORD, True
        above = path.resolve().parent / RECORD
        if path.resolve().name == BASE and (above / "ledger.jsonl").is_file():
            return above, False
    return None, True


def read_logged(path: Path, model: Path, content: str | None = None) -> Logged:
    """The entries of the ledger at `path` where the chain holds and one of its model stages is what lies at `model`.

    `content`: the folder's, where it is known already (`content_of` reads every byte).
    """
    try:
        if path.stat().st_size > _MAX_LEDGER:
            return Logged(broken="it is too large")
        entries = Ledger(path).entries()
    except (PunaError, OSError) as error:
        return Logged(broken=error.what[:160] if isinstance(error, PunaError) else "it cannot be read")
    logged = Logged(entries)
    return (
        logged
        if logged.trained(content or content_of(model))
        else Logged(broken="none of its training stages ended with these files")
    )


def content_of(folder: Path) -> str:
    """The identity of the training stage's artefact that a model folder was copied from (`build.store.content_digest`)."""
    files = [*folder.iterdir(), *(folder / "adapter").glob("*")]
    names = {
        file.relative_to(folder).as_posix(): file
        for file in files
        if file.is_file() and file.name not in _NOT_OF_THE_STAGE
    }
    return digest_of({name: file_sha256(file) for name, file in sorted(names.items())})
