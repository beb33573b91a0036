"""The recipe's sources: the running Python, and the user's files and folders.

Comes in: `[corpus]`. Goes out: their documents in a fixed order, their digests, what was passed over. Must never happen: a
path of this machine inside an artefact; sources are known by their last name.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.corpus import python, readers, streams
from puna.corpus.documents import Document
from puna.corpus.readers import SourceFile, Tally
from puna.errors import PunaError
from puna.files import file_sha256
from puna.progress import Progress
from puna.recipe.schema import PYTHON_SOURCE, Corpus


@dataclass(frozen=True, slots=True)
class UserSource:
    """One file or folder of the user's, and the name under which its documents go."""

    root: Path
    label: str


def user_sources(config: Corpus) -> list[UserSource]:
    """The sources that are paths. Two of one name are told apart by a number."""
    found: list[UserSource] = []
    taken = {PYTHON_SOURCE}
    for source in config.sources:
        if source == PYTHON_SOURCE:
            continue
        root = Path(source).expanduser()
        base = readers.readable_name(root.resolve().name) or "root"
        label, number = base, 2
        while label in taken:
            label, number = f"{base}~{number}", number + 1
        taken.add(label)
        found.append(UserSource(root, label))
    return found


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
    """What the stage graph hashes as this stage's input: {"sources": [{"name", "digest", "files", "bytes", "licence"}]}.

    Raises PunaError where a source is missing, unreadable or holds nothing that can be read.
    """
    found: list[dict[str, Any]] = []
    if PYTHON_SOURCE in config.sources:
        found.append(python.digest())
    for source in user_sources(config):
        files = readers.list_files(source.root, source.label)
        found.append(digest_of_files(files, source.label, config.licence))
    return {"sources": found}


def read_user_source(source: UserSource, config: Corpus, tally: Tally, progress: Progress) -> Iterator[Document]:
    """All documents of a user's source. Raises PunaError where not one comes out of it."""
    files = readers.list_files(source.root, source.label, tally)
    progress.start(f"reading {source.label}", total=len(files), unit="files")
    count = 0
    for number, file in enumerate(files, 1):
        for document in readers.read_file(file, config.text_field, config.licence, tally):
            if document.text.strip():
                count += 1
                yield document
            else:
                tally.skipped["document without text"] += 1
        progress.update(number, documents=str(count))
    progress.finish()
    if count == 0:
        why = ", ".join(f"{reason}: {n}" for reason, n in sorted(tally.skipped.items()))
        raise PunaError(f"holds no text ({why or 'its files are empty'})", where=str(source.root))
