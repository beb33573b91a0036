"""Data sets on a hub, read a shard at a time; only a recipe that names one gets here.

Comes in: "hf:org/name[@revision][:pattern]". Goes out: the commit that the name stands for, and its shards, each fetched when it is
read and deleted after. Must never happen: a fetch that no recipe asked for, a shard of another commit than the digest says,
or a hub's file name used as a path of this machine.
"""

import fnmatch
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from puna.corpus import readers
from puna.corpus.readers import SourceFile
from puna.errors import PunaError
from puna.files import digest_of, file_sha256

_NAME = re.compile(
    r"hf:(?P<repo>[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?)(?:@(?P<revision>[^:@\s]{1,200}))?(?::(?P<pattern>\S{1,500}))?",
    re.ASCII,
)
_DATA = readers.LINES | readers.TABLE | {".parquet", ".txt"}  # what a data set is taken to keep its text in
_BLOCK = 1 << 20
_ONLINE = threading.Lock()


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a data set at one commit. `digest` is "sha256:..." or git's "sha1:...", `size` in bytes."""

    repo: str
    sha: str
    path: str
    size: int
    digest: str

    @property
    def name(self) -> str:
        """As documents carry it."""
        return f"hf:{self.repo}/{self.path}"


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set at one commit, with the shards that are read, in the order of their names."""

    name: str
    sha: str
    shards: tuple[Shard, ...]

    def digest(self) -> dict[str, Any]:
        """What a stage hashes: {"digest": SHA-256 over commit and files, "files", "bytes", "revision": the commit}."""
        files = [(shard.path, shard.size, shard.digest) for shard in self.shards]
        return {
            "digest": digest_of({"sha": self.sha, "files": files}),
            "files": len(files),
            "bytes": sum(shard.size for shard in self.shards),
            "revision": self.sha,
        }


def list_dataset(name: str) -> HubDataset:
    """Ask the hub which commit `name` stands for and which data files it has.

    `name` is "hf:org/name", with "@revision" (a branch, tag or commit; default "main") and ":pattern" (shell wildcards over
    paths) where wanted; without a pattern the files are JSON lines, Parquet, CSV, TSV and .txt, also compressed. Raises
    PunaError for a bad name, without a network, and where the data set is missing, closed or has no such file.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise PunaError(
            "is no name of a data set", where=name, mend="write hf:org/name, hf:org/name@revision:*.parquet"
        )
    repo, revision, pattern = match["repo"], match["revision"], match["pattern"]
    with _online(name) as api:
        info = api.dataset_info(repo, revision=revision or "main", files_metadata=True, timeout=60)
    sha = str(info.sha)
    if not re.fullmatch(r"[0-9a-f]{40,64}", sha):
        raise PunaError("the hub names no commit for it", where=name)
    shards = sorted(
        (_shard(repo, sha, file) for file in info.siblings or [] if _wanted(file.rfilename, pattern)),
        key=lambda shard: shard.path,
    )
    if not shards:
        raise PunaError(
            f"has no file that can be read{f' and matches {pattern}' if pattern else ''}",
            where=name,
            mend="name its files: hf:org/name:data/*.parquet",
        )
    return HubDataset(name, sha, tuple(shards))


def _wanted(path: str, pattern: str | None) -> bool:
    parts = PurePosixPath(path)
    if any(part in ("..", "/") or part.startswith(".") or "\\" in part or "\0" in part for part in parts.parts):
        return False
    kind = readers.kind_of(parts)
    if pattern is not None:
        return kind is not None and fnmatch.fnmatchcase(path, pattern)
    return kind in _DATA


def _shard(repo: str, sha: str, file: Any) -> Shard:
    if file.lfs is not None:
        return Shard(repo, sha, file.rfilename, int(file.lfs.size), f"sha256:{file.lfs.sha256}")
    return Shard(repo, sha, file.rfilename, int(file.size or 0), f"sha1:{file.blob_id}")


@contextmanager
def fetched(shard: Shard) -> Iterator[SourceFile]:
    """The shard on this disk while the context lasts. Raises PunaError where it cannot be fetched or is not what was listed."""
    with tempfile.TemporaryDirectory(prefix="puna-hub-") as folder:
        with _online(shard.name) as api:
            path = Path(
                api.hf_hub_download(shard.repo, shard.path, repo_type="dataset", revision=shard.sha, local_dir=folder)
            )
        if not _is_what_was_listed(path, shard):
            raise PunaError("the hub sent other bytes than it had listed", where=shard.name, mend="run it again")
        try:
            yield SourceFile(path, shard.name)
        except PunaError as error:  # named as the user knows it, not as the temporary file
            where = (error.where or "").replace(str(path), shard.name) or shard.name
            raise type(error)(error.what, where=where, mend=error.mend) from error


def _is_what_was_listed(path: Path, shard: Shard) -> bool:
    if path.stat().st_size != shard.size:
        return False
    kind, _, digest = shard.digest.partition(":")
    if kind == "sha256":
        return file_sha256(path) == digest
    state = hashlib.sha1(f"blob {shard.size}\0".encode(), usedforsecurity=False)  # as git names a file
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest() == digest


@contextmanager
def _online(name: str) -> Iterator[Any]:
    """The hub's client, allowed to use the network for as long as the context lasts; its errors as PunaError."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    with _ONLINE:
        # Puna keeps every library offline (HF_HUB_OFFLINE); this is the one place where the recipe has asked.
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
        try:
            yield huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        except errors.GatedRepoError as error:
            raise PunaError(
                "is open only to those who accept its terms", where=name, mend="accept them on the hub and set HF_TOKEN"
            ) from error
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
            raise PunaError(
                "there is no such data set, revision or file",
                where=name,
                mend="check its name; a private one needs HF_TOKEN",
            ) from error
        except (
            errors.HfHubHTTPError,
            errors.HFValidationError,
            errors.FileMetadataError,
            errors.HTTPError,
            errors.LocalEntryNotFoundError,
            ConnectionError,
            TimeoutError,
        ) as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise PunaError(
                f"cannot be fetched ({first[0]})",
                where=name,
                mend="check the network, or fetch it by hand and name the folder",
            ) from error
        finally:
            constants.HF_HUB_OFFLINE = before
