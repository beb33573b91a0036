"""`puna serve` as a process: it says where it is, answers, ends in good order, and refuses what is wrong with one line."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from puna.cli.serve import run_serve
from puna.errors import PunaError

ENVIRONMENT = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
ENVIRONMENT.pop("PUNA_SERVE_KEY", None)
KEY = "a-key-that-is-long-enough"
TEXTS = ["the llama walks over the high grass of the puna. ", "羊驼走过高原的草地，你好，世界。"] * 20


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "羊驼" / "release"
    folder.mkdir(parents=True)
    return tiny_model(folder, TEXTS, 320, max_position_embeddings=512)


def refused(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run([sys.executable, "-m", "puna", "serve", *arguments], cwd=cwd, capture_output=True, text=True,
                          env={**ENVIRONMENT, **environment}, timeout=120)  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in done.stderr and done.stdout == "", done.stderr
    return lines[0]


@contextlib.contextmanager
def served(*arguments: str, cwd: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """The process, its address as it tells it with --json, and the lines of stderr as they come."""
    process = subprocess.Popen([sys.executable, "-m", "puna", "serve", *arguments, "--port", "0", "--json"], cwd=cwd, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**ENVIRONMENT, **environment})  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))  # type: ignore[union-attr]
    reading.start()
    try:
        ready, _, _ = select.select([process.stdout], [], [], 60)
        told = process.stdout.readline() if ready else ""
        assert told, "".join(lines)
        yield process, json.loads(told)["url"], lines
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reading.join(30)
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_ends_with_0(release: Path, tmp_path: Path, how: signal.Signals) -> None:
    runs = release.parents[1]
    with served("羊驼", "--runs", str(runs), "--log", cwd=tmp_path) as (process, url, lines):
        assert url.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            assert client.get("/health").json() == {"status": "ok"}
            assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["羊驼"]
            client.post(
                "/models/load", json={"model": "a secret text"}, headers={"Authorization": "Bearer a-secret-key"}
            )
        began = time.monotonic()
        process.send_signal(how)
        assert process.wait(20) == 0 and time.monotonic() - began < 10
    told = "".join(lines)
    assert url in told and "context 512" in told and "GET /v1/models 200" in told
    assert "secret" not in told and "Traceback" not in told


def test_sigterm_lets_a_reply_end(release: Path, tmp_path: Path) -> None:
    """A reply of several hundred tokens is asked for, the signal comes in its middle, and it arrives whole."""
    with served(str(release), "--drain", "60", cwd=tmp_path) as (process, url, _):
        ask = {"model": "羊驼", "prompt": "the llama", "max_tokens": 450, "temperature": 1.5, "stream": True, "seed": 1}
        with httpx.stream("POST", f"{url}/v1/completions", json=ask, timeout=60, trust_env=False) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        reasons = [
            choice["finish_reason"] for event in events for choice in event["choices"] if choice["finish_reason"]
        ]
        assert reasons in (["length"], ["stop"])
        assert process.wait(20) == 0


def test_a_key_from_a_file(release: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    with served(str(release), "--key-file", "key", cwd=tmp_path) as (process, url, lines):
        assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
        with_key = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False)
        assert with_key.status_code == 200
        process.terminate()
        assert process.wait(20) == 0
    assert KEY not in "".join(lines)


@pytest.mark.parametrize(
    ("changes", "environment", "word"),
    [
        ({"host": "0.0.0.0"}, {}, "--host 0.0.0.0"),
        ({"host": "192.168.1.2"}, {"PUNA_SERVE_KEY": "short"}, "too short"),
        ({}, {"PUNA_SERVE_KEY": ""}, "PUNA_SERVE_KEY"),
        ({"key_file": Path("absent")}, {}, "cannot read the key"),
        ({"host": "a" * 300}, {"PUNA_SERVE_KEY": KEY}, "no address"),
        ({"host": "203.0.113.1"}, {"PUNA_SERVE_KEY": KEY}, "cannot listen"),
        ({"device": "foo"}, {}, "--device"),
        ({"precision": "fp4"}, {}, "--precision"),
        ({"backend": "fast"}, {}, "--backend"),
        ({"models": ["nothing"]}, {}, "no such model folder"),
        ({"models": ["a=nothing"]}, {}, "no such model folder"),
        ({"models": ["MODEL", "MODEL"]}, {}, "two models have the name"),
    ],
)
def test_it_refuses_before_it_listens(
    changes: dict[str, Any],
    environment: dict[str, str],
    word: str,
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PUNA_SERVE_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    usual = {"models": [str(release)], "host": "127.0.0.1", "port": 0, "key_file": None, "allow_host": [], "device": None,
             "precision": "fp32", "backend": "torch", "lookup": False, "cache_tokens": None, "running": 4, "queue": 4, "drain": 1.0, "log": False, "runs": Path("runs"), "json": False}  # fmt: skip
    asked = {**usual, **changes}
    asked["models"] = [str(release) if name == "MODEL" else name for name in asked["models"]]
    with pytest.raises(PunaError, match=word) as refusal:
        run_serve(**asked)
    assert KEY not in refusal.value.line() and "short" not in refusal.value.line().replace("too short", "")


def test_a_mistake_is_one_line_and_exit_code_2(release: Path, tmp_path: Path) -> None:
    """A port in use, and a damaged model beside a good one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused(str(release), "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert "cannot listen" in line and "--port" in line
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in release.iterdir():
        if file.is_file():
            (damaged / file.name).write_bytes(file.read_bytes())
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "model.safetensors" in refused(str(release), str(damaged), "--port", "0", cwd=tmp_path)
