"""Models on disk: Hugging Face folders, llama2.c and GGUF files, read and written.

Comes in: what a user calls a model's path. Goes out: `Weights`, and files that other programs load. Must never happen: a
file of a kind that can run code opened at all.
"""

from pathlib import Path

import torch

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import huggingface
from puna.model.formats.huggingface import INDEX, PICKLE_MEND, PICKLES, WEIGHTS, open_huggingface
from puna.model.formats.huggingface_write import save_model, write_huggingface
from puna.model.formats.quantised import is_quantised, open_quantised
from puna.model.formats.safetensors_header import shown
from puna.model.weights import Weights
from puna.reading import find_inside

__all__ = ["load_config", "load_model", "model_file", "open_model", "save_model", "write_huggingface"]

_PICKLE_NAMES = ("pytorch_model", "adapter_model", "consolidated", "training_args", "optimizer", "scheduler")


def open_model(path: Path) -> Weights:
    """The model at `path`, its header checked, its tensors read when they are asked for.

    `path`: a Hugging Face folder, a `.gguf` file, a llama2.c `.bin` file, or a folder that holds one such file. Raises
    `PunaError` where it is none of these, or is damaged or not supported; a pickle file is never opened.
    """
    path = Path(path)
    file = model_file(path)
    if file is None:
        if is_quantised(path):
            return open_quantised(path)
        return open_huggingface(path)
    if file.suffix.lower() == ".gguf":
        from puna.model.formats.gguf import open_gguf

        return open_gguf(file)
    from puna.model.formats.llama2c import open_llama2c

    return open_llama2c(file)


def load_config(path: Path) -> ModelConfig:
    """The config of the model at `path`; of a Hugging Face folder no more than that is read. Raises as `open_model` does."""
    path = Path(path)
    plain = model_file(path) is None and not is_quantised(path)
    return huggingface.load_config(path) if plain else open_model(path).config


def load_model(path: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Decoder:
    """The decoder at `path`, in `dtype` on `device`. Raises as `open_model` does, and where a weight is not finite."""
    return open_model(path).decoder(dtype, device)


def model_file(path: Path) -> Path | None:
    """The `.gguf` or llama2.c `.bin` file that `path` names or, as a folder, holds; None for a Hugging Face folder.

    A folder's safetensors come first, then its one `.gguf`, then its one `.bin` that is no tokenizer (`tok*.bin`).
    Raises `PunaError` where `path` is no model of any kind, is a pickle file, or holds several files to choose from.
    """
    path = Path(path)
    if path.is_dir():
        return _only_file(path)
    if not path.exists():
        raise PunaError("does not exist", where=str(path), mend="a model is a folder, or a .gguf or .bin file")
    if not path.is_file():
        raise PunaError("is neither a file nor a folder", where=str(path))
    if path.suffix.lower() == ".safetensors":
        raise PunaError("is only the weights of a model", where=str(path),
                        mend="name the folder that holds it and config.json")  # fmt: skip
    if any(path.match(pattern) for pattern in PICKLES[2:]) or is_pickle(path):
        raise PunaError("is a pickle file, which can run code and is never opened", where=str(path), mend=PICKLE_MEND)
    if path.suffix.lower() not in (".gguf", ".bin"):
        raise PunaError("is no model", where=str(path), mend="a model is a folder, or a .gguf or .bin file")
    return path


def is_pickle(path: Path) -> bool:
    """True where a file is called or begins as those of torch.save: a zip archive, or a pickle of protocol 2 to 5.

    A legacy llama2.c file begins with its width as an int32, 128 for instance: 80 00 00 00. A pickle's first byte is 80 as
    well, then comes the protocol's number, and never a zero byte after it.
    """
    if path.name.startswith(_PICKLE_NAMES):
        return True
    with open(path, "rb") as stream:
        start = stream.read(4)
    return start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[2:3] != b"\0")


def _only_file(folder: Path) -> Path | None:
    if any((folder / name).is_symlink() or (folder / name).exists() for name in (WEIGHTS, INDEX)):
        return None
    for suffix in (".gguf", ".bin"):
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == suffix)
        paths = [path for name in names if (path := find_inside(folder, name)) is not None]
        if suffix == ".bin":
            paths = [path for path in paths if not path.name.startswith("tok") and not is_pickle(path)]
        if len(paths) > 1:
            some = ", ".join(shown(path.name) for path in paths[:8]) + (", ..." if len(paths) > 8 else "")
            raise PunaError(f"holds {len(paths)} {suffix} files: {some}", where=str(folder), mend="name one of them")
        if paths:
            return paths[0]
    return None
