"""How bench/fuzz_readers.py changes a valid file into one that is nearly valid.

Comes in: a file's bytes, its kind, and a random generator. Goes out: other bytes. Lengths that belong to a change are mended most
of the time, so that the change reaches the code behind the first check.
"""

import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

_NUMBERS = (0, 1, -1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 1000, 65_535, 65_536, 2**20, 2**24, 2**26, 2**31 - 1, 2**31, 2**32 - 1,
            2**32, 2**48, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63))  # fmt: skip
_TEXTS = ("", " ", "\0", "a", "的", "▁", "▁▁", "<unk>", "<s>", "</s>", "<|im_end|>", "\x1b[31m", "\ud800", "\U0001f600", "..", "../x", "/",
          "none", "null", "a" * 5000, "的" * 600, "%s", "<0x41>", "<0xZZ>", "1e999")  # fmt: skip
_ODD = (None, True, False, [], {}, [[]], [0], [None], {"a": 1}, 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf, 1e-320)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bits, bytes, whole numbers and spans changed; the first bytes more often than the rest."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        size = len(out)
        place = rng.randrange(min(size, 300) if rng.random() < 0.5 else size) if size else 0
        span = min(rng.choice((1, 2, 4, 8, 16, 64, 300)), size - place)
        match rng.randrange(9):
            case 0 if size:
                out[place] ^= 1 << rng.randrange(8)
            case 1 if size:
                out[place] = rng.choice((0, 1, 10, 32, 34, 44, 92, 127, 128, 255, rng.randrange(256)))
            case 2 | 3:
                width = rng.choice((1, 2, 4, 4, 8, 8))
                near = rng.choice((size, size - place, place, rng.randrange(300), *_NUMBERS))
                value = near + rng.choice((0, 0, 1, -1))
                out[place : place + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
            case 4:
                del out[place : place + span]
            case 5:
                out[place:place] = out[place : place + span]
            case 6:
                out[place:place] = rng.randbytes(rng.choice((1, 4, 8)))
            case 7 if size:
                other = rng.randrange(size)
                out[place : place + span] = out[other : other + span]
            case 8 if rng.random() < 0.3:
                del out[place:]
    return bytes(out)


def _odd_value(rng: random.Random, old: Any) -> Any:
    if isinstance(old, int) and not isinstance(old, bool) and rng.random() < 0.6:
        return rng.choice((old + 1, old - 1, old * 2, old // 2, -old, float(old), str(old), *_NUMBERS))
    if isinstance(old, float) and rng.random() < 0.6:
        return rng.choice((-old, old * 1e6, old / 1e6, int(old) if math.isfinite(old) else 0, *_ODD))
    if isinstance(old, str) and rng.random() < 0.6:
        cut = rng.randrange(len(old) + 1)
        return rng.choice(
            (old[:cut], old[cut:], old + old, old[:cut] + rng.choice(_TEXTS) + old[cut:], old.upper(), *_TEXTS)
        )
    if isinstance(old, list) and rng.random() < 0.6:
        return rng.choice((old + old, old[:-1], old[1:], old[::-1], [old], old * 50 if len(old) < 50 else old))
    return rng.choice((*_NUMBERS, *_TEXTS, *_ODD))


def _nodes(value: Any, found: list[tuple[Any, Any]], depth: int = 0) -> list[tuple[Any, Any]]:
    """(container, key) of every node; long containers only in part, so that small settings are not drowned by a vocabulary."""
    if depth > 30:
        return found
    keys: list[Any] = [*(value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ())]
    for key in keys if len(keys) <= 40 else keys[:20] + keys[-20:]:
        found.append((value, key))
        _nodes(value[key], found, depth + 1)
    return found


def mutate_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with some nodes replaced, taken out, renamed, or put in each other's place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        nodes = _nodes(value, [])
        if not nodes:
            return _odd_value(rng, value)
        box, key = rng.choice(nodes)
        match rng.randrange(8):
            case 0:
                del box[key]
            case 1:
                other, name = rng.choice(nodes)
                if name in other if isinstance(other, dict) else name < len(other):
                    box[key] = json.loads(json.dumps(other[name]))
            case 2 if isinstance(box, dict):
                box[str(_odd_value(rng, key) if rng.random() < 0.7 else rng.choice(nodes)[1])[:5000]] = box.pop(key)
            case 3 if rng.random() < 0.2:
                for _ in range(rng.choice((3, 200, 3000))):
                    box[key] = [box[key]]
                return value
            case 4 if isinstance(box[key], list) and box[key]:
                rng.shuffle(box[key])
            case _:
                box[key] = _odd_value(rng, box[key])
    return value


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.15:
        return mutate_bytes(rng, data)
    try:
        value = mutate_value(rng, json.loads(data))
        return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return mutate_bytes(rng, data)


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.25 or length > len(data) - 8:
        return mutate_bytes(rng, data)
    head, tail = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.2:
        tail = mutate_bytes(rng, tail)
    else:
        head = mutate_json(rng, head)
    return (len(head) if rng.random() < 0.95 else length).to_bytes(8, "little") + head + tail


_GGUF_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def _gguf_parts(data: bytes) -> tuple[list[list[Any]], list[list[Any]], bytes]:
    """([key, type, raw value], [name, extents, type, offset], what follows) of a valid file."""
    place = 24

    def number(form: str) -> Any:
        nonlocal place
        found = struct.unpack_from("<" + form, data, place)[0]
        place += struct.calcsize("<" + form)
        return found

    def text() -> bytes:
        nonlocal place
        length = number("Q")
        if length > len(data) - place:
            raise ValueError
        place += length
        return data[place - length : place]

    def skip(kind: int) -> None:
        nonlocal place
        if kind == 8:
            text()
        elif kind == 9:
            inner, count = number("I"), number("Q")
            if count > len(data):
                raise ValueError
            for _ in range(count):
                skip(inner)
        else:
            place += struct.calcsize("<" + _GGUF_FORMS[kind])

    tensors, pairs = struct.unpack_from("<QQ", data, 8)
    if tensors > 10_000 or pairs > 10_000:
        raise ValueError
    found = []
    for _ in range(pairs):
        key, kind, start = text(), number("I"), place
        skip(kind)
        found.append([key, kind, data[start:place]])
    entries = []
    for _ in range(tensors):
        name = text()
        entries.append([name, [number("Q") for _ in range(min(number("I"), 8))], number("I"), number("Q")])
    return found, entries, data[-(-place // 32) * 32 :]


def _gguf_joined(head: bytes, pairs: list[list[Any]], entries: list[list[Any]], tail: bytes) -> bytes:
    out = bytearray(head[:8] + struct.pack("<QQ", len(entries), len(pairs)))
    for key, kind, raw in pairs:
        out += struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + raw
    for name, extents, kind, offset in entries:
        out += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(extents))
        out += struct.pack(f"<{len(extents)}Q", *extents) + struct.pack("<IQ", kind, offset)
    return bytes(out) + b"\0" * (-len(out) % 32) + tail


def mutate_gguf(rng: random.Random, data: bytes) -> bytes:
    try:
        pairs, entries, tail = _gguf_parts(data)
    except (struct.error, ValueError, KeyError, IndexError):
        return mutate_bytes(rng, data)
    if rng.random() < 0.15 or not pairs or not entries:
        return mutate_bytes(rng, data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not pairs or not entries:
            break
        pair, entry = rng.choice(pairs), rng.choice(entries)
        match rng.randrange(12):
            case 0:
                pairs.remove(pair)
            case 1:
                pairs.append([rng.choice((rng.choice(pairs)[0], mutate_bytes(rng, pair[0]))), *pair[1:]])
            case 2:
                pair[1:] = rng.choice(pairs)[1:]
            case 3 | 4 | 5 if pair[1] in _GGUF_FORMS and len(pair[2]) == struct.calcsize("<" + _GGUF_FORMS[pair[1]]):
                form = _GGUF_FORMS[pair[1]]
                width = struct.calcsize("<" + form)
                old = struct.unpack("<" + form, pair[2])[0]
                if form in "fd":
                    pair[2] = struct.pack(
                        "<" + form, rng.choice((old * 2, -old, 0.0, 1.0, 1e-30, 1e30, math.nan, math.inf))
                    )
                else:
                    pair[2] = ((int(old) + rng.choice((1, -1, old, *_NUMBERS))) % (1 << 8 * width)).to_bytes(
                        width, "little"
                    )
            case 3 | 4 if pair[1] == 8:
                text = (
                    mutate_bytes(rng, pair[2][8:])
                    if rng.random() < 0.5
                    else rng.choice(_TEXTS).encode("utf-8", "replace")
                )
                pair[2] = struct.pack("<Q", len(text)) + text
            case 3 | 4 | 5 | 6:
                pair[2] = mutate_bytes(rng, pair[2])
            case 7:
                pair[1] = rng.randrange(14)
            case 8:
                entry[1] = rng.choice((entry[1][::-1], entry[1] + [1], entry[1][:-1], [rng.choice(_NUMBERS) % 2**64] * rng.randrange(5),
                                       rng.choice(entries)[1]))  # fmt: skip
            case 9:
                entry[rng.choice((2, 3))] = rng.choice(
                    (rng.randrange(42), rng.choice(entries)[3], *(n % 2**32 for n in _NUMBERS))
                )
            case 10:
                entry[0] = rng.choice(
                    (mutate_bytes(rng, entry[0]), rng.choice(entries)[0], b"rope_freqs.weight", b"output.weight")
                )
            case 11:
                tail = mutate_bytes(rng, tail)
    return _gguf_joined(data, pairs, [[*e[:2], e[2] % 2**32, e[3] % 2**64] for e in entries], tail)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _protobuf(data: bytes) -> list[list[Any]]:
    """[key, value] of each field: a whole number for a varint, else its bytes."""
    found, place = [], 0

    def varint() -> int:
        nonlocal place
        value = 0
        for shift in range(0, 70, 7):
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        return value

    while place < len(data):
        key = varint()
        if key & 7 == 0:
            found.append([key, varint()])
            continue
        length = varint() if key & 7 == 2 else 8 if key & 7 == 1 else 4
        if length > len(data) - place or key & 7 not in (1, 2, 5):
            raise ValueError
        found.append([key, data[place : place + length]])
        place += length
    return found


def mutate_protobuf(rng: random.Random, data: bytes, depth: int = 0) -> bytes:
    try:
        fields = _protobuf(data)
    except (IndexError, ValueError):
        return mutate_bytes(rng, data)
    if not fields or rng.random() < (0.1 if depth == 0 else 0.05):
        return mutate_bytes(rng, data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not fields:
            break
        # The settings stand behind all pieces.
        field = rng.choice(fields[-3:] if rng.random() < 0.4 else fields)
        match rng.randrange(8):
            case 0:
                fields.remove(field)
            case 1:
                fields.append(list(field))
            case 2:
                rng.shuffle(fields)
            case 3:
                field[0] = rng.choice((field[0] ^ 1, field[0] + 8, rng.randrange(400)))
                if (field[0] & 7 == 0) != isinstance(field[1], int):
                    field[1] = rng.randrange(300) if field[0] & 7 == 0 else b"abcdabcd"
            case _ if isinstance(field[1], int):
                field[1] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 2**31, 2**64 - 1))
            case _ if field[0] & 7 == 5:
                field[1] = struct.pack("<f", rng.choice((0.0, -1.0, -2.0, 1e30, math.nan, -math.inf)))
            case _ if depth < 1:
                field[1] = mutate_protobuf(rng, field[1], depth + 1)
            case 4 | 5:
                field[1] = rng.choice(_TEXTS).encode("utf-8", "surrogatepass")
            case _:
                field[1] = mutate_bytes(rng, field[1])
    out = bytearray()
    for key, value in fields:
        out += _varint(key)
        if isinstance(value, int):
            out += _varint(value)
        else:
            out += (_varint(len(value)) if key & 7 == 2 else b"") + value
    return bytes(out)


def mutate_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    if rng.random() < 0.2 or len(lines) < 2:
        return mutate_bytes(rng, data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(5):
            case 0 if len(lines) > 1:
                del lines[place]
            case 1:
                lines.insert(place, lines[other])
            case 2 if other < len(lines) and place < len(lines):
                lines[place], lines[other] = lines[other], lines[place]
            case 3:
                lines[place] = rng.choice(_TEXTS).encode("utf-8", "surrogatepass") + b" " + lines[place][:20]
            case _ if place < len(lines):
                lines[place] = mutate_bytes(rng, lines[place])
    return b"\n".join(lines)


def mutate_entries(rng: random.Random, data: bytes) -> bytes:
    """llama2.c's tokenizer.bin: (score, length, bytes) entries."""
    entries, place = [], 4
    while place + 8 <= len(data):
        score, length = struct.unpack_from("<fi", data, place)
        if not 0 <= length <= len(data) - place - 8:
            return mutate_bytes(rng, data)
        entries.append([score, data[place + 8 : place + 8 + length]])
        place += 8 + length
    if rng.random() < 0.25 or not entries:
        return mutate_bytes(rng, data)
    for _ in range(min(rng.choice((1, 1, 2, 5)), len(entries))):
        entry = rng.choice(entries[259:] or entries)
        match rng.randrange(6):
            case 0:
                entry[0] = rng.choice((0.0, -1.0, 1e30, math.nan, rng.choice(entries)[0]))
            case 1:
                entries.remove(entry)
            case 2:
                entries.append([entry[0] - rng.random(), entry[1] + rng.choice(entries)[1]])
            case 3:
                entry[1] = rng.choice(_TEXTS).encode("utf-8", "surrogatepass")
            case 4:
                entry[1] = mutate_bytes(rng, entry[1])
            case 5:
                rng.shuffle(entries[259:])
    longest = max((len(text) for _, text in entries), default=0) if rng.random() < 0.9 else rng.choice(_NUMBERS) % 2**31
    return struct.pack("<i", longest) + b"".join(struct.pack("<fi", score, len(text)) + text for score, text in entries)


MUTATORS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "bytes": mutate_bytes, "json": mutate_json, "safetensors": mutate_safetensors, "gguf": mutate_gguf,
    "protobuf": mutate_protobuf, "lines": mutate_lines, "entries": mutate_entries,
}  # fmt: skip


def join_parts(parts: list[bytes]) -> bytes:
    """Several files as one input: their lengths, then all of them."""
    return b"".join(len(part).to_bytes(4, "little") for part in parts) + b"".join(parts)


def split_parts(data: bytes, count: int) -> list[bytes]:
    """The files of an input; whatever its lengths say, there are `count` of them."""
    place, parts = 4 * count, []
    for index in range(count):
        length = int.from_bytes(data[4 * index : 4 * index + 4], "little")
        parts.append(data[place : place + length])
        place += length
    return parts


def mutate_parts(rng: random.Random, data: bytes, kinds: list[str]) -> bytes:
    """One file of the input changed, by the way of its kind."""
    parts = split_parts(data, len(kinds))
    for _ in range(rng.choice((1, 1, 1, 2))):
        index = rng.randrange(len(kinds))
        parts[index] = MUTATORS[kinds[index]](rng, parts[index])
    return join_parts(parts)
