"""A model of ours as `lm_eval` asks it: the same numbers as its own Hugging Face backend, sooner.

Comes in: an `Engine`, requests of `lm_eval`. Goes out: log-likelihoods in nats, written answers. Must never happen: another
cut of a text into tokens than that backend's (`lm_eval.models.huggingface.HFLM` 0.4.13, whose rules are followed one by one
here), a prompt cut in silence (`truncated` counts), or a number that is none passed off as one.

One thing differs on purpose: the name of a special token in a benchmark's text stays text, as everywhere in Puna; HFLM takes it
for the token. In a chat the marks of the turns are tokens, and such a name inside a message is not.

Importing this module imports lm_eval: import it inside a function, after the harness's settings are made.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

import puna
from puna.engine import Engine
from puna.engine.greedy import greedy
from puna.engine.prefixes import BATCH_TOKENS, Score, scores
from puna.errors import PunaError
from puna.files import digest_of
from puna.judge.asking.answers import Answers, answer_key
from puna.judge.asking.chats import Chats
from puna.progress import QUIET, Progress

NO_NUMBERS = "what the model gives is not finite (NaN)"
_TOGETHER = 512  # requests that are cut into tokens at once: as lists of Python's they take nine times the memory
MAX_GEN_TOKS = 256  # HFLM's, where a task does not say how long an answer may be
Pair = tuple[str, str]
Ids = list[int]


@dataclass(frozen=True)
class _Row:
    """A request cut into tokens: what is fed, what is scored, how many tokens of the left end did not fit."""

    prompt: Sequence[int]
    continuation: Sequence[int]
    cut: int = 0


class PunaLM(TemplateLM):
    """`lm_eval`'s requests, asked of an `Engine`.

    `truncated`: tokens that the context could not hold, by (context, continuation), or by context where an answer is written;
    only requests that were cut stand in it. A continuation that cannot be scored (no token of its own, or longer than the
    context) gets NaN and stands in `unscored` with the reason; so does the context of an answer that cannot be written, which is "".
    """

    backend = "causal"

    def __init__(
        self, engine: Engine, *, batch_tokens: int = BATCH_TOKENS, progress: Progress = QUIET,
        answers: Answers | None = None, identity: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`identity`: digests of weights and tokenizer, by which answers are kept; None: taken from the model in memory."""
        super().__init__()
        self.engine, self.batch_tokens, self.progress, self.answers = engine, batch_tokens, progress, answers
        self.truncated: dict[Pair | str, int] = {}
        self.unscored: dict[Pair | str, str] = {}
        self.rows_read = 0  # rows that the model was asked for, the kept answers not counted
        self._tokens = engine.tokenizer
        self._chats = Chats(engine.tokenizer)
        self._identity = dict(identity) if identity is not None else None

    # What lm_eval asks of a model beside its answers

    @property
    def max_length(self) -> int:
        """The most tokens that are fed at once."""
        return self.engine.context

    @property
    def max_gen_toks(self) -> int:
        """New tokens of a written answer, where the task does not say."""
        return MAX_GEN_TOKS

    @property
    def eot_token_id(self) -> int | None:
        """What tokenizer_config.json names as the end: of a text, or of a turn in a model tuned to chat."""
        return self._tokens.eos_setting

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by: the begin token, else the end token. Raises `PunaError` where there is neither."""
        prefix = self.eot_token_id if self._tokens.bos_id is None else self._tokens.bos_id
        if prefix is None:
            raise PunaError("the tokenizer has neither a begin nor an end token, and a request has an empty context")
        return prefix

    @property
    def tokenizer_name(self) -> str:
        """A name for lm_eval's own caches."""
        return f"puna-{self.identity['tokenizer'][:16]}"

    @property
    def identity(self) -> dict[str, str]:
        """Digests of the weights and of the tokenizer (SHA-256, hex) that these answers are of."""
        if self._identity is None:
            self._identity = digests(self.engine)
        return self._identity

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that lm_eval writes into its results; None where no chat is asked for."""
        return self._tokens.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text. Raises `PunaError` where the model has no chat format that is rendered here."""
        if not self.engine.chats:
            raise PunaError(
                "the model has no chat format that Puna knows (ChatML)", mend="judge it without the chat format"
            )
        return self._chats.render(chat_history, add_generation_prompt)

    # Text to tokens

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **kwargs: Any
    ) -> Ids:
        """Ids of a text, with the begin token where the model expects one (None) or as `add_special_tokens` says."""
        ids = self._encode([(string, string)], begin=add_special_tokens is not False)[0]
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def _encode(self, texts: Sequence[Pair], begin: bool = True) -> list[Ids]:
        """Ids of the second of each (context, text that begins with it), each piece of text encoded once.

        `begin`: with what the tokenizer puts before a text; a rendered conversation begins as its template says.
        """
        bos = [self._tokens.bos_id] if begin and self._tokens.adds_bos and self._tokens.bos_id is not None else []
        marked = [bool(self._chats.of(context)) for context, _ in texts]
        cut = [
            self._chats.pieces(context, text) if chat else [text]
            for chat, (context, text) in zip(marked, texts, strict=True)
        ]
        plain = list(dict.fromkeys(piece for pieces in cut for piece in pieces if isinstance(piece, str)))
        known = dict(zip(plain, self._tokens.encode_batch(plain), strict=True))
        out = []
        for chat, pieces in zip(marked, cut, strict=True):
            ids: Ids = [] if chat else [*bos]
            for piece in pieces:
                ids += known[piece] if isinstance(piece, str) else [piece]
            out.append(ids)
        return out

    def _pairs(self, pairs: Sequence[Pair]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """Context and continuation in tokens, four bytes each; contexts that follow each other and are equal are one object."""
        before: Sequence[int] = ()
        for start in range(0, len(pairs), _TOGETHER):
            for context, continuation in self._split(pairs[start : start + _TOGETHER]):
                same = len(before) == len(context) and list(before) == context
                before = before if same else array("I", context)
                yield before, array("I", continuation)

    def _split(self, pairs: Sequence[Pair]) -> list[tuple[Ids, Ids]]:
        """Spaces at a context's end go to the continuation, the whole is encoded, then split."""
        moved: list[Pair] = []
        for context, continuation in pairs:
            kept = context.rstrip()
            moved.append((kept, context[len(kept) :] + continuation) if kept else ("", context + continuation))
        bare = iter(self._encode([("", continuation) for context, continuation in moved if not context], begin=False))
        full = [(context, continuation) for context, continuation in moved if context]
        both = [(context, text) for context, continuation in full for text in (context, context + continuation)]
        encoded = self._encode(both)
        parts = iter(zip(encoded[::2], encoded[1::2], strict=True))
        out = []
        for context, _ in moved:
            if context:
                first, whole = next(parts)
                out.append((first, whole[len(first) :]))
                continue
            ids, prefix = next(bare), self.prefix_token_id
            out.append((ids[:1], ids[1:]) if ids[:1] == [prefix] else ([prefix], ids))
        return out

    def _fit(self, prompt: Sequence[int], continuation: Sequence[int]) -> _Row:
        """The last tokens that fit: the context's length and the one token that is scored and never fed."""
        cut = max(0, len(prompt) + len(continuation) - (self.max_length + 1))
        return _Row(prompt[cut:] if cut else prompt, continuation, cut)

    # Answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log P(continuation | context) in nats, whether greedy decoding would write it) of each request."""
        pairs: list[Pair] = [(request.args[0], request.args[1]) for request in requests]
        found = self._asked("loglikelihood", list(dict.fromkeys(pairs)), self._likelihoods)
        for pair, (_, _, cut, why) in found.items():
            if cut:
                self.truncated[pair] = cut
            if why:
                self.unscored[pair] = why
        out = [(float(found[pair][0]), bool(found[pair][1])) for pair in pairs]
        for pair, answer in zip(pairs, out, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return out

    def _likelihoods(self, pairs: list[Pair], done: Callable[[Pair, list[Any]], None]) -> None:
        rows: dict[Pair, _Row] = {}
        for pair, (prompt, continuation) in zip(pairs, self._pairs(pairs), strict=True):
            row = self._fit(prompt, continuation)
            if not row.continuation:
                done(pair, [math.nan, False, row.cut, "the continuation has no token of its own"])
            elif len(row.continuation) > self.max_length:
                done(
                    pair,
                    [math.nan, False, row.cut, f"the continuation is longer than the context of {self.max_length}"],
                )
            else:
                rows[pair] = row
        order = list(rows)
        for number, one in self._scores("log-likelihoods", list(rows.values())):
            done(order[number], [one.loglikelihood, bool(one.greedy), rows[order[number]].cut, ""])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log P of each whole text in nats: windows of the whole context, as lm_eval cuts them."""
        texts = [request.args[0] for request in requests]
        found = self._asked("loglikelihood_rolling", list(dict.fromkeys(texts)), self._rolling)
        out = [float(found[text][0]) for text in texts]
        for text, total in zip(texts, out, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return out

    def _rolling(self, texts: list[str], done: Callable[[str, list[Any]], None]) -> None:
        rows: list[_Row] = []
        owners: list[int] = []
        for number, ids in enumerate(self._encode([(text, text) for text in texts])):
            windows = get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            rows += [_Row(prompt, continuation) for prompt, continuation in map(make_disjoint_window, windows)]
            owners += [number] * (len(rows) - len(owners))
        waiting = [0] * len(texts)
        for owner in owners:
            waiting[owner] += 1
        parts: list[dict[int, float]] = [{} for _ in texts]
        for number, text in enumerate(texts):
            if not waiting[number]:
                done(text, [0.0])
        for number, one in self._scores("texts", rows):
            owner = owners[number]
            parts[owner][number] = one.loglikelihood
            if len(parts[owner]) == waiting[owner]:  # summed in the text's order, whatever the order of the batches
                done(texts[owner], [math.fsum(parts[owner][key] for key in sorted(parts[owner]))])

    def _scores(self, title: str, rows: Sequence[_Row]) -> Iterable[tuple[int, Score]]:
        """The rows' scores as they are made, with progress counted in tokens: rows come longest first."""
        sizes = [len(row.prompt) + len(row.continuation) for row in rows]
        self.progress.start(f"asking: {title}", sum(sizes), "tokens")
        tokens = count = 0
        pairs = [(row.prompt, row.continuation) for row in rows]
        for number, one in scores(self.engine.model, pairs, self.max_length, self.batch_tokens):
            tokens, count = tokens + sizes[number], count + 1
            self.rows_read += 1
            yield number, one
            self.progress.update(tokens, rows=f"{count}/{len(rows)}")
        self.progress.finish()

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each context, up to a stop text. Raises `PunaError` where a task asks for drawn answers.

        One that cannot be written is "" and stands in `unscored`: no score may be made of it.
        """
        asked = [(request.args[0], json.dumps(request.args[1], sort_keys=True)) for request in requests]
        found = self._asked("generate_until", list(dict.fromkeys(asked)), self._written)
        for (context, _), (_, cut, why) in found.items():
            if cut:
                self.truncated[context] = cut
            if why:
                self.unscored[context] = why
        out = [str(found[one][0]) for one in asked]
        for request, text in zip(requests, out, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return out

    def _written(self, asked: list[Pair], done: Callable[[Pair, list[Any]], None]) -> None:
        places: list[int] = []  # of those that can be written
        prompts: list[Ids] = []
        limits: list[int] = []
        stops: list[list[str]] = []
        cuts: list[int] = []
        encoded = self._encode([(context, context) for context, _ in asked])
        for place, ((_, settings), ids) in enumerate(zip(asked, encoded, strict=True)):
            limit, stop = self._ends(json.loads(settings))
            room = self.max_length - limit
            if room < 1:
                done(
                    asked[place],
                    ["", 0, f"answers may have {limit} tokens, and the model's context is {self.max_length}"],
                )
                continue
            places.append(place)
            limits.append(limit)
            stops.append(stop)
            cuts.append(max(0, len(ids) - room))
            prompts.append(ids[-room:] or [self.prefix_token_id])
        config = self.engine.config.eos_token_id
        ends = {*(config if isinstance(config, list) else [config]), self.eot_token_id}
        if self.eot_token_id == self._tokens.im_end_id:  # tuned to chat: its generation_config.json names both ends
            ends |= self.engine.stop_ids
        behind = [max((len(ids) for ids in self._tokens.encode_batch(stop)), default=0) + 2 for stop in stops]

        def whole(number: int, ids: Ids) -> bool:
            if ids[-1] in ends:
                return True
            text = self._tokens.decode(ids[-behind[number] :], skip_special=False)
            return any(stop in text for stop in stops[number])

        self.progress.start("asking: written answers", len(places), "answers")
        for count, (number, reply) in enumerate(greedy(self.engine.model, prompts, limits, whole), 1):
            self.rows_read += 1
            if reply is None:
                done(asked[places[number]], ["", cuts[number], NO_NUMBERS])
            else:
                text = postprocess_generated_text(self._tokens.decode(reply), stops[number], None)
                done(asked[places[number]], [text, cuts[number], ""])
            self.progress.update(count)
        self.progress.finish()

    def _ends(self, settings: dict[str, Any]) -> tuple[int, list[str]]:
        """The most new tokens and the stop texts, the end token's name among them."""
        given = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        if given.get("do_sample") or given.get("temperature"):
            raise PunaError("the task asks for drawn answers (do_sample, temperature), which differ from run to run",
                            mend="set do_sample: false in the task")  # fmt: skip
        end = self.eot_token_id
        eos = None if end is None else self._tokens.decode([end], skip_special=False)
        stops = handle_stop_sequences(given.get("until"), eos=eos)
        return int(given["max_gen_toks"]), [str(stop) for stop in stops if stop]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Ids, Ids]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Scores of rows that are tokens already: what lm_eval's base class asks for. Nothing of it is kept."""
        rows = [self._fit(prompt, continuation) for _, prompt, continuation in requests]
        for (pair, _, _), row in zip(requests, rows, strict=True):
            if row.cut and pair is not None:
                self.truncated[pair] = row.cut
        out: list[tuple[float, bool]] = [(math.nan, False)] * len(rows)
        for number, one in self._scores("log-likelihoods", rows):
            out[number] = (one.loglikelihood, bool(one.greedy))
        return out

    def _how(self) -> dict[str, Any]:
        """What changes an answer beside model and request: another precision, device or version may give other digits."""
        weight = self.engine.model.head_weight()
        device = torch.cuda.get_device_name(weight.device) if weight.device.type == "cuda" else weight.device.type
        return {"dtype": str(weight.dtype), "context": self.max_length, "device": device, "ends": sorted(self.engine.stop_ids),
                "puna": puna.__version__, "torch": torch.__version__}  # fmt: skip

    def _asked(
        self, kind: str, wanted: list[Any], ask: Callable[[list[Any], Callable[[Any, list[Any]], None]], None]
    ) -> dict[Any, list[Any]]:
        """The answer to each of `wanted`: kept ones, and those that `ask` gets now and that are kept as they come."""
        found: dict[Any, list[Any]] = {}
        keys: dict[Any, str] = {}
        if self.answers is not None:
            settings = self._how()
            for one in wanted:
                marks = self._chats.of(one if isinstance(one, str) else one[0])
                keys[one] = answer_key(self.identity, kind, [one, marks], settings)
                kept = self.answers.get(keys[one])
                if kept is not None:
                    found[one] = kept

        def done(one: Any, answer: list[Any]) -> None:
            found[one] = answer
            if self.answers is not None:
                self.answers.put(keys[one], answer)

        missing = [one for one in wanted if one not in found]
        if missing:
            ask(missing, done)
        if self.answers is not None:
            self.answers.flush()
        return found


def digests(engine: Engine) -> dict[str, str]:
    """SHA-256 over the weights with the config, and over the tokenizer, as they are in memory: {"weights", "tokenizer"}."""
    state = hashlib.sha256(engine.config.model_dump_json().encode())
    for name, tensor in sorted(engine.model.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    tokens = engine.tokenizer
    tokenizer = [tokens.backend_json(), tokens.bos_id, tokens.adds_bos, tokens.eos_setting, tokens.chat_template]
    return {"weights": state.hexdigest(), "tokenizer": digest_of(tokenizer)}
