"""The tensors of a folder of safetensors under their stored names, its headers checked; shards that are not there are told.

Comes in: a folder. Goes out: `Stored` for each tensor. Must never happen: an offset believed before it was held against the file's size;
a model refused only because it is not one that Puna can run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from puna.errors import PunaError
from puna.model.formats.huggingface import INDEX, WEIGHTS, _Place, no_weights, place_of, read_tensor
from puna.model.formats.safetensors_header import DTYPES, Entry, listed, parse_json, read_header, shown
from puna.reading import MAX_JSON, find_inside, read_bytes

# More than Puna's own models hold: a comparison only reads. Whole numbers are tables and packed weights.
TYPES = DTYPES | {
    "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_CODES = {dtype: code for code, dtype in TYPES.items()}
_MOST_NAMED = 8


@dataclass(frozen=True)
class Stored:
    """One tensor of the files: its shape, the type it is stored in, and the way to it (as stored; see `Weights.read`)."""

    shape: tuple[int, ...]
    dtype: str  # "BF16", in the format's own words
    read: Callable[[], Tensor]
    part: Callable[[int, int], Tensor] | None = None  # the way to some rows, where they can be read alone

    def read_rows(self, begin: int, end: int) -> Tensor:
        """Rows `begin` to `end` (not included), the file's other bytes unread where its format allows. Raises `ValueError` where the
        tensor has no such rows."""
        if not self.shape or not 0 <= begin <= end <= self.shape[0]:
            raise ValueError(f"rows {begin} to {end} of a tensor of the shape {list(self.shape)}")
        return self.read()[begin:end] if self.part is None else self.part(begin, end)


def read_stored(folder: Path) -> tuple[dict[str, Stored], tuple[str, ...]]:
    """(stored name -> tensor, what is missing in words). Raises `PunaError` for a damaged file, or where no weights are named at all."""
    files = _listed(folder)
    found: dict[str, Stored] = {}
    missing = []
    for file, expected in files.items():
        path = find_inside(folder, file)
        if path is None:
            missing.append(f"{shown(file)} is not there ({len(expected or ()):,} tensors)")
            continue
        here = _tensors_of(path)
        for name, stored in here.items():
            if name in found:
                raise PunaError(f"holds the tensor {shown(name)} a second time", where=str(path))
            found[name] = stored
        absent = {name for name in expected or () if name not in here and not name.endswith(_ANGLES)}
        if absent:
            missing.append(f"{shown(file)} does not hold what the index says is in it: {listed(absent)[:400]}")
    if len(missing) > _MOST_NAMED:
        missing = [*missing[:_MOST_NAMED], f"and {len(missing) - _MOST_NAMED} more files"]
    return _unpacked(found), tuple(missing)


_SCALES = ("_scale_inv", "_scale")  # beside X.weight: what its 8-bit floats are to be multiplied with
_BLOCK = 128  # rows and columns that share a scale, where the scales do not divide the shape


def _unpacked(found: dict[str, Stored]) -> dict[str, Stored]:
    """8-bit floats times their scales, as DeepSeek and FP8 checkpoints store them; everything else as it is."""
    made = dict(found)
    for name, stored in found.items():
        scale = next((found[name + end] for end in _SCALES if name + end in found), None)
        if stored.dtype.startswith("F8") and scale is not None and _fits(scale.shape, stored.shape):
            made[name] = replace(stored, part=None, read=lambda s=stored, by=scale: _times(s.read(), by.read()))  # type: ignore[misc]
    return made


def _fits(scale: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return scale in ((), (1,)) or (
        len(scale) == len(shape) and all(0 < few <= size for few, size in zip(scale, shape, strict=True))
    )


def _times(values: Tensor, scale: Tensor) -> Tensor:
    """Each scale holds for a block of rows and columns."""
    scale = scale.float()
    if scale.numel() > 1:
        for axis, size in enumerate(values.shape):
            few = scale.shape[axis]
            each = _BLOCK if -(-size // _BLOCK) == few else -(-size // few)
            scale = scale.repeat_interleave(each, dim=axis).narrow(axis, 0, size)
    return values.float() * scale


_ANGLES = "rotary_emb.inv_freq"  # a table that LLaMA 1 checkpoints carry, and that is computed


def _tensors_of(path: Path) -> dict[str, Stored]:
    """The tensors of one file, in the order of their bytes."""
    header = read_header(path, TYPES)
    found = {}
    for name, entry in sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if name.endswith(_ANGLES):
            continue
        found[name] = _stored(place_of(path, name, header, entry))
    return found


def _stored(place: _Place) -> Stored:
    def part(begin: int, end: int) -> Tensor:
        return read_tensor(replace(place, entry=_rows(place.entry, begin, end)), True)

    return Stored(place.entry.shape, _CODES[place.entry.dtype], lambda: read_tensor(place, True), part)


def _rows(entry: Entry, begin: int, end: int) -> Entry:
    """The line that a header would have for some rows of a tensor."""
    each = (entry.end - entry.begin) // max(1, entry.shape[0])
    start = entry.begin + begin * each
    return Entry(entry.dtype, (end - begin, *entry.shape[1:]), start, start + (end - begin) * each)


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
