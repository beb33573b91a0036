"""The header of a safetensors file, read with nothing believed.

Comes in: a path. Goes out: names, types, shapes and offsets that fit the file to the byte. Must never happen: memory
taken, or a library called, on the word of a header that was not checked.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puna.errors import PunaError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# The library's own limit is 100 MB; a header of 1,000 layers has 2. JSON of 8 MiB can grow to 200 MB of Python's objects.
_MAX_HEADER = 8 << 20
_MAX_DIMENSIONS = 4
_MAX_PATTERNS = 400  # a model has some 15 patterns of names; only a file made to annoy has more than this


@dataclass(frozen=True)
class Entry:
    """One tensor of the file; offsets count from the first byte after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass
class Header:
    """A checked header. `data_start`: where in the file the tensors' bytes begin."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path, dtypes: Mapping[str, torch.dtype] = DTYPES) -> Header:
    """Read and check a header: its length, every type, shape and offset; the tensors must fill the file without a gap.

    `dtypes`: the types that may stand in it. Raises `PunaError` naming the file and what is wrong in it.
    """
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise PunaError(f"is truncated: {size:,} bytes, the header alone claims {length:,}", where=str(path))
            if length > _MAX_HEADER:
                raise PunaError(f"claims a header of {length:,} bytes", where=str(path))
            text = stream.read(length)
    except OSError as error:
        raise PunaError(f"cannot be read ({error.strerror})", where=str(path)) from error
    try:
        value = parse_json(text)
    except ValueError as error:
        raise PunaError(f"has no readable safetensors header ({str(error)[:80]})", where=str(path)) from error
    if not isinstance(value, dict):
        raise PunaError("has no safetensors header", where=str(path))
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(item, str) for item in metadata.values()):
        raise PunaError("has metadata that are not text", where=str(path))
    tensors = {name: _entry(name, fields, path, dtypes) for name, fields in value.items()}
    _fill_exactly(tensors, size - 8 - length, path)
    return Header(tensors, metadata, 8 + length)


def parse_json(text: bytes) -> Any:
    """JSON in which no name stands twice (two readers could see two models in it). Raises `ValueError` on anything else."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_no_twice)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def shown(name: str) -> str:
    """A stranger's name as it may stand in a message: short, and without the bytes that steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:120])


def listed(names: Iterable[str]) -> str:
    """All names on one line, those that differ only in the layer as one: `model.layers.0-31.mlp.up_proj.weight`."""
    layers: dict[tuple[str, str], set[int]] = {}
    for name in names:
        found = re.match(r"(.*?\.)([0-9]{1,6})(\..*)", shown(name))
        head, number, tail = (found[1], int(found[2]), found[3]) if found else (shown(name), -1, "")
        layers.setdefault((head, tail), set()).add(number)
    patterns = [f"{head}{_ranges(numbers)}{tail}" for (head, tail), numbers in sorted(layers.items())]
    more = len(patterns) - _MAX_PATTERNS
    return ", ".join(patterns[:_MAX_PATTERNS]) + (f" and {more:,} more kinds of names" if more > 0 else "")


def _ranges(numbers: set[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3 and 7; nothing for -1, the mark of a name without a layer."""
    runs: list[list[int]] = []
    for number in sorted(numbers - {-1}):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _entry(name: str, fields: Any, path: Path, dtypes: Mapping[str, torch.dtype]) -> Entry:
    """One tensor's line, checked by itself."""
    where, tensor = str(path), f"the tensor {shown(name)!r}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise PunaError(f"{tensor} is not described by dtype, shape and data_offsets", where=where)
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str) or code not in dtypes:
        raise PunaError(f"{tensor} is of type {str(code)[:20]}", where=where, mend=f"supported are {', '.join(dtypes)}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_count, shape)):
        raise PunaError(f"{tensor} has the shape {str(shape)[:80]}", where=where)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise PunaError(f"{tensor} has the offsets {str(offsets)[:80]}", where=where)
    wanted = math.prod(shape) * dtypes[code].itemsize
    if offsets[1] - offsets[0] != wanted:
        raise PunaError(f"{tensor} needs {wanted} bytes and has {offsets[1] - offsets[0]}", where=where)
    return Entry(dtypes[code], tuple(shape), offsets[0], offsets[1])


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _fill_exactly(tensors: dict[str, Entry], size: int, path: Path) -> None:
    """No overlap, no gap, nothing beyond the end, nothing left over."""
    reached = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > size:
            raise PunaError(
                f"is truncated: the tensor {shown(name)!r} ends at byte {entry.end:,} of {size:,}", where=str(path)
            )
        if entry.begin != reached:
            word = "overlaps the one before" if entry.begin < reached else "leaves a gap before it"
            raise PunaError(f"the tensor {shown(name)!r} {word}", where=str(path))
        reached = entry.end
    if reached != size:
        raise PunaError(f"holds {size - reached:,} bytes that belong to no tensor", where=str(path))
