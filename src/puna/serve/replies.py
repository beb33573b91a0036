"""From requests to replies, with every way that leads out of it.

In: a model and requests. Out: whole replies, or pieces of them as they are made. Must never happen: work that goes on for somebody who has
gone, or a reply that was cut off by the server's end and looks whole.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from puna.engine.request import Closing, Delta, Failed, FinishReason, Request, Shape, TokenLogprob
from puna.model.manifest import Manifest
from puna.serve.models import Hosted

if TYPE_CHECKING:
    from puna.engine.loop import Stream

_FINGERPRINTS: WeakKeyDictionary[Hosted, str | None] = WeakKeyDictionary()


@dataclass
class Reply:
    """One whole reply. `cached_tokens`: how many of its prompt's tokens were found in the cache."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    cached_tokens: int = 0

    def add(self, delta: Delta) -> None:
        """Grow by what one step brought."""
        self.text += delta.text
        self.ids += delta.ids
        self.logprobs += delta.logprobs
        self.cached_tokens += delta.cached_tokens
        self.finish_reason = delta.finish_reason or self.finish_reason


async def prepare(hosted: Hosted, shape: Shape | None, where: str = "response_format") -> None:
    """Compile a shape in another thread, so that the event loop does not wait for it.

    Raises `PunaError` that names the field `where`, where the shape cannot be held to.
    """
    if shape is not None:
        await asyncio.to_thread(hosted.engine.constraints.start, shape, where)


async def whole(hosted: Hosted, requests: Sequence[Request]) -> list[Reply]:
    """All replies, made together. Raises as `pieces` does; cancelled, all are aborted."""
    replies = [Reply() for _ in requests]
    async with aclosing(pieces(hosted, requests)) as stream:
        async for number, delta in stream:
            replies[number].add(delta)
    return replies


async def pieces(hosted: Hosted, requests: Sequence[Request]) -> AsyncGenerator[tuple[int, Delta], None]:
    """(number of the request, what became certain), in the order in which it does, until every reply has ended.

    Close it (`contextlib.aclosing`) where it may be left early: then, and where anything is raised, all replies are aborted.
    Raises `PunaError` where a prompt or shape cannot be served, `Full`, `Closing` (also where a reply was cut off by the end of the
    server), `Failed`.
    """
    for shape in {id(one.shape): one.shape for one in requests}.values():
        await prepare(hosted, shape)
    streams: list[Stream] = []
    try:
        for request in requests:
            streams.append(hosted.loop.submit(request))
        async with aclosing(_merged(streams)) as merged:
            async for number, delta in merged:
                if delta.finish_reason == "abort":
                    raise Closing("the reply was cut off: the model is being unloaded, or the server ends")
                yield number, delta
    finally:
        for stream in streams:
            stream.abort()


async def _merged(streams: "Sequence[Stream]") -> AsyncGenerator[tuple[int, Delta], None]:
    if len(streams) == 1:
        async for delta in streams[0]:
            yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, Delta] | Failed] = asyncio.Queue()

    async def feed(number: int, stream: "Stream") -> None:
        try:
            async for delta in stream:
                queue.put_nowait((number, delta))
        except Failed as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(feed(number, stream)) for number, stream in enumerate(streams)]
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if isinstance(item, Failed):
                raise item
            running -= item[1].finish_reason is not None
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def token_text(hosted: Hosted, id_: int) -> tuple[str, bytes]:
    """A token as text (U+FFFD where it is no whole character) and as bytes. Rows of the embedding that no token has are empty."""
    tokens = hosted.engine.tokenizer
    data = tokens.token_bytes(id_) if id_ < tokens.vocab_size else b""
    return data.decode("utf-8", "replace"), data


def token_logs(hosted: Hosted, logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities as OpenAI's chat has them: one object a token, with `top_logprobs`."""
    return [
        {**_token_log(hosted, one.id, one.logprob), "top_logprobs": [_token_log(hosted, *other) for other in one.top]}
        for one in logprobs
    ]


def _token_log(hosted: Hosted, id_: int, logprob: float) -> dict[str, Any]:
    text, data = token_text(hosted, id_)
    return {"token": text, "logprob": logprob, "bytes": list(data)}


def fingerprint(hosted: Hosted) -> dict[str, Any]:
    """OpenAI's `system_fingerprint` as a field: the same as long as weights (by their manifest) and precision are.

    {} where the model has no manifest: OpenAI's description knows no null here.
    """
    if hosted not in _FINGERPRINTS:
        _FINGERPRINTS[hosted] = _fingerprint(hosted)
    made = _FINGERPRINTS[hosted]
    return {} if made is None else {"system_fingerprint": made}


def _fingerprint(hosted: Hosted) -> str | None:
    manifest = Manifest.find(hosted.path) if hosted.path.is_dir() else None
    if manifest is None or manifest.source is None:
        return None
    weights = sorted(line["sha256"] for path, line in manifest.files.items() if path.endswith(".safetensors"))
    digest = hashlib.sha256("\n".join([hosted.engine.precision, *weights]).encode()).hexdigest()
    return f"fp_{digest[:16]}"
