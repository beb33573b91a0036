"""Numbers, hidden characters, and sentences that claim no more than the intervals allow."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna import words
from puna.report.data import ReportData, Results
from puna.report.verdict import comparisons, headline, summary, verdict


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.number(4_123_456), "4,123,456"),
        (words.number(None), "–"),
        (words.compact(5_065_472), "5.07 M"),
        (words.compact(999), "999"),
        (words.in_words(5_065_472), "5.1 million"),
        (words.in_words(134_000_000), "134 million"),
        (words.size_bytes(12_840_233), "12.8 MB"),
        (words.size_bytes(0), "0 bytes"),
        (words.flops(2.26e11), "226 GFLOP/s"),
        (words.duration(0.04), "0.0 s"),
        (words.duration(59.7), "1 min 00 s"),
        (words.duration(372.4), "6 min 12 s"),
        (words.duration(7500), "2 h 05 min"),
        (words.percent(0.4367), "43.7 %"),
        (words.decimal(-0.0274), "−0.027"),
        (words.decimal(float("nan")), "–"),
        (words.p_value(0.0), "< 0.0001"),
        (words.axis_count(2_500_000), "2.5 M"),
        (words.counted(1, "step"), "1 step"),
        (words.counted(0, "step"), "no steps"),
        (words.moment("2026-03-04T15:12:40+00:00"), "2026-03-04, 15:12 UTC"),
        (words.moment("2026-03-04T15:12:40.123+08:00"), "2026-03-04, 15:12 +08:00"),
        (words.moment("yesterday"), "yesterday"),
        (words.plain(10_000.0), "10,000"),
        (words.plain({"a_b": [True, None]}), "a b yes, –"),
        (words.clean("a\tb\nc\x00\x7f\u202e\ud800 👩‍👩‍👧 你好\u3000"), "a\tb\nc␀␡⟨U+202E⟩⟨U+D800⟩ 👩‍👩‍👧 你好\u3000"),
    ],
)
def test_words(said: str, expected: str) -> None:
    assert said.replace("\u202f", " ") == expected


@given(st.text(st.characters()))
def test_clean_text_can_be_written_and_hides_nothing(text: str) -> None:
    cleaned = words.clean(text)
    cleaned.encode()
    assert not [char for char in cleaned if (ord(char) < 32 and char not in "\n\t") or "\u202a" <= char <= "\u202e"]
    assert words.clean(cleaned) == cleaned


@given(st.floats(min_value=0, max_value=1e15))
def test_numbers_always_have_words(value: float) -> None:
    for write in (
        words.compact,
        words.in_words,
        words.size_bytes,
        words.duration,
        words.decimal,
        words.axis_count,
        words.plain,
    ):
        assert write(value)


def one(value: float, interval: list[float] | None, **more: Any) -> dict[str, Any]:
    return {
        "task": "heldout",
        "metric": "bits_per_byte",
        "value": value,
        "interval": interval,
        "higher_is_better": False,
        **more,
    }


@pytest.mark.parametrize(
    ("paired", "outcome", "phrase"),
    [
        (
            {"value": -0.2, "interval": [-0.3, -0.1], "units": 9, "drawn": "sources"},
            "better",
            "interval 0.100 to 0.300",
        ),
        ({"value": 0.2, "interval": [0.1, 0.3], "units": 9, "drawn": "sources"}, "worse", "falls short of xz"),
        ({"value": 0.01, "interval": [-0.1, 0.12], "units": 9, "drawn": "sources"}, "open", "cannot tell"),
    ],
)
def test_the_paired_interval_decides(paired: dict[str, Any], outcome: str, phrase: str) -> None:
    results = Results.model_validate({
        "scores": [one(1.2, [1.1, 1.3])], "baselines": [one(1.2 - paired["value"], None, name="xz", detail={"paired": paired})],
    })  # fmt: skip
    (found,) = comparisons(results)
    assert found.outcome == outcome
    assert phrase in found.sentence
    assert "paired over 9 sources" in found.sentence


def test_without_a_paired_interval_both_spreads_count() -> None:
    results = Results.model_validate(
        {"scores": [one(1.2, [1.14, 1.26])], "baselines": [one(1.28, [1.2, 1.36], name="ngram5")]}
    )
    (found,) = comparisons(results)
    assert found.outcome == "open"
    assert found.interval == pytest.approx((-0.18, 0.02))


def test_without_any_interval_nothing_is_claimed() -> None:
    results = Results.model_validate({"scores": [one(1.2, None)], "baselines": [one(2.0, None, name="xz")]})
    assert comparisons(results)[0].outcome == "open"
    assert "no interval was measured" in comparisons(results)[0].sentence
    assert "beats" not in headline(results)


def test_quiz_at_chance_is_said_so(report: dict[str, Any]) -> None:
    report["results"]["scores"][1] |= {"value": 0.27, "p_value": 0.2}
    data = ReportData.model_validate(report)
    assert "no better than chance" in headline(data.results)
    assert any(kind == "open" and "cannot tell it from guessing" in sentence for kind, sentence in verdict(data))


def test_summary_names_size_text_and_talks(report: dict[str, Any]) -> None:
    said = summary(ReportData.model_validate(report)).replace("\u202f", " ")
    for part in (
        "5.1 million parameters",
        "12.8 MB",
        "Python 3.11.7",
        "笔记/高原",
        "18,211 conversations",
        "655 kB",
        "9 min 34 s",
    ):
        assert part in said
