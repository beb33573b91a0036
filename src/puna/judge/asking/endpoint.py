"""Any OpenAI-compatible endpoint as a model that can be judged.

Comes in: an address, requests of lm_eval. Goes out: log-likelihoods in nats, written answers. Must never happen: a text that the
server cut taken for the whole one, or a figure that looks as if the weights behind the address were known.

Of an endpoint only its address and the name it gives its model are known: no digest of weights, and what answers may be another
model tomorrow. Its answers are therefore kept for one run only, unless `keep` says that they may be used again.

The begin of a document is the server's affair. A text before which nothing stands has a first token without a likelihood: where the
server puts no begin token there, and no `bos` is given, that token is left out, as lm_eval's API models do, and counted in `unscored`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, Protocol, TypeVar

from puna.errors import PunaError
from puna.files import canonical_json
from puna.judge.asking.answers import answer_key
from puna.judge.asking.listing import find_model
from puna.judge.asking.replies import first_choice, first_of, total
from puna.judge.asking.rolling import rolling_likelihood
from puna.judge.asking.ways import COMPLETIONS, Teller
from puna.judge.asking.wire import Endpoint, Refused, Wire
from puna.judge.measured import ModelFacts
from puna.progress import QUIET, Progress

WORKERS = 4  # requests at once: enough to keep a server's batch filled, few enough for a small one
MAX_TOKENS = 256  # of a written answer where the task names no length (lm_eval's own default)
_STOPS = 4  # the most that OpenAI's API takes; further ones are applied to what comes back
_LONGEST_STOP_LIST = 64
_CUT_SHARE, _MOST_CUTS, _SPARE = (
    12,
    90,
    1.15,
)  # of a text that is too long a twelfth goes each time, once it is near what fits
UNSEEN = "asked over HTTP: its weights were not seen, and what answers there may change"
T = TypeVar("T")
Pair = tuple[str, str]
Likelihood = tuple[float, bool]


class Kept(Protocol):
    """Where answers are kept: `puna.judge.asking.answers.Answers` or anything with these methods."""

    def get(self, key: str) -> Any:
        """The answer under `key`, None where there is none."""

    def put(self, key: str, value: Any) -> None:
        """Keep an answer, a value that JSON has."""

    def flush(self) -> None:
        """Write what waits."""


class _Memory(dict[str, Any]):
    """Answers of this run alone."""

    def put(self, key: str, value: Any) -> None:
        self[key] = value

    def flush(self) -> None: ...


class RemoteModel:
    """One model behind an endpoint. `truncated`, `unscored` and `greedy_unknown` say what the figures do not show.

    `truncated`: tokens that were cut from the left of (context, continuation), or of a prompt, estimated from the share of
    characters. `unscored`: (context, continuation) or text -> first tokens without a likelihood. `greedy_unknown`: pairs of which
    the server does not tell whether greedy decoding would write them.
    """

    def __init__(self, wire: Wire, *, context: int | None = None, bos: str | None = None, chat: bool = False,
                 workers: int = WORKERS, keep: bool = False, answers: Kept | None = None, progress: Progress = QUIET) -> None:  # fmt: skip
        """`context`: tokens, where the server does not say. `bos`: text put before a prompt that begins a document.

        `keep`: take answers of earlier runs from `answers`, and put this one's there: whoever asks for it knows that the same
        model still answers at that address.

        Asks the server for its models. Raises `PunaError` where it does not answer, or has not the one that is asked for.
        """
        listed = find_model(wire)
        self.wire, self.model, self.context = wire, listed.name, context or listed.context
        self.bos, self.chat, self.workers = bos or "", chat, max(1, workers)
        self.answers, self.progress = answers, progress
        self._kept: Kept = answers if keep and answers is not None else _Memory()
        self.truncated: dict[Pair | str, int] = {}
        self.unscored: dict[Pair | str, int] = {}
        self.greedy_unknown: set[Pair] = set()
        self._teller = Teller(wire, listed.name)
        self._talks: dict[str, list[dict[str, str]]] = {}
        # Not the date: where the user says that answers may be used again, one of yesterday is as good as one of today.
        self.identity = {"url": wire.endpoint.url, "model": listed.name}

    def facts(self, name: str | None = None) -> ModelFacts:
        """What is known of the model: its name and context. Nothing of its weights."""
        return ModelFacts(
            name=name or self.model,
            kind="endpoint",
            context=self.context,
            notes=(f"{UNSEEN} ({self.wire.endpoint.url})",),
        )

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """(log P(continuation | context) in nats, whether greedy decoding would write it) of each pair.

        Greedy is False where the server does not tell (`greedy_unknown`). Raises `PunaError`.
        """
        if self.chat:
            raise PunaError("chat completions tell no log-probabilities of a given answer", where=self.wire.endpoint.host,
                            mend="ask such tasks without the chat format")  # fmt: skip
        found = self._each("asking the endpoint", "likelihood", pairs, self._likelihood)
        for pair, (_, greedy, unscored, cut) in zip(pairs, found, strict=True):
            _note(self.unscored, pair, unscored)
            _note(self.truncated, pair, cut)
            if greedy is None:
                self.greedy_unknown.add(pair)
        return [(nats, bool(greedy)) for nats, greedy, _, _ in found]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-likelihood in nats of each whole text, in windows of the model's context. Raises `PunaError`."""
        if self.chat:
            raise PunaError("chat completions tell no log-probabilities of a text", where=self.wire.endpoint.host)
        found = self._each("reading text at the endpoint", "rolling", texts, self._rolled)
        for text, (_, unscored) in zip(texts, found, strict=True):
            _note(self.unscored, text, unscored)
        return [nats for nats, _ in found]

    def written(self, prompts: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What the model writes after each prompt, up to a stop text. Settings by lm_eval's names (`until`, `max_gen_toks`...)."""
        asked = [(prompt, canonical_json(_settings_of(given)).decode()) for prompt, given in prompts]
        settings = {text: _settings_of(given) for (_, text), (_, given) in zip(asked, prompts, strict=True)}
        found = self._each(
            "asking the endpoint to write", "written", asked, lambda one: self._write(one[0], settings[one[1]])
        )
        for (prompt, _), (_, cut) in zip(asked, found, strict=True):
            _note(self.truncated, prompt, cut)
        return [text for text, _ in found]

    def talk(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A prompt that stands for a conversation: `written` sends its messages to /chat/completions as they are."""
        turns = [{"role": str(message["role"]), "content": str(message["content"])} for message in messages]
        text = canonical_json(turns).decode()
        self._talks[text] = turns
        return text

    def _likelihood(self, pair: Pair) -> list[Any]:
        """[nats, greedy or None, tokens without a likelihood, tokens cut] of one pair, cut from the left until it fits."""
        context, continuation = pair
        if not continuation:
            return [0.0, True, 0, 0]
        # Spaces at a context's end count to the continuation, as in lm_eval: most tokenizers melt them into the next word.
        kept, cut = context.rstrip(), 0
        context, continuation = kept or self.bos, context[len(kept) :] + continuation
        for _ in range(_MOST_CUTS):
            try:
                nats, greedy, unscored, tokens = self._scored(context[cut:], continuation)
            except Refused as refused:
                if not _is_too_long(refused) or cut >= len(context):
                    raise
                more = self._cut(context[cut:] + continuation, 0, self._teller.count, again=cut > 0)
                cut = min(len(context), cut + more)
                continue
            left = len(context) - cut + len(continuation)
            return [nats, greedy, unscored, -(-cut * tokens // left)]
        raise PunaError("refuses a text as too long however much of it is cut", where=self.wire.endpoint.host)

    def _scored(self, context: str, continuation: str) -> tuple[float, bool | None, int, int]:
        """(nats, greedy or None, tokens without a likelihood, all tokens told of)."""
        text = context + continuation
        if self._teller.find_way() == "steps":
            told = self._teller.steps(context, continuation)
            first = 0
        else:
            told = self._teller.tell(text)
            first = first_of(told, text, len(context), self._teller.tell)
        return *total(told, first, text, self.wire.endpoint.host), len(told.tokens)

    def _rolled(self, text: str) -> list[Any]:
        """[nats, tokens without a likelihood] of a whole text."""
        if not text:
            return [0.0, 0]
        if self._teller.find_way() == "steps":
            return list(self._scored(self.bos, text)[::2])
        host, tell = self.wire.endpoint.host, self._teller.tell
        return list(rolling_likelihood(text, self.bos, self.context, tell, _is_too_long, host))

    def _write(self, prompt: str, settings: dict[str, Any]) -> list[Any]:
        """[text, tokens of the prompt cut] of one prompt, cut from the left until it fits."""
        stops, cut = settings["stop"], 0
        body = {"model": self.model, **{key: value for key, value in settings.items() if key != "stop"}}
        if stops:
            body["stop"] = stops[:_STOPS]
        for _ in range(_MOST_CUTS):
            try:
                if self.chat:
                    talk = self._talks.get(prompt) or [{"role": "user", "content": prompt}]
                    reply = self.wire.post("/chat/completions", {**body, "messages": talk})
                    message = first_choice(reply, self.wire.endpoint.host).get("message")
                    text = message.get("content") if isinstance(message, dict) else None
                else:
                    reply = self.wire.post(COMPLETIONS, {**body, "prompt": prompt[cut:] or self.bos})
                    text = first_choice(reply, self.wire.endpoint.host).get("text")
            except Refused as refused:
                if self.chat or not _is_too_long(refused) or cut >= len(prompt) - 1:
                    raise
                more = self._cut(prompt[cut:], settings["max_tokens"], self._count_of_prompt, again=cut > 0)
                cut = min(len(prompt) - 1, cut + more)
                continue
            if not isinstance(text, str):
                raise PunaError("the reply holds no text", where=self.wire.endpoint.host)
            ends = [place for stop in stops if (place := text.find(stop)) >= 0]
            left, tokens = max(1, len(prompt) - cut), _prompt_tokens(reply, prompt[cut:])
            return [text[: min(ends, default=len(text))], -(-cut * tokens // left)]
        raise PunaError("refuses a prompt as too long however much of it is cut", where=self.wire.endpoint.host)

    def _cut(self, text: str, room: int, count: Callable[[str], int], again: bool) -> int:
        """How many characters of a refused text go next: down to a little more than fits, then a share each time.

        By the text alone, never by what was asked before it, so that the same text is always cut at the same place. `room`: tokens
        that the answer needs. `count`: the tokens of a text that is short enough.
        """
        share = max(1, len(text) // _CUT_SHARE)
        if self.context is None or again:
            return share
        fits = max(1, self.context - room)
        tail = text[-fits:]  # in most scripts a token has at least one character
        try:
            tokens = count(tail)
        except Refused:
            return share
        return max(share, len(text) - int(_SPARE * fits * len(tail) / max(1, tokens)))

    def _count_of_prompt(self, text: str) -> int:
        """Tokens of a text by the server's own bill."""
        body = {"model": self.model, "prompt": text, "max_tokens": 1, "temperature": 0}
        return _prompt_tokens(self.wire.post(COMPLETIONS, body), text)

    def _each(self, title: str, kind: str, asked: Sequence[Any], ask: Callable[[Any], list[Any]]) -> list[list[Any]]:
        """`ask` of each, several at once, the longest first; what was asked before is not asked again.

        An error of one ends all: a task with a hole in it has no score.
        """
        settings = {"bos": self.bos, "chat": self.chat, "context": self.context}
        keys = [answer_key(self.identity, f"endpoint {kind}", one, settings) for one in asked]
        found: dict[str, list[Any]] = {key: known for key in keys if (known := self._kept.get(key)) is not None}
        left = {key: one for key, one in zip(keys, asked, strict=True) if key not in found}
        order = sorted(left, key=lambda key: -len(canonical_json(left[key])))
        self.progress.start(title, len(left), "requests")
        done = 0
        with ThreadPoolExecutor(self.workers) as pool:
            waiting = {pool.submit(ask, left[key]): key for key in order}
            try:
                while waiting:
                    ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ready:
                        key = waiting.pop(future)
                        found[key] = future.result()
                        self._kept.put(key, found[key])
                        done += 1
                    self.progress.update(done)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.wire.stop()
                raise
            finally:
                pool.shutdown()
                self.wire.resume()
        self._kept.flush()
        self.progress.finish()
        return [found[key] for key in keys]


def connect(endpoint: Endpoint, key: str | None, **more: Any) -> RemoteModel:
    """The model behind an endpoint; `more` as `RemoteModel` takes it. Raises `PunaError`."""
    return RemoteModel(Wire(endpoint, key=key), **more)


def endpoint_lm(model: RemoteModel) -> Any:
    """`model` as an `lm_eval.api.model.LM`. lm_eval is imported here."""
    return _lm_class()(model)


@cache
def _lm_class() -> Any:
    from lm_eval.api.model import LM

    class EndpointLM(LM):
        """lm_eval's requests, asked of a `RemoteModel`."""

        tokenizer_name = "endpoint"

        def __init__(self, model: RemoteModel) -> None:
            super().__init__()
            self.remote = model

        @property
        def truncated(self) -> dict[Pair | str, int]:
            """See `RemoteModel`."""
            return self.remote.truncated

        @property
        def unscored(self) -> dict[Pair | str, int]:
            """First tokens without a likelihood, which were left out: see `RemoteModel`."""
            return self.remote.unscored

        @property
        def answers(self) -> Kept | None:
            """The file of answers, to be closed by whoever opened it."""
            return self.remote.answers

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Likelihood]:
            """See `RemoteModel.likelihoods`. Raises `PunaError` where a task counts greedy answers and the server hides them."""
            pairs = [(request.args[0], request.args[1]) for request in requests]
            found = self.remote.likelihoods(pairs)
            asked = Counter((request.task_name, request.doc_id) for request in requests)
            for request, pair in zip(requests, pairs, strict=True):
                # One request for one item: there is nothing to compare it with, its being greedy is what counts (LAMBADA).
                if pair in self.remote.greedy_unknown and asked[request.task_name, request.doc_id] == 1:
                    raise PunaError("does not tell which token is the likeliest, and this task counts it",
                                    where=self.remote.wire.endpoint.host)  # fmt: skip
            return found

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            """See `RemoteModel.rolling`."""
            return self.remote.rolling([request.args[0] for request in requests])

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """See `RemoteModel.written`."""
            return self.remote.written([(request.args[0], request.args[1]) for request in requests])

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """See `RemoteModel.talk`: the server renders its own format."""
            return self.remote.talk(chat_history)

    return EndpointLM


def _settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """lm_eval's settings of a written answer in OpenAI's names. Greedy where no sampling is asked for."""
    until = given.get("until") or []
    stops = [until] if isinstance(until, str) else [str(stop) for stop in until][:_LONGEST_STOP_LIST]
    lengths = (given.get(key) for key in ("max_gen_toks", "max_new_tokens", "max_tokens"))
    most = next((length for length in lengths if length is not None), MAX_TOKENS)
    temperature = float(given.get("temperature") or 0.0) if given.get("do_sample", True) else 0.0
    top = {"top_p": float(given["top_p"])} if temperature and given.get("top_p") is not None else {}
    return {"max_tokens": int(most), "temperature": temperature, "stop": [stop for stop in stops if stop], **top}


def _is_too_long(refused: Refused) -> bool:
    """Whether a server refuses a text for its length, by its status and words: there is no code for it that all use."""
    said = refused.said.casefold()
    return refused.status == 413 or (
        refused.status in (400, 422)
        and any(word in said for word in ("context", "too long", "maximum length", "max_model_len"))
    )


def _prompt_tokens(reply: Mapping[str, Any], prompt: str) -> int:
    usage = reply.get("usage")
    told = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return told if type(told) is int and 0 < told <= 4 * len(prompt) + 8 else -(-len(prompt) // 4)


def _note(counts: dict[Pair | str, int], what: Pair | str, count: int) -> None:
    if count:
        counts[what] = count
