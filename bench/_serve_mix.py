"""What the clients of `serve_load` ask, and what each answer must be.

In: a model's name and its context, the routes. Out: `Case`s drawn by weight, and the faults of an answer (none where it is right).
Must never happen: an answer is called right that belongs to another's question.

Each prompt of the pool is asked alone before the load; under load the same prompt must get the same reply, whether as a stream, as
a whole, with log-probabilities, or as one of three. "fresh" prompts are asked once under load and once, alone, after it. A reply that goes another way after more than half of its text is called
drifted and counted: two logits can lie within rounding. One that differs before is wrong.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

from _serve_client import Answer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["answer", "sure"],
    "properties": {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
}  # fmt: skip
#        kind        weight
MIX = {"stream": 28, "whole": 18, "fresh": 14, "logprobs": 8, "three": 6, "schema": 8, "bad": 18}
LEAVERS = 0.2  # share of the sound requests that are left at a random time
SHARED = (
    "You answer questions about the high grassland of the Andes. Be short. ",
    "请用简短的中文回答关于高原草地与美洲驼的问题。",
)


@dataclass(frozen=True)
class Prompt:
    """One of the pool, with a marker that no other has."""

    marker: str
    path: str
    text: str
    most: int

    def body(self, model: str) -> dict[str, Any]:
        """The request for the likeliest reply."""
        asked: dict[str, Any] = {"model": model, "max_tokens": self.most, "temperature": 0}
        if self.path == TEXT:
            return asked | {"prompt": self.text}
        system = SHARED[0] if self.text.isascii() else SHARED[1]
        return asked | {"messages": [{"role": "system", "content": system}, {"role": "user", "content": self.text}]}


@dataclass(frozen=True)
class Case:
    """One request. `prompt`: whose reply it must get; None where it must be refused with one of `statuses`."""

    kind: str
    path: str
    body: Any
    prompt: Prompt | None = None
    statuses: tuple[int, ...] = (200,)
    method: str = "POST"


def pool(context: int, chats: bool, count: int = 32) -> list[Prompt]:
    """Short and long prompts, English and Chinese, half of them with a beginning in common."""
    draws, found = random.Random(4), []
    for number in range(count):
        marker, chinese, long = f"m{number:03}{draws.randrange(16**4):04x}", number % 4 == 3, number % 3 == 0
        filler = "高原上的草。" if chinese else "The grass is dry. "
        room = (
            context // (12 if chinese else 7) if long else context // 40
        )  # characters: no tokenizer here makes more tokens
        begin = SHARED[chinese] if number % 2 else marker
        text = f"{begin} {marker}: {(filler * room)[:room]} {'它吃什么' if chinese else 'What does it eat'} {marker}?"
        # Some outgrow the blocks that are left for them, so that the newest must go back to the queue.
        most = context // 3 if number % 8 == 5 else draws.randint(8, max(9, context // 8))
        found.append(Prompt(marker, CHAT if chats and number % 3 else TEXT, text, most))
    return found


def draw(draws: random.Random, model: str, prompts: list[Prompt], context: int, chats: bool) -> Case:
    """The next request of one client."""
    kind = draws.choices(list(MIX), list(MIX.values()))[0]
    if kind == "bad":
        return draws.choice(_bad(model, context, chats))
    prompt = draws.choice(prompts)
    if kind == "fresh":
        marker = f"f{draws.randrange(16**8):08x}"
        prompt = Prompt(marker, prompt.path, f"{marker}: {prompt.text[: context // 10]} {marker}?", prompt.most)
    body = prompt.body(model)
    if kind == "stream":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    elif kind == "logprobs":
        body |= {"logprobs": True, "top_logprobs": 2} if prompt.path == CHAT else {"logprobs": 2}
    elif kind == "three":
        body |= {"n": 3}
    elif kind == "schema" and chats:
        prompt = draws.choice([one for one in prompts if one.path == CHAT])
        shape = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
        body = prompt.body(model) | {
            "response_format": shape,
            "max_tokens": 64,
            "temperature": 1.0,
            "seed": draws.randrange(99),
        }
    return Case("whole" if kind == "schema" and not chats else kind, prompt.path, body, prompt)


def _bad(model: str, context: int, chats: bool) -> list[Case]:
    """Requests that must be refused."""
    text = {"model": model, "prompt": "grass", "max_tokens": 4}
    chat = {"model": model, "messages": [{"role": "user", "content": "grass"}], "max_tokens": 4}
    wrong = [
        *({**text, key: value} for key, value in (
            ("max_tokens", -1), ("max_tokens", "many"), ("temperature", "hot"), ("temperature", -3), ("n", 10**9), ("n", 0),
            ("top_p", 7), ("stop", [["deep"]]), ("stop", [f"x{at}" for at in range(1000)]), ("logprobs", 10**6), ("prompt", {"text": 1}),
            ("prompt", [-1]), ("prompt", [10**12]), ("seed", "seven"), ("stream", 3.5), ("presence_penalty", 1e300),
            ("prompt", "grass and stone " * context), ("logit_bias", {"x": 1}),
        )),
        {"model": model}, None, [], 17, b"", b"{", b'{"model": "\xff"}', b"[" * 50_000, b'{"prompt": NaN}',
    ]  # fmt: skip
    cases = [Case("bad", TEXT, body, statuses=(400, 413)) for body in wrong]
    if chats:
        cases += [Case("bad", CHAT, {**chat, key: value}, statuses=(400,)) for key, value in (
            ("messages", []), ("messages", [{"role": "judge", "content": "x"}]), ("messages", [{"role": "user"}]),
            ("messages", [{"role": "user", "content": "grass and stone " * context}]), ("messages", "hello"),
            ("n", 10**9), ("top_logprobs", 99), ("response_format", {"type": "json_schema", "json_schema": {"name": "x",
             "schema": {"type": "nothing"}}}),
        )]  # fmt: skip
    return [
        *cases, Case("bad", TEXT, {**text, "model": "no-such-model"}, statuses=(404,)),
        Case("bad", "/v1/nowhere", text, statuses=(404,)), Case("bad", TEXT, None, statuses=(405,), method="GET"),
        Case("bad", TEXT, b'{"model": "' + b"x" * (3 << 20) + b'"}', statuses=(400, 413)),
    ]  # fmt: skip


@dataclass
class Seen:
    """What one answer held."""

    faults: list[str]
    id: str | None = None
    drifted: bool = False
    text: str | None = None
    first: float | None = None


def judge(case: Case, answer: Answer, alone: dict[str, str], left: bool) -> Seen:
    """What is wrong with an answer. `alone`: the reply that each marker's prompt got before; `left`: the client went away."""
    seen = Seen([])
    if answer.status >= 500 and answer.status != 503:
        seen.faults.append(f"HTTP {answer.status}")
    if answer.status == 503 and "retry-after" not in answer.headers:
        seen.faults.append("503 without Retry-After")
    if left or answer.status >= 500:
        return seen
    if not answer.whole:
        seen.faults.append(f"cut off after HTTP {answer.status} and {len(answer.events)} events")
        return seen
    if answer.status not in case.statuses:
        seen.faults.append(
            f"HTTP {answer.status} instead of {case.statuses}: {answer.body[:150]!r} to {str(case.body)[:150]}"
        )
        return seen
    try:
        if case.prompt is None:
            error = answer.json()["error"]
            if not (isinstance(error["message"], str) and {"type", "param", "code"} <= error.keys()):
                seen.faults.append(f"an error not in OpenAI's form: {error}")
        elif case.kind == "stream":
            _judge_stream(case, answer, alone, seen)
        else:
            _judge_whole(case, answer.json(), alone, seen)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        seen.faults.append(f"not of the form promised ({type(error).__name__}: {error}): {answer.body[:150]!r}")
    return seen


def _judge_stream(case: Case, answer: Answer, alone: dict[str, str], seen: Seen) -> None:
    if not answer.events or answer.events[-1][1] != "[DONE]":
        seen.faults.append(f"a stream without its [DONE] ({len(answer.events)} events)")
        return
    chunks = [(when, json.loads(text)) for when, text in answer.events[:-1]]
    if broken := [chunk for _, chunk in chunks if "error" in chunk]:
        seen.faults.append(f"an error within the stream: {broken[0]}")
        return
    ids = {chunk["id"] for _, chunk in chunks}
    if len(ids) != 1:
        seen.faults.append(f"{len(ids)} ids in one stream")
    seen.id = next(iter(ids))
    *rest, (_, usage) = chunks
    parts = [
        (when, choice["text"] if case.path == TEXT else choice["delta"].get("content") or "", choice["finish_reason"])
        for when, chunk in rest
        for choice in chunk["choices"]
    ]
    if usage["choices"] != [] or usage["usage"]["completion_tokens"] < 1:
        seen.faults.append(f"the last chunk is not the usage: {usage}")
    if [reason for _, _, reason in parts if reason] not in (["stop"], ["length"]):
        seen.faults.append("not exactly one finish_reason")
    seen.first = next((when for when, text, _ in parts if text), None)
    _same("".join(text for _, text, _ in parts), case, alone, seen)


def _judge_whole(case: Case, told: dict[str, Any], alone: dict[str, str], seen: Seen) -> None:
    choices = told["choices"]
    seen.id = told["id"]
    if [choice["index"] for choice in choices] != list(range(3 if case.kind == "three" else 1)):
        seen.faults.append(f"the choices are {[choice['index'] for choice in choices]}")
    texts = [choice["text"] if case.path == TEXT else choice["message"]["content"] for choice in choices]
    if case.kind == "schema":
        value = json.loads(texts[0])
        if (
            value.keys() != {"answer", "sure"}
            or value["answer"] not in ("yes", "no")
            or not isinstance(value["sure"], bool)
        ):
            seen.faults.append(f"not of the schema: {texts[0][:100]}")
        return
    if case.kind == "logprobs":
        reported = choices[0]["logprobs"]
        values = reported["token_logprobs"] if case.path == TEXT else [one["logprob"] for one in reported["content"]]
        if len(values) != told["usage"]["completion_tokens"] or not all(value <= 1e-6 for value in values):
            seen.faults.append(f"{len(values)} log-probabilities of {told['usage']['completion_tokens']} tokens")
    for text in texts:
        _same(text, case, alone, seen)


def _same(text: str, case: Case, alone: dict[str, str], seen: Seen) -> None:
    """The reply must be the one that this prompt got alone."""
    prompt = case.prompt
    if prompt is None or prompt.marker not in alone:
        seen.text = text
        return
    expected = alone[prompt.marker]
    if text == expected:
        return
    shared = next(
        (at for at, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), min(len(text), len(expected))
    )
    if text and text in alone.values():
        seen.faults.append(f"{prompt.marker} got the reply of another prompt")
    elif 2 * shared <= len(expected):
        seen.faults.append(f"{prompt.marker} got another reply than alone, from character {shared} of {len(expected)}: "
                           f"{text[:60]!r}, alone {expected[:60]!r}")  # fmt: skip
    else:
        seen.drifted = True
