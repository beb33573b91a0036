"""The engine's one-token pass and the decoder's own forward are the same function, for every kind of config."""

import pytest
import torch

from puna.engine.decoding import OneToken
from puna.model.cache import KVCache
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.rope import RopeScaling

KINDS = {
    "llama": {},
    "one key-value head": {"num_key_value_heads": 1},
    "as many as heads": {"num_key_value_heads": 4},
    "qk_norm": {"qk_norm": True},
    "bias": {"attention_bias": True},
    "sliding window": {"sliding_window": 5},
    "tied": {"tie_word_embeddings": True},
    "scaled rope": {"rope_scaling": RopeScaling(rope_type="linear", factor=4.0)},
}


def a_model(kind: str) -> Decoder:
    values = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    model = Decoder(ModelConfig(**(values | KINDS[kind])))
    model.init_weights(seed=5)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # biases and gains that do something
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[1], [9], [3, 11, 1, 7]])
def test_one_token_equals_the_decoder(kind: str, lengths: list[int]):
    model = a_model(kind)
    prompts = torch.randint(0, 60, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(2))
    new = torch.randint(0, 60, (8, len(lengths)), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        ours, theirs = (KVCache(model.config, len(lengths), 32) for _ in range(2))
        for cache in (ours, theirs):
            model(prompts, cache=cache)
            cache.advance(torch.tensor(lengths))
        read_one = OneToken(model, ours)
        for number, ids in enumerate(new):
            if number == 4 and len(lengths) > 1:  # rows leave, down to one
                staying = torch.tensor([2])
                ours.select(staying)
                theirs.select(staying)
            ids = ids[: len(ours.lengths)]
            hidden = model(ids[:, None], cache=theirs)[:, -1]
            theirs.advance(1)
            assert torch.allclose(read_one(ids, ours), hidden, atol=1e-5, rtol=1e-5)
            assert torch.equal(ours.lengths, theirs.lengths)


def test_a_full_cache_is_refused():
    model = a_model("llama")
    with torch.inference_mode():
        cache = KVCache(model.config, 1, 4)
        model(torch.tensor([[1, 2, 3, 4]]), cache=cache)
        cache.advance(4)
        with pytest.raises(ValueError, match="fills the cache"):
            OneToken(model, cache)(torch.tensor([5]), cache)
