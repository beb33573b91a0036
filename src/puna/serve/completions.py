"""/v1/completions: text goes on, as a whole or as a stream.

In: prompts as texts or ids. Out: OpenAI's text completion. Must never happen: replies of one prompt told as another's, a log-probability
beside another token than its own.

`echo` gives the prompt back before the reply, with `logprobs` scored too; with `max_tokens` 0 that is all there is, which is how
evaluation harnesses score texts. An empty prompt begins a document.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from puna.engine.request import Delta, TokenLogprob
from puna.engine.request import Request as Wanted
from puna.engine.text import Utf8Stream
from puna.serve.errors import ApiError
from puna.serve.fields import Drawing, Given, Usage, check_drawing, check_max_tokens, refused, samplings, usage_of
from puna.serve.models import Hosted
from puna.serve.prompts import check_fits, off_loop
from puna.serve.replies import fingerprint, pieces, token_text
from puna.serve.settings import Settings
from puna.serve.sse import DONE, STREAMED, Chunks, compact, quoted, stream, unless_gone

router = APIRouter(tags=["completions"])
_DEFAULT_TOKENS = 16  # OpenAI's: these models seldom end by themselves

Id = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Id], Field(min_length=1, fail_fast=True)]
Prompt = (
    str
    | Annotated[list[str], Field(min_length=1, fail_fast=True)]
    | Ids
    | Annotated[list[Ids], Field(min_length=1, fail_fast=True)]
)


class CompletionRequest(Drawing):
    """Text that is to go on."""

    prompt: Prompt
    """A text, several, a text's token ids, or several of these."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """The most tokens of a reply; 16 where it is not given. 0 makes none: with `echo` and `logprobs` it scores the prompt."""
    echo: bool | None = None
    """Give the prompt back before the reply."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Report each token's log-probability and those of so many likeliest tokens. OpenAI takes up to 5."""
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    """Only as many as `n`."""
    suffix: Annotated[None, refused("these models write forward only")] = None


class TextLogprobs(Given):
    """Of each token: where it begins in the choice's text (in characters), itself, its ln p, the likeliest in its place."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    """Null for a prompt's first token, which has none before it."""
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class TextChoice(Given):
    """One reply. Those to the first prompt come first."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Given):
    """The replies."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[TextChoice]
    usage: Usage


@router.post("/v1/completions", response_model=Completion, responses={200: {"content": STREAMED}})
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Go on with a text. With `stream` the reply comes as server-sent events that end with `data: [DONE]`."""
    hosted: Hosted = request.app.state.models.get(body.model)
    job = await unless_gone(request, _prepared(hosted, body, request.app.state.settings))
    if body.stream:
        return stream(request, _events(job, body))
    made = await unless_gone(request, _completion(job))
    return Response(compact(made), media_type="application/json")


@dataclass(frozen=True)
class _Start:
    """A prompt: its ids, and the text that `echo` gives back. `hides_specials`: that text does not show a begin token of ours."""

    ids: tuple[int, ...]
    text: str
    hides_specials: bool


@dataclass(frozen=True)
class _Job:
    """What is to be done for one request. `head`: the fields that say what the response is. `wanted`: none where no token is to be made."""

    hosted: Hosted
    starts: list[_Start]
    replies: int
    wanted: list[Wanted]
    echo: bool
    top: int | None
    head: dict[str, Any]

    async def choices(self) -> "list[_Choice]":
        """The replies, not begun; those that echo their prompt have it already."""
        made = []
        for start in self.starts:
            logprobs: Sequence[TokenLogprob | None] = ()
            if self.echo and self.top is not None:
                work = partial(self.hosted.engine.prompt_logprobs, start.ids, self.top)
                logprobs = await asyncio.wrap_future(self.hosted.loop.call(work))
            for _ in range(self.replies):
                choice = _Choice(self, start)
                if self.echo:
                    choice.echo(start, logprobs)
                made.append(choice)
        return made

    def usage(self, choices: "list[_Choice]") -> dict[str, Any]:
        """Of several replies to a prompt, the first reads it."""
        made, cached = sum(one.made for one in choices), sum(one.cached for one in choices[:: self.replies])
        return usage_of(sum(len(one.ids) for one in self.starts), made, cached)


async def _prepared(hosted: Hosted, body: CompletionRequest, settings: Settings) -> _Job:
    """Check everything and build the engine's requests. Raises `ApiError` and `PunaError`."""
    check_drawing(body, hosted, settings)
    check_max_tokens(body.max_tokens, settings, "max_tokens")
    if body.best_of is not None and body.best_of != body.replies:
        raise ApiError(400, "best_of: is not taken here; ask for n replies and choose", param="best_of")
    prompts = _prompts(body.prompt)
    if len(prompts) > settings.prompts:
        raise ApiError(400, f"prompt: has {len(prompts)} texts, and may have {settings.prompts}", param="prompt")
    if len(prompts) * body.replies > settings.waiting:
        told = f"n: {len(prompts)} prompts with {body.replies} replies each are more than the {settings.waiting} that may wait"
        raise ApiError(400, told, param="n")
    most = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    starts = await off_loop(sum(map(len, prompts)), lambda: [_start(hosted, one, most) for one in prompts])
    wanted = []
    for start in starts if most else ():
        drawn = samplings(body, min(most, hosted.engine.context - len(start.ids)))
        wanted += [Wanted(start.ids, one, body.logprobs) for one in drawn]
    head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time()),
            "model": hosted.name, **fingerprint(hosted)}  # fmt: skip
    return _Job(hosted, starts, body.replies, wanted, bool(body.echo), body.logprobs, head)


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """The prompts one by one."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [[one for one in given if isinstance(one, int)]]
    return [one for one in given if not isinstance(one, int)]


def _start(hosted: Hosted, prompt: str | list[int], most: int) -> _Start:
    engine = hosted.engine
    ids = engine.begin(prompt) if isinstance(prompt, str) else prompt
    if not ids and engine.tokenizer.eos_id is not None:
        ids = [engine.tokenizer.eos_id]  # what stands between documents begins one
    if not ids:
        raise ApiError(400, "prompt: is empty, and the model has no token that begins a text", param="prompt")
    vocabulary = engine.config.vocab_size
    if max(ids) >= vocabulary:
        raise ApiError(400, f"prompt: token ids lie between 0 and {vocabulary - 1}", param="prompt")
    check_fits(hosted, len(ids) if most else len(ids) - 1, "prompt")
    start = _Start(tuple(ids), prompt if isinstance(prompt, str) else "", isinstance(prompt, str))
    return start if start.hides_specials else replace(start, text=_Places(hosted, start, echo=True).text_of(ids))


class _Places:
    """Where tokens begin in a choice's text, which is put together from them."""

    def __init__(self, hosted: Hosted, start: _Start, *, echo: bool) -> None:
        self._tokens, self._hides = hosted.engine.tokenizer, start.hides_specials
        self._specials = self._tokens.special_ids
        self._begins = echo or self._specials.issuperset(start.ids)  # SentencePiece's first space is none of the text's
        self._characters = Utf8Stream()
        self._offset = 0

    def next(self, id_: int) -> int:
        """Where this token, the next one, begins."""
        data, offset = self._bytes(id_), self._offset
        if self._characters.held and data and not 0x80 <= data[0] < 0xC0:
            offset += 1  # half a character stands before it, as U+FFFD
        self._offset += len(self._characters.push(data))
        return offset

    def end_prompt(self) -> None:
        """The prompt is over. Half a character at its end is one of the text's."""
        if self._characters.held:
            self._offset += 1
            self._characters = Utf8Stream()

    def text_of(self, ids: Sequence[int]) -> str:
        """The text that these tokens, the next ones, make."""
        return b"".join(map(self._bytes, ids)).decode("utf-8", "replace")

    def _bytes(self, id_: int) -> bytes:
        if id_ in self._specials or id_ >= self._tokens.vocab_size:
            return b"" if self._hides or id_ >= self._tokens.vocab_size else self._tokens.token_bytes(id_)
        begins, self._begins = self._begins, False
        return self._tokens.token_bytes(id_, starts_text=begins)


_Logged = tuple[int, int, TokenLogprob | None]  # where it begins, its id, ln p


class _Choice:
    """One reply as it grows. Log-probabilities wait for the text that they belong to."""

    def __init__(self, job: _Job, start: _Start) -> None:
        self._hosted, self._logged = job.hosted, job.top is not None
        self._places = _Places(job.hosted, start, echo=job.echo)
        self.waiting: list[_Logged] = []
        self.made = self.cached = 0
        self.text = ""
        self.finish_reason: str | None = None if job.wanted else "length"

    def echo(self, start: _Start, logprobs: Sequence[TokenLogprob | None]) -> None:
        """Begin with the prompt."""
        self.text = start.text
        if self._logged:
            self.waiting += [(self._places.next(id_), id_, one) for id_, one in zip(start.ids, logprobs, strict=True)]
            self._places.end_prompt()

    def push(self, delta: Delta) -> None:
        """Grow by what one step brought."""
        self.made += len(delta.ids)
        self.cached += delta.cached_tokens
        self.text += delta.text
        self.waiting += [(self._places.next(one.id), one.id, one) for one in delta.logprobs]
        self.finish_reason = delta.finish_reason

    def take(self) -> tuple[str, str]:
        """The text that has grown, and its log-probabilities as JSON; then there are none of either."""
        text, waiting, self.text, self.waiting = self.text, self.waiting, "", []
        return text, compact(self._logs(waiting)) if self._logged and waiting else "null"

    def logs(self) -> dict[str, Any] | None:
        """All log-probabilities that wait."""
        return self._logs(self.waiting) if self._logged else None

    def _logs(self, waiting: Sequence[_Logged]) -> dict[str, Any]:
        return {
            "text_offset": [offset for offset, _, _ in waiting],
            "token_logprobs": [one.logprob if one else None for _, _, one in waiting],
            "tokens": [_name(self._hosted, id_) for _, id_, _ in waiting],
            "top_logprobs": [self._top(one) if one else None for _, _, one in waiting],
        }

    def _top(self, one: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens and the one that was taken. Of two that look the same, the likelier."""
        found: dict[str, float] = {}
        for id_, logprob in (*one.top, (one.id, one.logprob)):
            found.setdefault(_name(self._hosted, id_), logprob)
        return found


def _name(hosted: Hosted, id_: int) -> str:
    """A token as text; one that is no whole character as OpenAI writes it: `bytes:\\xe4\\xbd`."""
    text, data = token_text(hosted, id_)
    return text if text.encode() == data else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


async def _completion(job: _Job) -> dict[str, Any]:
    """The response as a whole."""
    choices = await job.choices()
    async with aclosing(pieces(job.hosted, job.wanted)) as made:
        async for number, delta in made:
            choices[number].push(delta)
    told = [
        {"index": number, "text": one.text, "logprobs": one.logs(), "finish_reason": one.finish_reason}
        for number, one in enumerate(choices)
    ]
    return {**job.head, "choices": told, "usage": job.usage(choices)}


async def _events(job: _Job, body: CompletionRequest) -> AsyncGenerator[str, None]:
    """The response as a stream. The first event is made when the engine has begun, so that a refusal still has its own status."""
    chunks = Chunks(job.head, with_usage=body.with_usage)
    choices = await job.choices()
    begun = not job.wanted
    async with aclosing(pieces(job.hosted, job.wanted)) as made:
        async for number, delta in made:
            for index, choice in enumerate(choices if job.echo and not begun else ()):
                yield _chunk(chunks, index, *choice.take())
            begun = True
            choices[number].push(delta)
            for event in _grown(chunks, number, choices[number]):
                yield event
    for index, choice in enumerate(choices if not job.wanted else ()):
        for event in _grown(chunks, index, choice):
            yield event
    if body.with_usage:
        yield chunks.usage(job.usage(choices))
    yield DONE


def _grown(chunks: Chunks, index: int, choice: _Choice) -> list[str]:
    """The events for what a choice has grown by."""
    ended = choice.finish_reason is not None
    events = []
    if choice.text or (ended and choice.waiting):
        events.append(_chunk(chunks, index, *choice.take()))
    if ended:
        events.append(_chunk(chunks, index, "", finish=quoted(str(choice.finish_reason))))
    return events


def _chunk(chunks: Chunks, index: int, text: str, logs: str = "null", finish: str = "null") -> str:
    return chunks.choice(f'{{"index":{index},"text":{quoted(text)},"logprobs":{logs},"finish_reason":{finish}}}')
