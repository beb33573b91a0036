"""What the tests of this room share: tiny configs and decoders, one thread."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from puna.model.config import ModelConfig
from puna.model.decoder import Decoder

_FIELDS = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def fields() -> dict[str, Any]:
    """A config's numbers, small and all different from each other."""
    return dict(_FIELDS)


@pytest.fixture
def tiny_config() -> ModelConfig:
    return ModelConfig(**_FIELDS, bos_token_id=1, eos_token_id=2)


@pytest.fixture
def tiny(tiny_config: ModelConfig) -> Decoder:
    model = Decoder(tiny_config)
    model.init_weights(0)
    return model


@pytest.fixture
def make() -> Callable[..., Decoder]:
    """A decoder with some fields of its own."""

    def decoder(**others: Any) -> Decoder:
        model = Decoder(ModelConfig(**{**_FIELDS, **others}))
        model.init_weights(3)
        return model

    return decoder


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 96, (3, 40), generator=torch.Generator().manual_seed(0))
