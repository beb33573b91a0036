"""llama.cpp's own test vectors: 47 strings and the ids that it gives, for four tokenizers in six forms."""

from pathlib import Path

import pytest

from puna.tokens.formats import open_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared/data/tokenizers"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared data are absent ({SHARED})")


@pytest.mark.parametrize(("path", "vectors"), [
    ("llama2_spm32k/tokenizer.model", "llama-spm"), ("llama2_spm32k/tokenizer.json", "llama-spm"),
    ("llama2_spm32k/tokenizer.bin", "llama-spm"), ("llama3_tiktoken", "llama-bpe"), ("gpt-2", "gpt-2"),
    ("deepseek-llm", "deepseek-llm"),
])  # fmt: skip
def test_ids_are_those_of_llama_cpp(path: str, vectors: str) -> None:
    stem = SHARED / "test_vectors" / f"ggml-vocab-{vectors}.gguf"
    with open(stem.with_name(stem.name + ".inp"), encoding="utf-8", newline="") as stream:
        texts = stream.read().split("\n__ggml_vocab_test__\n")
    lines = stem.with_name(stem.name + ".out").read_text().split("\n")
    expected = [[int(token) for token in line.split()] for line in lines]
    assert len(texts) == len(expected) == 47
    tokenizer = open_tokenizer(SHARED / path)
    assert [tokenizer.encode(text) for text in texts] == expected
    assert tokenizer.encode_batch(texts) == expected
    assert [tokenizer.decode(ids) for ids in expected] == texts
