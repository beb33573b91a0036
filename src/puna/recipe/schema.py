"""The typed recipe: every key a user may write, its default and its bounds.

Comes in: TOML. Goes out: a `Recipe`, valid as a whole. Must never happen: an unknown key passed over in silence.
"""

import re
from typing import Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from puna.recipe.base import Adapter, Base
from puna.recipe.corpus import PYTHON_SOURCE, Corpus
from puna.recipe.section import Section

__all__ = [
    "DOCSTRINGS",
    "PYTHON_SOURCE",
    "Adapter",
    "Base",
    "Corpus",
    "Judge",
    "Model",
    "Recipe",
    "Release",
    "Sft",
    "Tokenizer",
    "Train",
]

MOST_MINUTES, MOST_TOKENS = 5_256_000, 10**15  # ten years; fifty times what the largest models have read
S = TypeVar("S", bound="Section")
DOCSTRINGS = "docstrings"  # the default chat data: questions and answers made from its docstrings


def _with_one_of(section: S, *budgets: str) -> S:
    named = [key for key in budgets if getattr(section, key) is not None]
    if len(named) != 1:
        wanted = f"{', '.join(budgets[:-1])} or {budgets[-1]}"
        raise ValueError(f"needs exactly one budget of {wanted} (has {', '.join(named) or 'none'})")
    return section


class Tokenizer(Section):
    """Byte-level BPE."""

    vocab_size: int | None = Field(
        None, ge=300, le=262_144, description="entries with the special tokens; unset: by model.size"
    )


class Model(Section):
    """One dial, `size`, sets every dimension; each can be set by hand."""

    size: str = Field("4M", description="parameters to aim at: 4M, 60M, 1B")
    dim: int | None = Field(None, ge=32, multiple_of=8)
    layers: int | None = Field(None, ge=1, le=200)
    heads: int | None = Field(None, ge=1)
    kv_heads: int | None = Field(None, ge=1)
    ffn: int | None = Field(None, ge=32, multiple_of=8)
    context: int | None = Field(None, ge=32, le=1_048_576, description="tokens in a row")
    tied: bool | None = Field(None, description="output head shares the embedding's weights")
    qk_norm: bool = Field(False, description="QK-norm; the release is then a Qwen3ForCausalLM")
    rope_theta: float = Field(10_000.0, gt=1)

    @field_validator("size")
    @classmethod
    def _a_number_and_a_unit(cls, value: str) -> str:
        if not re.fullmatch(r"\d{1,6}(\.\d+)?[KMB]", value) or float(value[:-1]) == 0:
            raise ValueError("write a number and K, M or B, like 4M, 60M or 1.5B")
        return value


class Train(Section):
    """Pretraining: exactly one budget; the rest follows from the scaling rules unless set by hand."""

    minutes: float | None = Field(None, gt=0, le=MOST_MINUTES)
    tokens: int | None = Field(None, gt=0, le=MOST_TOKENS)
    flops: float | None = Field(None, gt=0, le=1e30)
    method: Literal["puna", "reference"] = Field("puna", description='"puna": Muon, WSD; "reference": AdamW, cosine')
    batch_tokens: int | None = Field(None, ge=32)
    lr_matrix: float | None = Field(None, gt=0)
    lr_embed: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    warmup_steps: int | None = Field(None, ge=0)
    decay_share: float | None = Field(None, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="global gradient norm")
    isolate: bool = Field(False, description="no attention across documents of a row")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: int | None = Field(None, ge=1, le=4096, description="of a CPU, for training; unset: all that there are")
    checkpoint_seconds: float = Field(20.0, gt=0)
    milestones: int = Field(8, ge=0, le=1000, description="segments that can be trained again to compare; 0: none")
    adapter: Adapter | None = Field(None, description="low-rank training of a [base]; unset: all weights learn")

    @model_validator(mode="after")
    def _one_budget(self) -> "Train":
        return _with_one_of(self, "minutes", "tokens", "flops")


class Sft(Section):
    """Full supervised fine-tuning on conversations, loss on the assistant's tokens only."""

    kind: Literal["sft"] = "sft"
    data: str = Field(DOCSTRINGS, description='"docstrings", or a JSON-lines file or folder of conversations')
    minutes: float | None = Field(None, gt=0, le=MOST_MINUTES)
    tokens: int | None = Field(None, gt=0, le=MOST_TOKENS)
    epochs: float | None = Field(None, gt=0, le=10_000)
    lr_share: float = Field(0.5, gt=0, le=2, description="peak rate as a share of pretraining's")
    batch_tokens: int | None = Field(None, ge=32)
    neftune: float = Field(0.0, ge=0, description="NEFTune noise (Jain et al. 2023); 0: none; Yi used 5 and 45")
    adapter: Adapter | None = Field(None, description="low-rank training; unset: all weights learn")

    @model_validator(mode="after")
    def _one_budget(self) -> "Sft":
        return _with_one_of(self, "minutes", "tokens", "epochs")


class Judge(Section):
    """First judgement."""

    quiz_items: int = Field(300, ge=20, description="four-choice questions at most")
    samples: int = Field(40, ge=0, description="functions to generate and parse")
    bootstrap: int = Field(2000, ge=100)
    compressors: bool = Field(True, description="measure xz beside the model")


class Release(Section):
    """What leaves the house."""

    licence: str = Field("unstated", description="licence of the weights, for the model card: an SPDX identifier")
    gate: bool = Field(True, description="load the release with transformers and compare before it is released")
    sign: str | None = Field(None, description="private key (PEM) that the release is signed with; unset: not signed")


class Recipe(Section):
    """What is to be built, as data."""

    name: str = Field("python", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    title: str | None = Field(None, description="how the model calls itself")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="unset: drawn fresh for each new run and kept in the run"
    )
    base: Base | None = Field(None, description="open weights to start from; unset: random weights")
    corpus: Corpus = Corpus()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    train: Train
    tune: list[Sft] = Field(default=[])
    judge: Judge = Judge()
    release: Release = Release()

    @model_validator(mode="after")
    def _of_the_base_or_by_the_recipe(self) -> "Recipe":
        """What the base decides cannot be set by hand as well."""
        if self.base is None:
            if self.train.adapter is not None:
                raise ValueError("train.adapter needs a [base]: random weights have nothing to be kept")
            return self
        if self.base.extend is not None and self.train.adapter is not None:
            raise ValueError("base.extend adds rows that an adapter cannot train: take train.adapter out")
        by_hand = [
            f"model.{key}"
            for key in ("dim", "layers", "heads", "kv_heads", "ffn", "tied")
            if getattr(self.model, key) is not None
        ]
        by_hand += ["model.qk_norm"] * self.model.qk_norm + ["tokenizer.vocab_size"] * (
            self.tokenizer.vocab_size is not None
        )
        if by_hand:
            raise ValueError(
                f"{', '.join(by_hand)}: the [base] decides it (base.layers, base.intermediate, base.extend change it)"
            )
        return self
