"""Languages: one at a time, mixed, short; the scripts of Chinese; the checked model."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.corpus import language, language_model
from puna.errors import PunaError

UDHR = Path(__file__).parents[3] / "shared/data/dirty/udhr2_388langs.jsonl.zst"


@pytest.mark.parametrize(
    ("text", "code", "script"),
    [
        ("中华人民共和国公民在法律面前一律平等。", "zh", "Hans"),
        ("聯絡我們", "zh", "Hant"),
        ("一二三四五", "zh", ""),
        ("中文", "zh", ""),
        ("学而时习之，不亦说乎", "zh", "Hans"),
        ("爲政以德，譬如北辰居其所而衆星共之", "zh", ""),
        ("設$X_1$與$X_2$是兩個相互獨立的隨機變數，且$X_1 \\sim \\exp(\\lambda)$", "zh", "Hant"),
        ("これは日本語の文章です。\n概要", "ja", ""),
        ("国連総会採択", "ja", ""),
        ("안녕하세요", "ko", ""),
        ("我哋喺香港食嘢，唔好咁樣", "yue", ""),
        ("This is the house that the man built for it.", "en", ""),
        ("The General Assembly", "en", ""),
        ("Contact us", "en", ""),
        ("Bonjour tout le monde", "fr", ""),
        ("Guten Tag, wie geht es Ihnen?", "de", ""),
        ("Это предложение на русском языке", "ru", ""),
        ("Це речення українською мовою", "uk", ""),
        ("Όλοι οι άνθρωποι", "el", ""),
        ("ราชอาณาจักรไทย", "th", ""),
        ("מדינת ישראל", "he", ""),
        ("12345 --- ¥%", "und", ""),
        ("", "und", ""),
        ("\ud800\udfff", "und", ""),
        ("ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ", "und", ""),
    ],
)
def test_one_language(text: str, code: str, script: str) -> None:
    found = language.identify([text])
    assert (found.code, found.script) == ([code], [script])
    assert 0 <= found.score[0] <= 1
    assert 0 <= found.share[0] <= 1


def test_a_mixed_text_is_seen() -> None:
    english = "This is the page of a company that sells tea to all of its friends. " * 20
    chinese = "这是一家向各地朋友出售茶叶的公司的网页。" * 20
    found = language.identify(
        [
            english,
            f"{english}\n版权所有 京公网安备 联系我们 关于我们 网站地图",
            f"{english}\n{chinese}",
            f"{chinese}\nAll rights reserved.",
        ]
    )
    assert found.code == ["en", "en", "zh", "zh"] or found.code == ["en", "en", "en", "zh"]
    assert found.share[0] == 1
    assert 0.9 < found.share[1] < 1
    assert 0.4 < found.share[2] < 0.7
    assert 0.9 < found.share[3] < 1


def test_an_answer_does_not_depend_on_the_batch() -> None:
    texts = ["Bonjour le monde", "这是中文", "the quick brown fox and the dog " * 300, "", "Hola, ¿qué tal?\n你好"] * 40
    whole = language.identify(texts)
    for index in range(5):
        one = language.identify([texts[index]])
        assert one.code[0] == whole.code[index]
        assert one.score[0] == whole.score[index]
        assert one.share[0] == whole.share[index]
    assert language.identify([]).code == []


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=200), max_size=4))
def test_any_text_is_identified(texts: list[str]) -> None:
    found = language.identify(texts)
    assert len(found.code) == len(found.script) == len(found.score) == len(found.share) == len(texts)
    assert np.isfinite(found.score).all()


@pytest.mark.parametrize("part", ["a", "a\n", "中\n", "a中 ", "\n", "é"])
def test_a_giant_text_costs_no_more_than_a_long_one(part: str) -> None:
    language.identify(["warm"])
    start = time.process_time()
    language.identify([part * 5_000_000])
    assert time.process_time() - start < 1


def test_a_model_that_nobody_checked_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.npz.xz"
    with pytest.raises(PunaError, match="cannot be read"):
        language_model.load(path)
    path.write_bytes(b"not the model")
    with pytest.raises(PunaError, match="SHA-256"):
        language_model.load(path)


def test_the_model_scores_as_its_own_package_does() -> None:
    own = pytest.importorskip("py3langid.langid")
    other = own.LanguageIdentifier.from_model_file(own.MODEL_FILE, norm_probs=True)
    model = language_model.shipped()
    other.set_languages([code for code in model.codes if code != "und" and code in other.labels and code in _LATIN])
    texts = ["Bonjour tout le monde, comment allez-vous aujourd'hui ?", "Wir wissen nicht, was wir tun sollen."]
    for text, (code, sure) in zip(texts, language_model.score(texts, ["Latn"] * 2), strict=True):
        label, confidence = other.classify(text)
        assert code == label
        assert sure == pytest.approx(confidence, abs=0.05)  # ours knows a few languages more, and their handicap


_LATIN = {"fr", "de", "en", "es", "it", "nl", "pt", "ca", "oc", "ro", "da", "sv", "no", "af", "pl", "cs"}


def test_importing_it_loads_no_model() -> None:
    code = "import sys, puna.corpus.language; sys.exit('py3langid' in sys.modules or 'lzma' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_english_and_chinese_paragraphs_of_the_udhr() -> None:
    if not UDHR.exists():
        pytest.skip(f"{UDHR} is not there")
    with UDHR.open("rb") as file:
        rows = [
            json.loads(line) for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
        ]
    texts = {row["lang"]: row["text"] for row in rows}
    wanted = {
        "eng": ("en", ""),
        "cmn_hans": ("zh", "Hans"),
        "cmn_hant": ("zh", "Hant"),
        "jpn": ("ja", ""),
        "kor": ("ko", ""),
    }
    for lang, answer in wanted.items():
        paragraphs = [line.strip() for line in texts[lang].split("\n") if len(line.strip()) >= 20]
        assert len(paragraphs) > 40
        found = language.identify(paragraphs)
        assert list(zip(found.code, found.script, strict=True)) == [answer] * len(paragraphs)
