"""The tensors of a folder of safetensors under their stored names, its headers checked; shards that are not there are told.

Comes in: a folder. Goes out: `Stored` for each tensor. Must never happen: an offset believed before it was held against the file's size;
a model refused only because it is not one that Puna can run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from puna.errors import PunaError
from puna.model.formats.huggingface import INDEX, WEIGHTS, no_weights, place_of, read_tensor
from puna.model.formats.safetensors_header import DTYPES, parse_json, read_header, shown
from puna.reading import MAX_JSON, find_inside, read_bytes

_MOST_NAMED = 8


@dataclass(frozen=True)
class Stored:
    """One tensor of the files: its shape, the type it is stored in, and the way to it (as stored; see `Weights.read`)."""

    shape: tuple[int, ...]
    dtype: str  # "BF16", in the format's own words
    read: Callable[[], Tensor]


def read_stored(folder: Path) -> tuple[dict[str, Stored], tuple[str, ...]]:
    """(stored name -> tensor, what is missing in words). Raises `PunaError` for a damaged file, or where no weights are named at all."""
    names = _listed(folder)
    found: dict[str, Stored] = {}
    missing = []
    for file, expected in names.items():
        path = find_inside(folder, file)
        if path is None:
            missing.append(f"{shown(file)} is not there ({len(expected or ()):,} tensors)")
            continue
        header = read_header(path, DTYPES)
        in_order = sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end))
        for name, entry in in_order:
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if name in found:
                raise PunaError(f"holds the tensor {shown(name)} a second time", where=str(path))
            place = place_of(path, name, header, entry)
            code = next(code for code, dtype in DTYPES.items() if dtype == entry.dtype)
            found[name] = Stored(entry.shape, code, lambda place=place: read_tensor(place, True))  # type: ignore[misc]
    if len(missing) > _MOST_NAMED:
        missing = [*missing[:_MOST_NAMED], f"and {len(missing) - _MOST_NAMED} more files"]
    return found, tuple(missing)


def _listed(folder: Path) -> dict[str, set[str] | None]:
    """File -> the tensors that the index says are in it; None: a single file holds all."""
    if find_inside(folder, WEIGHTS) is not None:
        return {WEIGHTS: None}
    index = find_inside(folder, INDEX)
    if index is None:
        raise no_weights(folder)
    try:
        value = parse_json(read_bytes(index, MAX_JSON))
        mapping = value["weight_map"]
        files: dict[str, set[str] | None] = {}
        for name, file in mapping.items():
            if (
                not isinstance(file, str)
                or Path(file).name != file
                or "\0" in file
                or not file.endswith(".safetensors")
            ):
                raise ValueError(f"it names the file {str(file)[:60]!r}")
            files.setdefault(file, set()).add(name)  # type: ignore[union-attr]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PunaError(f"is not an index of safetensors files ({shown(str(error))})", where=str(index)) from None
    if not files:
        raise PunaError("is an index of no files", where=str(index))
    return dict(sorted(files.items()))
