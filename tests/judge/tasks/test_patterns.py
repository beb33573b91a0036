"""Which regular expressions of a task file are run, and that those take no long time."""

import re
import time
from typing import Any

import pytest

from puna.judge.tasks import catalog, patterns


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a*)*b", "(a|a)*b", "(a|ab)*c", "(a|)+b", "(?:a?a)+b", "((a|aa){5})+b", "(\\w+\\s?)*$", "(.*,)+x", "(a{1,100}){1,100}b",
        "a?" * 30 + "a" * 30, ".*.*x", ".*a.*b", "\\s*\\s*x", "(a+)(?=b)(a+)c", "(?:(?:a+)?b?)+c", "(.+)\\1", "(?=(a+)+b)", "(x+x+)+y", "([a-z]+)*\\d", "(?>a+)+b", "(ab|[a-z])*1", "\\d+\\d+x", "(a+|b)+c", "(?:x*){2}y",
    ],
)  # fmt: skip
def test_a_slow_pattern_is_refused(pattern: str) -> None:
    assert patterns.refusal(pattern), pattern
    with pytest.raises(ValueError, match=r"for ever|ways|cube"):
        patterns.compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"#### (\-?[0-9\.\,]+)", "#" * 10_000), (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "-" * 10_000), (r"(?s).*#### ", "#" * 10_000),
        (r"\.$", "." * 10_000), (r"answer is:?\s*\(?([A-D])\)?", "answer is" + " " * 10_000), (r"\d+,\d+,\d+", "1" * 10_000),
        (r"(?:\d{3},)*x", "123," * 2500), (r"\\boxed\{([^}]*)\}", "\\boxed{" * 1400), (r"(?:a|b|cd)+x", "abcd" * 2500),
        (r"(?i)the answer is (yes|no)", "the answer is " * 700), (r"\s*(-?\d+)\s*$", " " * 10_000), (r".*?(\d+)", "a" * 10_000),
        (r"(?i)(a|A)*b", "a" * 9_000), (r"(a|b|[a-z])*1", "a" * 9_000),
        (r"(?<!\d)(\d{4})-(\d\d)", "1" * 10_000), (r"\[\[([ABC])\]\]", "[" * 10_000), (r"\d+\.?\d*", "1" * 10_000),
    ],
)  # fmt: skip
def test_a_plain_pattern_runs(pattern: str, text: str) -> None:
    found, start = patterns.compiled(pattern), time.process_time()
    found.findall(text[: patterns.MOST_MATCHED])
    assert time.process_time() - start < 3


def test_the_bundled_patterns_stand() -> None:
    given = [
        one for name in catalog.bundled() for spec in [catalog.bundled_task(name)] for one in (*(cut.regex for cut in spec.extract), *spec.ignore)
    ]  # fmt: skip
    assert len(given) >= 6 and not [one for one in given if patterns.refusal(one)]


@pytest.mark.parametrize("pattern", ["(", "a{9999999999999}", "[", "(?P<a>x)(?P<a>y)"])
def test_no_pattern(pattern: Any) -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        patterns.compiled(pattern)
    with pytest.raises((re.error, OverflowError)):
        re.compile(pattern)
