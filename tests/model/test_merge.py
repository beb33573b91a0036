"""Merging: against hand-computed numbers, against peft's own merging, and against what must come out by definition."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.surgery.merge import Method, merge, slerp, trimmed
from puna.model.weights import Weights

Make = Callable[..., Decoder]
NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def three(tiny_config: ModelConfig) -> list[Weights]:
    found = []
    for seed in range(3):
        model = Decoder(tiny_config)
        model.init_weights(seed)
        found.append(Weights.of(model))
    return found


def _planted(config: ModelConfig, values: Sequence[float]) -> Weights:
    """All tensors zero, but the first entries of the first gain."""

    def read(name: str) -> torch.Tensor:
        tensor = torch.zeros(config.shapes[name])
        if name == "model.norm.weight":
            tensor[: len(values)] = torch.tensor(values)
        return tensor

    return Weights(config, read)


def _close(merged: Weights, wanted: Weights, tolerance: float = 1e-6) -> None:
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, wanted.read(name), atol=tolerance, rtol=0)


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_a_model_merged_with_itself_is_itself(method: Method, three: list[Weights]) -> None:
    _close(merge([three[0], three[0]], method, weights=[0.3, 0.7]), three[0])


def test_differences_of_nothing_are_the_base(three: list[Weights]) -> None:
    for method in ("task", "ties"):
        _close(merge([three[0], three[0]], method, weights=[0.3, 0.7], base=three[0]), three[0], 0)  # type: ignore[arg-type]


def test_one_model_alone_is_that_model(three: list[Weights]) -> None:
    _close(merge([three[1]], "task", weights=[1], base=three[0]), three[1])
    _close(merge([three[1]], "ties", weights=[1], base=three[0], density=1), three[1])
    _close(merge([three[1]] * 2, "task", weights=[0.5, 0.5], base=three[0]), three[1])
    _close(merge([three[1]] * 2, "ties", weights=[1, 1], base=three[0], density=1), three[1])
    _close(merge([three[1]], "linear", weights=[5]), three[1])
    _close(merge(three[:2], "slerp", weights=[1, 0]), three[0])
    _close(merge(three[:2], "slerp", weights=[0, 1]), three[1])


def test_a_soup_is_the_mean(three: list[Weights]) -> None:
    merged = merge(three, "linear", weights=[2, 1, 1])
    torch.testing.assert_close(
        merged.read(NAME), 0.5 * three[0].read(NAME) + 0.25 * (three[1].read(NAME) + three[2].read(NAME))
    )
    assert merged.config == three[0].config


def test_ties_by_hand(tiny_config: ModelConfig) -> None:
    """Yadav et al. 2023, figure 1, with numbers: trim to three of 32 entries, elect, mean of those that agree."""
    base = _planted(tiny_config, [1, 1, 1, 1, 1])
    one = _planted(tiny_config, [1 + 4, 1 - 3, 1 + 2, 1 + 0.5, 1])  # trimmed: 4, -3, 2, 0, 0
    two = _planted(tiny_config, [1 + 2, 1 + 1, 1 + 0.5, 1 - 6, 1])  # trimmed: 2, 1, 0, -6, 0
    merged = merge([one, two], "ties", weights=[1, 1], base=base, density=3 / 32)
    # 4 and 2 agree: 3; -3 against 1: -3 wins alone; 2 alone; -6 alone; nothing.
    assert merged.read("model.norm.weight")[:5].tolist() == pytest.approx([1 + 3, 1 - 3, 1 + 2, 1 - 6, 1])
    half = merge([one, two], "ties", weights=[0.5, 0.5], base=base, density=3 / 32)
    assert half.read("model.norm.weight")[:5].tolist() == pytest.approx([1 + 1.5, 1 - 1.5, 1 + 1, 1 - 3, 1])
    task = merge([one, two], "task", weights=[1, 0.5], base=base)
    assert task.read("model.norm.weight")[:2].tolist() == pytest.approx([1 + 4 + 1, 1 - 3 + 0.5])


@pytest.mark.parametrize("density", [0.1, 0.2, 0.5])
def test_as_peft_merges(density: float, three: list[Weights]) -> None:
    theirs = pytest.importorskip("peft.utils.merge_utils")
    base, models, weights = three[0], three[1:], [0.7, 0.4]
    for name in (NAME, "model.embed_tokens.weight"):
        origin = base.read(name)
        shifts = [model.read(name) - origin for model in models]
        task = merge(models, "task", weights=weights, base=base).read(name)
        torch.testing.assert_close(task, origin + theirs.task_arithmetic(shifts, torch.tensor(weights)))
        ties = merge(models, "ties", weights=weights, base=base, density=density).read(name)
        torch.testing.assert_close(ties, origin + theirs.ties(shifts, torch.tensor(weights), density))
        torch.testing.assert_close(trimmed(shifts[0], density), theirs.prune(shifts[0], density, "magnitude"))


def test_an_arc_keeps_the_norm() -> None:
    a, b = torch.tensor([3.0, 0, 4]), torch.tensor([0.0, 5, 0])
    assert slerp(a, b, 0.5).tolist() == pytest.approx([3 / math.sqrt(2), 5 / math.sqrt(2), 4 / math.sqrt(2)])
    draw = torch.Generator().manual_seed(0)
    for t in (0.0, 0.1, 0.5, 0.9, 1.0):
        a, b = (torch.nn.functional.normalize(torch.randn(64, generator=draw), dim=0) * 7 for _ in range(2))
        turned = slerp(a, b, t)
        assert turned.norm().item() == pytest.approx(7, rel=1e-5)
        whole, part = (torch.arccos((a @ other / 49).clamp(-1, 1)).item() for other in (b, turned))
        assert part == pytest.approx(t * whole, abs=1e-3)
    assert slerp(a, a * 2, 0.5).tolist() == pytest.approx((a * 1.5).tolist())
    assert slerp(a * 0, a, 0.5).tolist() == pytest.approx((a / 2).tolist())


def test_types_are_kept_and_sums_are_wide(three: list[Weights]) -> None:
    half = [Weights(model.config, lambda name, model=model: model.read(name).bfloat16()) for model in three]
    for method, base in (("linear", None), ("ties", half[2])):
        merged = merge(half[:2], method, weights=[0.3, 0.7], base=base)  # type: ignore[arg-type]
        assert merged.read(NAME).dtype == torch.bfloat16
    exact = 0.3 * half[0].read(NAME).double() + 0.7 * half[1].read(NAME).double()
    error = (merge(half[:2], "linear", weights=[0.3, 0.7]).read(NAME).double() - exact).abs()
    assert (error <= exact.abs() * 2**-8 * 1.001).all() and (error.sum() / exact.abs().sum()) < 2**-9  # rounded once
    assert torch.equal(merge([half[0]] * 2, "linear", weights=[0.3, 0.7]).read(NAME), half[0].read(NAME))


def test_what_cannot_be_merged_is_refused(three: list[Weights], make: Make) -> None:
    one, two, _ = three
    other = Weights.of(make(intermediate_size=40, rope_theta=500.0, rms_norm_eps=1e-6))
    longer = Weights(one.config.model_copy(update={"max_position_embeddings": 128, "eos_token_id": 3}), one.read)
    assert merge([one, longer], "linear", weights=[1, 1]).config == one.config
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"models": [one, other]}, "intermediate_size 48 and 40; rms_norm_eps 1e-05 and 1e-06; rope_theta 10000.0 and 500.0"),
        ({"models": [one, two], "weights": [1]}, "give a weight for each model"),
        ({"models": [], "weights": []}, "0 models"),
        ({"models": three, "method": "slerp", "weights": [1, 1, 1]}, "two models, not 3"),
        ({"method": "slerp", "weights": [-1, 2]}, "no negative weight"),
        ({"method": "ties"}, "ties needs a base model"),
        ({"base": one}, "linear takes no base model"),
        ({"weights": [1, -1]}, "add up to nothing"),
        ({"method": "task", "base": one, "weights": [1, math.nan]}, "no finite number"),
        ({"method": "ties", "base": one, "density": 0}, "density 0"),
    ]  # fmt: skip
    for arguments, words in refusals:
        with pytest.raises(PunaError) as caught:
            merge(**{"models": [one, two], "method": "linear", "weights": [1, 1], **arguments})
        assert words in str(caught.value)
