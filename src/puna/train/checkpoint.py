"""Checkpoints that are whole or absent: safetensors and JSON, digests in a manifest, renamed into place.

Comes in: named tensors and plain values. Goes out: `checkpoints/step_N/`, and on loading the newest one whose every
digest holds. Must never happen: a folder written over, a half-written one read, a flipped bit loaded, pickle.

    checkpoints/step_00000120/*.safetensors   tensors, by PyTorch DCP's Hugging Face writer
                              state.json      step, cursor, guard, counters
                              MANIFEST.json   bytes and SHA-256 of each file; written last
    checkpoints/latest                        the newest one's name; moved last

A milestone is a checkpoint that stays, so that others can train a part of the run again (`puna.train.milestones`).
"""

import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from puna.errors import PunaError
from puna.files import atomic_file, digest_of, file_sha256, fsync_directory, read_json, remove_leftovers, write_json
from puna.progress import QUIET, Progress

KEEP = 2
MANIFEST, STATE, LATEST = "MANIFEST.json", "state.json", "latest"
_FOLDER = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, the number of steps done, its plain values and its manifest's digest."""

    folder: Path
    step: int
    state: dict[str, Any]
    digest: str


def digest_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (hex) of every tensor's name, type and bytes in the order in which they come, whatever they are stored in."""
    state = hashlib.sha256()
    for name, tensor in tensors:
        state.update(f"{name} {tensor.dtype}\n".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


def save(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], *, keep: int | None = KEEP
) -> Checkpoint:
    """Write `folder/step_N/` and then point `latest` at it; older ones go, the newest `keep` stay.

    `keep=None`: all stay, and there is no `latest`: they are milestones and not what a run goes on from. A whole checkpoint of the same step is left as it is: a folder is never written twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:08d}"
    if final.exists():
        if not _damage(final):
            return Checkpoint(final, step, read_json(final / STATE), digest_of(read_json(final / MANIFEST)))
        shutil.rmtree(final)
    remove_leftovers(folder)
    temporary = folder / f"{final.name}.tmp"
    try:
        manifest = _write(temporary, step, tensors, state)
    except (OSError, CheckpointException) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise PunaError(f"cannot write the checkpoint: {_first_line(error)}", where=str(folder),
                        mend="free disk space and run again: it goes on from the last checkpoint") from error  # fmt: skip
    temporary.rename(final)
    fsync_directory(folder)
    if keep is not None:
        with atomic_file(folder / LATEST) as stream:
            stream.write(final.name.encode() + b"\n")
        for _, old in _found(folder)[keep:]:
            shutil.rmtree(old)
    return Checkpoint(final, step, {**state, "step": step}, digest_of(manifest))


def load_latest(folder: Path, tensors: dict[str, Tensor], progress: Progress = QUIET) -> Checkpoint | None:
    """Fill `tensors` in place from the newest whole checkpoint; None where there is none.

    A damaged one is named through `progress.note` and the one before it is taken. Raises `PunaError` where a whole
    one holds other tensors than those asked for.
    """
    for step, path in _found(folder):
        if damage := _damage(path):
            progress.note(f"checkpoint {path.name} is damaged ({damage}); taking the one before it")
            continue
        _read_tensors(path, tensors)
        return Checkpoint(path, step, read_json(path / STATE), digest_of(read_json(path / MANIFEST)))
    return None


def load(path: Path, tensors: dict[str, Tensor] | None = None) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The checkpoint in the folder `path`, whole, and its tensors: read into `tensors` in place, or fresh ones on the CPU.

    Raises `PunaError` where the folder is damaged or holds other tensors than those asked for.
    """
    if damage := _damage(path):
        raise PunaError(f"the checkpoint is damaged: {damage}", where=str(path))
    if tensors is None:
        stored = _metadata(path)
        tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in stored.items()}
    _read_tensors(path, tensors)
    state = read_json(path / STATE)
    return Checkpoint(path, int(state["step"]), state, digest_of(read_json(path / MANIFEST))), tensors


def find_whole(folder: Path, step: int) -> Checkpoint | None:
    """The whole checkpoint of `step` in `folder`, or None where it is absent or damaged."""
    path = folder / f"step_{step:08d}"
    if not path.is_dir() or _damage(path):
        return None
    return Checkpoint(path, step, read_json(path / STATE), digest_of(read_json(path / MANIFEST)))


def _write(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> dict[str, Any]:
    """All files of a checkpoint, on disk, the manifest last; returns the manifest."""
    with _one_process():
        named = {name: tensor.detach() for name, tensor in tensors.items()}
        dcp.save(named, storage_writer=dcp.HuggingFaceStorageWriter(str(folder)), no_dist=True)
    write_json(folder / STATE, {**state, "step": step})
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
    }
    for name in files:
        with open(folder / name, "rb") as stream:
            os.fsync(stream.fileno())
    manifest = {"files": files, "step": step, "torch": torch.__version__}
    write_json(folder / MANIFEST, manifest)
    return manifest


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Finished checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    matches = ((_FOLDER.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        files = read_json(path / MANIFEST)["files"]
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: {type(error).__name__}"
    present = {entry.name for entry in path.iterdir()} - {MANIFEST}
    if present != set(expected):
        return f"files differ from the manifest's: {', '.join(sorted(present ^ set(expected)))}"
    for name, (size, digest) in expected.items():
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes, not {size}"
        if file_sha256(path / name) != digest:
            return f"{name} has another SHA-256 than the manifest's"
    return None


def _read_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    held = {name: entry.size for name, entry in _metadata(folder).items()}
    wanted = {name: value.shape for name, value in tensors.items()}
    if held != wanted:
        odd = sorted({name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name)})
        raise PunaError(f"the checkpoint holds other tensors than this run's: {', '.join(odd[:3])}", where=str(folder),
                        mend="the model or the method changed; start in a new work folder")  # fmt: skip
    with torch.no_grad(), _one_process():
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)


def _metadata(folder: Path) -> dict[str, Any]:
    """What is stored under each name: `size`, and `properties.dtype`."""
    return dict(dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def _first_line(error: BaseException) -> str:
    """What went wrong underneath: DCP wraps the system's error with its traceback."""
    if isinstance(error, CheckpointException):
        error = next((failure[0] for failure in error.failures.values()), error)
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _one_process() -> Iterator[None]:
    """DCP warns of a missing process group; here one process is what is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        yield
