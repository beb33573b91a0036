"""Tokenizers of strangers that would fill the memory, panic or hold half a character: refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from puna.errors import PunaError
from puna.tokens.formats.backends import merges_by_score
from puna.tokens.tokenizer import Tokenizer, parse_backend


def _file(**parts: Any) -> str:
    model = {"type": "BPE", "vocab": {"a": 0, "猫": 1}, "merges": []}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model, **parts})


_TWICE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize("parts", [
    {"normalizer": {"type": "Sequence", "normalizers": [_TWICE] * 26}},
    {"decoder": {"type": "Sequence", "decoders": [_TWICE] * 26}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [_TWICE] * 6}] * 2}},
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "猫" * 1024}},
    {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}] * 6}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "StripAccents"}] * 65}},
])  # fmt: skip
def test_steps_that_would_make_a_text_grow_without_end_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(PunaError, match="a thousand times"):
        parse_backend(_file(**parts), "x")


def test_a_backend_that_cannot_encode_is_a_mistake_in_one_line() -> None:
    model = {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]], "byte_fallback": False}
    tokenizer = Tokenizer(parse_backend(_file(model=model), "x"))
    with pytest.raises(PunaError, match="cannot encode this text"):
        tokenizer.encode("猫")
    with pytest.raises(PunaError, match="cannot encode these texts"):
        tokenizer.encode_batch(["猫"])


def test_half_a_character_in_the_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(_file(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "\\ud83d\\ude00"}', encoding="utf-8")
    assert Tokenizer.load(tmp_path).eos_id is None  # a whole one, spelt in two halves
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "\\ud800"}', encoding="utf-8")
    with pytest.raises(PunaError, match="not JSON"):
        Tokenizer.load(tmp_path)


def test_runs_of_a_letter_whose_pairs_would_take_gigabytes_are_refused() -> None:
    pieces = [letter * length for letter in "abc猫" for length in range(1, 513)]
    assert len(merges_by_score(pieces[:100], [-float(n) for n in range(100)], [1] * 100)) == 99 * 100 // 2
    with pytest.raises(PunaError, match="pairs"):
        merges_by_score(pieces, [-float(n) for n in range(len(pieces))], [1] * len(pieces))
