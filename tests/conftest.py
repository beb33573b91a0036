"""What holds for every test: no telemetry, no hub, repeatable examples; GPU tests are skipped where there is none."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

# Before any test module imports a library that reads them.
for _name in ("DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# No deadline: a busy machine is no bug. Derandomised: a red run is red again for whoever looks at it.
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no NVIDIA GPU")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Path]:
    """What writes a random model with a tokenizer of its own: by the real parts, small enough for a test."""
    return _save_tiny_model


def _save_tiny_model(
    folder: Path, texts: Iterable[str], vocab: int, *, unused: int = 0, seed: int = 3, **shape: object
) -> Path:
    """`unused`: rows of the embedding past the tokenizer's last id."""
    from puna.model.config import ModelConfig
    from puna.model.decoder import Decoder
    from puna.model.formats import save_model
    from puna.tokens import Tokenizer, train_tokenizer

    train_tokenizer(iter(texts), vocab, folder)
    tokens = Tokenizer.load(folder)
    ends = {"eos_token_id": tokens.eos_id, "pad_token_id": tokens.pad_id}
    config = ModelConfig(vocab_size=tokens.vocab_size + unused, **{**TINY, **ends, **shape})
    model = Decoder(config)
    model.init_weights(seed=seed)
    save_model(model, config, folder)
    return folder
