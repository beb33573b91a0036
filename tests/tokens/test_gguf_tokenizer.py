"""Tokenizers in GGUF: out and in again with the same ids, and the same ids as llama.cpp; hostile fields are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from puna.errors import PunaError
from puna.tokens import Tokenizer
from puna.tokens.formats import open_tokenizer
from puna.tokens.formats.gguf import gguf_tokenizer_fields, read_gguf_tokenizer
from puna.tokens.formats.pretokenizers import NAMES
from puna.tokens.hard import HARD_STRINGS

gguf = pytest.importorskip("gguf")

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
# Path of each real tokenizer, GGUF's kind and cut, whether a text begins with the begin token.
REAL = {
    "tokenizers/llama2_spm32k/tokenizer.model": ("llama", "default", True), "tokenizers/llama3_tiktoken": ("gpt2", "llama-bpe", True),
    "tokenizers/llama2_spm32k/tokenizer.bin": ("llama", "default", True), "tokenizers/gpt-2": ("gpt2", "gpt-2", False),
    "tokenizers/deepseek-llm": ("gpt2", "deepseek-llm", True), "tokenizers/minimind6400": ("gpt2", "gpt-2", False),
    "weights/stories260K/tok512.bin": ("llama", "default", True), "weights/aidreams260K/tok512.bin": ("llama", "default", True),
}  # fmt: skip


def write(path: Path, fields: dict[str, Any]) -> Path:
    """A GGUF file that holds a tokenizer and nothing else, by the library's writer."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in fields.items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, float: writer.add_float32}
        kinds.get(type(value), writer.add_array)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


def texts() -> list[str]:
    """llama.cpp's own strings for tokenizers, and the house's hard ones; English, Chinese, others."""
    vectors = SHARED / "tokenizers/test_vectors/ggml-vocab-llama-spm.gguf.inp"
    if not vectors.is_file():
        pytest.skip(f"{SHARED} is not there")
    return [
        *vectors.read_bytes().decode().split("\n__ggml_vocab_test__\n"),
        *HARD_STRINGS,
        "第十二条　本法自公布之日起施行。",
        " " * 40 + "x",
    ]


def real(name: str) -> Tokenizer:
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED} is not there")
    return open_tokenizer(SHARED / name)


@pytest.mark.parametrize("name", ["weights/stories260K/tok512.bin", "tokenizers/gpt-2", "tokenizers/minimind6400"])
def test_a_real_tokenizer_comes_back_with_the_same_ids(tmp_path: Path, name: str) -> None:
    tokenizer = real(name)
    fields = gguf_tokenizer_fields(tokenizer)
    assert (
        fields["tokenizer.ggml.model"],
        fields["tokenizer.ggml.pre"],
        fields["tokenizer.ggml.add_bos_token"],
    ) == REAL[name]
    back = read_gguf_tokenizer(write(tmp_path / "m.gguf", fields))
    for text in texts():
        assert back.encode(text) == tokenizer.encode(text) and back.decode(back.encode(text)) == tokenizer.decode(
            tokenizer.encode(text)
        )
    for field in ("vocab_size", "bos_id", "eos_id", "adds_bos", "chat_template", "special_ids", "prefix_space"):
        assert getattr(back, field) == getattr(tokenizer, field), field
    assert gguf_tokenizer_fields(back) == fields
    assert open_tokenizer(tmp_path / "m.gguf").encode("a 中文") == tokenizer.encode("a 中文")


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_llama_cpp_makes_the_same_ids(tmp_path: Path, name: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    tokenizer = real(name)
    fields = gguf_tokenizer_fields(tokenizer)
    model = llama_cpp.Llama(str(write(tmp_path / "m.gguf", fields)), vocab_only=True, verbose=False)
    for text in texts():
        assert model.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text[:80]
    first = [tokenizer.bos_id] if tokenizer.adds_bos else []
    assert model.tokenize("你好 there".encode(), add_bos=True) == first + tokenizer.encode("你好 there")
    assert read_gguf_tokenizer(tmp_path / "m.gguf").encode("你好 there") == tokenizer.encode("你好 there")


@pytest.mark.slow
def test_llama_cpp_makes_the_ids_of_our_own_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    fields = gguf_tokenizer_fields(tokenizer)
    assert fields["tokenizer.ggml.pre"] == "qwen2" and fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 3]
    model = llama_cpp.Llama(str(write(tmp_path / "m.gguf", fields)), vocab_only=True, verbose=False)
    for text in texts():
        assert model.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text[:80]


@pytest.mark.slow
def test_a_tokenizer_json_of_sentencepiece_has_its_scores_back(tmp_path: Path) -> None:
    """LLaMA 2's tokenizer.json keeps merges only: its ids in llama.cpp are those of the model with the true scores."""
    llama_cpp = pytest.importorskip("llama_cpp")
    value = (
        json.loads((SHARED / "tokenizers/llama2_spm32k/tokenizer.json").read_text())
        if real("tokenizers/llama2_spm32k")
        else {}
    )
    with pytest.raises(PunaError, match=r"a space after each user-defined entry in a text \('\|\|\|EMAIL_ADDRESS"):
        gguf_tokenizer_fields(Tokenizer(Backend.from_str(json.dumps(value))))
    value["added_tokens"] = [token for token in value["added_tokens"] if token["special"]]
    fields = gguf_tokenizer_fields(Tokenizer(Backend.from_str(json.dumps(value))))
    model = llama_cpp.Llama(str(write(tmp_path / "m.gguf", fields)), vocab_only=True, verbose=False)
    true = real("tokenizers/llama2_spm32k/tokenizer.model")
    for text in texts():
        assert model.tokenize(text.encode(), add_bos=False, special=False) == true.encode(text), text[:80]


def _byte_level(pattern: str, **model: Any) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(
        models.BPE(
            vocab={entry: number for number, entry in enumerate([*alphabet, "ab"])}, merges=[("a", "b")], **model
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


def test_what_llama_cpp_would_cut_otherwise_is_refused() -> None:
    with pytest.raises(PunaError, match="has no name for the way this tokenizer cuts texts"):
        gguf_tokenizer_fields(_byte_level(r"\p{L}+"))
    lower = _byte_level(r"\p{L}+")
    lower._backend.normalizer = normalizers.Lowercase()
    with pytest.raises(PunaError, match="no normaliser 'Lowercase'"):
        gguf_tokenizer_fields(lower)
    unigram = Tokenizer(Backend(models.Unigram([("a", 0.0)], unk_id=0)))
    with pytest.raises(PunaError, match="kind 'Unigram' cannot be written"):
        gguf_tokenizer_fields(unigram)
    # Merges that SentencePiece would not make of these pieces: it also joins a + bc, whenever "bc" was made.
    pieces = {
        piece: number
        for number, piece in enumerate(["<unk>", *[f"<0x{n:02X}>" for n in range(256)], *"abc", "ab", "bc", "abc"])
    }
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    with pytest.raises(PunaError, match="not those of a SentencePiece model"):
        gguf_tokenizer_fields(Tokenizer(Backend(models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True))))
    whole = Backend(models.BPE(pieces, [*merges, ("a", "bc")], unk_token="<unk>", byte_fallback=True))
    scores = gguf_tokenizer_fields(Tokenizer(whole))["tokenizer.ggml.scores"]
    assert scores[-3:] == [-1.0, 0.0, -2.0]


SPM: dict[str, Any] = {
    "model": "llama", "tokens": ["<unk>", "<s>", "</s>", *[f"<0x{n:02X}>" for n in range(256)], "▁", "a", "b", "▁a", "ab", "好"],
    "scores": [0.0] * 259 + [-9.0, -9.0, -9.0, -1.0, -2.0, -9.0], "token_type": [2, 3, 3] + [6] * 256 + [1] * 6,
}  # fmt: skip
BPE: dict[str, Any] = {
    "model": "gpt2", "pre": "qwen2", "tokens": [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<|x|>"], "merges": ["a b"],
    "token_type": [1] * 257 + [3],
}  # fmt: skip


def test_fields_that_are_left_out_are_llama_cpp_s_own(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"

    def opened(fields: dict[str, Any]) -> Tokenizer:
        return read_gguf_tokenizer(write(path, {f"tokenizer.ggml.{key}": value for key, value in fields.items()}))

    plain = opened(SPM)
    assert (plain.bos_id, plain.eos_id, plain.adds_bos, plain.vocab_size) == (1, 2, True, 265)
    assert (
        plain.encode("a好") == [262, 264]
        and plain.encode("ab") == [262, 261]
        and plain.encode("é")[1:] == [3 + 0xC3, 3 + 0xA9]
    )
    assert opened({**SPM, "add_space_prefix": False, "add_bos_token": False}).encode("ab") == [263]
    padded = {
        **SPM,
        "tokens": [*SPM["tokens"], "[PAD265]"],
        "scores": [*SPM["scores"], -1e3],
        "token_type": [*SPM["token_type"], 5],
    }
    assert opened(padded).vocab_size == 265
    byte_level = opened({**BPE, "eos_token_id": 257})
    assert (byte_level.bos_id, byte_level.eos_id, byte_level.adds_bos) == (None, 257, False)
    assert byte_level.encode("ab<|x|>")[0] == 256 and 257 not in byte_level.encode("ab<|x|>")


@pytest.mark.parametrize(("base", "change", "message"), [
    (SPM, {"model": "t5"}, "kind 't5'; read are llama"), (SPM, {"scores": [0.0]}, "scores does not give each entry"),
    (SPM, {"scores": [float("nan")] * 265}, "finite score"), (SPM, {"token_type": [1, 1]}, "a kind from 1 to 6"),
    (SPM, {"token_type": [7] * 265}, "a kind from 1 to 6"), (SPM, {"bos_token_id": 265}, "bos_token_id is 265, beyond the 265"),
    (SPM, {"tokens": ["x" * 300, *SPM["tokens"][1:]]}, "entry 0 has more than 256 characters"),
    (SPM, {"tokens": ["a"] * 265}, "are both 'a'"), (SPM, {"tokens": "a"}, "tokens is 'a', not a list of strings"),
    (SPM, {"add_bos_token": 1}, "add_bos_token is 1, not of type bool"),
    (BPE, {"pre": "klingon"}, "pre-tokenizer 'klingon' is not known; known are .*deepseek-llm.*llama-bpe.*qwen2"),
    (BPE, {"merges": ["ab"]}, "'ab', which is no pair"), (BPE, {"merges": ["a c"]}, "'ac', which is not in the vocabulary"),
    (BPE, {"tokens": ["a"] * 258}, "twice"), (BPE, {"merges": [1, 2]}, "merges is a list of 2, not a list of strings"),
])  # fmt: skip
def test_damaged_fields_are_one_clear_error(
    tmp_path: Path, base: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "m.gguf", {f"tokenizer.ggml.{key}": value for key, value in {**base, **change}.items()})
    with pytest.raises(PunaError, match=message) as caught:
        read_gguf_tokenizer(path)
    assert str(path) in caught.value.line()


@pytest.mark.parametrize("pre", NAMES)
def test_every_known_cut_opens_and_loses_no_byte(tmp_path: Path, pre: str) -> None:
    fields = {f"tokenizer.ggml.{key}": value for key, value in {**BPE, "pre": pre}.items()}
    tokenizer = read_gguf_tokenizer(write(tmp_path / "m.gguf", fields))
    for text in ("Hello, world! don't 3.14", "第十二条　本法自公布之日起施行。\n", "a\r\n  b 🙂"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    again = gguf_tokenizer_fields(tokenizer)["tokenizer.ggml.pre"]
    assert read_gguf_tokenizer(write(tmp_path / "n.gguf", {**fields, "tokenizer.ggml.pre": again})).encode(
        "x 12345ab"
    ) == tokenizer.encode("x 12345ab")
