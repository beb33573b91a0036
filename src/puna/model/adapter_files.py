"""Adapters on disk, as `peft` writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

Comes in: a decoder with an adapter, or a folder of a stranger's. Goes out: files that `peft`, vLLM and transformers load; or an
`Adapter` and its checked tensors. Must never happen: an option of peft's that changes the arithmetic passed over in silence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from puna.errors import PunaError
from puna.files import atomic_file, write_json
from puna.model.adapters import PROJECTIONS, Adapter, adapter_tensors, attach, merged
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats.safetensors_header import listed, parse_json, read_header
from puna.model.weights import Weights, require_finite
from puna.reading import find_inside

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."  # peft's two wrappers around the model
_MAX_JSON = 1 << 20
_READ = frozenset(
    {"peft_type", "r", "lora_alpha", "target_modules", "use_dora", "use_rslora", "bias", "init_lora_weights"}
)
# What is true or set in files that peft writes, and leaves a trained adapter's arithmetic as it is. Dropout acts in training only.
_NO_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "lora_dropout", "peft_version",
    "megatron_core", "qalora_group_size", "exclude_modules", "eva_config", "runtime_config", "layers_pattern", "ensure_weight_tying",
})  # fmt: skip
# Starts that leave the base as it is. PiSSA, OLoRA, CorDA, LoftQ and others subtract from it: their adapter fits no other base.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def save_adapter(decoder: Decoder, adapter: Adapter, folder: Path, base_name: str) -> None:
    """Write the attached adapter's two files, each whole or not at all. `base_name`: the base's folder or hub name, for `peft`.

    Raises `PunaError` where the decoder carries another adapter than `adapter` says, or a value is not finite.
    """
    folder, tensors = Path(folder), adapter_tensors(decoder)
    _same(adapter, decoder.config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(folder))
    for name, tensor in tensors.items():
        require_finite(name, tensor, str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    named = {_PREFIX + name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(folder / TENSORS) as stream:
        stream.write(save(named, metadata={"format": "pt"}))
    write_json(folder / CONFIG, {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name, "inference_mode": True,
        "r": adapter.rank, "lora_alpha": int(adapter.alpha) if adapter.alpha.is_integer() else adapter.alpha,
        "target_modules": list(adapter.targets), "use_dora": adapter.kind == "dora", "use_rslora": adapter.rslora,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None,
        "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None,
    })  # fmt: skip


def open_adapter(folder: Path, config: ModelConfig) -> tuple[Adapter, dict[str, Tensor]]:
    """An adapter for a model of this config, and its tensors under the decoder's names.

    Raises `PunaError` for pickle, an option that is not understood, files that leave the folder, tensors that are missing,
    extra or misshapen (all named), and values that are not finite.
    """
    folder = Path(folder)
    options, path = find_inside(folder, CONFIG), find_inside(folder, TENSORS)
    if options is None:
        raise PunaError(f"is no adapter: {CONFIG} is missing", where=str(folder))
    if path is None and (folder / PICKLE).exists():
        raise PunaError(f"{PICKLE} is a pickle file, which can run code: it is not read", where=str(folder),
                        mend="load it with peft where you trust it, and save it again: peft writes safetensors")  # fmt: skip
    if path is None:
        raise PunaError(f"{TENSORS} is missing", where=str(folder))
    values = _read_config(options)
    header = read_header(path)
    if strange := [name for name in header.tensors if not name.startswith(_PREFIX)]:
        raise PunaError(f"{len(strange)} tensors are not named as peft names them: {listed(strange)}", where=str(path))
    found = {name.removeprefix(_PREFIX): entry.shape for name, entry in header.tensors.items()}
    adapter = _adapter(values, found, str(options))
    _same(adapter, config, found, str(path))
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in found:
                tensors[name] = file.get_tensor(_PREFIX + name).to(torch.float32)
                require_finite(name, tensors[name], str(path))
    except (SafetensorError, OSError) as error:
        raise PunaError(f"cannot be read ({str(error)[:120]})", where=str(path)) from error
    return adapter, tensors


def merge_adapter(weights: Weights, folder: Path, dtype: torch.dtype | None = None) -> Weights:
    """The weights with a folder's adapter added in (`adapters.merged`). Raises as `open_adapter` does."""
    adapter, tensors = open_adapter(folder, weights.config)
    return merged(weights, tensors, adapter, dtype)


def attach_adapter(decoder: Decoder, folder: Path) -> Adapter:
    """Freeze the decoder and attach a folder's adapter, to go on training or to compute with it; returns what it is."""
    adapter, tensors = open_adapter(folder, decoder.config)
    attach(decoder, adapter, seed=0)
    for name, tensor in adapter_tensors(decoder).items():
        tensor.copy_(tensors[name])
    return adapter


def _read_config(path: Path) -> dict[str, Any]:
    """The options of `adapter_config.json`; whatever is on and not known is refused by name."""
    if path.stat().st_size > _MAX_JSON:
        raise PunaError(f"has {path.stat().st_size:,} bytes; no file of its kind is that large", where=str(path))
    try:
        values = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise PunaError(f"is not JSON ({str(error)[:80]})", where=str(path)) from error
    if not isinstance(values, dict):
        raise PunaError("is not a JSON object", where=str(path))
    if values.get("peft_type") != "LORA":
        raise PunaError(f"peft_type {str(values.get('peft_type'))[:40]!r} is not supported", where=str(path),
                        mend="supported are LoRA and DoRA, which both say LORA")  # fmt: skip
    # peft adds options all the time; off is off, whatever it is called.
    odd = sorted(str(key)[:60] for key, value in values.items() if value and key not in _READ | _NO_EFFECT)
    if odd:
        raise PunaError(
            f"options that change the arithmetic and are not supported: {', '.join(odd[:8])}", where=str(path)
        )
    for key, allowed in (("bias", ("none", None)), ("init_lora_weights", _STARTS), ("use_dora", (True, False, None)),
                         ("use_rslora", (True, False, None))):  # fmt: skip
        value = values.get(key)
        if not any(value is option or (isinstance(value, str) and value == option) for option in allowed):
            raise PunaError(f"{key} = {str(value)[:60]!r} is not supported", where=str(path))
    return values


def _adapter(values: Mapping[str, Any], found: Mapping[str, tuple[int, ...]], where: str) -> Adapter:
    """What the options and the tensors' names say together: `target_modules` may be a pattern, the names are the fact."""
    parts = {part for name in found for part in name.split(".")}
    targets = tuple(name for name in PROJECTIONS if name in parts)
    named = values.get("target_modules")
    listed = {str(name).rpartition(".")[2] for name in named} if isinstance(named, list) else set()
    if missing := sorted(listed - set(targets)):
        raise PunaError(f"target_modules names {', '.join(missing)[:200]}, which no tensor belongs to", where=where,
                        mend=f"supported are {', '.join(PROJECTIONS)}")  # fmt: skip
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if type(rank) is not int or type(alpha) not in (int, float):
        raise PunaError("r and lora_alpha are not both numbers", where=where)
    return Adapter.of({"kind": "dora" if values.get("use_dora") else "lora", "rank": rank, "alpha": alpha, "targets": targets,
                       "rslora": bool(values.get("use_rslora"))}, where)  # fmt: skip


def _same(adapter: Adapter, config: ModelConfig, found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """The tensors must be those that the adapter has on a model of this config."""
    wanted = adapter.shapes(config)
    both = (
        (wanted.keys() - found.keys(), "missing"),
        (found.keys() - wanted.keys(), "that belong to no adapter of this model"),
    )
    words = [f"{len(names)} tensors {word}: {listed(names)}" for names, word in both if names]
    if words:
        raise PunaError("; ".join(words), where=where)
    for name, shape in wanted.items():
        if found[name] != shape:
            raise PunaError(f"{name} has shape {list(found[name])}, the model needs {list(shape)}", where=where,
                            mend="the adapter was made for another model")  # fmt: skip
