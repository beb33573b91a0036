"""Wider MLPs that change nothing, and narrower models that lose what carries least."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from puna.errors import PunaError
from puna.model.cache import KVCache
from puna.model.decoder import Decoder
from puna.model.formats import save_model
from puna.model.surgery.plan import prune
from puna.model.surgery.width import Importance, measure_importance, narrow, widen_mlp
from puna.model.weights import Weights

STORIES = Path(__file__).resolve().parents[3] / "shared/data/weights/stories260K/stories260K.bin"
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {}, "Llama-tied": {"tie_word_embeddings": True}, "Qwen2": {"attention_bias": True},
    "Qwen3": {"qk_norm": True, "head_dim": 16},
}  # fmt: skip
Make = Callable[..., Decoder]


def _everything(importance: Importance) -> dict[str, int]:
    return {"intermediate": importance.neurons.shape[1], "hidden": len(importance.channels)}


@pytest.mark.parametrize("family", FAMILIES)
def test_widening_changes_nothing(family: str, make: Make, ids: torch.Tensor, tmp_path: Path) -> None:
    small = make(**FAMILIES[family])
    wide = widen_mlp(Weights.of(small), 80)
    model = wide.decoder()
    assert model.config.intermediate_size == 80
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ids)), small.logits(small(ids)), atol=1e-6, rtol=1e-5)
    gate = wide.read("model.layers.1.mlp.gate_proj.weight")
    assert torch.equal(gate, widen_mlp(Weights.of(small), 80).read("model.layers.1.mlp.gate_proj.weight"))
    assert gate[48:].std() == pytest.approx(gate[:48].std().item(), rel=0.1)
    assert not torch.equal(gate[48:], wide.read("model.layers.0.mlp.gate_proj.weight")[48:])


def test_the_new_neurons_learn(make: Make, ids: torch.Tensor) -> None:
    model = widen_mlp(Weights.of(make()), 80).decoder()
    mlp: Any = model.model.layers[0].mlp
    for step in range(2):
        model.zero_grad()
        model.logits(model(ids)).logsumexp(-1).mean().backward()
        assert (mlp.down_proj.weight.grad[:, 48:].abs() > 0).all()
        assert (mlp.gate_proj.weight.grad[48:].norm() > 0) == (step == 1)
        with torch.no_grad():
            mlp.down_proj.weight -= mlp.down_proj.weight.grad


def test_importance_is_what_hooks_see(make: Make, ids: torch.Tensor) -> None:
    model = make(qk_norm=True)
    found, layer, seen = measure_importance(model, ids), model.model.layers[1], {}
    layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.__setitem__("neurons", args[0]))
    layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.__setitem__("heads", args[0]))
    with torch.no_grad():
        model(ids)
    torch.testing.assert_close(found.neurons[1], seen["neurons"].abs().mean((0, 1)))
    torch.testing.assert_close(found.groups[1], seen["heads"].view(3, 40, 2, 16).norm(dim=-1).mean((0, 1)))
    assert found.channels.shape == (32,)


@pytest.mark.parametrize("family", FAMILIES)
def test_dead_neurons_and_heads_go_unnoticed(family: str, make: Make, ids: torch.Tensor) -> None:
    """Every other neuron gives nothing, in another half of each layer; one group of heads has no values."""
    model = make(**FAMILIES[family])
    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            layer.mlp.up_proj.weight[index::2] = 0
            width = model.config.head_dim
            dead = slice(index * width, (index + 1) * width)
            layer.self_attn.v_proj.weight[dead] = 0
            if layer.self_attn.v_proj.bias is not None:
                layer.self_attn.v_proj.bias[dead] = 0
        wanted = model.logits(model(ids))
    small, report = prune(Weights.of(model), ids, intermediate=24, heads=2)
    decoder = small.decoder()
    assert decoder.config.num_attention_heads == 2 and decoder.config.num_key_value_heads == 1
    assert report["parameters_after"] == small.config.parameters < model.config.parameters
    with torch.no_grad():
        torch.testing.assert_close(decoder.logits(decoder(ids)), wanted, atol=1e-6, rtol=1e-5)


def test_all_kept_is_the_same_model(make: Make, ids: torch.Tensor) -> None:
    model = make(qk_norm=True)
    importance = measure_importance(model, ids)
    same = narrow(Weights.of(model), importance=importance, heads=4, **_everything(importance))
    assert same.config == model.config
    for name, tensor in same.items():
        assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_transformers_loads_the_narrow_model(family: str, make: Make, ids: torch.Tensor, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small, _ = prune(Weights.of(make(**FAMILIES[family])), ids, intermediate=24, heads=2, hidden=24)
    decoder = small.decoder()
    save_model(decoder, decoder.config, tmp_path)
    theirs = getattr(transformers, f"{family}ForCausalLM").from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, decoder.logits(decoder(ids)), atol=1e-5, rtol=0)


def test_what_cannot_be_narrowed_is_refused(make: Make, ids: torch.Tensor) -> None:
    weights = Weights.of(make())
    importance = measure_importance(weights, ids)
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: widen_mlp(weights, 48), "is not wider"),
        (lambda: narrow(weights, importance=importance, heads=3), "not whole groups of 2"),
        (lambda: narrow(weights, importance=importance, heads=8), "the model has 2 key-value heads"),
        (lambda: narrow(weights, importance=importance, intermediate=49), "the model has 48 neurons"),
        (lambda: narrow(weights, importance=importance, hidden=27), "no multiple of 4 heads"),
        (lambda: narrow(weights, importance=importance, intermediate=4), "greater than or equal to 8"),
        (lambda: narrow(Weights.of(make(intermediate_size=40)), importance=importance, hidden=16), "another shape"),
    ]  # fmt: skip
    for call, words in refusals:
        with pytest.raises(PunaError) as caught:
            call()
        assert words in str(caught.value)


@pytest.fixture(scope="module")
def stories() -> tuple[Weights, torch.Tensor, torch.Tensor]:
    """The real model, and text of its own making: one batch to measure on, one to judge by."""
    from puna.model.formats.llama2c import open_llama2c

    if not STORIES.exists():
        pytest.skip("shared/data/weights is not here")
    weights = open_llama2c(STORIES)
    model, draw = weights.decoder(), torch.Generator().manual_seed(1)
    ids, cache = torch.full((48, 1), 1), KVCache(model.config, 48, 96, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        for _ in range(96):
            chances = model.logits(model(ids[:, -1:], cache=cache)[:, -1]).softmax(-1)
            cache.advance(1)
            ids = torch.cat((ids, torch.multinomial(chances, 1, generator=draw)), dim=1)
    return weights, ids[:16], ids[16:]


def _loss(weights: Weights, ids: torch.Tensor) -> float:
    model = weights.decoder()
    with torch.no_grad():
        return F.cross_entropy(model.logits(model(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten()).item()


@pytest.mark.parametrize(
    "asked", [{"intermediate": 128}, {"heads": 4}, {"hidden": 56}], ids=lambda asked: next(iter(asked))
)
def test_pruning_by_importance_beats_chance(stories: Any, asked: dict[str, int]) -> None:
    weights, measured, judged = stories
    importance = measure_importance(weights, measured)
    ours = _loss(narrow(weights, importance=importance, **asked), judged)
    draw, theirs = torch.Generator().manual_seed(0), []
    for _ in range(5):
        chance = {
            name: torch.rand(getattr(importance, name).shape, generator=draw)
            for name in ("neurons", "groups", "channels")
        }
        theirs.append(_loss(narrow(weights, importance=dataclasses.replace(importance, **chance), **asked), judged))
    assert _loss(weights, judged) < ours < sum(theirs) / len(theirs) - 0.1
