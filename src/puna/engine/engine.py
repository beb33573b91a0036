"""A model that answers: batched generation with a KV cache, as a stream or as whole replies.

In: a model folder or file, prompts as token ids, how to draw. Out: one `Step` per token, or one `Completion` per prompt.
Must never happen: a row's reply depends on the rows beside it, a marker of the chat format comes out as text, or a
reply runs past the model's context.
"""

import importlib.util
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from puna.engine.batch import Batch, Limits, check_prompt, spacious
from puna.engine.chat import Conversation
from puna.engine.linears import PRECISIONS, Precision
from puna.engine.logprobs import token_logprobs
from puna.engine.looks import Reading
from puna.engine.paged import AnyReader, Reader
from puna.engine.request import Failed, FinishReason, Request, TokenLogprob
from puna.engine.sampling import Sampling
from puna.engine.scoring import Row, logprobs
from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.device import Device
from puna.model.formats import load_model
from puna.model.manifest import Manifest
from puna.tokens import Tokenizer
from puna.tokens.formats import open_tokenizer

if TYPE_CHECKING:
    from puna.engine.constrain import Constraints

Backend = Literal["auto", "torch", "openvino"]
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
BATCH_ROWS = 32  # rows that generate together: enough to fill the matrix products of a small model
_OPENVINO_FROM = 8_000_000  # parameters (docs/engines.md)
_CHUNK = 256  # tokens read at a time where every position's hidden state or logits are wanted


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

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, config: ModelConfig, precision: Precision = "fp32",
        backend: Backend = "torch",
    ) -> None:  # fmt: skip
        if tokenizer.vocab_size > config.vocab_size:
            raise PunaError(
                f"the tokenizer has {tokenizer.vocab_size} entries and the model knows {config.vocab_size}",
                where="tokenizer",
                mend="the two are not of one model",
            )
        if precision not in PRECISIONS or backend not in get_args(Backend):
            raise ValueError(f"there is no precision {precision!r}, or no backend {backend!r}")
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, config
        self.stop_ids = _stop_ids(tokenizer, config)
        self.banned_ids = _banned_ids(tokenizer, config, self.stop_ids)
        self.precision, self.backend = precision, backend

    @classmethod
    def load(
        cls, path: Path, device: Device | torch.device | str | None = None, *, tokenizer: Path | None = None,
        precision: Precision = "fp32", backend: Backend = "torch",
    ) -> "Engine":  # fmt: skip
        """The model at `path` (a folder, a `.gguf` or a llama2.c `.bin` file) on `device` (None: the GPU where there is one).

        `tokenizer`: a folder or file; None looks in and beside the model. In another `precision` than fp32, or by another
        `backend` than torch ("auto": `choose_backend`), it can answer and embed, and `model` holds no weights any more. Raises PunaError
        where a file is missing, truncated or altered, or where the tokenizer has more entries than the embedding has rows.
        """
        path = Path(path)
        if device is None:
            device = "cuda" if torch.cuda.is_available() and backend != "openvino" else "cpu"
        model = load_model(path, device=device.device if isinstance(device, Device) else device)
        if backend == "auto":
            backend = choose_backend(model.config)
        if path.is_dir():
            Manifest.find(path).verify_all(_FILES)
        engine = cls(model, open_tokenizer(tokenizer or path), model.config, precision, backend)
        if precision == "int8" and model.head_weight().device.type != "cpu":
            raise PunaError("int8 runs on the CPU", where="precision", mend="choose bf16 on a GPU")
        if (precision, backend) != ("fp32", "torch"):
            _ = engine.reader
            engine.model.to("meta")  # the reader has what it needs: fp32's memory is free again
        return engine

    @cached_property
    def reader(self) -> AnyReader:
        """The weights as generation reads them, made at the first use."""
        if self.backend == "openvino":
            from puna.engine.openvino import OpenVINOReader  # an extra's library

            return OpenVINOReader(self.model, self.precision, self.config)
        return Reader(self.model, self.precision, self.config)

    @cached_property
    def constraints(self) -> "Constraints":
        """What turns a wanted shape into the ids that may come next, made at the first use."""
        from puna.engine.constrain import Constraints  # an extra's library: only where a shape is wanted

        return Constraints(self.tokenizer, self.config.vocab_size, self.stop_ids)

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

    def _together(self, rows: list[int], prompts: list[Sequence[int]], settings: list[Sampling]) -> Iterator[Step]:
        """One batch, in a cache that is gone afterwards."""
        limits = [min(self.context, len(ids) + one.max_tokens) for one, ids in zip(settings, prompts, strict=True)]
        blocks = len(rows) * spacious(max(limits), self.reader.block)
        batch = Batch(self, Limits(running=len(rows), waiting=len(rows), step_tokens=8192), blocks)
        numbers = {
            batch.add(Request(tuple(ids), one)): row for row, ids, one in zip(rows, prompts, settings, strict=True)
        }
        while len(batch):
            for job, delta in batch.step():
                if isinstance(delta, Failed):
                    raise delta
                yield Step(numbers[job], delta.ids[0] if delta.ids else None, delta.text, delta.finish_reason)

    def embed(self, ids: Sequence[int]) -> Float[Tensor, " d"]:
        """The mean of the last layer's normed hidden states over all tokens, scaled to length 1; in fp32, on the CPU.

        Raises `PunaError` for ids that do not fit.
        """
        total = torch.zeros(self.config.hidden_size, dtype=torch.float64)
        for hidden in self._hidden(ids):
            total += hidden.double().sum(0).cpu()
        return torch.nn.functional.normalize(total, dim=0).float()

    def prompt_logprobs(self, ids: Sequence[int], top: int = 0) -> list[TokenLogprob | None]:
        """ln p of each id after those before it, and the `top` likeliest in its place; None for the first, which has none before.

        Raises `PunaError` for ids that do not fit.
        """
        found: list[TokenLogprob | None] = [None]
        for hidden in self._hidden(ids):
            after = torch.tensor(ids[len(found) : len(found) + len(hidden)])
            if len(after):
                logits = self.reader.logits(hidden[: len(after)])
                found += token_logprobs(logits, after, [top] * len(after))
        return found

    @torch.inference_mode()
    def _hidden(self, ids: Sequence[int]) -> Iterator[Float[Tensor, "n d"]]:
        """Hidden states of all ids, some at a time."""
        check_prompt([*ids], self.context + 1, self.config.vocab_size)
        blocks = -(-len(ids) // self.reader.block)
        cache = self.reader.cache(blocks)
        for start in range(0, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            yield self.reader.hidden([Reading(part, start, range(blocks), len(part))], cache)


def choose_backend(config: ModelConfig) -> Backend:
    """The faster of the backends that can run this model here: OpenVINO on a CPU where it is installed, else torch.

    A very small model gains nothing by it, and suffers where other programs want its threads: torch reads it on one.
    """
    small = config.parameters < _OPENVINO_FROM
    if small or torch.cuda.is_available() or importlib.util.find_spec("openvino") is None:
        return "torch"
    windowed = config.sliding_window is not None and config.sliding_window < config.max_position_embeddings
    return "torch" if windowed or platform.machine() not in ("x86_64", "AMD64") else "openvino"


def _stop_ids(tokenizer: Tokenizer, config: ModelConfig) -> frozenset[int]:
    """The ids that end a reply: the ends that tokenizer and config name, and the end of a chat turn."""
    named = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return tokenizer.stop_ids | {id_ for id_ in named if id_ is not None}


def _banned_ids(tokenizer: Tokenizer, config: ModelConfig, stop_ids: frozenset[int]) -> list[int]:
    """The ids that are never drawn: special tokens that end nothing, and rows of the embedding that no token has."""
    padding = set() if config.pad_token_id is None else {config.pad_token_id}
    return sorted((tokenizer.special_ids | padding | set(range(tokenizer.vocab_size, config.vocab_size))) - stop_ids)
