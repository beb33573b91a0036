"""A light HTTP client for the serving benches, and a `puna serve` of their own: asyncio over plain sockets.

In: an address, a body. Out: an `Answer`. Must never happen: the client's own work takes the processor from the server that is
measured (so: no library, one connection a request, events are parsed by who needs them).
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT = 1 << 20  # bytes of one line or header


@dataclass
class Answer:
    """What came back. Times in seconds since the request was begun."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    events: list[tuple[float, str]] = field(default_factory=list)
    """Of a stream: when, and what stood behind `data: `."""
    seconds: float = 0.0
    whole: bool = False
    """False where we left, or the server did, before the end."""

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)


async def ask(
    address: tuple[str, int], method: str, path: str, body: Any = None, *, leave_after: float | None = None
) -> Answer:
    """One request on a connection of its own. `body`: bytes as they stand, anything else as JSON. `leave_after`: seconds after which
    the socket is closed, whatever was read by then. Raises OSError (ConnectionRefusedError, ...) where there is no answer at all.
    """
    answer, began = Answer(), time.perf_counter()
    writers: list[asyncio.StreamWriter] = []
    try:
        await asyncio.wait_for(_exchange(address, method, path, body, answer, began, writers), leave_after)
        answer.whole = True
    except TimeoutError:
        pass  # we left, as was asked
    except asyncio.IncompleteReadError:
        pass  # the server left: the answer is not whole
    finally:
        for writer in writers:
            writer.transport.abort()
        answer.seconds = time.perf_counter() - began
    return answer


async def _exchange(
    address: tuple[str, int], method: str, path: str, body: Any, answer: Answer, began: float,
    writers: list[asyncio.StreamWriter],
) -> None:  # fmt: skip
    reader, writer = await asyncio.open_connection(*address, limit=LIMIT)
    writers.append(writer)
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    writer.write(head.encode() + b"\r\n" + data)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    answer.status = int(lines[0].split()[1])
    answer.headers = {
        key.lower(): value.strip() for key, value in (line.split(":", 1) for line in lines[1:] if ":" in line)
    }
    chunked = answer.headers.get("transfer-encoding") == "chunked"
    events = answer.headers.get("content-type", "").startswith("text/event-stream")
    rest = b""
    while True:
        if chunked:
            size = int((await reader.readuntil(b"\r\n")).strip(), 16)
            part = (await reader.readexactly(size + 2))[:-2]
        elif "content-length" in answer.headers:
            part = await reader.readexactly(int(answer.headers["content-length"]))
        else:
            part = await reader.read()
        if events:
            *told, rest = (rest + part).split(b"\n\n")
            now = time.perf_counter() - began
            answer.events.extend(
                (now, one.removeprefix(b"data: ").decode()) for one in told if one.startswith(b"data: ")
            )
        answer.body += part if not events else b""
        if not (chunked and size):
            return


class Served:
    """A `puna serve` process."""

    def __init__(self, model: Path, *arguments: str, threads: int | None = None) -> None:
        """Start it on a free port and wait until it answers. Raises SystemExit with its words where it does not start."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "puna", "serve", str(model), "--port", "0", "--json", *arguments], env=environment,
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.process.wait()
            raise SystemExit(f"puna serve did not start: {self.said()}")
        self.start_seconds = time.perf_counter() - began
        told = json.loads(line)
        self.models: list[str] = told["models"]
        self.address = address_of(told["url"])

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.process.pid

    def said(self) -> str:
        """What it wrote to stderr so far (the last 2,000 characters)."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace").strip()[-2000:]

    def tell_to_end(self) -> None:
        """SIGTERM: it takes no more and lets what runs end."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = 40.0) -> int:
        """End it, by force if it must be; the exit code."""
        if self.process.poll() is None:
            self.tell_to_end()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


def address_of(url: str) -> tuple[str, int]:
    """Host and port of http://HOST:PORT. Raises ValueError for another form."""
    found = re.fullmatch(r"http://([^/:]+|\[[^\]]+\]):(\d+)/?", url)
    if found is None:
        raise ValueError(f"not of the form http://HOST:PORT: {url}")
    return found[1].strip("[]"), int(found[2])


def memory(pid: int, what: str = "VmRSS") -> int:
    """Bytes of a process: VmRSS now, VmHWM at most so far."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace"))
    if found is None:
        raise RuntimeError("this system does not tell a process's memory")
    return int(found[1]) * 1024
