"""A model small enough to train in a second, on real packed rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from puna.model.config import ModelConfig
from puna.model.device import Device
from puna.recipe.scaling import Plan
from puna.tokens.loader import Batches
from puna.tokens.pack import pack_documents

VOCAB, CONTEXT, ROWS = 61, 32, 4


@pytest.fixture(autouse=True)
def saving_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step here is shorter than its checkpoint: without this hardly any would be written."""
    monkeypatch.setattr("puna.train.loop.LEAST_BETWEEN", 0)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "rows"
    rng = np.random.Generator(np.random.PCG64(5))
    # A walk with a few likely successors for each token: something that can be learned.
    successors = rng.integers(1, VOCAB, size=(VOCAB, 3))

    def documents() -> list[tuple[np.ndarray, None]]:
        found = []
        for _ in range(80):
            ids = [int(rng.integers(1, VOCAB))]
            while len(ids) < rng.integers(10, 90):
                ids.append(int(successors[ids[-1], rng.integers(0, 3)]))
            found.append((np.array([*ids, 0]), None))
        return found

    pack_documents(iter(documents()), CONTEXT, folder, vocab_size=VOCAB)
    return folder


@pytest.fixture
def batches(packed: Path) -> Batches:
    return Batches(packed, ROWS, seed=3)


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
    )  # fmt: skip


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    def make(**changes: object) -> Plan:
        values: dict[str, object] = {
            "method": "puna", "steps": 12, "batch_tokens": ROWS * CONTEXT, "context": CONTEXT, "lr_matrix": 0.02,
            "lr_embed": 0.01, "lr_vector": 0.003, "weight_decay": 0.1, "momentum": 0.95, "beta1": 0.9, "beta2": 0.95,
            "eps": 1e-8, "warmup_steps": 2, "decay_share": 0.5, "final_share": 0.0, "clip": 1.0, "isolate": False,
            "neftune": 0.0, "precision": "fp32", "compile": "off", "checkpoint_seconds": 1e9,
        }  # fmt: skip
        return Plan(**(values | changes))

    return make


@pytest.fixture
def cpu() -> Device:
    return Device("test", torch.device("cpu"), 1, torch.float32, "a test")
