"""The decoder against itself: cached against whole, isolated against separate, named and counted as the config says."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from puna.model.cache import KVCache
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.presets import preset, presets
from puna.recipe.scaling import shape_of
from puna.recipe.schema import Model, Tokenizer

PUBLISHED = {
    "LLaMA-7B": 6_738_415_616, "Llama-3.2-1B": 1_235_814_400, "Llama-3.1-8B": 8_030_261_248, "Yi-6B": 6_061_035_520,
    "Yi-9B": 8_829_407_232, "Yi-34B": 34_388_917_248, "TinyLlama-1.1B": 1_100_048_384, "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120, "SmolLM2-1.7B": 1_711_376_384, "Qwen3-0.6B": 596_049_920, "Qwen2.5-0.5B": 494_032_768,
    "Mistral-7B": 7_241_732_096,
}  # fmt: skip
GOLDEN = -0.049250487238168716  # embed_tokens.weight[0, 0] of the tiny model, seed 0
Make = Callable[..., Decoder]
VARIANTS = {
    "plain": {}, "tied": {"tie_word_embeddings": True}, "qk_norm": {"qk_norm": True}, "bias": {"attention_bias": True},
    "window": {"sliding_window": 7}, "all heads": {"num_key_value_heads": 4}, "one kv head": {"num_key_value_heads": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = Decoder(config)
    shapes = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters == PUBLISHED[name]
    assert shapes == config.shapes
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_every_preset_is_counted() -> None:
    assert set(presets) == set(PUBLISHED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_the_configs(make: Make, variant: str) -> None:
    model = make(**VARIANTS[variant])
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == model.config.shapes
    assert list(model.state_dict()) == list(model.config.shapes)


@pytest.mark.parametrize("size", ["500K", "4M", "60M", "1B"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_recipes_shape_and_its_config_count_alike(size: str, qk_norm: bool) -> None:
    shape = shape_of(Model(size=size, qk_norm=qk_norm), Tokenizer())
    config = ModelConfig.from_shape(shape, eos_token_id=0)
    assert config.parameters == shape.params
    assert config.matrix_parameters == shape.matrix_params
    assert config.flops_per_token(shape.context) == shape.flops_per_token


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_decoding_equals_the_whole_row(make: Make, variant: str, ids: torch.Tensor) -> None:
    model = make(**VARIANTS[variant])
    cache = KVCache(model.config, rows=3, max_len=48)
    with torch.no_grad():
        whole, parts = model(ids), []
        for begin, end in [(0, 13), (13, 20), *((i, i + 1) for i in range(20, 40))]:
            parts.append(model(ids[:, begin:end], cache=cache))
            cache.advance(end - begin)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_different_lengths_share_a_cache(make: Make, variant: str, ids: torch.Tensor) -> None:
    """Prompts padded on the right, each row then growing from its own end: the same as each row alone."""
    model = make(**VARIANTS[variant])
    prompts, cache = torch.tensor([5, 17, 11]), KVCache(model.config, rows=3, max_len=40)
    with torch.no_grad():
        model(ids[:, :17], cache=cache)  # row 0 reads 12 ids of padding, row 2 six
        cache.advance(prompts)
        steps = []
        for step in range(8):
            steps.append(model(ids[torch.arange(3), prompts + step][:, None], cache=cache))
            cache.advance(1)
        for row, prompt in enumerate(prompts.tolist()):
            alone = model(ids[row : row + 1, : prompt + 8])[:, prompt:]
            torch.testing.assert_close(torch.cat(steps, 1)[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_rows_can_leave_a_cache_and_be_copied(tiny: Decoder, ids: torch.Tensor) -> None:
    cache = KVCache(tiny.config, rows=3, max_len=40)
    with torch.no_grad():
        tiny(ids[:, :10], cache=cache)
        cache.advance(torch.tensor([4, 10, 6]))
        cache.select(torch.tensor([2, 0, 2]))
        assert cache.lengths.tolist() == [6, 4, 6] and cache.longest == 6
        out = tiny(ids[:, 20:21], cache=cache)
        alone = tiny(torch.cat((ids[2:3, :6], ids[2:3, 20:21]), 1))[:, -1:]
        other = tiny(torch.cat((ids[2:3, :6], ids[0:1, 20:21]), 1))[:, -1:]
    torch.testing.assert_close(out[2:3], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out[0:1], other, atol=1e-5, rtol=1e-4)


def test_a_full_cache_says_so(tiny: Decoder, ids: torch.Tensor) -> None:
    cache = KVCache(tiny.config, rows=3, max_len=16)
    assert cache.bytes == 3 * tiny.config.kv_cache_bytes(16, bytes_per_value=4)
    with pytest.raises(ValueError, match="does not fit"):
        tiny(ids, cache=cache)
    with pytest.raises(ValueError, match="does not fit"):
        cache.advance(17)
    with pytest.raises(ValueError, match="segments"):
        tiny(ids, cache=cache, segments=torch.zeros_like(ids))


@pytest.mark.parametrize("variant", VARIANTS)
def test_isolated_documents_equal_separate_rows(make: Make, variant: str, ids: torch.Tensor) -> None:
    model = make(**VARIANTS[variant])
    cuts = [[0, 9, 10, 40], [0, 40], [0, 33, 40]]
    segments = torch.zeros_like(ids)
    for row, edges in enumerate(cuts):
        for number, (begin, end) in enumerate(pairwise(edges)):
            segments[row, begin:end] = number
    packed = model(ids, segments=segments)
    for row, edges in enumerate(cuts):
        for begin, end in pairwise(edges):
            alone = model(ids[row : row + 1, begin:end])
            torch.testing.assert_close(packed[row : row + 1, begin:end], alone, atol=2e-5, rtol=1e-4)


def test_the_future_and_other_rows_change_nothing(tiny: Decoder, ids: torch.Tensor) -> None:
    with torch.no_grad():
        before = tiny(ids)
        changed = ids.clone()
        changed[0, 20:], changed[1:] = 0, 0
        after = tiny(changed)
    torch.testing.assert_close(after[0, :20], before[0, :20], atol=1e-6, rtol=1e-5)


def test_noise_enters_through_the_embeddings(tiny: Decoder, ids: torch.Tensor) -> None:
    embeds = tiny.embed(ids)
    assert torch.equal(tiny(ids, embeds=embeds), tiny(ids))
    assert not torch.equal(tiny(ids, embeds=embeds + 0.1), tiny(ids))


def test_init_is_a_function_of_the_seed_alone(tiny: Decoder, tiny_config: ModelConfig) -> None:
    torch.manual_seed(99)
    again, other = Decoder(tiny_config), Decoder(tiny_config)
    again.init_weights(0)
    other.init_weights(1)
    names = [name for name, parameter in tiny.named_parameters() if parameter.ndim > 1]
    assert all(torch.equal(tiny.get_parameter(name), again.get_parameter(name)) for name in tiny.state_dict())
    assert not any(torch.equal(tiny.get_parameter(name), other.get_parameter(name)) for name in names)
    assert tiny.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert tiny.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert tiny.model.layers[0].mlp.down_proj.weight.std().item() == pytest.approx((4 * 48) ** -0.5, rel=0.1)
    # A golden value: whoever regenerates step 0 elsewhere must get this number.
    assert tiny.model.embed_tokens.weight[0, 0].item() == pytest.approx(GOLDEN, abs=1e-9)


def test_rope_stays_exact_in_half_precision(tiny: Decoder, ids: torch.Tensor) -> None:
    exact = tiny.rope.inv_freq.clone()
    tiny.to(torch.bfloat16)
    assert torch.equal(tiny.rope.inv_freq, exact)
    assert tiny(ids).dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_training_is_one_compiled_graph(tiny: Decoder, ids: torch.Tensor, half: bool) -> None:
    """In fp32 with the fused attention, in bf16 autocast with that by blocks; with documents isolated and without."""

    def loss(ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            return tiny.logits(tiny(ids, segments=segments) + tiny(ids)).square().mean()

    segments = (torch.arange(40) // 15).expand(3, 40)
    eager, compiled = loss(ids, segments), torch.compile(loss, fullgraph=True)(ids, segments)
    torch.testing.assert_close(compiled, eager, atol=1e-2 if half else 1e-5, rtol=1e-2 if half else 1e-4)
    weights = list(tiny.parameters())
    for got, wanted in zip(torch.autograd.grad(compiled, weights), torch.autograd.grad(eager, weights), strict=True):
        assert (got - wanted).norm() <= (5e-2 if half else 1e-4) * wanted.norm() + 1e-6
