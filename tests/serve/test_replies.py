"""What becomes of replies when something ends them: a client that goes, a reply that fails, a queue that is full, a server that ends."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import pytest
from tests_serve_running import KEY, MODEL, Running, running_server
from tests_serve_streams import events_of

from puna.engine import Sampling
from puna.engine.constrain import Constraint, Constraints
from puna.engine.request import Closing, Failed, Request, Shape
from puna.errors import PunaError
from puna.serve.models import Hosted
from puna.serve.replies import fingerprint, pieces, whole
from puna.serve.sse import Chunks, compact, quoted

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASKED = [{"role": "user", "content": "羊驼"}]


def endless(running: Running, **fields: Any) -> dict[str, Any]:
    """A body whose reply takes thousands of steps: nothing but the context ends it."""
    ends = {str(id_): -100 for id_ in running.models.get(MODEL).engine.stop_ids}
    return {"model": MODEL, "logit_bias": ends, "seed": 1, "max_tokens": 8000, **fields}


def idle(running: Running, seconds: float = 30.0) -> bool:
    """Whether nothing runs or waits and every block is free, within so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stats = running.models.get(MODEL).loop.stats()
        if stats.running == stats.waiting == 0 and stats.blocks_free == stats.blocks:
            return True
        time.sleep(0.01)
    return False


def at_work(running: Running, replies: int) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        stats = running.models.get(MODEL).loop.stats()
        if stats.running >= replies:
            return True
        time.sleep(0.005)
    return False


def aborted(running: Running) -> int:
    return running.models.get(MODEL).loop.stats().finished.get("abort", 0)


@contextlib.contextmanager
def raw(running: Running, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A connection on which a request was sent, and nothing is read."""
    address = urlsplit(running.base_url)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.hostname, address.port or 0), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield connection


@pytest.mark.parametrize("replies", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "asked"), [(CHAT, {"messages": ASKED}), (TEXT, {"prompt": "羊驼"})], ids=["chat", "text"]
)
def test_a_client_that_goes_away(
    roomy: Running, path: str, asked: dict[str, Any], *, stream: bool, replies: int
) -> None:
    assert idle(roomy)
    before, made = aborted(roomy), roomy.models.get(MODEL).loop.stats().generated_tokens
    with raw(roomy, path, endless(roomy, stream=stream, n=replies, **asked)) as connection:
        assert at_work(roomy, replies)
        if stream:
            assert b"text/event-stream" in connection.recv(4096)
    gone = time.monotonic()
    assert idle(roomy)
    assert aborted(roomy) == before + replies
    assert roomy.models.get(MODEL).loop.stats().generated_tokens - made < 4000 * replies, time.monotonic() - gone
    with roomy.client() as client:
        assert client.get("/health").status_code == 200


def test_clients_that_wait_and_go_away_leave_the_queue(roomy_one: Running) -> None:
    with raw(roomy_one, CHAT, endless(roomy_one, stream=True, messages=ASKED)):
        assert at_work(roomy_one, 1)
        with (
            raw(roomy_one, CHAT, endless(roomy_one, messages=ASKED)),
            raw(roomy_one, TEXT, endless(roomy_one, prompt="a", stream=True)),
        ):
            until = time.monotonic() + 30
            while roomy_one.models.get(MODEL).loop.stats().waiting < 2 and time.monotonic() < until:
                time.sleep(0.01)
            with roomy_one.client() as client:  # the queue is full now
                for stream in (False, True):
                    full = client.post(CHAT, json={"model": MODEL, "messages": ASKED, "stream": stream})
                    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
                    assert (
                        full.json()["error"]["type"] == "server_error" and full.json()["error"]["code"] == "overloaded"
                    )
        while roomy_one.models.get(MODEL).loop.stats().waiting and time.monotonic() < until:
            time.sleep(0.01)
        assert roomy_one.models.get(MODEL).loop.stats().waiting == 0
    assert idle(roomy_one)


@pytest.fixture(scope="module")
def roomy_one(tmp_path_factory: pytest.TempPathFactory, make_tiny_release: Callable[..., Path]) -> Iterator[Running]:
    """One reply at a time, two in the queue."""
    folder = make_tiny_release(tmp_path_factory.mktemp("one") / "tiny", max_position_embeddings=8192)
    with running_server({MODEL: folder}, key=KEY, running=1, waiting=2) as running:
        yield running


class _Poisoned(Constraint):
    """Allows anything for some steps, and then nothing."""

    def __init__(self, vocabulary: int, steps: int) -> None:
        self._mask = np.ones(vocabulary, dtype=bool)
        self._left = steps

    @property
    def finished(self) -> bool:
        return False

    @property
    def error(self) -> str | None:
        return None

    def mask(self) -> Any:
        return self._mask if self._left > 0 else np.zeros_like(self._mask)

    def take(self, id_: int) -> None:
        self._left -= 1


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch, roomy: Running) -> dict[str, Any]:
    """A response format whose replies fail after five tokens, in the middle of the engine's work."""
    start, vocabulary = Constraints.start, roomy.models.get(MODEL).engine.config.vocab_size

    def poisoned(self: Constraints, shape: Shape, where: str = "") -> Constraint:
        if shape.json_schema == {"const": "poison"}:
            return _Poisoned(vocabulary, 5)
        return start(self, shape, where)

    monkeypatch.setattr(Constraints, "start", poisoned)
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "poison"}}}


def test_a_reply_that_fails_is_one_clients_trouble(roomy: Running, poison: dict[str, Any]) -> None:
    good = {"model": MODEL, "messages": ASKED, "max_tokens": 60, "seed": 4}
    with roomy.client() as client:
        alone = client.post(CHAT, json=good).json()["choices"]
        beside: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: beside.append(client.post(CHAT, json=good))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for replies in (1, 3):
            failed = client.post(CHAT, json=endless(roomy, messages=ASKED, response_format=poison, n=replies))
            assert failed.status_code == 500 and set(failed.json()["error"]) == {"message", "type", "param", "code"}
            assert (failed.json()["error"]["type"], failed.json()["error"]["code"]) == ("server_error", "engine_failed")
        for thread in threads:
            thread.join(60)
        assert [one.json()["choices"] for one in beside] == [alone] * 3
    assert idle(roomy)


def test_a_stream_that_fails_says_so(roomy: Running, poison: dict[str, Any]) -> None:
    with roomy.client() as client:
        answer = client.post(CHAT, json=endless(roomy, messages=ASKED, response_format=poison, stream=True))
    assert answer.status_code == 200
    events = [json.loads(block.removeprefix("data: ")) for block in answer.text.removesuffix("\n\n").split("\n\n")]
    assert len(events) > 2 and [set(one) for one in events[-1:]] == [{"error"}] and "[DONE]" not in answer.text
    assert events[-1]["error"]["type"] == "server_error" and events[-1]["error"]["code"] == "engine_failed"
    assert all("choices" in one for one in events[:-1])
    assert idle(roomy)


def test_what_runs_when_a_model_is_unloaded(tmp_path: Path, make_tiny_release: Callable[..., Path]) -> None:
    """It is cut off after the time for draining, and is told: no reply that was cut off looks whole."""
    folder = make_tiny_release(tmp_path / "tiny", max_position_embeddings=8192)
    with running_server({MODEL: folder}, key=KEY, drain_seconds=0.3) as running, running.client() as client:
        answers: dict[bool, httpx.Response] = {}

        def ask(stream: bool) -> None:
            answers[stream] = client.post(CHAT, json=endless(running, messages=ASKED, stream=stream))

        threads = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for thread in threads:
            thread.start()
        assert at_work(running, 2)
        assert client.post("/models/unload", json={"model": MODEL}).status_code == 200
        for thread in threads:
            thread.join(30)
        assert answers[False].status_code == 503 and answers[False].headers["retry-after"]
        last = json.loads(answers[True].text.removesuffix("\n\n").split("\n\n")[-1].removeprefix("data: "))
        assert answers[True].status_code == 200 and last["error"]["type"] == "server_error"
        assert client.post(CHAT, json={"model": MODEL, "messages": ASKED}).status_code == 404


# Without HTTP


def wanted(hosted: Hosted, tokens: int, seed: int = 0) -> Request:
    ids = hosted.engine.begin("the llama")
    bias = tuple((id_, -100.0) for id_ in hosted.engine.stop_ids)
    return Request(tuple(ids), Sampling(max_tokens=tokens, temperature=1, seed=seed, logit_bias=bias))


def test_whole_and_pieces(roomy: Running) -> None:
    hosted = roomy.models.get(MODEL)

    async def both() -> None:
        requests = [wanted(hosted, 20 + 5 * seed, seed) for seed in range(4)]
        replies = await whole(hosted, requests)
        assert [len(one.ids) for one in replies] == [20, 25, 30, 35] and {one.finish_reason for one in replies} == {
            "length"
        }
        texts, ends = [""] * 4, []
        async for number, delta in pieces(hosted, requests):
            texts[number] += delta.text
            ends += [number] if delta.finish_reason else []
        assert texts == [one.text for one in replies] and sorted(ends) == [0, 1, 2, 3]
        assert await whole(hosted, []) == []

    asyncio.run(both())
    assert idle(roomy)


def test_leaving_early_and_being_cancelled_abort_all(roomy: Running) -> None:
    hosted = roomy.models.get(MODEL)
    requests = [wanted(hosted, 8000, seed) for seed in range(3)]

    async def leave() -> None:
        async with contextlib.aclosing(pieces(hosted, requests)) as made:
            async for _ in made:
                break
        assert await asyncio.to_thread(idle, roomy)
        task = asyncio.create_task(whole(hosted, requests))
        assert await asyncio.to_thread(at_work, roomy, 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(idle, roomy)

    before = aborted(roomy)
    asyncio.run(leave())
    assert aborted(roomy) == before + 6


def test_one_that_cannot_be_submitted_takes_the_others_back(roomy: Running) -> None:
    hosted = roomy.models.get(MODEL)
    good = wanted(hosted, 8000)
    for bad in (Request(tuple([1] * 9000)), Request((10**6,))):
        with pytest.raises(PunaError):
            asyncio.run(whole(hosted, [good, bad]))
        assert idle(roomy)
    remote = Request(good.prompt, shape=Shape(json_schema={"$ref": "http://example.com/x"}))
    with pytest.raises(PunaError, match="response_format"):
        asyncio.run(whole(hosted, [good, remote]))
    assert idle(roomy)


class _Fake:
    """A model whose replies end as it is told."""

    def __init__(self, *ends: object) -> None:
        self.loop, self._ends, self.left = self, list(ends), 0

    def submit(self, _: Request) -> "_Fake._Stream":
        return _Fake._Stream(self, self._ends.pop(0))

    class _Stream:
        def __init__(self, fake: "_Fake", end: object) -> None:
            self._fake, self._end = fake, end

        async def __aiter__(self) -> Any:
            from puna.engine.request import Delta

            yield Delta((1,), "a")
            if isinstance(self._end, Exception):
                raise self._end
            yield Delta(finish_reason=self._end)  # type: ignore[arg-type]

        def abort(self) -> None:
            self._fake.left += 1


@pytest.mark.parametrize(
    ("ends", "kind"), [(("abort",), Closing), (("stop", "abort"), Closing), (("stop", Failed("x")), Failed)]
)
def test_a_reply_that_was_cut_off_is_no_reply(ends: tuple[object, ...], kind: type[Exception]) -> None:
    fake: Any = _Fake(*ends)
    with pytest.raises(kind):
        asyncio.run(whole(fake, [Request((1,))] * len(ends)))
    assert fake.left == len(ends)


def test_fingerprints(roomy: Running, tmp_path: Path) -> None:
    hosted = roomy.models.get(MODEL)
    assert fingerprint(hosted) == {}  # no manifest beside it
    made = []
    for digest in ("a", "b", "a"):
        lines = {
            "model.safetensors": {"bytes": 1, "sha256": digest * 64},
            "README.md": {"bytes": len(made), "sha256": "c" * 64},
        }
        (tmp_path / "MANIFEST.json").write_text(json.dumps({"files": lines}))
        made.append(fingerprint(Hosted("x", tmp_path, hosted.engine, hosted.loop, 0))["system_fingerprint"])
    assert made[0] == made[2] != made[1] and made[0].startswith("fp_")


def test_json_on_one_line() -> None:
    text = 'a"\\\n\r\t\x00\x1f\x7f\x85\x0b\x0c\u2028\u2029 羊驼 😀'
    for made in (quoted(text), compact(text), compact({"a": [text]})):
        assert len(made.splitlines()) == 1 and "羊驼 😀" in made
    assert json.loads(quoted(text)) == text and json.loads(compact({"a": [text]})) == {"a": [text]}
    for usage in (True, False):
        chunks = Chunks({"id": "x", "model": text}, with_usage=usage)
        event = json.loads(chunks.choice('{"index":0}').removeprefix("data: "))
        assert event == {"id": "x", "model": text, "choices": [{"index": 0}], **({"usage": None} if usage else {})}
    assert json.loads(chunks.usage({"a": 1}).removeprefix("data: ")) == {
        "id": "x",
        "model": text,
        "choices": [],
        "usage": {"a": 1},
    }


def test_streams_beside_each_other(roomy: Running) -> None:
    """Sixteen at once say what each says alone."""
    bodies = [
        {"model": MODEL, "messages": [{"role": "user", "content": f"{number} 羊驼"}], "max_tokens": 30, "seed": number}
        for number in range(16)
    ]
    with roomy.client() as client:
        alone = [client.post(CHAT, json=body).json()["choices"][0]["message"]["content"] for body in bodies]
        together: list[str] = [""] * 16

        def read(number: int) -> None:
            chunks = events_of(client.post(CHAT, json={**bodies[number], "stream": True}))
            together[number] = "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert together == alone
