"""Tokens: what counts as one in each script, stable hashes, places that are true, linear time."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import segment

ANY = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("aB '.,1中文の한국은\n\u200d\ud800")), max_size=80)


def tokens(text: str) -> list[str]:
    batch = segment.segment([text])
    return [text[start:end] for start, end in zip(batch.starts, batch.ends, strict=True)]


def words(text: str, lang: str) -> list[str]:
    [chunk] = segment.chunks([text])
    return [chunk.joined[start:end] for start, end in zip(*segment.words(chunk, [lang]), strict=True)]


def test_tokens_to_find_copies_by() -> None:
    assert tokens("Hello, World! It's snake_case 3.14") == ["Hello", "World", "It", "s", "snake_case", "3", "14"]
    assert tokens("我们GPT-4很好。々〇𠀀 ｶﾅ") == [*"我们", "GPT", "4", *"很好々〇𠀀ｶﾅ"]
    assert tokens("한국어 text") == [*"한국어", "text"]
    assert tokens("हिन्दी की किताब") == ["हिन्दी", "की", "किताब"]  # vowel signs belong to the word
    batch = segment.segment(["The CAT", "the cat!", "", "这。是", "这，是"])
    assert batch.codes[:2].tolist() == batch.codes[2:4].tolist()
    assert batch.codes[4:6].tolist() == batch.codes[6:8].tolist()
    assert batch.offsets.tolist() == [0, 2, 4, 4, 6, 8]
    assert batch.owners().tolist() == [0, 0, 1, 1, 3, 3, 4, 4]
    assert batch.cjk.tolist() == [False] * 4 + [True] * 4
    assert len(set(batch.codes.tolist())) == 4
    assert len(segment.segment([])) == 0


@pytest.mark.parametrize(
    "lang, text, expected",
    [
        ("en", "It's 1,000 or 3.14...", "It|'s|1,000|or|3.14|..."),
        ("en", "'quoted' -- rock-'n'-roll", "'|quoted|'|--|rock|-|'|n|'|-|roll"),
        ("fr", "L’homme n'est pas.", "L’|homme|n'|est|pas|."),
        ("zh", "今天天气很好，我们去公园散步。", "今天天气|很|好|，|我们|去|公园|散步|。"),
        ("zh", "用Python写代码", "用|Python|写|代码"),
        ("ja", "私は東京に行きました。カタカナ", "私|は|東京|に|行|きました|。|カタカナ"),
        ("ko", "대한민국은 서울에서 왔습니다", "대한민국|은|서울|에서|왔습|니다"),
        ("ru", "Это, конечно, «да».", "Это|,|конечно|,|«|да|»|."),
    ],
)
def test_words_for_metrics(lang: str, text: str, expected: str) -> None:
    assert words(text, lang) == expected.split("|")


def test_chinese_words_are_jiebas() -> None:
    jieba = pytest.importorskip("jieba")
    jieba.setLogLevel(60)
    text = (
        "中华人民共和国公民有言论、出版、集会、结社、游行、示威的自由。国家尊重和保障人权；他来到了网易杭研大厦。" * 3
    )
    assert words(text, "zh") == [word for word in jieba.lcut(text) if word.strip()]


@given(st.lists(ANY, max_size=6))
def test_places_are_true_and_the_batch_changes_nothing(texts: list[str]) -> None:
    whole = segment.segment(texts)
    for i, text in enumerate(texts):
        here = slice(whole.offsets[i], whole.offsets[i + 1])
        alone = segment.segment([text])
        for name in ("codes", "starts", "ends", "cjk"):
            assert np.array_equal(getattr(whole, name)[here], getattr(alone, name))
        found = [text[start:end] for start, end in zip(alone.starts, alone.ends, strict=True)]
        assert all(found)
        assert not any(any(char.isspace() for char in token) for token in found)
        left = "".join(text[a:b] for a, b in zip([0, *alone.ends], [*alone.starts, len(text)], strict=True))
        assert not any(char.isalnum() for char in left)
        assert "".join(words(text, "zh")) == "".join(text.split())


def test_hashes_are_those_of_the_first_release() -> None:
    """Signatures may be kept: another process, platform or version must find the same numbers."""
    program = "from puna.corpus.segment import segment; print(segment(['Hello 世界']).codes.tolist())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True,
                         cwd=Path(__file__).parents[2] / "src")  # fmt: skip
    assert run.stdout == "[6889885495748671276, 17428454194978072064, 12023860112641804212]\n"
    assert segment.word_hash("hello") == segment.segment(["hello"]).codes[0]


def test_no_two_of_many_words_share_a_hash() -> None:
    texts = [f"w{i} {i}w {'x' * (i % 50)}{i}" for i in range(20_000)]
    codes = segment.segment([" ".join(texts)]).codes
    assert len(np.unique(codes)) == len({token for text in texts for token in text.split()})


@pytest.mark.parametrize("piece", ["a", "中国人民", "a'", "1.", "。", "한국은", "\u0301", "\n"])
def test_time_is_linear_in_the_text(piece: str) -> None:
    text = (piece * 1_000_000)[:1_000_000]
    words(text[:100], "zh")
    begin = time.process_time()
    tokens_found, words_found = segment.segment([text]), words(text, "zh")
    assert time.process_time() - begin < 8
    assert len(tokens_found.codes) <= len(text)
    assert len(words_found) <= len(text)
