"""GGUF headers of strangers: every lie is one clear error, whatever byte is changed, and memory stays bounded."""

import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.gguf_header import MAX_HEADER_BYTES, MAX_MEMORY, MAX_STRINGS, read_gguf_header
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats.gguf import open_gguf
from puna.model.formats.gguf_write import write_gguf
from puna.model.rope import RopeScaling
from puna.model.weights import Weights
from puna.tokens.formats.gguf import read_gguf_tokenizer

pytest.importorskip("gguf")

U32, STRING, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def entry(name: str = "a", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(pairs: list[bytes], entries: list[bytes], data: int = 64, *, magic: bytes = b"GGUF", version: int = 3,
         counts: tuple[int, int] | None = None) -> bytes:  # fmt: skip
    tensors, metadata = counts or (len(entries), len(pairs))
    head = magic + struct.pack("<IQQ", version, tensors, metadata) + b"".join(pairs) + b"".join(entries)
    return head + b"\0" * (-len(head) % 32 + data)


ONE = pair("a.b", U32, struct.pack("<I", 7))
BIG = 1 << 62
LIES: dict[str, tuple[bytes, str]] = {
    "magic": (file([], [], magic=b"GGML"), "does not begin with GGUF"),
    "short": (b"GGUF\3\0\0\0", "too short"),
    "version 1": (file([], [], version=1), "of version 1; versions 2 and 3"),
    "big-endian": (file([], [], version=3 << 24), "big-endian"),
    "many tensors": (file([], [], counts=(BIG, 0)), "at most 65,536"),
    "more tensors than bytes": (file([], [], counts=(60_000, 0)), "which its size cannot hold"),
    "many pairs": (file([], [], counts=(0, BIG)), "which its size cannot hold"),
    "pair missing": (file([ONE], [], 0, counts=(0, 2)), "truncated|unknown type|empty metadata key"),
    "key twice": (file([ONE, ONE], []), "states 'a.b' twice"),
    "key steers": (file([pair("a\x1b[2J", 13, b"\0" * 8)], []), r"a\?\[2J is of the unknown type 13"),
    "key empty": (file([pair("", U32, b"\0" * 4)], []), "empty metadata key"),
    "key long": (file([struct.pack("<Q", BIG)], []), "claims 4,611,686,018,427,387,904 bytes for a metadata key"),
    "string long": (file([pair("k", STRING, struct.pack("<Q", 1 << 19))], []), "truncated: k ends beyond"),
    "not UTF-8": (file([pair("k", STRING, text(b"\xe4\xbd"))], []), "k is not UTF-8"),
    "type unknown": (file([pair("k", 13, b"\0" * 8)], []), "k is of the unknown type 13"),
    "array type unknown": (file([pair("k", ARRAY, struct.pack("<IQ", 99, 1))], []), "unknown type 99"),
    "array of arrays": (file([pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1))], []), "list of lists"),
    "numbers long": (file([pair("k", ARRAY, struct.pack("<IQ", U32, BIG))], []), "truncated: k ends beyond"),
    "strings long": (file([pair("k", ARRAY, struct.pack("<IQ", STRING, BIG))], []), "strings for k, which its header cannot hold"),
    "bool": (file([pair("k", 7, b"\2")], []), "neither true nor false"),
    "alignment 0": (file([pair("general.alignment", U32, struct.pack("<I", 0))], []), "general.alignment is 0, not a power of two"),
    "alignment 48": (file([pair("general.alignment", U32, struct.pack("<I", 48))], []), "not a power of two"),
    "alignment text": (file([pair("general.alignment", STRING, text("32"))], []), "general.alignment is '32'"),
    "name long": (file([], [entry("x" * 65)]), "claims 65 bytes for a tensor's name"),
    "no axes": (file([], [entry(shape=())]), "tensor a has 0 axes"),
    "five axes": (file([], [entry(shape=(1, 1, 1, 1, 1))]), "tensor a has 5 axes"),
    "no values": (file([], [entry(shape=(8, 0))]), r"shape \[0, 8\]"),
    "tensor type": (file([], [entry(kind=4)]), "tensor a is of the unknown type 4"),
    "half a block": (file([], [entry(shape=(48,), kind=2)]), r"shape \[48\], which Q4_0 cannot have"),
    "overflow": (file([], [entry(shape=(1 << 31, 1 << 31, 1 << 31, 1 << 31))]), "beyond the file"),
    "offset far": (file([], [entry(offset=BIG)]), "beyond the file"),
    "offset odd": (file([], [entry(offset=8)]), "not aligned"),
    "twice": (file([], [entry(), entry(offset=32)]), "holds the tensor a twice"),
    "overlap": (file([], [entry("a", (16,)), entry("b", (8,), offset=32)], 96), "tensors a and b overlap"),
    "same place": (file([], [entry("a"), entry("b")]), "overlap"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_one_clear_error_before_any_memory(tmp_path: Path, lie: str) -> None:
    raw, message = LIES[lie]
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(PunaError, match=message) as caught:
        read_gguf_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 and str(path) in caught.value.line() and len(caught.value.what) < 300


def test_an_honest_file_and_what_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    pairs = [ONE, pair("字", STRING, text("你好 hello")), pair("n", ARRAY, struct.pack("<IQ3i", 5, 3, -1, 2, 3)),
             pair("s", ARRAY, struct.pack("<IQ", STRING, 2) + text("甲") + text("b")), pair("t", 7, b"\1")]  # fmt: skip
    path.write_bytes(file(pairs, [entry("a", (4, 2)), entry("b", (32,), 8, 32)], 96, version=2))
    header = read_gguf_header(path)
    assert header.version == 2 and header.get("a.b", int) == 7 and header.get("字", str) == "你好 hello"
    assert (
        header.numbers("n").tolist() == [-1, 2, 3]
        and header.strings("s") == ["甲", "b"]
        and header.get("t", bool) is True
    )
    assert (
        header.tensors["a"].shape == (2, 4) and header.tensors["b"].kind == "Q8_0" and header.tensors["b"].nbytes == 34
    )
    for key, kind in (("t", int), ("字", int), ("n", str), ("missing", int)):
        with pytest.raises(PunaError, match=key):
            header.get(key, kind)
    for call, key in ((header.strings, "n"), (header.numbers, "s"), (header.strings, "missing")):
        with pytest.raises(PunaError, match=key):
            call(key)
    for other in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(PunaError, match="cannot be read"):
            read_gguf_header(other)


def test_the_largest_header_stays_within_the_stated_memory(tmp_path: Path) -> None:
    """As many strings as are allowed, of the kind that costs most memory for a byte of file; one more is refused."""
    path, limit = tmp_path / "m.gguf", MAX_STRINGS - 1  # the key is one too
    path.write_bytes(file([pair("k", ARRAY, struct.pack("<IQ", STRING, limit) + text("🙂" + "a" * 19) * limit)], []))
    assert MAX_HEADER_BYTES * 0.95 < path.stat().st_size < MAX_HEADER_BYTES
    program = (
        "import resource, sys; from puna.gguf_header import read_gguf_header\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)\n"
        "before = used(); found = read_gguf_header(sys.argv[1]).strings('k'); print(len(found), used() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    count, used = map(int, done.stdout.split())
    assert count == limit and used < MAX_MEMORY
    path.write_bytes(file([pair("k", ARRAY, struct.pack("<IQ", STRING, limit + 1) + text("") * (limit + 1))], []))
    with pytest.raises(PunaError, match="more than 1,048,576 strings"):
        read_gguf_header(path)
    path.write_bytes(file([pair("k", ARRAY, struct.pack("<IQ", 0, MAX_HEADER_BYTES) + b"\0" * MAX_HEADER_BYTES)], []))
    with pytest.raises(PunaError, match="more than 32 MiB"):
        read_gguf_header(path)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole small model with Llama 3's scaling and a tokenizer."""
    scaling = RopeScaling(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=32)  # fmt: skip
    model = Decoder(ModelConfig(vocab_size=12, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                num_key_value_heads=1, head_dim=16, rope_scaling=scaling))  # fmt: skip
    model.init_weights(0)
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "<|x|>", "好"]
    fields = {"model": "llama", "tokens": tokens, "token_type": [2, 3, 3, 1, 1, 1, 1, 1, 4, 1], "bos_token_id": 1,
              "scores": [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -1.0, -2.0, 0.0, -9.0], "add_bos_token": True}  # fmt: skip
    path = tmp_path_factory.mktemp("real") / "m.gguf"
    write_gguf(
        Weights.of(model),
        path,
        kind="Q8_0",
        tokenizer={f"tokenizer.ggml.{key}": value for key, value in fields.items()},
    )
    raw = path.read_bytes()
    assert _outcome(path) == "opened"
    return raw


def _outcome(path: Path) -> str:
    """ "opened", or "refused" by the one error that is allowed; any other is the test's failure."""
    outcome = "opened"
    for use in (
        lambda: [tensor.shape for _, tensor in open_gguf(path).items()],
        lambda: read_gguf_tokenizer(path).encode("a 好b"),
    ):
        try:
            use()
        except PunaError:
            outcome = "refused"
    return outcome


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_file_opens_or_is_refused(real: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Bytes overwritten (most in the header), cut off, doubled: no other error, and no more memory than a file of its size needs."""
    raw = bytearray(real)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.one_of(st.integers(0, 2600), st.integers(0, len(raw) - 1)))
        change = data.draw(st.sampled_from([b"\0", b"\xff", b"\xff" * 8, b"\0" * 8, b"\x80", struct.pack("<Q", 1 << 40),
                                            struct.pack("<I", 9), b"nan", struct.pack("<f", float("inf"))]))  # fmt: skip
        how = data.draw(st.sampled_from(["write", "write", "write", "cut", "remove", "insert"]))
        if how == "cut":
            del raw[place:]
        else:
            raw[place : place + (0 if how == "insert" else len(change))] = b"" if how == "remove" else change
        raw = raw or bytearray(b"G")
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    _outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_every_cut_of_the_header_is_refused(real: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for length in range(0, 2600, 7):
        path.write_bytes(real[:length])
        with pytest.raises(PunaError):
            open_gguf(path)


def test_a_model_that_is_not_what_its_metadata_say_is_refused(
    make: Callable[..., Decoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import puna.model.formats.gguf_write as writing

    path, honest = tmp_path / "m.gguf", writing._metadata
    changes: list[tuple[dict[str, object], str]] = [
        ({"llama.embedding_length": 64}, r"token_embd.weight has shape \[96, 32\], the metadata say \[96, 64\]"),
        ({"llama.block_count": 3}, r"9 tensors are missing: blk.2.attn_k.weight, blk.2.attn_norm.weight, .*blk.2.ffn_up.weight"),
        ({"llama.block_count": 1}, r"9 tensors do not belong to the architecture: blk.1.attn_k.weight"),
        ({"llama.block_count": 2_000_000_000}, "num_hidden_layers: Input should be less than or equal to 1000"),
        ({"llama.expert_count": 8}, "llama.expert_count = 8 is not supported"),
        ({"llama.new_trick": 1.5}, "metadata of no known meaning: llama.new_trick"),
        ({"llama.rope.dimension_count": 4}, "rotary part differ"), ({"llama.vocab_size": 95}, "vocab_size and token_embd"),
        ({"llama.rope.scaling.type": "longrope"}, "rotary scaling 'longrope'"), ({"split.count": 2}, "one piece of a divided model"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": -1.0}, "factor is -1.0"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps"),
        ({"llama.attention.head_count": [4, 4]}, "attention.head_count is a list of 2, not of type int"),
        ({"general.architecture": "falcon"}, "architecture 'falcon' is not supported; supported are llama, qwen2, qwen3"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "a tokenizer of 2 entries and 96 embeddings"),
        ({"tokenizer.ggml.bos_token_id": 96}, "token id 96 lies outside a vocabulary of 96"),
    ]  # fmt: skip
    for change, message in changes:
        monkeypatch.setattr(writing, "_metadata", lambda *given, change=change: {**honest(*given), **change})
        write_gguf(Weights.of(make()), path, kind="F32", tokenizer={})
        with pytest.raises(PunaError, match=message):
            open_gguf(path)
