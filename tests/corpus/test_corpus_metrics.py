"""Metrics and repetition: against datatrove's own filters on real text, and on texts whose measures can be counted by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import segment
from puna.corpus.metrics import measure
from puna.corpus.thresholds import DUPLICATE_SIZES, MEASURES, TOP_SIZES, load_thresholds

DATA = Path(__file__).parents[3] / "shared/data"
EN = "The cat sat on the mat. It was happy!\n- one\n• two\nWait for it...\n\nThe cat sat on the mat. It was happy!\n"
ZH = "今天天气很好。我们去公园散步，她说：“真美！”\n他也去了。\n今天天气很好。我们去公园散步，她说：“真美！”"


def rows(path: str, count: int) -> list[dict[str, str]]:
    file = DATA / path
    if not file.exists():
        pytest.skip(f"no {file}")
    with zstandard.open(file, "rt", encoding="utf-8") as opened:
        return [json.loads(line) for line, _ in zip(opened, range(count), strict=False)]


def words_of(text: str, lang: str) -> list[str]:
    [chunk] = segment.chunks([text])
    starts, ends = segment.words(chunk, [lang])
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def real(lang: str) -> list[str]:
    paths = {
        "en": ("train/en_open.jsonl.zst", "dirty/c4_demo.jsonl.zst"),
        "zh": ("train/zh_modern.jsonl.zst", "train/zh_laws.jsonl.zst"),
    }
    # Without carriage returns and blank lines of spaces: on those the definitions differ, as metrics.py says.
    texts = [
        re.sub(r"[^\S\n]+(?=\n|$)", "", row["text"].replace("\r", ""))[:20_000]
        for path in paths[lang]
        for row in rows(path, 25)
    ]
    return [
        *texts,
        texts[0] * 3,
        "\n\n" + texts[1] + "\n\n\n" + texts[1] + "\n",
        "\n".join(texts[2].split("\n")[:5] * 4),
    ]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_repetition_is_datatroves(lang: str) -> None:
    peer = pytest.importorskip("datatrove.pipeline.filters.gopher_repetition_filter")
    texts = real(lang)
    found = measure(texts, [lang] * len(texts))
    for i, text in enumerate(texts):
        words = words_of(text, lang)
        expected = {}
        for name, pieces in (("paragraph", re.split(r"\n{2,}", text.strip())), ("line", re.split("\n+", text))):
            count, chars = peer.find_duplicates(pieces)
            expected |= {f"duplicate_{name}s": count / len(pieces), f"duplicate_{name}_characters": chars / len(text)}
        expected |= {
            f"top_{n}_gram": peer.find_top_duplicate(peer.get_n_grams(words, n)) / len(text) for n in TOP_SIZES
        }
        expected |= {f"duplicate_{n}_grams": peer.find_all_duplicate(words, n) / len(text) for n in DUPLICATE_SIZES}
        visible = [line for line in text.split("\n") if line.strip()]
        expected["repeated_text"] = peer.find_duplicates(visible)[1] / len(text.replace("\n", ""))
        assert {name: found[name][i] for name in expected} == pytest.approx(expected, abs=1e-12), (i, text[:80])


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_quality_filters_fail_at_the_same_value(lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """datatrove's filters tell no values; so each is given a threshold just under and just over what was measured here."""
    quality = pytest.importorskip("datatrove.pipeline.filters.gopher_quality_filter").GopherQualityFilter
    fineweb = pytest.importorskip("datatrove.pipeline.filters.fineweb_quality_filter").FineWebQualityFilter
    text_module = pytest.importorskip("datatrove.utils.text")
    document = pytest.importorskip("datatrove.data").Document

    class Ours:
        def word_tokenize(self, text: str) -> list[str]:
            return words_of(text, lang)

    monkeypatch.setattr("datatrove.utils.word_tokenizers.load_word_tokenizer", lambda language: Ours())
    text_module.split_into_parts.cache_clear()
    off = dict.fromkeys(
        ("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length", "max_symbol_word_ratio",
         "max_bullet_lines_ratio", "max_ellipsis_lines_ratio", "max_non_alpha_words_ratio", "min_stop_words")
    )  # fmt: skip
    loose = {"line_punct_thr": 0, "short_line_thr": 9, "char_duplicates_ratio": 9, "new_line_ratio": 99}
    stop_words = load_thresholds().of(lang).stop_words
    most = {
        "words": ("max_doc_words", quality), "mean_word_length": ("max_avg_word_length", quality),
        "bullet_lines": ("max_bullet_lines_ratio", quality), "ellipsis_lines": ("max_ellipsis_lines_ratio", quality),
        "short_lines": ("short_line_thr", fineweb), "newlines": ("new_line_ratio", fineweb),
        "repeated_text": ("char_duplicates_ratio", fineweb),
    }  # fmt: skip
    least = {
        "words": ("min_doc_words", quality), "mean_word_length": ("min_avg_word_length", quality),
        "alphabetic_words": ("max_non_alpha_words_ratio", quality), "stop_words": ("min_stop_words", quality),
        "punctuated_lines": ("line_punct_thr", fineweb),
    }  # fmt: skip
    texts = [*real(lang)[::2], EN, ZH, "#tag # x " * 60, "so... well… " * 60, "- a b\n" * 60, "end...\n" * 60]
    found = measure(texts, [lang] * len(texts))

    def stays(i: int, kind: type, **changed: float) -> bool:
        options = {**off, "stop_words": list(stop_words)} if kind is quality else loose
        return kind(**{**options, **changed}).filter(document(text=texts[i], id="")) is True

    for i, text in enumerate(texts):
        for name, (option, kind) in most.items():
            value = found[name][i]
            assert stays(i, kind, **{option: value + 1e-9}), (name, value, text[:80])
            assert value < 1e-9 or not stays(i, kind, **{option: value - 1e-9}), (name, value, text[:80])
        for name, (option, kind) in least.items():
            value = found[name][i]
            assert stays(i, kind, **{option: value - 1e-9}), (name, value, text[:80])
            assert not stays(i, kind, **{option: value + 1e-9}), (name, value, text[:80])
        worse = max(found["hashes"][i], found["ellipses"][i])
        assert stays(i, quality, max_symbol_word_ratio=worse + 1e-9)
        assert worse < 1e-9 or not stays(i, quality, max_symbol_word_ratio=worse - 1e-9)


def test_measures_that_can_be_counted_by_hand() -> None:
    en, zh, c4 = (
        EN,
        ZH,
        "Please turn on JavaScript now.\nRead our privacy policy today.\nLorem Ipsum dolor {sit}.\nToo few.\nOne two three? Yes!\nno stop here but a line",
    )
    found = measure([en, zh, c4, ""], ["en", "zh", "en", "und"])
    assert list(found) == list(MEASURES)
    by = [{name: float(values[i]) for name, values in found.items()} for i in range(4)]
    assert by[0]["words"] == 9 + 1 + 2 + 3 + 9  # • is a word to datatrove, and so here
    assert by[0]["bullet_lines"] == pytest.approx(2 / 6)
    assert by[0]["ellipsis_lines"] == pytest.approx(1 / 6)
    assert by[0]["duplicate_lines"] == pytest.approx(1 / 6)  # five lines with text, and the empty end
    assert by[0]["punctuated_lines"] == pytest.approx(3 / 5)
    assert by[1]["duplicate_lines"] == pytest.approx(1 / 3)
    assert by[1]["whole_lines"] == 1  # ”ends a line of speech
    assert by[1]["punctuated_lines"] == pytest.approx(1 / 3)
    assert by[1]["sentences"] == 2 + 1 + 2
    assert (by[2]["script_lines"], by[2]["policy_lines"], by[2]["lorem_ipsum"], by[2]["braces"]) == (1 / 6, 1 / 6, 1, 1)
    assert by[2]["sentences"] == 1 + 2 + 1
    assert set(by[3].values()) == {0.0}


def test_the_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        EN,
        ZH,
        "",
        " \n ",
        "\n\n",
        "a",
        EN * 40,
        ZH * 40,
        "x" * 3000,
        "\ud800 odd \udfff",
        "İstanbul JavaScript " * 9,
        "a\n" * 999,
    ]
    langs = ["en", "zh", "und", "en", "zh", "ja", "en", "zh", "de", "fr", "tr", "ko"]
    whole = measure(texts, langs)
    single = [measure([text], [lang]) for text, lang in zip(texts, langs, strict=True)]
    for name in MEASURES:
        assert whole[name].tolist() == [one[name][0] for one in single], name
    monkeypatch.setattr(segment, "CHUNK", 64)
    segment._kept_powers.cache_clear()
    small = measure(texts, langs)
    segment._kept_powers.cache_clear()
    assert all(np.array_equal(whole[name], small[name]) for name in MEASURES)


def test_a_document_longer_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"w{i % 700} v{i % 11}" for i in range(3000))
    before = measure([text], ["en"])
    monkeypatch.setattr("puna.corpus.repetition._PACKED", 100)
    assert all(np.array_equal(before[name], after) for name, after in measure([text], ["en"]).items())
    assert len(measure([], [])["words"]) == 0


@given(st.lists(st.text(alphabet="ab .,'\n\r#-…。中文は한국은 ̈\u200d", max_size=60), max_size=5))
def test_any_text_has_measures_in_range(texts: list[str]) -> None:
    counts = {
        "words",
        "mean_word_length",
        "hashes",
        "ellipses",
        "stop_words",
        "newlines",
        "sentences",
        "braces",
        "lorem_ipsum",
    }
    for name, values in measure(texts, ["zh"] * len(texts)).items():
        assert len(values) == len(texts)
        assert np.all(values >= 0)
        assert name in counts or name.startswith("top_") or np.all(values <= 1), name  # a top n-gram may overlap itself
