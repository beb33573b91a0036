"""The zoo's models, trained: from scratch, further, by an adapter, from a teacher.

Comes in: text of the running Python, a seed. Goes out: state dicts. Must never happen: two members that were meant to be strangers and
share a random number.

The text is the language reference that Python carries (two thirds of a megabyte of English prose and code); for training further, the
source of its standard library. Small models learn it in seconds: 4 blocks, 64 wide, 512 tokens.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from puna.corpus.python import library_files
from puna.model.adapters import Adapter, attach, merge_into
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.weights import Weights
from puna.tokens import Tokenizer, train_tokenizer

State = dict[str, Tensor]
VOCAB, CONTEXT, ROWS = 512, 64, 16
CONFIG = ModelConfig(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=176, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    max_position_embeddings=2 * CONTEXT, rope_theta=10000.0, tie_word_embeddings=False,
)  # fmt: skip
RATE, FINE_RATE, ADAPTER_RATE = 3e-3, 2e-4, 3e-3
_OTHER_BYTES = 1_500_000


@dataclass(frozen=True)
class Ground:
    """What all members stand on: two tokenizers (the second for a rebuilt vocabulary) and two texts as ids."""

    tokenizer: Path
    other_tokenizer: Path
    prose: Int[Tensor, " n"]
    code: Int[Tensor, " m"]


def prepare(folder: Path) -> Ground:
    """Tokenizers trained and texts encoded, in `folder`."""
    prose, code = "\n".join(text for _, text in sorted(topics.topics.items())), _library_source()
    train_tokenizer([prose], VOCAB, folder / "tokenizer")
    train_tokenizer([code], VOCAB, folder / "other_tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    return Ground(
        folder / "tokenizer",
        folder / "other_tokenizer",
        torch.tensor(tokenizer.encode(prose)),
        torch.tensor(tokenizer.encode(code)),
    )


def _library_source() -> str:
    parts, size = [], 0
    for _, path in library_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        parts.append(text)
        size += len(text)
        if size > _OTHER_BYTES:
            break
    return "\n".join(parts)


def from_scratch(ids: Int[Tensor, " n"], *, init: int, order: int, steps: int) -> State:
    """A model from the random numbers of `init`, its batches drawn by `order`."""
    model = Decoder(CONFIG)
    model.init_weights(init)
    return _state(_trained(model, ids, steps, RATE, order))


def further(
    state: State, ids: Int[Tensor, " n"], *, order: int, steps: int, rate: float, config: ModelConfig = CONFIG
) -> State:
    """The model trained on."""
    return _state(_trained(decoder_of(state, config), ids, steps, rate, order))


def by_adapter(state: State, ids: Int[Tensor, " n"], *, order: int, steps: int, rank: int = 4) -> State:
    """A LoRA adapter trained beside the frozen model and merged into it."""
    model = decoder_of(state)
    attach(model, Adapter(rank=rank), order)
    return _state(merge_into(_trained(model, ids, steps, ADAPTER_RATE, order)))


def distilled(teacher: State, ids: Int[Tensor, " n"], *, init: int, order: int, steps: int) -> State:
    """A fresh model that learnt the teacher's probabilities (Hinton et al. 2015): it speaks alike and shares no weight."""
    model = Decoder(CONFIG)
    model.init_weights(init)
    return _state(_trained(model, ids, steps, RATE, order, decoder_of(teacher)))


def decoder_of(state: State, config: ModelConfig = CONFIG) -> Decoder:
    """A decoder with copies of these weights."""
    return Weights(config, lambda name: state[name]).decoder()


def bits_per_token(state: State, ids: Int[Tensor, " n"], config: ModelConfig = CONFIG) -> float:
    """Mean over the text's first 64 rows."""
    model = decoder_of(state, config)
    rows = ids[: 64 * (CONTEXT + 1)].view(64, CONTEXT + 1)
    with torch.no_grad():
        return float(_loss(model, rows)) / math.log(2)


def agrees(ours: State, theirs: State, ids: Int[Tensor, " n"]) -> Bool[Tensor, " places"]:
    """Whether both models' likeliest next token is the same, at 512 places of the text that lie eight tokens apart."""
    rows = ids[: 64 * CONTEXT].view(64, CONTEXT)
    with torch.no_grad():
        first, second = (_logits(decoder_of(state), rows).argmax(-1) for state in (ours, theirs))
    return (first == second)[:, 7::8].flatten()


def _trained(
    model: Decoder, ids: Int[Tensor, " n"], steps: int, rate: float, order: int, teacher: Decoder | None = None
) -> Decoder:
    draw = torch.Generator().manual_seed(order)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for step in range(steps):
        starts = torch.randint(len(ids) - CONTEXT - 1, (ROWS,), generator=draw)
        rows = torch.stack([ids[at : at + CONTEXT + 1] for at in starts.tolist()])
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
        loss = _loss(model, rows) if teacher is None else _beside(model, teacher, rows)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return model


def _logits(model: Decoder, rows: Int[Tensor, "b t"]) -> Tensor:
    return F.linear(model(rows), model.head_weight()).float()


def _loss(model: Decoder, rows: Int[Tensor, "b t"]) -> Tensor:
    return F.cross_entropy(_logits(model, rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def _beside(model: Decoder, teacher: Decoder, rows: Int[Tensor, "b t"]) -> Tensor:
    with torch.no_grad():
        wanted = _logits(teacher, rows[:, :-1]).softmax(-1)
    return F.cross_entropy(_logits(model, rows[:, :-1]).flatten(0, 1), wanted.flatten(0, 1))


def _state(model: Decoder) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
