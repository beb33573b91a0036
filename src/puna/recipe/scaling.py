"""Scaling rules: from one dial and a budget to every number of a training run, each with its reason beside it.

Comes in: a recipe. Goes out: a `Shape` and a `Plan`. Must never happen: a number whose reason is not written here.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from puna.errors import PunaError
from puna.recipe.schema import Model, Sft, Tokenizer, Train

HEAD_DIM = 64  # the width every engine has kernels for; 32 below a dim of 256 so that there are still four heads
MIN_STEPS = 10
_SUFFIX = {"K": 1e3, "M": 1e6, "B": 1e9}


class Frozen(BaseModel):
    """A plain value: compared and hashed by content, written as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Shape(Frozen):
    """The dimensions of a decoder, in tokens and units."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    tied: bool
    qk_norm: bool
    rope_theta: float

    @property
    def matrix_params(self) -> int:
        """Parameters inside the layers' matrices (norm gains left out)."""
        attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.dim * self.ffn)

    @property
    def params(self) -> int:
        """All parameters: matrices, embedding, head when untied, norm gains."""
        gains = self.dim * (2 * self.layers + 1) + (2 * self.head_dim * self.layers if self.qk_norm else 0)
        return self.matrix_params + self.vocab * self.dim * (1 if self.tied else 2) + gains

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token: 6 per matrix and head parameter, and the causal attention's two products.

        Kaplan et al. 2020 (2.2), PaLM appendix B: 6N + 12·L·H·Q·T, halved in its last term for the causal mask.
        """
        attention = 6 * self.layers * self.heads * self.head_dim * self.context
        return 6.0 * (self.matrix_params + self.vocab * self.dim) + attention


class Plan(Frozen):
    """Every number of one training run. Rates are per step; shares are of all steps."""

    method: Literal["puna", "reference"]
    steps: int
    batch_tokens: int
    context: int
    lr_matrix: float
    lr_embed: float
    lr_vector: float
    weight_decay: float
    momentum: float
    beta1: float
    beta2: float
    eps: float
    warmup_steps: int
    decay_share: float
    final_share: float
    clip: float
    isolate: bool
    neftune: float
    precision: Literal["auto", "fp32", "bf16"]
    compile: Literal["auto", "on", "off"]
    threads: int | None = None
    checkpoint_seconds: float

    @property
    def rows(self) -> int:
        """Rows of `context` tokens in a batch."""
        return max(1, self.batch_tokens // self.context)

    @property
    def tokens(self) -> int:
        """Tokens seen in the whole run."""
        return self.steps * self.rows * self.context


def parameter_count(size: str) -> float:
    """The dial as a number: "60M" is 6e7."""
    return float(size[:-1]) * _SUFFIX[size[-1]]


def shape_of(model: Model, tokenizer: Tokenizer) -> Shape:
    """The decoder's dimensions for `model.size`; what is set by hand stays.

    Raises `PunaError` where dimensions set by hand do not fit together.
    """
    size = parameter_count(model.size)
    # A narrow model pays for a large vocabulary in head arithmetic and in rows that are hardly ever trained:
    # the embedding is kept near a quarter of the parameters at most.
    vocab = tokenizer.vocab_size or _step(size, {1e6: 1024, 8e6: 4096, 3e7: 8192, 3e8: 16384}, 32768)
    # A row costs attention in proportion to its length, and a small model uses little of a long one.
    context = model.context or row_length(size)
    tied = model.tied if model.tied is not None else size < 5e8  # a second table only pays once it is a small share
    best: tuple[float, Shape] | None = None
    for dim in [model.dim] if model.dim else [*range(64, 1024, 64), *range(1024, 16385, 128)]:
        # Depth grows with width. Published shapes lie between 19 (SmolLM2-135M) and 128 (LLaMA-65B) units of width a
        # layer; small models do better near the deep end. A neighbouring depth is taken where it comes nearer to the size.
        usual = max(2, round(dim / (48 if dim < 768 else 80)))
        for layers in [model.layers] if model.layers else range(max(2, usual - 2), usual + 3):
            shape = _shape(model, dim, layers, vocab, context, tied)
            cost = abs(math.log(shape.params / size)) + abs(math.log(layers / usual)) / 4
            if best is None or cost < best[0]:
                best = (cost, shape)
    assert best is not None
    if not 0.4 < best[1].params / size < 2.5 and not (model.dim and model.layers):
        raise PunaError(f"no shape comes near {model.size}; the nearest has {best[1].params / 1e6:,.1f} M parameters",
                        where="model.size", mend="choose another size, or set model.dim and model.layers by hand")  # fmt: skip
    return best[1]


def row_length(size: float) -> int:
    """Tokens of a row in training for a model of `size` parameters."""
    return _step(size, {8e6: 256, 1e8: 512, 1e9: 1024}, 2048)


def _step(size: float, steps: dict[float, int], last: int) -> int:
    return next((value for bound, value in steps.items() if size < bound), last)


def _shape(model: Model, dim: int, layers: int, vocab: int, context: int, tied: bool) -> Shape:
    head_dim = HEAD_DIM if dim >= 256 else 32
    heads = model.heads or max(1, dim // head_dim)
    if model.heads:
        head_dim = dim // heads
    if dim % heads or head_dim % 2:
        raise PunaError(f"dim {dim} does not divide into {heads} heads of an even width", where="model.heads")
    # Grouped queries save cache and a little arithmetic; below 512 the saving is not worth the quality.
    kv_heads = model.kv_heads or (heads // 2 if dim >= 512 and heads % 2 == 0 else heads)
    if heads % kv_heads:
        raise PunaError(f"{heads} heads cannot share {kv_heads} key-value heads", where="model.kv_heads")
    ffn = model.ffn or 64 * math.ceil(8 * dim / 3 / 64)  # SwiGLU at the cost of a 4x MLP (Shazeer 2020), in units of 64
    return Shape(dim=dim, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn, vocab=vocab,
                 context=context, tied=tied, qk_norm=model.qk_norm, rope_theta=model.rope_theta)  # fmt: skip


def budget_tokens(train: Train, shape: Shape, tokens_per_second: float | None) -> int:
    """The budget in tokens. Minutes need a measured rate (tokens/s); they are turned into tokens once and recorded."""
    if train.tokens is not None:
        return train.tokens
    if train.flops is not None:
        return int(train.flops / shape.flops_per_token)
    if tokens_per_second is None:
        raise PunaError("a budget in minutes needs a calibration", where="train.minutes")
    return int(train.minutes * 60 * tokens_per_second)  # type: ignore[operator]


def batch_tokens_of(train: Train, tokens: int, context: int) -> int:
    """Tokens in a batch: 4,096 at 4 M tokens, growing with the horizon to the power 0.4, in powers of two; whole rows.

    The critical batch grows with the data seen (McCandlish et al. 2018; the exponent is near nanochat's 0.383);
    below 2,048 tokens a step the matrix units idle (reference measurement: 20 % lost).
    """
    if train.batch_tokens:
        return _whole_rows(train.batch_tokens, context)
    wished = 4096 * (max(1, tokens) / 4e6) ** 0.4
    power = 2 ** round(math.log2(wished))
    return _whole_rows(max(2048, min(power, 4_194_304)), context)


def _whole_rows(tokens: int, context: int) -> int:
    return max(1, tokens // context) * context


def plan_pretraining(train: Train, shape: Shape, tokens: int, lr_share: float = 1.0) -> Plan:
    """Every number of pretraining for `tokens` tokens. Raises `PunaError` below ten steps.

    `lr_share`: peak rates as a share of those from random weights. Continued training warms the rates up again and lets them
    fall again (Ibrahim et al. 2024, arXiv:2403.08763); the higher they rise, the more is learnt and the more is forgotten.
    Yi-9B took a tenth of Yi-6B's peak for 0.8 T tokens; short runs need more.
    """
    batch = batch_tokens_of(train, tokens, shape.context)
    steps = tokens // batch
    if steps < MIN_STEPS:
        raise PunaError(
            f"the budget of {tokens:,} tokens is {steps} steps of {batch:,} tokens; at least {MIN_STEPS} are needed",
            where="train", mend="raise the budget or lower train.batch_tokens",
        )  # fmt: skip
    puna = train.method == "puna"
    # Rates fall with width (muP; Yang et al. 2022): AdamW's with the inverse square root of the width, as embeddings
    # and gains see sparse gradients; Muon's update has unit spectral scale, so its rate needs no width.
    width = (shape.dim / 256) ** -0.5
    batch_gain = math.sqrt(batch / 4096)  # square-root rule for adaptive methods (Malladi et al. 2022)
    lr_adam = 3e-3 * width * min(batch_gain, 4.0)
    return Plan(
        method=train.method, steps=steps, batch_tokens=batch, context=shape.context,
        lr_matrix=train.lr_matrix or lr_share * (0.03 * min(batch_gain, 4.0) if puna else lr_adam),
        lr_embed=train.lr_embed or lr_share * (lr_adam * 3 if puna else lr_adam),
        lr_vector=lr_share * lr_adam,
        # Decoupled decay forgets over 1/(lr·wd) steps; a run of few epochs needs little, many epochs need more.
        weight_decay=train.weight_decay if train.weight_decay is not None else 0.1,
        momentum=0.95, beta1=0.9, beta2=0.95, eps=1e-8,
        warmup_steps=train.warmup_steps if train.warmup_steps is not None else min(200, max(5, steps // 50)),
        # WSD: constant, then linear to zero over the last part (Hu et al. 2024; Hägele et al. 2024: 20 % suffices
        # for long runs, short ones gain from more).
        decay_share=train.decay_share if train.decay_share is not None else (0.5 if puna else 1.0),
        final_share=0.0 if puna else 0.1,
        clip=train.clip, isolate=train.isolate, neftune=0.0, precision=train.precision, compile=train.compile,
        threads=train.threads, checkpoint_seconds=train.checkpoint_seconds,
    )  # fmt: skip


def tuning_batch(tune: Sft, base: Plan) -> int:
    """Tokens in a tuning batch: half of pretraining's, as about half of a conversation's tokens are learnt from."""
    return _whole_rows(tune.batch_tokens or max(2048, base.batch_tokens // 2), base.context)


def plan_tuning(tune: Sft, base: Plan, tokens: int) -> Plan:
    """Every number of tuning over `tokens` packed tokens, from the pretraining's plan."""
    batch = tuning_batch(tune, base)
    steps = tokens // batch
    if steps < MIN_STEPS:
        raise PunaError(
            f"the tuning budget of {tokens:,} tokens is {steps} steps of {batch:,} tokens; at least {MIN_STEPS} are needed",
            where="tune", mend="raise minutes or epochs, or lower tune.batch_tokens",
        )  # fmt: skip
    # Loss on few tokens of a row and documents seen once or twice: a fresh, lower peak that falls to zero.
    return base.model_copy(update={
        "steps": steps, "batch_tokens": batch, "isolate": True, "neftune": tune.neftune,
        "lr_matrix": base.lr_matrix * tune.lr_share, "lr_embed": base.lr_embed * tune.lr_share,
        "lr_vector": base.lr_vector * tune.lr_share, "warmup_steps": min(50, max(2, steps // 30)),
        "decay_share": 1.0, "weight_decay": 0.0,
    })  # fmt: skip
