"""Thresholds as they are shipped and as a user changes them, and the verdicts on real and on dirty text."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zstandard

from puna.corpus.filters import drawn, judge
from puna.corpus.metrics import measure
from puna.corpus.thresholds import METRICS, REPETITION, load_thresholds
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data"
THRESHOLDS = load_thresholds()
EN = (
    "The committee met on the first of May to read the report that the engineers had written over the winter. It was long, "
    "and not everyone had finished it. Some members asked for more time; others wanted to vote at once. In the end they "
    "agreed to have the bridge closed until the cracks could be measured again with better instruments. Nobody was happy "
    "about the detour through the valley. Still, the mayor said, a week of slow traffic is cheaper than one accident."
)
ZH = (
    "北京是中国的首都，有着悠久的历史和丰富的文化。许多游客喜欢在秋天来这里旅行，因为那时天空很蓝，天气也不冷不热。\n"
    "老城区的胡同被保护得很好，人们在院子里种花、下棋、喝茶。近年来，为了减少污染，市政府关闭了不少旧工厂，并修建了新的地铁线路。\n"
    "他说：“我在这里住了三十年，变化真大！”如今，外地来的年轻人也越来越多，他们带来了新的想法和口味。"
)
FINEWEB_2 = {
    "zh": "cmn_Hani", "de": "deu_Latn", "fr": "fra_Latn", "es": "spa_Latn", "ru": "rus_Cyrl", "ja": "jpn_Jpan",
    "ko": "kor_Hang", "ar": "arb_Arab",
}  # fmt: skip
UDHR = {
    "eng": "en", "cmn_hans": "zh", "cmn_hant": "zh", "deu": "de", "fra": "fr", "spa": "es", "rus": "ru", "jpn": "ja",
    "kor": "ko", "arb": "ar",
}  # fmt: skip


def rows(path: str, count: int = 10**9) -> list[dict[str, str]]:
    file = DATA / path
    if not file.exists():
        pytest.skip(f"no {file}")
    with zstandard.open(file, "rt", encoding="utf-8") as opened:
        return [json.loads(line) for line, _ in zip(opened, range(count), strict=False)]


def rules(texts: list[str], langs: list[str]) -> list[str]:
    return judge(measure(texts, langs, THRESHOLDS), langs, THRESHOLDS).rules


@pytest.mark.parametrize("lang", FINEWEB_2)
def test_the_table_carries_fineweb_2s_values(lang: str) -> None:
    yaml = pytest.importorskip("yaml")
    path = DATA / f"thresholds/fineweb2-{FINEWEB_2[lang]}.yml"
    if not path.exists():
        pytest.skip(f"no {path}")
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    table = THRESHOLDS.languages[lang]
    limits = table.limits
    assert table.stop_words == tuple(given["stopwords"])
    assert table.language_score == given["language_score"]
    assert limits["duplicate_lines"].max == given["dup_line_frac"]
    assert [limits[f"top_{n}_gram"].max for n, _ in given["top_n_grams"]] == [v for _, v in given["top_n_grams"]]
    assert [limits[f"duplicate_{n}_grams"].max for n, _ in given["dup_n_grams"]] == [v for _, v in given["dup_n_grams"]]
    assert limits["newlines"].max == given["new_line_ratio"]
    assert limits["alphabetic_words"].min == given["max_non_alpha_words_ratio"]
    assert (limits["mean_word_length"].min or 0, limits["mean_word_length"].max) == (
        given["min_avg_word_length"], given["max_avg_word_length"]
    )  # fmt: skip
    assert (limits["punctuated_lines"].min if "punctuated_lines" in limits else 0) == given["line_punct_thr"]


def test_the_declaration_of_human_rights_passes_in_every_language_with_thresholds() -> None:
    texts = {row["lang"]: row["text"] for row in rows("dirty/udhr2_388langs.jsonl.zst")}
    known = {code: text for code, text in texts.items() if code in UDHR}
    assert set(known) == set(UDHR)
    assert rules(list(known.values()), [UDHR[code] for code in known]) == [""] * len(known)
    others = [text for code, text in texts.items() if code not in UDHR]
    assert rules(others, ["und"] * len(others)).count("") >= 0.95 * len(others)


@pytest.mark.parametrize(
    "lang, path, least",
    [
        ("en", "train/en_open.jsonl.zst", 0.94),
        ("zh", "train/zh_modern.jsonl.zst", 0.9),
        ("zh", "train/zh_laws.jsonl.zst", 0.75),  # formulas: every fifth statute says too many 5-grams again
    ],
)
def test_clean_text_stays(lang: str, path: str, least: float) -> None:
    texts = [row["text"] for row in rows(path, 200)]
    found = rules(texts, [lang] * len(texts))
    assert found.count("") >= least * len(texts), Counter(found)


def test_dirt_goes_with_its_reason() -> None:
    clean, zh = EN, ZH
    dirty = {
        "short": (clean[:90], "en", "metrics: words under 50"),
        "menu": ("\n".join(f"- garden furniture and lamps, page {i}" for i in range(30)), "en", "metrics: share of lines that are bullet points over 0.9"),
        "code": (clean + " Call {name} for more.", "en", "metrics: opening braces over 0"),
        "letters": ("x y z to of " * 40, "en", "metrics: mean word length under 3"),
        "foreign": ("Ein Satz ohne englische Wörter steht hier geschrieben. " * 12, "en", "metrics: different stop words under 2"),
        "again": ((clean + "\n\n") * 4, "en", "repetition: share of paragraphs said before over 0.3"),
        "zh again": ((zh + "\n") * 6, "zh", "repetition: share of lines said before over 0.287"),
        "zh numbers": ("的是在 " + "1、2、3、" * 40, "zh", "metrics: share of words with a letter under 0.735"),
        "empty": ("", "und", "metrics: words under 50"),
    }  # fmt: skip
    texts, langs = [clean, zh, *(one[0] for one in dirty.values())], ["en", "zh", *(one[1] for one in dirty.values())]
    measures = measure(texts, langs, THRESHOLDS)
    judged = judge(measures, langs, THRESHOLDS)
    assert judged.rules[:2] == ["", ""]
    assert dict(zip(dirty, judged.rules[2:], strict=True)) == {name: one[2] for name, one in dirty.items()}
    assert np.isnan(judged.values[:2]).all()
    assert judged.values[2] == measures["words"][2]
    # One stage alone sees nothing of the other; without any, all stay.
    assert judge(measures, langs, THRESHOLDS, ["repetition"]).rules[4] == ""
    assert set(judge(measures, langs, THRESHOLDS, []).rules) == {""}


def test_a_users_table_changes_single_values(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[languages.zh.limits]\nwords = {min = 20}\nnewlines = false\n[languages.it]\nstop_words = ["il"]\n', "utf-8"
    )
    own = load_thresholds(path)
    assert own.version == f"{THRESHOLDS.version} changed by own.toml"
    assert own.of("zh").limits["words"].bounds() == (20, 100_000)
    assert "newlines" not in own.of("zh").limits
    assert own.of("zh").stop_words == THRESHOLDS.of("zh").stop_words
    assert own.of("en") == THRESHOLDS.of("en")
    assert own.of("it").stop_words == ("il",)
    assert own.of("it").limits == THRESHOLDS.default.limits == own.of("und").limits


@pytest.mark.parametrize(
    "text, told",
    [
        ("[languages.zh.limits]\nwords = {mini = 3}", "languages.zh.limits.words.mini"),
        ("[languages.zh.limits]\nwordz = {min = 3}", "unknown measure `wordz`"),
        ("[default.limits]\nwordz = false", "unknown measure `wordz`"),
        ("[languages.en.limits]\nwords = {min = 200000}", "over max"),
        ("[languages.en.limits]\nwords = {min = true}", "languages.en.limits.words.min"),
        (
            "[default.limits]\nwords = {}\nhashes = {}\n[languages.en]\nlanguage_score = 7",
            "languages.en.language_score",
        ),
        ("languages = 3", "languages"),
        ("[languages.en.limits]\nwords = {max = nan}", "languages.en.limits.words.max"),
        ("a = ", "not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(PunaError, match="own.toml") as caught:
        load_thresholds(path)
    assert told in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "large.toml").write_bytes(b"#" * 2_000_000)
    for name, told in (("none.toml", "cannot be read"), ("bytes.toml", "UTF-8"), ("large.toml", "bytes")):
        with pytest.raises(PunaError, match=told):
            load_thresholds(tmp_path / name)


def test_what_is_drawn() -> None:
    assert drawn(THRESHOLDS, "zh")["mean_word_length"] == (1, 5)
    assert drawn(THRESHOLDS, "en")["words"] == (50, 100_000)
    assert drawn(THRESHOLDS, "xx")["top_2_gram"] == (None, 0.2)
    assert set(drawn(THRESHOLDS, "en")) <= {*METRICS, *REPETITION}
