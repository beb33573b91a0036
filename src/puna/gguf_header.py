"""GGUF files (llama.cpp's format): the header and the metadata, checked.

Comes in: a file that a stranger may have made. Goes out: its metadata, and where each tensor lies. Must never happen: a count,
a length or an offset believed before it was held against the file's size.

The layout (ggml, docs/gguf.md): "GGUF", version u32, number of tensors u64, number of metadata pairs u64; the pairs (key,
type u32, value); the tensors (name, axes u32, extents u64 with the row's length first, type u32, offset u64); padding to the
alignment; the tensors' bytes. A string is its length (u64) and UTF-8; an array its type (u32), its length (u64), its values.
"""

import mmap
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from puna.errors import PunaError

# The largest published headers (vocabularies of 262,144 entries with their merges) take 15 MB and 780,000 strings. What is kept
# of a header is at most four bytes a byte of UTF-8 and 88 bytes a string: below MAX_MEMORY whatever the file says.
MAX_HEADER_BYTES = 32 << 20
MAX_STRINGS = 1 << 20
MAX_TENSORS = 1 << 16
MAX_MEMORY = 256 << 20
_MAX_STRING_BYTES = 1 << 20
_MAX_KEY_BYTES = 1 << 16  # the format's own bound
_MAX_NAME_BYTES = 64  # ggml's own bound
_MAX_AXES = 4

# Number types of metadata: numpy's name for each.
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9
_U64 = struct.Struct("<Q")

# Tensor types: name, values in a block, bytes of a block (ggml.h and gguf.constants.GGML_QUANT_SIZES).
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

T = TypeVar("T", int, float, str, bool)


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: `shape` with the row's length last (as torch has it), `offset` from the file's beginning."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself. Metadata values: int, float, bool, str, a list of str, or a numpy array of numbers."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of `key`, which must be of `kind` (a whole number will do for a float).

        Raises `PunaError` where it is of another type, or missing while there is no default.
        """
        value = self.metadata.get(key, default)
        if value is None:
            raise PunaError(f"lacks the metadata {key}", where=str(self.path))
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise PunaError(f"{key} is {_shown(value)}, not of type {kind.__name__}", where=str(self.path))
        return value

    def strings(self, key: str) -> list[str]:
        """The list of strings under `key`; raises `PunaError` where it is missing or something else."""
        value = self.metadata.get(key)
        if not isinstance(value, list):
            raise PunaError(f"{key} is {_shown(value)}, not a list of strings", where=str(self.path))
        return value

    def numbers(self, key: str) -> np.ndarray:
        """The array of numbers under `key`; raises `PunaError` where it is missing or something else."""
        value = self.metadata.get(key)
        if not isinstance(value, np.ndarray):
            raise PunaError(f"{key} is {_shown(value)}, not a list of numbers", where=str(self.path))
        return value


def read_gguf_header(path: Path) -> GgufHeader:
    """The checked header of a GGUF file, version 2 or 3, little-endian. Never takes more memory than `MAX_MEMORY`.

    Raises `PunaError` for anything truncated, out of bounds, doubled, overlapping, of unknown type, or not GGUF at all.
    """
    path = Path(path)
    with ExitStack() as files:
        try:
            stream = files.enter_context(open(path, "rb"))
            size = stream.seek(0, 2)
            if size < 24:
                raise PunaError("is no GGUF file: too short for a header", where=str(path))
            span = min(size, MAX_HEADER_BYTES)
            head = files.enter_context(mmap.mmap(stream.fileno(), span, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # no such file, a folder, a pipe
            raise PunaError(f"cannot be read ({str(error)[:120]})", where=str(path)) from error
        return _Parser(path, head, size).header()


class _Parser:
    """A cursor over the mapped head of the file; `size` is the whole file's."""

    def __init__(self, path: Path, head: mmap.mmap, size: int) -> None:
        self.path, self.head, self.size = path, head, size
        self.place, self.strings = 0, 0

    def fail(self, what: str, mend: str | None = None) -> PunaError:
        """The error for this file; of a stranger's names only what does not steer a terminal."""
        return PunaError("".join(char if char.isprintable() else "?" for char in what), where=str(self.path), mend=mend)

    def take(self, count: int, what: str) -> int:
        """Step over `count` bytes, which must be there; gives where they begin."""
        if count > len(self.head) - self.place:
            if self.size > MAX_HEADER_BYTES:
                raise self.fail(f"has a header of more than {MAX_HEADER_BYTES >> 20} MiB, or is damaged ({what[:80]})")
            raise self.fail(f"is truncated: {what[:80]} ends beyond the file")
        start, self.place = self.place, self.place + count
        return start

    def number(self, form: str, what: str) -> Any:
        """One number in struct's notation."""
        start = self.take(struct.calcsize("<" + form), what)
        return struct.unpack_from("<" + form, self.head, start)[0]

    def string(self, bound: int, what: str) -> str:
        return self.texts(1, bound, what)[0]

    def texts(self, count: int, bound: int, what: str) -> list[str]:
        """`count` strings, one after the other, each of at most `bound` bytes."""
        if count * 8 > len(self.head) - self.place:  # each takes at least its length
            raise self.fail(f"claims {count:,} strings for {what[:80]}, which its header cannot hold")
        self.strings += count
        if self.strings > MAX_STRINGS:
            raise self.fail(f"has more than {MAX_STRINGS:,} strings in its header")
        found: list[str] = []
        for _ in range(count):
            start = self.take(8, what)
            length: int = _U64.unpack_from(self.head, start)[0]
            if length > bound:
                raise self.fail(f"claims {length:,} bytes for {what[:80]}; at most {bound:,} are allowed")
            start = self.take(length, what)
            try:
                found.append(str(self.head[start : self.place], "utf-8"))
            except UnicodeDecodeError as error:
                raise self.fail(f"{what[:80]} is not UTF-8") from error
        return found

    def header(self) -> GgufHeader:
        if self.head[self.take(4, "the magic") : self.place] != b"GGUF":
            raise self.fail("is no GGUF file: it does not begin with GGUF")
        version = self.number("I", "the version")
        if version not in (2, 3):
            kind = "big-endian" if version & 0xFFFF == 0 else f"of version {version}"
            raise self.fail(f"is a GGUF file {kind}", "versions 2 and 3, little-endian, are read")
        tensors, pairs = self.number("Q", "the number of tensors"), self.number("Q", "the number of metadata pairs")
        if tensors > MAX_TENSORS:
            raise self.fail(f"claims {tensors:,} tensors; at most {MAX_TENSORS:,} are allowed")
        if pairs * 13 + tensors * 32 > self.size - self.place:  # the fewest bytes that a pair and a tensor's entry take
            raise self.fail(f"claims {pairs:,} metadata pairs and {tensors:,} tensors, which its size cannot hold")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.string(_MAX_KEY_BYTES, "a metadata key")
            if key in metadata or not key:
                raise self.fail(f"states {key[:80]!r} twice" if key else "has an empty metadata key")
            metadata[key] = self.value(self.number("I", key), key)
        entries = [self.entry() for _ in range(tensors)]
        return GgufHeader(self.path, version, metadata, self.placed(entries, self.alignment(metadata)))

    def value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self.string(_MAX_STRING_BYTES, key)
        if kind == _ARRAY:
            return self.array(key)
        number = self.numbers(kind, 1, key)[0]
        # A float32 stands for the shortest decimal that rounds to it: 1e-5 was meant, not 0.00000999999974.
        return float(str(number)) if number.dtype == np.float32 else number.item()

    def array(self, key: str) -> Any:
        kind, count = self.number("I", key), self.number("Q", key)
        if kind == _ARRAY:
            raise self.fail(f"{key[:80]} is a list of lists, which no GGUF writer makes")
        if kind != _STRING:
            return self.numbers(kind, count, key)
        return self.texts(count, _MAX_STRING_BYTES, key)

    def numbers(self, kind: int, count: int, key: str) -> np.ndarray:
        if kind not in _NUMBERS:
            raise self.fail(f"{key[:80]} is of the unknown type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        start = self.take(count * dtype.itemsize, key)
        raw = self.head[start : self.place]
        if kind == 7 and raw.strip(b"\0\1"):
            raise self.fail(f"{key[:80]} is neither true nor false")
        return np.frombuffer(raw, dtype)

    def alignment(self, metadata: Mapping[str, Any]) -> int:
        value = metadata.get("general.alignment", 32)
        if type(value) is not int or not 8 <= value <= 1 << 20 or value & (value - 1):
            raise self.fail(f"general.alignment is {_shown(value)}, not a power of two from 8 to {1 << 20}")
        return value

    def entry(self) -> tuple[str, str, tuple[int, ...], int, int]:
        """One tensor's entry: name, type, shape, offset in the data, bytes."""
        name = self.string(_MAX_NAME_BYTES, "a tensor's name")
        axes = self.number("I", name)
        if not 1 <= axes <= _MAX_AXES:
            raise self.fail(f"tensor {name} has {axes} axes; 1 to {_MAX_AXES} are allowed")
        shape = tuple(self.number("Q", name) for _ in range(axes))[::-1]
        kind, offset = self.number("I", name), self.number("Q", name)
        if kind not in TENSOR_TYPES:
            raise self.fail(f"tensor {name} is of the unknown type {kind}")
        word, block, block_bytes = TENSOR_TYPES[kind]
        if min(shape) < 1 or shape[-1] % block:
            raise self.fail(f"tensor {name} has shape {list(shape)}, which {word} cannot have")
        count = 1
        for extent in shape:
            count *= extent  # Python's whole numbers do not overflow
        return name, word, shape, offset, count // block * block_bytes

    def placed(
        self, entries: list[tuple[str, str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, GgufTensor]:
        """Every tensor inside the file, aligned, none over another."""
        begin = -(-self.place // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, kind, shape, offset, nbytes in entries:
            if name in tensors:
                raise self.fail(f"holds the tensor {name} twice")
            if offset % alignment or begin + offset + nbytes > self.size:
                raise self.fail(f"tensor {name} lies at byte {offset:,} of the data with {nbytes:,} bytes, which is "
                                "not aligned or beyond the file")  # fmt: skip
            tensors[name] = GgufTensor(kind, shape, begin + offset, nbytes)
        end, before = begin, ""
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < end:
                raise self.fail(f"tensors {before} and {name} overlap")
            end, before = tensor.offset + tensor.nbytes, name
        return tensors


def _shown(value: Any) -> str:
    """A value for an error message, short."""
    if isinstance(value, list | np.ndarray):
        return f"a list of {len(value):,}"
    return "missing" if value is None else repr(value)[:60]
