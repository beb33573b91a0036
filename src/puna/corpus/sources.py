"""The recipe's sources: the running Python, the user's files and folders, data sets on a hub.

Comes in: `[corpus]`. Goes out: each source with its label, and its digest. Must never happen: a path of this machine inside an
artefact; sources are known by their last name.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.corpus import hub, python, readers, streams
from puna.corpus.readers import SourceFile
from puna.errors import PunaError
from puna.files import file_sha256
from puna.recipe.corpus import HUB_PREFIX, PYTHON_SOURCE, Corpus


@dataclass(frozen=True, slots=True)
class NamedSource:
    """One source, the label under which its documents go, and what the recipe says of it."""

    path: str
    label: str
    licence: str
    profile: str
    weight: float
    max_epochs: float | None

    @property
    def hub(self) -> bool:
        """Whether it is a data set on a hub."""
        return self.path.startswith(HUB_PREFIX)


def all_sources(config: Corpus) -> list[NamedSource]:
    """The sources in the recipe's order. Two of one name are told apart by a number."""
    found: list[NamedSource] = []
    taken: set[str] = set()
    for source in config.named:
        base = _label(source.path)
        label, number = base, 2
        while label in taken or (label == PYTHON_SOURCE and source.path != PYTHON_SOURCE):
            label, number = f"{base}~{number}", number + 1
        taken.add(label)
        own = source.licence or (python.LICENCE if source.path == PYTHON_SOURCE else config.licence)
        found.append(NamedSource(source.path, label, own, source.profile, source.weight, source.max_epochs))
    return found


def _label(path: str) -> str:
    if path == PYTHON_SOURCE or path.startswith(HUB_PREFIX):
        return path
    return readers.readable_name(Path(path).expanduser().resolve().name) or "root"


def digest_of_files(files: list[SourceFile], label: str, licence: str) -> dict[str, Any]:
    """SHA-256 over (name, size, SHA-256 of the bytes) of each file."""
    state = hashlib.sha256()
    total = 0
    for file in files:
        try:
            size = file.path.stat().st_size
            state.update(f"{file.name}\0{size}\0{file_sha256(file.path)}\n".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise streams.unreadable(file.path, error) from error
        total += size
    return {"name": label, "digest": state.hexdigest(), "files": len(files), "bytes": total, "licence": licence}


def source_digest(config: Corpus) -> dict[str, Any]:
    """What the stage graph hashes as this stage's input: the sources, and the other files that the stages read.

    {"sources": [{"name", "digest", "files", "bytes", "licence"}], "others": {key: SHA-256}}. Raises PunaError where one is
    missing, unreadable or holds nothing that can be read.
    """
    found: list[dict[str, Any]] = []
    for source in all_sources(config):
        if source.path == PYTHON_SOURCE:
            found.append(python.digest())
        elif source.hub:
            found.append({**hub.list_dataset(source.path).digest(), "name": source.label, "licence": source.licence})
        else:
            files = readers.list_files(Path(source.path).expanduser(), source.label)
            found.append(digest_of_files(files, source.label, source.licence))
    return {"sources": found, "others": other_digests(config)}


def other_digests(config: Corpus) -> dict[str, str]:
    """{key: SHA-256} of the files that the stages read beside the sources. Raises as `source_digest` does."""
    return {key: _digest(Path(path), key) for key, path in other_files(config)}


def other_files(config: Corpus) -> list[tuple[str, str]]:
    """(key, path) of the files that a stage reads beside the sources."""
    named = [
        ("thresholds", config.thresholds), ("correct.blocklist", config.correct.blocklist), ("safety.words", config.safety.words),
        *((f"perplexity.reference.{n}", path) for n, path in enumerate(config.perplexity.reference)),
        *((f"quality.good.{n}", path) for n, path in enumerate(config.quality.good)),
        *((f"decontaminate.evals.{n}", path) for n, path in enumerate(config.decontaminate.evals)),
    ]  # fmt: skip
    return [(key, path) for key, path in named if path is not None]


def _digest(path: Path, key: str) -> str:
    try:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        state = hashlib.sha256()
        for file in files:
            # Names too: a suffix says how a file is read, a folder's name what a task is called.
            name = f"{path.parent.name}/{path.name}/{file.relative_to(path).as_posix()}"
            state.update(f"{name}\0{file_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise streams.unreadable(path, error) from error
    if not files:
        raise PunaError("no such file or folder, or an empty one", where=f"corpus.{key}: {path}")
    return state.hexdigest()
