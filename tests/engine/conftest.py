"""A tiny random model with a tokenizer trained on English and Chinese, saved and loaded by the real parts."""

from pathlib import Path

import pytest

from puna.engine import Engine
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.weights import save_model
from puna.tokens import Tokenizer, train_tokenizer

TEXTS = [
    "the llama walks over the high grass of the puna, and the wind sings. ",
    "羊驼走过高原的草地，你好，世界。",
] * 20


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    train_tokenizer(iter(TEXTS), 320, folder)
    tokens = Tokenizer.load(folder)
    config = ModelConfig(
        vocab_size=tokens.vocab_size + 3,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=96,
        tie_word_embeddings=False,
        qk_norm=True,
        eos_token_id=tokens.eos_id,
        pad_token_id=tokens.pad_id,
    )
    model = Decoder(config)
    model.init_weights(seed=3)
    save_model(model, config, folder)
    return folder


@pytest.fixture(scope="session")
def engine(model_folder: Path) -> Engine:
    return Engine.load(model_folder, device="cpu")
