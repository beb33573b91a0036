"""Growing and shrinking in depth: silent layers change no bit, repeated and dropped ones are the ones named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.errors import PunaError
from puna.model.cache import KVCache
from puna.model.decoder import Decoder
from puna.model.formats import save_model
from puna.model.surgery.depth import (
    choose_layers,
    drop_layers,
    even_places,
    insert_silent_layers,
    layer_cosines,
    repeat_layers,
    silent_order,
    solar_order,
    yi_order,
)
from puna.model.surgery.plan import grow, prune
from puna.model.surgery.stream import activations
from puna.model.weights import Weights

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {}, "Llama-tied": {"tie_word_embeddings": True}, "Mistral": {"sliding_window": 12}, "Qwen2": {"attention_bias": True},
    "Qwen3": {"qk_norm": True, "head_dim": 16},
}  # fmt: skip
Make = Callable[..., Decoder]


def _noisy(make: Make, **others: Any) -> Decoder:
    """Gains and biases away from their neutral values."""
    model, draw = make(num_hidden_layers=12, **others), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model


def _stepwise(model: Decoder, ids: torch.Tensor) -> torch.Tensor:
    """Logits by a prefill of ten tokens and one token at a time after."""
    cache = KVCache(model.config, len(ids), ids.shape[1], dtype=torch.float32, device="cpu")
    found = []
    with torch.no_grad():
        for part in (ids[:, :10], *ids[:, 10:].split(1, dim=1)):
            found.append(model.logits(model(part, cache=cache)))
            cache.advance(part.shape[1])
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_silent_layers_change_no_bit(family: str, make: Make, ids: torch.Tensor) -> None:
    """Twelve blocks grown to eighteen: at once and step by step, and in half precision too."""
    small = _noisy(make, **FAMILIES[family])
    weights, report = grow(Weights.of(small), layers=18, how="silent")
    large = weights.decoder()
    assert report["silent"] == [2, 5, 8, 11, 14, 17] and large.config.num_hidden_layers == 18
    with torch.no_grad():
        assert torch.equal(large.logits(large(ids)), small.logits(small(ids)))
    assert torch.equal(_stepwise(large, ids), _stepwise(small, ids))
    half, small_half = weights.decoder(torch.bfloat16), Weights.of(small).decoder(torch.bfloat16)
    assert torch.equal(half(ids), small_half(ids))


def test_a_silent_layer_learns(make: Make, ids: torch.Tensor) -> None:
    model = insert_silent_layers(Weights.of(make(num_hidden_layers=2)), [0]).decoder()
    new: Any = model.model.layers[1]
    for step in range(2):
        model.zero_grad()
        model.logits(model(ids)).logsumexp(-1).mean().backward()
        assert new.self_attn.o_proj.weight.grad.norm() > 0 and new.mlp.down_proj.weight.grad.norm() > 0
        moves = [module.weight.grad.norm() > 0 for module in (new.self_attn.q_proj, new.mlp.gate_proj)]
        assert moves == [step == 1] * 2  # what stands before a zero matrix moves a step later
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad


def test_the_published_orders() -> None:
    yi = yi_order(32, 12, 28)
    assert len(yi) == 48 and yi[:28] == list(range(28)) and yi[28:] == [*range(12, 32)]
    assert sorted(set(yi)) == list(range(32)) and [index for index in range(32) if yi.count(index) == 2] == list(
        range(12, 28)
    )
    solar = solar_order(32, 8)
    assert len(solar) == 48 and solar == [*range(24), *range(8, 32)]
    assert silent_order(4, even_places(4, 2)) == [0, 1, 1, 2, 3, 3]
    assert even_places(12, 6) == [1, 3, 5, 7, 9, 11]


def test_repeated_layers_are_copies_and_the_rest_stays(make: Make) -> None:
    small = make(num_hidden_layers=3)
    state, order = small.state_dict(), [0, 1, 1, 2, 0]
    large = repeat_layers(Weights.of(small), order)
    assert set(large.names) == set(large.config.shapes) and large.config.num_hidden_layers == 5
    for name, tensor in large.items():
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(order[int(parts[2])])
        assert torch.equal(tensor, state[".".join(parts)])
    assert drop_layers(Weights.of(small), [0, 2]).config.num_hidden_layers == 2


def test_one_tensor_is_read_where_one_is_asked_for(make: Make) -> None:
    small = Weights.of(make(num_hidden_layers=3))
    asked = []
    watched = Weights(
        small.config, lambda name: asked.append(name) or small.read(name), {"model.layers.1.mlp.up_proj.weight": "Q8_0"}
    )
    large = repeat_layers(watched, [0, 1, 1, 2])
    large.read("model.layers.3.mlp.up_proj.weight")
    assert asked == ["model.layers.2.mlp.up_proj.weight"]
    assert large.types == {f"model.layers.{index}.mlp.up_proj.weight": "Q8_0" for index in (1, 2)}


def test_transformers_loads_the_grown_model(make: Make, ids: torch.Tensor, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    grown = repeat_layers(Weights.of(make(num_hidden_layers=4, attention_bias=True)), yi_order(4, 1, 3)).decoder()
    save_model(grown, grown.config, tmp_path)
    theirs = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert theirs.config.num_hidden_layers == 6
        torch.testing.assert_close(theirs(ids).logits, grown.logits(grown(ids)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_activations_are_those_of_the_model(
    family: str, make: Make, ids: torch.Tensor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("puna.model.surgery.stream._ROWS_TOKENS", 80)  # two rows at a time, of three
    model, seen = _noisy(make, **FAMILIES[family]), []
    hooks = [
        layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out))) for layer in model.model.layers
    ]
    with torch.no_grad():
        final = model(ids)
    for hook in hooks:
        hook.remove()
    found = [(index, part) for index, part in activations(model, ids)]
    assert [index for index, _ in found] == [index for index in range(12) for _ in range(2)]
    for index, (before, after) in enumerate(seen):
        parts = [part for number, part in found if number == index]
        torch.testing.assert_close(torch.cat([part.before for part in parts]), before)
        torch.testing.assert_close(torch.cat([part.after for part in parts]), after)
    torch.testing.assert_close(torch.cat([part.normed for _, part in found[-2:]]), final)
    wanted = [torch.cosine_similarity(before, after, dim=-1).mean().item() for before, after in seen]
    assert layer_cosines(model, ids) == pytest.approx(wanted, abs=1e-5)


def test_a_silent_layer_has_cosine_one_and_is_chosen(make: Make, ids: torch.Tensor) -> None:
    weights = insert_silent_layers(Weights.of(make(num_hidden_layers=6)), [2, 3])
    cosines = layer_cosines(weights, ids)
    assert [cosines[3], cosines[5]] == pytest.approx([1, 1], abs=1e-6) and max(cosines[:3]) < 0.999
    assert choose_layers(cosines, 2, contiguous=False) == [3, 5]
    pruned, report = prune(weights, ids, layers=6)
    assert report["dropped"] == [3, 5] and report["kept"] == [0, 1, 2, 4, 6, 7]
    assert torch.equal(pruned.decoder()(ids), make(num_hidden_layers=6)(ids))


def test_the_first_and_the_last_layer_are_never_chosen() -> None:
    cosines = [1.0, 0.2, 0.9, 0.8, 0.8, 0.1, 1.0]
    assert choose_layers(cosines, 2) == [2, 3]
    assert choose_layers(cosines, 3) == [2, 3, 4]
    assert choose_layers([0.5] * 6, 2) == [1, 2]
    assert choose_layers(cosines, 3, contiguous=False) == [2, 3, 4]
    with pytest.raises(PunaError, match="6 layers cannot be chosen of the 5"):
        choose_layers(cosines, 6)


def test_growing_to_a_number_of_layers(make: Make, ids: torch.Tensor) -> None:
    weights = Weights.of(make(num_hidden_layers=6))
    grown, report = grow(weights, layers=9, ids=ids)
    begin, end = report["span"]
    assert report["chosen_by"] == "cosine" and end - begin == 3 and len(report["cosines"]) == 6
    assert report["order"] == yi_order(6, begin, end) and grown.config.num_hidden_layers == 9
    grown, report = grow(weights, layers=8, span=(1, 3))
    assert report["chosen_by"] == "span" and report["order"] == [0, 1, 2, 1, 2, 3, 4, 5] and report["cosines"] is None
    grown, report = grow(weights, layers=8, how="solar")
    assert report["order"] == [0, 1, 2, 3, 2, 3, 4, 5]
    assert grown.decoder()(ids).isfinite().all()


def test_what_cannot_be_grown_is_refused(make: Make, ids: torch.Tensor) -> None:
    weights = Weights.of(make(num_hidden_layers=4))
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: repeat_layers(weights, [0, 4, -1]), "no layer -1, 4"),
        (lambda: repeat_layers(weights, []), "1 to 1000 layers, not 0"),
        (lambda: repeat_layers(weights, [0] * 1001), "not 1001"),
        (lambda: drop_layers(weights, [1, 0]), "rising order"),
        (lambda: insert_silent_layers(weights, [4]), "no layer 4"),
        (lambda: yi_order(4, 3, 3), "no span of 4"),
        (lambda: solar_order(4, 4), "cannot be dropped"),
        (lambda: grow(weights, layers=4), "are no more"),
        (lambda: grow(weights, layers=6), "give a span or text"),
        (lambda: grow(weights, layers=6, span=(1, 2)), "holds 1 layers; 2 are to be added"),
        (lambda: grow(weights, layers=6, how="solar", span=(1, 3)), "a span is for duplicate"),
        (lambda: grow(weights, layers=7, how="solar"), "even number of layers"),
        (lambda: grow(weights, layers=10, how="solar"), "cannot be dropped"),
        (lambda: prune(weights, ids, layers=4), "are not fewer"),
        (lambda: prune(weights, ids), "nothing of the model gets smaller"),
        (lambda: layer_cosines(weights, ids[:0]), "rows of token ids"),
        (lambda: layer_cosines(weights, ids + 90), "do not fit a vocabulary of 96"),
    ]  # fmt: skip
    for call, words in refusals:
        with pytest.raises(PunaError) as caught:
            call()
        assert words in str(caught.value)
