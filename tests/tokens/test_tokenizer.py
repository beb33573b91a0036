"""Training, encoding, decoding, bytes, hostile files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_tokens_texts import CHINESE, small_texts
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from puna.errors import PunaError
from puna.tokens import HARD_STRINGS, SPECIALS, Tokenizer, roundtrip_failures, train_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_specials_come_first(tokenizer: Tokenizer) -> None:
    assert [tokenizer.eos_id, tokenizer.im_start_id, tokenizer.im_end_id, tokenizer.pad_id] == [0, 1, 2, 3]
    assert tokenizer.special_ids == {0, 1, 2, 3}
    assert tokenizer.stop_ids == {0, 2}
    assert tokenizer.vocab_size == 700


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    singles = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    assert singles >= {bytes([byte]) for byte in range(256)}


def test_hard_strings_come_back(tokenizer: Tokenizer) -> None:
    assert roundtrip_failures(tokenizer) == []
    assert len(HARD_STRINGS) == len(set(HARD_STRINGS)) > 60


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert not tokenizer.special_ids.intersection(ids)


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.one_of(st.sampled_from(SPECIALS), TEXTS), max_size=6))
def test_special_strings_of_a_user_stay_text(tokenizer: Tokenizer, parts: list[str]) -> None:
    assert roundtrip_failures(tokenizer, ["".join(parts)]) == []


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, max_size=5))
def test_a_batch_is_its_texts_one_by_one(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_digits_stand_alone_and_indentation_stays_whole(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("31415")] == [b"3", b"1", b"4", b"1", b"5"]
    pieces = [tokenizer.token_bytes(i) for i in tokenizer.encode("x\n        return")]
    assert pieces == [b"x", b"\n", b"       ", b" return"]


def test_half_characters_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(PunaError, match=r"character 2 is a lone surrogate .U.D83D."):
        tokenizer.encode("a\ud83d")
    with pytest.raises(PunaError, match=r"^text 2: "):
        tokenizer.encode_batch(["fine", "\udc00"])
    with pytest.raises(PunaError, match=r"^document 2: "):
        train_tokenizer(iter(["fine", "\udc00"]), 300, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_roundtrip_failures_are_found() -> None:
    backend = Backend(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    failures = roundtrip_failures(Tokenizer(backend), ["ab", "abc"])
    assert [failure["text"] for failure in failures] == ["abc"]


def test_two_processes_write_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from tests_tokens_texts import small_texts; from puna.tokens import train_tokenizer;"
        "train_tokenizer(iter(small_texts()), 700, Path(sys.argv[1]))"
    )
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed), str(Path(__file__).parent)],
                       check=True, env=environment)  # fmt: skip
        names = sorted(path.name for path in trained.iterdir())
        assert names == sorted(path.name for path in (tmp_path / seed).iterdir())
        for name in names:
            assert (trained / name).read_bytes() == (tmp_path / seed / name).read_bytes()


def test_chinese_alone_is_served_well(tmp_path: Path) -> None:
    report = train_tokenizer(iter([CHINESE] * 20), 400, tmp_path)
    assert report["bytes_per_token"] > 3  # better than a character a token
    assert roundtrip_failures(Tokenizer.load(tmp_path)) == []


def test_a_small_corpus_says_what_it_gave(tmp_path: Path) -> None:
    report = train_tokenizer(iter(["你好，世界。你好，世界。"]), 5000, tmp_path)
    assert 260 < report["entries"] < 300
    assert report["requested"] == 5000
    assert Tokenizer.load(tmp_path).vocab_size == report["entries"] == 260 + report["merges"]


def test_training_mistakes_name_their_key(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match=r"^tokenizer\.vocab_size: .*260"):
        train_tokenizer(iter(small_texts()), 259, tmp_path)
    with pytest.raises(PunaError, match="no text"):
        train_tokenizer(iter(["", ""]), 300, tmp_path)


def test_unknown_ids_are_refused(tokenizer: Tokenizer) -> None:
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(PunaError, match="outside the vocabulary"):
            tokenizer.decode([token])
        with pytest.raises(PunaError, match="outside the vocabulary"):
            tokenizer.token_bytes(token)


@pytest.mark.parametrize("content", [
    b"", b"{}", b"[1]", b"\xff\xfe", b'{"model":{"type":"BPE","vocab":{},"merges":[]}}',
    b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}',
    b'{"model":{"type":"BPE","vocab":{"a":4294967295},"merges":[]}}', b"[" * 100_000,
])  # fmt: skip
def test_files_that_are_no_tokenizer(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(PunaError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_truncated_file_or_none(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="no such file"):
        Tokenizer.load(tmp_path)
    whole = (trained / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PunaError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(whole)
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(PunaError, match=r"tokenizer_config\.json: not JSON"):
        Tokenizer.load(tmp_path)


def test_a_foreign_tokenizer(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "▁a": 5} | {
        f"<0x{byte:02X}>": 6 + byte for byte in range(256)
    }
    backend = Backend(models.BPE(vocab=vocab, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "</s>"}, "chat_template": "{{ 1 }}"})
    )
    foreign = Tokenizer.load(tmp_path)
    assert (foreign.eos_id, foreign.im_start_id, foreign.im_end_id, foreign.pad_id) == (2, None, None, None)
    assert foreign.chat_template == "{{ 1 }}"
    assert foreign.token_bytes(5) == b" a"
    assert foreign.token_bytes(6 + 0xE4) == b"\xe4"
    ids = foreign.encode("a你")
    assert ids == [4, *(6 + byte for byte in "你".encode())]
    assert foreign.decode(ids) == "a你"
