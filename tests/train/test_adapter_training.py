"""Training an adapter: only it learns and is kept; a killed run ends with the same bytes; what comes out loads in peft."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.errors import PunaError
from puna.model.adapter_files import save_adapter
from puna.model.adapters import Adapter, adapter_tensors
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.device import Device
from puna.model.formats import open_model, save_model
from puna.model.formats.huggingface_write import write_huggingface
from puna.model.formats.safetensors_header import DTYPES, read_header
from puna.recipe.scaling import Plan
from puna.tokens.loader import Batches
from puna.train.calibrate import calibrate
from puna.train.checkpoint import Checkpoint
from puna.train.choice import activation_bytes, bytes_needed, flops_per_token, state_bytes
from puna.train.loop import TrainResult, train
from puna.train.loss import linear_cross_entropy
from puna.train.metrics import read_metrics
from puna.train.optim import adapter_rate

Make = Callable[..., Plan]


@pytest.fixture
def base(tmp_path: Path, config: ModelConfig) -> Path:
    model = Decoder(config)
    model.init_weights(1)
    save_model(model, config, tmp_path / "base")
    return tmp_path / "base"


class StopHereError(Exception):
    """Thrown from a checkpoint: the process goes no further."""


def stop_at(step: int) -> Callable[[Checkpoint], None]:
    def check(done: Checkpoint) -> None:
        if done.step == step:
            raise StopHereError

    return check


def learnt(result: TrainResult) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in adapter_tensors(result.model).items()}


ADAPTERS: dict[str, Adapter] = {
    "dora": Adapter(kind="dora", rank=4, alpha=8),
    "dora-8": Adapter(kind="dora", rank=4, bits=8), "lora-4": Adapter(rank=4, bits=4, targets=("q_proj", "up_proj")),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_resumed_equals_uninterrupted(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device, base: Path, name: str
) -> None:
    plan = make_plan(steps=8, checkpoint_seconds=1e-9, neftune=3.0)
    given: dict[str, Any] = {"seed": 7, "device": cpu, "init": base, "adapter": ADAPTERS[name]}
    whole = train(plan, config, batches, tmp_path / "whole", **given)
    for stop in (3, 6):
        with pytest.raises(StopHereError):
            train(plan, config, batches, tmp_path / "parts", **given, on_checkpoint=stop_at(stop))
        torch.manual_seed(stop)
    parts = train(plan, config, batches, tmp_path / "parts", **given)
    assert learnt(parts) == learnt(whole)
    assert parts.final_loss == whole.final_loss
    before, after = open_model(base), whole.weights
    changed = {name for name in before.names if not torch.equal(before.read(name), after.read(name))}
    assert changed == {f"{path}.weight" for path in ADAPTERS[name].modules(config)}
    # The frozen weights are in no checkpoint.
    (file,) = (tmp_path / "whole" / "checkpoints" / "step_00000008").glob("*.safetensors")
    held = {
        name.removeprefix("model.")
        for name in read_header(file, {**DTYPES, "U8": torch.uint8}).tensors
        if name.startswith("model.")
    }
    assert held == ADAPTERS[name].shapes(config).keys()


def test_another_base_or_adapter_is_refused(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device, base: Path
) -> None:
    plan, work = make_plan(steps=2), tmp_path / "work"
    given: dict[str, Any] = {"seed": 7, "device": cpu}
    first = train(plan, config, batches, work, **given, init=base, adapter=Adapter(rank=2))
    assert first.base_digest is not None and len(first.base_digest) == 64
    model = open_model(base).decoder()
    with torch.no_grad():
        model.model.norm.weight[0] += 0.5
    save_model(model, config, tmp_path / "other")
    with pytest.raises(PunaError, match="another base"):
        train(plan, config, batches, work, **given, init=tmp_path / "other", adapter=Adapter(rank=2))
    with pytest.raises(PunaError, match="another adapter"):
        train(plan, config, batches, work, **given, init=base, adapter=Adapter(rank=3))
    with pytest.raises(PunaError, match="another adapter"):
        train(plan, config, batches, work, **given, init=base)
    with pytest.raises(PunaError, match="needs a model to adapt"):
        train(plan, config, batches, tmp_path / "new", **given, adapter=Adapter(rank=2))
    wide = config.model_copy(update={"intermediate_size": 128})
    with pytest.raises(PunaError, match="other shapes"):
        train(plan, wide, batches, tmp_path / "new", **given, init=base, adapter=Adapter(rank=2))


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_trained_here_it_computes_the_same_in_peft(
    tmp_path: Path, batches: Batches, make_plan: Make, cpu: Device, name: str, kind: str
) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    torch.manual_seed(0)
    extra = {"head_dim": 16} if name == "Qwen3" else {}
    theirs = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(
        vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, bos_token_id=1, eos_token_id=2, **extra,
    )).float().eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "base")
    weights, adapter = open_model(tmp_path / "base"), Adapter(kind=kind, rank=4, alpha=8)
    result = train(make_plan(steps=8), weights.config, batches, tmp_path / "work", seed=7, device=cpu,
                   init=tmp_path / "base", adapter=adapter)  # fmt: skip
    save_adapter(result.model, adapter, tmp_path / "adapter", str(tmp_path / "base"))
    write_huggingface(result.weights, tmp_path / "merged")
    wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    ids = batches.batch(0).inputs
    with torch.no_grad():
        start, logits = weights.decoder()(ids), wrapped(ids).logits
        ours = result.model.logits(result.model(ids))
        assert (result.model(ids) - start).abs().max() > 0.05
        torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-5)
        whole = wrapped.merge_and_unload()
        for tensor_name, tensor in open_model(tmp_path / "merged").items():
            torch.testing.assert_close(tensor, whole.state_dict()[tensor_name], atol=1e-6, rtol=1e-6)
        plain = open_model(tmp_path / "merged").decoder()
        torch.testing.assert_close(plain.logits(plain(ids)), whole(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_takes_no_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(7, 8, generator=draw), torch.randn(5, 8, generator=draw)
    targets, grads = torch.randint(5, (7,), generator=draw), []
    for learns in (True, False):
        states, weight = hidden.clone().requires_grad_(), head.clone().requires_grad_(learns)
        linear_cross_entropy(states, weight, targets, 7).backward()
        grads.append(states.grad)
        assert (weight.grad is None) != learns
    assert torch.equal(*grads)


def test_memory_and_work_are_the_adapter_s(config: ModelConfig, make_plan: Make, cpu: Device) -> None:
    big = config.model_copy(update={"hidden_size": 512, "intermediate_size": 1408, "head_dim": 64, "num_attention_heads": 8,
                                    "num_hidden_layers": 8})  # fmt: skip
    plan, lora = make_plan(), Adapter(rank=8)
    sizes = [state_bytes(big, plan, adapter) for adapter in (None, lora, replace_bits(lora, 8), replace_bits(lora, 4))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == 4 * big.parameters + 16 * lora.parameters(big)
    assert sizes[3] < 0.4 * sizes[1]
    assert bytes_needed(plan, big, cpu, 4, lora) < bytes_needed(plan, big, cpu, 4)
    dora = Adapter(kind="dora", rank=8)
    assert activation_bytes(big, cpu, 32, dora) > activation_bytes(big, cpu, 32, lora) > activation_bytes(big, cpu, 32)
    assert 0.6 < flops_per_token(big, 32, lora) / flops_per_token(big, 32) < 0.8
    for adapter in (lora, Adapter(rank=4, bits=4)):
        found = calibrate(config, plan, cpu, seconds=0.1, adapter=adapter)
        assert found.tokens_per_second > 100 and 0 < found.update_share < 1


def replace_bits(adapter: Adapter, bits: int) -> Adapter:
    return Adapter(**{**adapter.model_dump(), "bits": bits})


def test_the_log_tells_the_adapter_s_rate(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device, base: Path
) -> None:
    plan = make_plan(steps=4, warmup_steps=0, decay_share=0.0)
    result = train(plan, config, batches, tmp_path / "work", seed=7, device=cpu, init=base, adapter=Adapter(rank=2))
    assert [row["lr"] for row in read_metrics(result.metrics)] == [pytest.approx(adapter_rate(plan, 32))] * 4
    usual = make_plan(lr_vector=0.3 * 3e-3 * (2048 / 256) ** -0.5)
    assert adapter_rate(usual, 2048) == pytest.approx(5e-4 * (2000 / 2048) ** 0.781, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dora", "lora-4"])
def test_compiled_it_learns_the_same_and_resumes_to_the_same_bytes(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device, base: Path, name: str
) -> None:
    given: dict[str, Any] = {"seed": 7, "device": replace(cpu, threads=2), "init": base, "adapter": ADAPTERS[name]}
    plain = train(make_plan(steps=6), config, batches, tmp_path / "plain", **given)
    plan = make_plan(steps=6, compile="on", checkpoint_seconds=1e-9)
    whole = train(plan, config, batches, tmp_path / "whole", **given)
    torch._dynamo.reset()
    with pytest.raises(StopHereError):
        train(plan, config, batches, tmp_path / "parts", **given, on_checkpoint=stop_at(3))
    torch._dynamo.reset()
    parts = train(plan, config, batches, tmp_path / "parts", **given)
    assert learnt(parts) == learnt(whole)
    assert whole.final_loss == pytest.approx(plain.final_loss, rel=1e-4)
