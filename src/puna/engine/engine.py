"""A model that answers: batched generation with a KV cache, as a stream or as whole replies.

In: a model folder or file, prompts as token ids, how to draw. Out: one `Step` per token, or one `Completion` per prompt.
Must never happen: a row's reply depends on the rows beside it, a marker of the chat format comes out as text, or a
reply runs past the model's context.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from puna.engine.chat import Conversation
from puna.engine.decoding import OneToken
from puna.engine.sampling import Sampler, Sampling
from puna.engine.scoring import Row, logprobs
from puna.engine.text import TextStream
from puna.engine.threads import threads_for
from puna.errors import PunaError
from puna.model.cache import KVCache
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.device import Device
from puna.model.formats import load_model
from puna.model.manifest import Manifest
from puna.tokens import Tokenizer
from puna.tokens.formats import open_tokenizer

FinishReason = Literal["stop", "length"]
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
BATCH_ROWS = 32  # rows that generate together: enough to fill the matrix products of a small model


@dataclass(frozen=True)
class Step:
    """One token of one reply, and the text that became certain with it."""

    row: int
    id: int | None  # None for the token that ends a reply and is no part of it
    text: str
    finish_reason: FinishReason | None = None


@dataclass
class Completion:
    """A whole reply. `ids` are its tokens without the one that ended it; `text` ends before a stop text."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason = "stop"

    def add(self, step: Step) -> None:
        """Grow by one step of this reply."""
        self.text += step.text
        if step.id is not None:
            self.ids.append(step.id)
        self.finish_reason = step.finish_reason or self.finish_reason


class Engine:
    """One model with its tokenizer, in memory."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, config: ModelConfig) -> None:
        if tokenizer.vocab_size > config.vocab_size:
            raise PunaError(
                f"the tokenizer has {tokenizer.vocab_size} entries and the model knows {config.vocab_size}",
                where="tokenizer",
                mend="the two are not of one model",
            )
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, config
        self.stop_ids = _stop_ids(tokenizer, config)
        self.banned_ids = _banned_ids(tokenizer, config, self.stop_ids)
        self._device = model.head_weight().device

    @classmethod
    def load(
        cls, path: Path, device: Device | torch.device | str | None = None, *, tokenizer: Path | None = None
    ) -> "Engine":
        """The model at `path` (a folder, a `.gguf` or a llama2.c `.bin` file), in fp32, on `device` (None: the GPU where there is one).

        `tokenizer`: a folder or file; None looks in and beside the model. Raises PunaError where a file is missing, truncated
        or altered, or where the tokenizer has more entries than the embedding has rows.
        """
        path = Path(path)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(path, device=device.device if isinstance(device, Device) else device)
        if path.is_dir():
            Manifest.find(path).verify_all(_FILES)
        return cls(model, open_tokenizer(tokenizer or path), model.config)

    def begin(self, text: str) -> list[int]:
        """The ids of a prompt that begins with `text`: with the begin token before it where the model expects one."""
        tokens = self.tokenizer
        return [*([tokens.bos_id] if tokens.adds_bos and tokens.bos_id is not None else []), *tokens.encode(text)]

    @property
    def context(self) -> int:
        """The most tokens of prompt and reply together."""
        return self.config.max_position_embeddings

    @property
    def chats(self) -> bool:
        """True where the model has a chat format that is rendered here (ChatML)."""
        tokens = self.tokenizer
        return tokens.chat_template is not None and None not in (tokens.im_start_id, tokens.im_end_id)

    def conversation(self, system: str | None = None) -> Conversation:
        """A new conversation with this model."""
        return Conversation(self.tokenizer, self.context, system)

    def logprobs(self, rows: Sequence[Row], batch_tokens: int = 8192) -> list[float]:
        """log P(continuation | prompt) of each (prompt ids, continuation ids), in nats. See `scoring.logprobs`."""
        return logprobs(self.model, rows, batch_tokens, self.context)

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling] | None = None
    ) -> list[Completion]:
        """A whole reply for each prompt. Raises as `generate` does."""
        replies = [Completion() for _ in prompts]
        for step in self.generate(prompts, sampling):
            replies[step.row].add(step)
        return replies

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling] | None = None
    ) -> Iterator[Step]:
        """Replies as they are made, the rows' steps interleaved. `sampling` is for all rows, or one for each.

        A reply ends with "stop" at an end token or a stop text, with "length" after max_tokens or where the context
        is full. Raises PunaError for a prompt that leaves no room for a reply, ValueError for an empty one.
        """
        settings = self._settings(prompts, sampling)
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))  # little padding within a batch
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            yield from self._together(rows, [prompts[row] for row in rows], [settings[row] for row in rows])

    def _settings(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling] | None
    ) -> list[Sampling]:
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {row} is empty: there is nothing to go on from")
            if len(prompt) >= self.context:
                raise PunaError(
                    f"the prompt has {len(prompt)} tokens and the model's context is {self.context}",
                    mend="give a shorter prompt",
                )
        if sampling is None or isinstance(sampling, Sampling):
            return [sampling or Sampling()] * len(prompts)
        if len(sampling) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many samplings; got {len(sampling)}")
        return list(sampling)

    @torch.inference_mode()
    def _together(self, rows: list[int], prompts: list[Sequence[int]], settings: list[Sampling]) -> Iterator[Step]:
        """One batch: all prompts are read at once, then one token per row and pass; a finished row leaves."""
        limits = [min(one.max_tokens, self.context - len(ids)) for one, ids in zip(settings, prompts, strict=True)]
        live = [
            _Reply(row, limit, TextStream(one.stop), self, starts_text=self.tokenizer.special_ids.issuperset(ids))
            for row, limit, one, ids in zip(rows, limits, settings, prompts, strict=True)
        ]
        sampler = Sampler(settings, prompts, self.config.vocab_size, self.banned_ids, self._device)
        capacity = max(len(ids) + limit for ids, limit in zip(prompts, limits, strict=True))
        cache = KVCache(self.config, len(rows), capacity, device=self._device)
        logits, read_one = self._read(prompts, cache), OneToken(self.model, cache)
        while True:
            chosen = sampler.next(logits)
            for reply, token in zip(live, chosen.tolist(), strict=True):
                yield reply.take(token)
            staying = [number for number, reply in enumerate(live) if not reply.finished]
            if not staying:
                return
            if len(staying) < len(live):
                live = [live[number] for number in staying]
                index = torch.tensor(staying, device=self._device)
                chosen = chosen[index]
                sampler.keep(staying)
                cache.select(index)
            with threads_for(self.config.parameters * len(live)):
                logits = self.model.logits(read_one(chosen, cache))

    def _read(self, prompts: list[Sequence[int]], cache: KVCache) -> Float[Tensor, "b v"]:
        """Read the prompts, padded on the right, into the cache; the logits after each prompt's last token."""
        lengths = torch.tensor([len(ids) for ids in prompts], device=self._device)
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        hidden = self.model(ids.to(self._device), cache=cache)
        cache.advance(lengths)
        return self.model.logits(hidden[torch.arange(len(prompts), device=self._device), lengths - 1])


class _Reply:
    """One row's reply as it grows."""

    def __init__(self, row: int, limit: int, text: TextStream, engine: Engine, *, starts_text: bool) -> None:
        """`starts_text`: the prompt holds no text, so a SentencePiece token's first space is none of the reply's."""
        self._row, self._left, self._text, self._starts_text = row, limit, text, starts_text
        self._stop_ids, self._tokens = engine.stop_ids, engine.tokenizer
        self.finished = False

    def take(self, token: int) -> Step:
        """The step that this token makes; `finished` is set where it is the last."""
        if token in self._stop_ids:
            self.finished = True
            return Step(self._row, None, self._text.finish(), "stop")
        text = self._text.push(self._tokens.token_bytes(token, starts_text=self._starts_text))
        self._starts_text = False
        self._left -= 1
        if self._text.stopped:
            self.finished = True
            return Step(self._row, token, text, "stop")
        if self._left == 0:
            self.finished = True
            return Step(self._row, token, text + self._text.finish(), "length")
        return Step(self._row, token, text)


def _stop_ids(tokenizer: Tokenizer, config: ModelConfig) -> frozenset[int]:
    """The ids that end a reply: the ends that tokenizer and config name, and the end of a chat turn."""
    named = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return tokenizer.stop_ids | {id_ for id_ in named if id_ is not None}


def _banned_ids(tokenizer: Tokenizer, config: ModelConfig, stop_ids: frozenset[int]) -> list[int]:
    """The ids that are never drawn: special tokens that end nothing, and rows of the embedding that no token has."""
    padding = set() if config.pad_token_id is None else {config.pad_token_id}
    return sorted((tokenizer.special_ids | padding | set(range(tokenizer.vocab_size, config.vocab_size))) - stop_ids)
