"""Data sets on a hub: a loopback server that answers the hub's API, asked by the real client."""

import fnmatch
import hashlib
import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from puna.corpus import hub, readers
from puna.corpus.documents import Document
from puna.corpus.readers import Tally
from puna.errors import PunaError

SHA = "0123456789abcdef0123456789abcdef01234567"
OLD = "f" * 40
EN = "The quick brown fox jumps over the lazy dog."
ZH = "中华人民共和国公民在法律面前一律平等。"


class Hub(ThreadingHTTPServer):
    """What the client is given, and what it asked for."""

    files: dict[str, bytes]
    listed: dict[str, bytes]
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        files = [
            name for name in self.server.files if fnmatch.fnmatchcase(path, f"/datasets/org/texts/resolve/*/{name}")
        ]
        revision = {f"/api/datasets/org/texts/revision/{name}": sha for name, sha in (("main", SHA), ("v1", OLD))}
        if path in revision:
            siblings = [
                {"rfilename": name, "size": len(data), **identity(name, data)}
                for name, data in self.server.listed.items()
            ]
            body = json.dumps({"id": "org/texts", "sha": revision[path], "siblings": siblings}).encode()
            self.answer(200, body, Content_Type="application/json")
        elif files:
            data = self.server.files[files[0]]
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.answer(200, data, ETag=etag, X_Repo_Commit=path.split("/")[5], Accept_Ranges="bytes")
        elif "gated" in path:
            self.answer(403, b"{}", X_Error_Code="GatedRepo")
        else:
            self.answer(404, b"{}", X_Error_Code="RevisionNotFound" if "org/texts" in path else "RepoNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()


def identity(name: str, data: bytes) -> dict[str, Any]:
    if name.endswith((".parquet", ".zst")):
        return {"blobId": "x", "lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 1}}
    return {"blobId": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    pq.write_table(pa.table({"text": [EN, ZH]}), tmp_path / "x.parquet")
    rows = "\n".join(json.dumps({"text": text}) for text in (ZH, EN)).encode()
    files = {
        "README.md": b"# card",
        "dataset_infos.json": b"{}",
        "data/train-0.parquet": (tmp_path / "x.parquet").read_bytes(),
        "data/more.jsonl.zst": zstandard.compress(rows),
        "notes.txt": EN.encode(),
        "script.py": b"raise SystemExit",
        ".gitattributes": b"x",
    }
    served = Hub(("127.0.0.1", 0), Handler)
    served.files, served.listed, served.asked = files, dict(files), []
    threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield served
    served.shutdown()
    served.server_close()


def read(shard: hub.Shard) -> list[Document]:
    with hub.fetched(shard) as file:
        return list(readers.read_file(file, None, "cc0", Tally()))


def test_a_data_set_is_pinned_to_a_commit_and_read_shard_by_shard(server: Hub) -> None:
    found = hub.list_dataset("hf:org/texts")
    assert found.sha == SHA
    assert [shard.path for shard in found.shards] == ["data/more.jsonl.zst", "data/train-0.parquet", "notes.txt"]
    assert not [asked for asked in server.asked if "resolve" in asked]  # listing fetches nothing
    assert pickle.loads(pickle.dumps(found)) == found
    documents = [document for shard in found.shards for document in read(shard)]
    assert [(d.id, d.text) for d in documents] == [
        ("hf:org/texts/data/more.jsonl.zst@0", ZH),
        ("hf:org/texts/data/more.jsonl.zst@127", EN),
        ("hf:org/texts/data/train-0.parquet#1", EN),
        ("hf:org/texts/data/train-0.parquet#2", ZH),
        ("hf:org/texts/notes.txt", EN),
    ]
    assert {asked.split()[1].split("/")[5] for asked in server.asked if "resolve" in asked} == {SHA}
    digest = found.digest()
    assert (digest["files"], digest["revision"]) == (3, SHA)
    assert digest["bytes"] == sum(len(server.files[shard.path]) for shard in found.shards)
    assert hub.list_dataset("hf:org/texts").digest() == digest


def test_revisions_and_patterns_choose(server: Hub) -> None:
    old = hub.list_dataset("hf:org/texts@v1:*.parquet")
    assert (old.sha, [shard.path for shard in old.shards]) == (OLD, ["data/train-0.parquet"])
    assert old.digest()["digest"] != hub.list_dataset("hf:org/texts:*.parquet").digest()["digest"]
    assert [shard.path for shard in hub.list_dataset("hf:org/texts:README*").shards] == ["README.md"]
    with pytest.raises(PunaError, match=r"hf:org/texts:x\*: has no file that can be read and matches x\*"):
        hub.list_dataset("hf:org/texts:x*")


def test_a_shard_lies_on_the_disk_only_while_it_is_read(server: Hub) -> None:
    shard = hub.list_dataset("hf:org/texts").shards[0]
    with hub.fetched(shard) as file:
        assert file.path.read_bytes() == server.files[shard.path]
        folder = file.path.parents[1]
    assert not folder.exists()
    with pytest.raises(PunaError) as caught, hub.fetched(shard) as file:
        raise PunaError("is bad", where=f"{file.path}:7")
    assert caught.value.line() == "hf:org/texts/data/more.jsonl.zst:7: is bad"


def test_other_bytes_than_were_listed_are_refused(server: Hub) -> None:
    for shard in hub.list_dataset("hf:org/texts").shards:
        original = server.files[shard.path]
        for data in (original + b" ", bytes([original[0] ^ 1]) + original[1:]):
            server.files[shard.path] = data
            with pytest.raises(PunaError, match=f"{shard.path}: the hub sent other bytes"):
                read(shard)


def test_file_names_of_a_hub_stay_names(server: Hub) -> None:
    server.listed |= {"../../evil.txt": b"x", "/etc/evil.txt": b"x", "a/../../b.txt": b"x", "x\\..\\y.txt": b"x"}
    assert len(hub.list_dataset("hf:org/texts").shards) == 3


@pytest.mark.parametrize(
    "name", ["hf:", "hf:a/b/c", "hf:../x", "hf:org/na me", "org/name", "hf:org/name@", "hf:org/name:"]
)
def test_bad_names_are_told_before_anything_is_asked(server: Hub, name: str) -> None:
    with pytest.raises(PunaError, match="is no name of a data set"):
        hub.list_dataset(name)
    assert server.asked == []


def test_what_is_missing_or_closed_is_told(server: Hub) -> None:
    for name, why in [
        ("hf:org/none", "there is no such data set"),
        ("hf:org/texts@v9", "there is no such data set"),
        ("hf:org/gated", "accept"),
    ]:
        with pytest.raises(PunaError, match=why):
            hub.list_dataset(name)


def test_without_a_network_it_is_told(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = hub.list_dataset("hf:org/texts").shards[0]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's tries
    with pytest.raises(PunaError, match=r"hf:org/texts: cannot be fetched .*check the network"):
        hub.list_dataset("hf:org/texts")
    with pytest.raises(PunaError, match=r"hf:org/texts/data/more.*: cannot be fetched"):
        read(shard)


def test_the_hub_is_offline_again_afterwards(server: Hub) -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    hub.list_dataset("hf:org/texts")
    with pytest.raises(PunaError):
        hub.list_dataset("hf:org/none")
    assert constants.HF_HUB_OFFLINE
