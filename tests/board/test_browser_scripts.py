"""The board's scripts beside Python, in a real browser: the same words, the same p-values, ranks and drawings."""

import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the browser

import puna.board
from browser import Browser, Page, find
from puna import visible, words
from puna.board.plots import PLOT_NARROW, PLOT_WIDE, Mark, interval_plot, size_plot, tie_plot

STATIC = Path(puna.board.__file__).parent / "static"
SCRIPTS = ("theme.js", "board.js", "words.js", "rank.js", "plots.js")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
)

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    """An empty page with the scripts, opened from a folder."""
    folder = tmp_path_factory.mktemp("scripts")
    for name in SCRIPTS:
        shutil.copy(STATIC / name, folder / name)
    tags = "".join(f'<script src="{name}" defer></script>' for name in SCRIPTS)
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>t</title>'
    (folder / "page.html").write_text(
        f"<!doctype html><html><head>{head}{tags}</head><body><header></header></body></html>"
    )
    with Browser() as browser:
        opened = browser.page()
        opened.goto((folder / "page.html").as_uri())
        yield opened
        assert opened.console == [] and opened.exceptions == []


def js(page: Page, function: str, cases: list[Any]) -> list[Any]:
    """A function of the page over many lists of arguments."""
    return page.evaluate(f"({json.dumps(cases)}).map((one) => ({function})(...one))")


def test_numbers_have_the_digits_that_python_writes(page):
    values = [
        0.0,
        12.25,
        12.75,
        0.05,
        -0.05,
        1 / 3,
        70.65,
        12.35,
        -3.125,
        0.125,
        1e-9,
        99.95,
        2.5,
        3.5,
        *np.random.default_rng(5).normal(0, 40, 200),
    ]
    cases = [[float(value), places] for value in values for places in (0, 1, 2, 3)]
    expected = [words.decimal(value, places) for value, places in cases]
    found = js(page, "PUNA.decimal", cases)
    unsigned = [text.lstrip("\u2212") if not any(digit in text for digit in "123456789") else text for text in expected]
    assert found == unsigned  # a nought has no sign here
    sizes = [1, 999, 1000, 264_512, 999_999, 4_100_000, 34_000_000_000, 3.1e12]
    assert js(page, "PUNA.compact", [[size] for size in sizes]) == [words.compact(size) for size in sizes]
    assert js(page, "PUNA.axisCount", [[size] for size in sizes]) == [words.axis_count(size) for size in sizes]
    small = [0.0, 3e-5, 1e-4, 0.0049, 0.01, 0.5, 1.0]
    assert js(page, "PUNA.pValue", [[p] for p in small]) == [words.p_value(p) for p in small]


def test_names_are_cleaned_and_shortened_as_python_does(page):
    texts = [
        "plain",
        "高原" * 40,
        "a\u202eb\u200d\u0000\x7f\u0085 \u2028c",
        "  two   spaces\n",
        "x" * 500,
        "😀" * 60,
        "\ud800half",
        "\ufeff\u00ad\u3000t",
    ]
    assert js(page, "PUNA.clean", [[text] for text in texts]) == [visible.clean(text) for text in texts]
    cases = [[text, most] for text in texts for most in (4, 17, 90)]
    assert js(page, "PUNA.brief", cases) == [words.brief(text, most) for text, most in cases]
    assert js(page, "PUNA.lang", [[text] for text in texts]) == [words.language(text) for text in texts]


def test_erfc_to_twelve_digits(page):
    xs = [
        0.0,
        1e-9,
        0.1,
        0.5,
        1.0,
        1.999999,
        2.0,
        2.000001,
        2.5,
        3.0,
        4.0,
        6.0,
        10.0,
        26.0,
        -1.0,
        *np.linspace(0, 8, 161),
    ]
    for x, found in zip(xs, js(page, "PUNA.erfc", [[float(x)] for x in xs]), strict=True):
        assert found == pytest.approx(math.erfc(x), rel=1e-12)
    assert js(page, "PUNA.erfc", [[40.0]]) == [0.0]


def board_of(rng: np.random.Generator, models: int, tasks: int) -> dict[str, Any]:
    """Random scores and random differences: the script takes the pairs as they are."""
    pairs = models * (models - 1) // 2
    value = rng.uniform(0.3, 0.7, (models, tasks))
    first, second = np.triu_indices(models, 1)
    variance = rng.uniform(1e-5, 4e-4, (pairs, tasks))
    return {
        "models": [{"name": f"m{m}"} for m in range(models)], "level": 0.05, "z": 1.959963984540054,
        "scores": [[{"v": float(v), "var": 1e-4, "norm": float(v) - 0.1, "norm_var": 2e-4, "clip": max(0.0, float(v) - 0.4)} for v in row] for row in value],
        "pairs": [
            {"d": (value[first, t] - value[second, t]).tolist(), "v": variance[:, t].tolist(), "dn": (2 * (value[first, t] - value[second, t])).tolist(),
             "vn": (4 * variance[:, t]).tolist(), "paired": "".join("x" if rng.random() < 0.02 else "1" for _ in range(pairs))}
            for t in range(tasks)
        ],
    }  # fmt: skip


def ranked(board: dict[str, Any], tasks: list[int], scale: str) -> list[tuple[int, int, int]]:
    """(model, low, high) in order, written anew from the contract: means, normal two-sided tests, Holm, counting."""
    field = {"raw": "v", "clipped": "clip", "unclipped": "norm"}[scale]
    d, v = ("d", "v") if scale == "raw" else ("dn", "vn")
    n = len(board["models"])
    first, second = np.triu_indices(n, 1)
    gap = np.sum([board["pairs"][t][d] for t in tasks], axis=0) / len(tasks)
    error = np.sqrt(np.sum([board["pairs"][t][v] for t in tasks], axis=0)) / len(tasks)
    p = np.array([math.erfc(abs(z) / math.sqrt(2)) for z in gap / error])
    p[[any(board["pairs"][t]["paired"][k] == "x" for t in tasks) for k in range(len(p))]] = 1
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    told = np.zeros((n, n), bool)  # [better, worse]
    for i, j, sign, q in zip(first, second, gap, adjusted, strict=True):
        if q <= 0.05:
            told[(i, j) if sign > 0 else (j, i)] = True
    means = np.array([np.mean([board["scores"][m][t][field] for t in tasks]) for m in range(n)])
    return [(int(m), 1 + int(told[:, m].sum()), n - int(told[m].sum())) for m in np.argsort(-means, kind="stable")]


def test_order_and_rank_sets_of_random_boards(page):
    rng = np.random.default_rng(11)
    wide = 0
    for models, tasks in ((2, 1), (5, 3), (12, 6), (30, 4)):
        board = board_of(rng, models, tasks)
        for scale in ("raw", "clipped", "unclipped"):
            chosen = sorted(rng.choice(tasks, rng.integers(1, tasks + 1), replace=False).tolist())
            rows = page.evaluate(f"PUNA.rank({json.dumps(board)}, {chosen}, '{scale}').rows")
            assert [(row["m"], row["low"], row["high"]) for row in rows] == ranked(board, chosen, scale)
            wide += sum(row["low"] < row["high"] for row in rows)
    assert wide  # some ranks stay open: the test is about rank sets, not ranks


def test_who_lacks_a_task_has_no_rank(page):
    board = board_of(np.random.default_rng(3), 4, 2)
    board["scores"][1][0] = None
    board["scores"][2][1] = {"failed": "why"}
    found = page.evaluate(f"PUNA.rank({json.dumps(board)}, [0, 1], 'raw')")
    assert [row["m"] for row in found["lacking"]] == [1, 2] and found["lacking"][0]["tasks"] == [0]
    assert sorted(row["m"] for row in found["rows"]) == [0, 3] and all(row["high"] <= 2 for row in found["rows"])
    assert page.evaluate(f"PUNA.rank({json.dumps(board)}, [], 'raw').rows.length") == 0


MARKS = [
    Mark("高原小羊驼", 71.5, 69.0, 74.0, 1, 2, 4_100_000, "71.5"),
    Mark("<img src=x onerror=alert(1)>\u202e", 70.25, 68.03, 72.5, 1, 2, 1_000_000),
    Mark(
        "a-model-with-a-name-that-is-much-longer-than-any-column-of-a-drawing-could-hold",
        54.0,
        51.5,
        56.5,
        3,
        4,
        401_000,
    ),
    Mark("in the crowd", 53.5, 51.0, 55.5, 3, 4, 420_000),
    Mark("no interval, no size", 31.0, None, None, 5, 5, None),
]
APART = {(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 4), (3, 4)}


@pytest.mark.parametrize("width", [PLOT_WIDE, PLOT_NARROW])
@pytest.mark.parametrize(
    "marks",
    [
        MARKS,
        MARKS[2:4],
        [Mark(f"number {n}", 50 + n % 7, 48 + n % 7, 53 + n % 7, 1, 9, 10 ** (6 + n % 5)) for n in range(19)],
    ],
)
def test_the_script_draws_what_the_server_draws(page, marks, width):
    there = json.dumps(
        [
            {key: getattr(mark, key) for key in ("label", "value", "lo", "hi", "low", "high", "size", "words")}
            for mark in marks
        ]
    )
    apart = {pair for pair in APART if max(pair) < len(marks)}
    told = json.dumps([f"{i}-{j}" for i, j in apart])
    for server, script in (
        (interval_plot(marks, "n", width, "an axis"), f"PUNA.intervalPlot({there}, 'n', {width}, 'an axis')"),
        (tie_plot(marks, apart, "n", width), f"PUNA.tiePlot({there}, new Set({told}), 'n', {width})"),
        (size_plot(marks, "n", width, "an axis"), f"PUNA.sizePlot({there}, 'n', {width}, 'an axis')"),
    ):
        read = f"new DOMParser().parseFromString({json.dumps(str(server))}, 'text/html').querySelector('svg').outerHTML"
        ours, theirs = page.evaluate(read), page.evaluate(f"{script}.outerHTML")
        assert theirs.replace("><", ">\n<").split("\n") == ours.replace("><", ">\n<").split("\n")
