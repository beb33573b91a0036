"""Models on disk: Hugging Face folders, llama2.c and GGUF files, read and written.

Comes in: what a user calls a model's path. Goes out: `Weights`, and files that other programs load. Must never happen: a
file of a kind that can run code opened at all.
"""

from pathlib import Path

import torch

from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats.huggingface import open_huggingface
from puna.model.formats.huggingface_write import save_model
from puna.model.weights import Weights

__all__ = ["load_config", "load_model", "open_model", "save_model"]


def open_model(path: Path) -> Weights:
    """The model at `path`, its header checked, its tensors read when they are asked for. Raises `PunaError`."""
    return open_huggingface(Path(path))


def load_config(path: Path) -> ModelConfig:
    """The config of the model at `path`. Raises as `open_model` does."""
    return open_model(path).config


def load_model(path: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Decoder:
    """The decoder at `path`, in `dtype` on `device`. Raises as `open_model` does, and where a weight is not finite."""
    return open_model(path).decoder(dtype, device)
