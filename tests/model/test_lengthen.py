"""A longer context by config alone: the numbers, and that transformers reads them as we do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.errors import PunaError
from puna.model.decoder import Decoder
from puna.model.formats import load_config, save_model
from puna.model.surgery.context import lengthen, raised_theta
from puna.model.weights import Weights

Make = Callable[..., Decoder]
WAYS: dict[str, dict[str, Any]] = {
    "abf": {}, "theta": {"how": "abf", "theta": 500_000.0}, "yarn": {"how": "yarn"}, "linear": {"how": "linear"},
}  # fmt: skip


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("way", WAYS)
def test_transformers_gives_the_same_logits(way: str, family: str, make: Make, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = make(attention_bias=family == "Qwen2", qk_norm=family == "Qwen3")
    longer = lengthen(Weights.of(model), 160, **WAYS[way]).decoder()
    save_model(longer, longer.config, tmp_path)
    theirs = getattr(transformers, f"{family}ForCausalLM").from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 96, (2, 150), generator=torch.Generator().manual_seed(0))  # beyond the 64 of before
    with torch.no_grad():
        ours = longer.logits(longer(ids))
        torch.testing.assert_close(theirs(ids).logits, ours, atol=1e-5, rtol=0)
        assert not torch.allclose(ours, model.logits(model(ids)), atol=1e-4)
    assert theirs.config.max_position_embeddings == 160
    assert load_config(tmp_path) == longer.config
    for name, tensor in Weights.of(longer).items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_the_numbers(make: Make) -> None:
    weights = Weights.of(make())  # 64 positions, heads of 8
    abf = lengthen(weights, 256).config
    assert abf.max_position_embeddings == 256 and abf.rope_scaling is None
    assert abf.rope_theta == pytest.approx(10_000 * 4 ** (8 / 6))
    # The slowest pair turns four times slower, the fastest as before (bloc97 2023).
    slow, slower = (Decoder(config).rope.inv_freq for config in (weights.config, abf))
    assert (slow[-1] / slower[-1]).item() == pytest.approx(4, rel=1e-5) and slow[0] == slower[0]
    assert raised_theta(10_000, 128, 8) == pytest.approx(82_684, rel=1e-3)
    assert lengthen(weights, 256, theta=1e6).config.rope_theta == 1e6
    yarn = lengthen(weights, 256, "yarn").config
    assert yarn.rope_scaling is not None and yarn.rope_theta == 10_000
    assert yarn.rope_scaling.to_hf() == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert lengthen(lengthen(weights, 128), 256, "yarn").config.rope_scaling.factor == 2  # type: ignore[union-attr]
    assert lengthen(weights, 96, "linear").config.to_hf()["rope_scaling"] == {"rope_type": "linear", "factor": 1.5}


def test_what_cannot_be_lengthened_is_refused(make: Make) -> None:
    weights = Weights.of(make())
    stretched = lengthen(weights, 128, "yarn")
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: lengthen(weights, 64), "reads 64 tokens"),
        (lambda: lengthen(weights, 2**27), "67,108,864"),
        (lambda: lengthen(stretched, 256), "stretched already (yarn)"),
        (lambda: lengthen(weights, 128, "yarn", 5e5), "a theta is for abf"),
        (lambda: lengthen(weights, 128, theta=9999.0), "not between the model's 10000"),
        (lambda: lengthen(weights, 128, theta=float("nan")), "not between"),
        (lambda: lengthen(Weights.of(make(head_dim=2, hidden_size=8)), 128), "use linear"),
        (lambda: lengthen(weights, 2**26), "not between the model's 10000 and 1e+12"),
    ]  # fmt: skip
    for call, words in refusals:
        with pytest.raises(PunaError) as caught:
            call()
        assert words in str(caught.value)
