"""The default corpus: documentation and source of the running Python.

Comes in: the interpreter's own library. Goes out: documents (source, docstrings, language reference) and the list of
documented functions. Must never happen: the import of a library module into this process (some open windows, some browsers);
source is parsed, and what is written in C is asked for in a process of its own.
"""

import hashlib
import importlib.util
import json
import os
import platform
import runpy
import subprocess
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.corpus import docstrings
from puna.corpus.docstrings import Entry
from puna.corpus.documents import Document
from puna.errors import PunaError
from puna.files import file_sha256

LICENCE = "PSF-2.0"
REFERENCE = "reference"  # the split unit of the language reference
# Always trained on: what every Python program uses, and what people ask about first.
PINNED = frozenset(["builtins", REFERENCE])
_SKIP_FOLDERS = frozenset(
    ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib-dynload", "config", "node_modules")
)  # fmt: skip
_TOPICS = "pydoc_data/topics.py"
_TIMEOUT = 180.0


@dataclass
class PythonCorpus:
    """The documents and functions of one Python, in a fixed order."""

    documents: list[Document] = field(default_factory=list)
    functions: list[dict[str, Any]] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)  # module -> split unit
    skipped: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)


def library_files() -> list[tuple[str, Path]]:
    """(path inside the library, path) of the standard library's source files, sorted; tests and installed packages left out.

    Raises PunaError where the library is not a folder of source files.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    if not (root / "os.py").is_file():
        raise PunaError(
            "this Python has no library in source form", where=str(root), mend="name your own text as a source"
        )
    files: list[tuple[str, Path]] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIP_FOLDERS and not name.startswith(("config-", "."))]
        for name in names:
            # _sysconfigdata is the record of one machine's build: flags and paths, no text.
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = Path(folder, name)
                files.append((path.relative_to(root).as_posix(), path))
    return sorted(files)


def digest() -> dict[str, Any]:
    """{"name", "digest", "files", "bytes", "licence"}: SHA-256 over version, platform and each file's path, size and SHA-256."""
    state = hashlib.sha256(f"{sys.version}\0{sys.platform}\0{platform.machine()}\0".encode())
    files = library_files()
    total = 0
    for name, path in files:
        size = path.stat().st_size
        total += size
        state.update(f"{name}\0{size}\0{file_sha256(path)}\n".encode())
    return {
        "name": "python", "digest": state.hexdigest(), "files": len(files), "bytes": total, "licence": LICENCE,
    }  # fmt: skip


def module_of(name: str) -> str:
    """ "json/decoder.py" -> "json.decoder", "json/__init__.py" -> "json"."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def collect() -> PythonCorpus:
    """Read the whole default corpus. Raises PunaError where the interpreter cannot describe itself."""
    corpus = PythonCorpus()
    entries: dict[str, list[Entry]] = {}
    headers: dict[str, str] = {}
    for name, path in library_files():
        if name == _TOPICS:
            continue
        module = module_of(name)
        with tokenize.open(path) as stream:
            corpus.encodings[stream.encoding.removesuffix("-sig")] += 1
            text = stream.read()
        corpus.documents.append(Document(f"source:{name}", text, module, "source", LICENCE, "code"))
        try:
            headers[module], entries[module] = docstrings.entries_of_source(text, module)
        except SyntaxError:
            corpus.skipped["library file that this Python cannot parse (source kept, no docstrings)"] += 1
    for raw in _builtin_lines():
        if raw["kind"] == "skipped":
            corpus.skipped["extension module that cannot be loaded"] += 1
        elif raw["kind"] == "module":
            headers.setdefault(raw["module"], raw["doc"])
        elif raw["doc"].strip():
            entries.setdefault(raw["module"], []).append(docstrings.entry_of_builtin(raw))
    for module in sorted(set(headers) | set(entries)):
        listed = _distinct(entries.get(module, []))
        unit = corpus.units[module] = unit_of(module, headers)
        if page := _page(module, headers.get(module, ""), listed):
            corpus.documents.append(Document(f"docstring:{module}", page, unit, "docstring", LICENCE, "en"))
        corpus.functions.extend(_record(entry) for entry in listed if entry.public)
    corpus.documents.extend(_reference(corpus.skipped))
    return corpus


def unit_of(module: str, known: dict[str, str]) -> str:
    """The split unit of a module: "_io" goes with "io", so that both sides of one module fall on one side."""
    twin = module.lstrip("_")
    return twin if module.startswith("_") and twin in known else module


def _distinct(entries: list[Entry]) -> list[Entry]:
    # Source comes first: where a module has both, its docstring is the longer one.
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(entry.qualname, entry)
    return list(found.values())


def _builtin_lines() -> Iterator[dict[str, str]]:
    script = importlib.util.find_spec("puna.corpus.builtin_docs")
    if script is None or script.origin is None:
        raise PunaError("puna/corpus/builtin_docs.py is missing from the installation")
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", script.origin]
    environment = {"PYTHONHASHSEED": "0", "PATH": os.environ.get("PATH", ""), "TERM": "dumb", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TIMEOUT, env=environment, cwd=Path(script.origin).parent, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PunaError(
            f"this Python could not describe its built-in modules ({error})", where=sys.executable
        ) from error
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise PunaError(f"this Python could not describe its built-in modules ({' '.join(tail)})", where=sys.executable)
    lines = done.stdout.decode("utf-8").splitlines()
    if not lines:
        raise PunaError("this Python said nothing about its built-in modules", where=sys.executable)
    yield from map(json.loads, lines)


def _page(module: str, header: str, entries: list[Entry]) -> str:
    """A module's documentation as one text: each entry under the name by which one calls it."""
    parts = [f"{module}\n\n{_indent(header)}"] if header.strip() else []
    for entry in entries:
        word = "class " if entry.kind == "class" else ""
        parts.append(f"{word}{entry.shown}{entry.signature}\n\n{_indent(entry.doc)}")
    return "\n\n".join(parts)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line.strip() else "" for line in text.strip("\n").splitlines())


def _record(entry: Entry) -> dict[str, Any]:
    return {
        "module": entry.module,
        "qualname": entry.qualname,
        "name": entry.qualname.rpartition(".")[2],
        "signature": entry.signature,
        "summary": docstrings.summary_of(entry.doc),
        "doc": entry.doc,
        "args": docstrings.arguments_of(entry.signature, entry.doc),
        "returns": docstrings.returns_of(entry.doc),
        "kind": entry.kind,
        "split": "train",
    }


def _reference(skipped: Counter[str]) -> list[Document]:
    path = next((path for name, path in library_files() if name == _TOPICS), None)
    if path is None:  # some distributions ship the interpreter without its reference
        skipped["language reference (pydoc_data is not installed)"] += 1
        return []
    # The file is one dict of strings; it is run by itself, so that nothing else of pydoc is.
    topics: dict[str, str] = runpy.run_path(str(path))["topics"]
    return [
        Document(f"reference:{name}", topics[name], REFERENCE, "reference", LICENCE, "en") for name in sorted(topics)
    ]
