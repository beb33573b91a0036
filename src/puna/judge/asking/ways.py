"""The ways to get the log-probabilities of a given text out of a server, and which of them one understands.

Comes in: a wire, a model's name. Goes out: tokens with their log-probabilities. Must never happen: a way taken for understood
because the server answered something.

    echo            OpenAI's old completions: echo the prompt, generate nothing (or one token, where none is refused)
    prompt_logprobs vLLM's own field
    steps           llama.cpp's server, which tells only of what it generates: the continuation is walked token by token, each
                    time asking for the likelihoods of the next one. As many requests as tokens, and correct.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

from puna.errors import PunaError
from puna.judge.asking.replies import Told, number_of, read_echo, read_prompt_logprobs
from puna.judge.asking.wire import Refused, Wire

Way = Literal["echo", "prompt_logprobs", "steps"]
COMPLETIONS = "/completions"
_PROBE = "The cat sat on the mat. The dog sat"
_LEAST_PROBE = 3  # tokens: no tokenizer makes fewer of the probe
_FIRST_LIKELY, _MORE = 64, 16  # how many likely tokens a step asks for first, and how many times more each time after
_MOST_LIKELY = 1 << 20
_NOT_UNDERSTOOD = frozenset({400, 404, 405, 415, 422, 501})


class Teller:
    """Tells the tokens of a text with their log-probabilities, in the way that the server understands (found at first use)."""

    def __init__(self, wire: Wire, model: str) -> None:
        self.wire, self.model, self.host = wire, model, wire.endpoint.host
        self.way: Way | None = None
        self._generate, self._lock = 0, threading.Lock()

    def find_way(self) -> Way:
        """The way that this server understands. Raises `PunaError` where it understands none."""
        with self._lock:
            if self.way is None:
                self.way = self._found()
            return self.way

    def tell(self, text: str) -> Told:
        """The tokens of `text`, by echo or prompt_logprobs. Raises `Refused` and `PunaError` as `Wire.post` does."""
        told = self._echo(text, self._generate) if self.way == "echo" else self._prompt_logprobs(text)
        if told is None:
            raise PunaError("tells the log-probabilities of some texts and not of others", where=self.host)
        return told

    def count(self, text: str) -> int:
        """The tokens of a text that the context can hold. Raises as `tell`."""
        return len(self._ids(text)) if self.find_way() == "steps" else len(self.tell(text).tokens)

    def steps(self, context: str, continuation: str) -> Told:
        """The continuation's tokens by llama.cpp's own API: those that the whole has beyond what it shares with the context.

        Without a begin token an empty context leaves the first token without a likelihood.
        """
        whole, alone = self._ids(context + continuation), self._ids(context)
        shared = 0
        while shared < min(len(whole), len(alone)) and whole[shared] == alone[shared]:
            shared += 1
        tokens, logprobs, greedy = [], list[float | None](), list[bool | None]()
        for place in range(shared, len(whole)):
            tokens.append(f"token_id:{whole[place]}")
            value, first = self._next(whole[:place], whole[place]) if place else (None, None)
            logprobs.append(value)
            greedy.append(first)
        if not tokens:
            raise PunaError("no token of the continuation is told of", where=self.host)
        return Told(tuple(tokens), tuple(logprobs), tuple(greedy))

    def _found(self) -> Way:
        ways: dict[Way, Callable[[], bool]] = {
            "echo": self._echo_is_known,
            "prompt_logprobs": lambda: _serves(self._prompt_logprobs(_PROBE)),
            "steps": self._steps_are_known,
        }
        told: Refused | None = None
        for way, is_known in ways.items():
            try:
                if is_known():
                    return way
            except Refused as refused:
                if refused.status not in _NOT_UNDERSTOOD:
                    raise
                if way == "echo":  # the way that most know: what is said of it tells most
                    told = refused
        if told is not None and told.status == 404:
            raise told
        said = f" (it says: {told.said})" if told is not None and told.said else ""
        raise PunaError(f"gives no log-probabilities of a text that it is given{said}", where=self.host,
                        mend="only tasks with freely written answers can be asked there; vLLM and llama.cpp's server give them")  # fmt: skip

    def _echo_is_known(self) -> bool:
        """Whether the prompt is told of when nothing is generated, or, where that is refused, one token."""
        for self._generate in (0, 1):
            try:
                if _serves(self._echo(_PROBE, self._generate)):
                    return True
            except Refused:
                if self._generate:
                    raise
        return False

    def _echo(self, text: str, generate: int) -> Told | None:
        reply = self.wire.post(COMPLETIONS, self._body(text, max_tokens=generate, echo=True, logprobs=1))
        return read_echo(reply, text, generate, self.host)

    def _prompt_logprobs(self, text: str) -> Told | None:
        reply = self.wire.post(COMPLETIONS, self._body(text, max_tokens=1, prompt_logprobs=1))
        return read_prompt_logprobs(reply, self.host)

    def _body(self, text: str, **more: Any) -> dict[str, Any]:
        return {"model": self.model, "prompt": text, "temperature": 0, **more}

    def _steps_are_known(self) -> bool:
        """Whether the server speaks llama.cpp's own language: one step from the probe is told as the page of it says."""
        ids = self._ids(_PROBE)
        if len(ids) < _LEAST_PROBE:
            return False
        value, _ = self._next(ids[:-1], ids[-1])
        return value is not None

    def _ids(self, text: str) -> list[int]:
        """llama.cpp's tokens of a text, its begin token first where the model has one."""
        reply = self.wire.post(
            self._native("/tokenize"), {"content": text, "add_special": True, "parse_special": False}
        )
        ids = reply.get("tokens")
        if not isinstance(ids, list) or not all(type(value) is int for value in ids):
            raise PunaError('the reply\'s "tokens" are no tokens', where=self.host)
        return ids

    def _next(self, prompt: list[int], token: int) -> tuple[float, bool]:
        """log P(token | prompt) in nats, and whether none is likelier: llama.cpp's softmax of the logits, before any sampling."""
        count = _FIRST_LIKELY
        while count <= _MOST_LIKELY:
            reply = self.wire.post(self._native("/completion"), {
                "prompt": prompt, "n_predict": 1, "n_probs": count, "temperature": -1, "post_sampling_probs": False,
                "cache_prompt": True, "stream": False,
            })  # fmt: skip
            likely = self._likely(reply)
            if token in likely:
                return likely[token], likely[token] >= max(likely.values())
            if len(likely) < count // 2:  # it has told of all that it has
                break
            count *= _MORE
        raise PunaError(f"does not tell how likely token {token} is", where=self.host)

    def _likely(self, reply: Mapping[str, Any]) -> dict[int, float]:
        rows = reply.get("completion_probabilities", reply.get("probs"))
        row = rows[0] if isinstance(rows, list) and rows else None
        ways = row.get("top_logprobs") if isinstance(row, dict) else None
        likely = {}
        for way in ways if isinstance(ways, list) else []:
            if not isinstance(way, dict) or type(way.get("id")) is not int:
                raise PunaError('the reply\'s "top_logprobs" name no tokens', where=self.host)
            value = number_of(way.get("logprob"), self.host)
            if value is not None:
                likely[way["id"]] = value
        if not likely:
            raise PunaError("gives no log-probabilities of the next token", where=self.host)
        return likely

    def _native(self, path: str) -> str:
        """llama.cpp's own paths stand beside /v1, not below it."""
        return "/" + self.wire.path.removesuffix("/v1") + path


def _serves(told: Told | None) -> bool:
    """Whether a whole text was told of, and not only what was generated after it."""
    return told is not None and len(told.tokens) >= _LEAST_PROBE and any(value is not None for value in told.logprobs)
