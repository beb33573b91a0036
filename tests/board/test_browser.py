"""The sample board in a real browser: it loads nothing from elsewhere, says what Python found, and can be used without a mouse."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the sample
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the browser

from board_sample import measurement

from browser import Browser, Page, find, served, settle
from puna.board import build_board
from puna.judge.store.store import Store

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on this machine")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page; whatever a test does in it, it must not complain."""
    one = browser.page(1280, 900)
    one.media(scheme="light")
    yield one
    assert one.console == [] and one.exceptions == []
    assert one.evaluate("window.__pwned === undefined && document.querySelector('script:not([src])') === null")
    one.close()


@pytest.fixture(scope="module")
def board(sample_site: Path) -> dict[str, Any]:
    text = (sample_site / "data" / "board.js").read_text("utf-8")
    return json.JSONDecoder().raw_decode(text[text.index("{") :])[0]


def rows(page: Page) -> list[tuple[int, str]]:
    """(model, rank set) as they stand in the table."""
    script = "[...document.querySelectorAll('#ranked tr')].map((r) => [Number(r.dataset.model), r.querySelector('[data-col=rank]').textContent.trim()])"
    return [(m, rank) for m, rank in page.evaluate(script)]


def expected_rows(board: dict[str, Any], preset: str, scale: str) -> list[tuple[int, str]]:
    said = lambda row: str(row["low"]) if row["low"] == row["high"] else f"{row['low']} to {row['high']}"  # noqa: E731
    return [(row["m"], said(row)) for row in board["expected"][preset][scale]["rows"]]


def test_presets_and_scales_give_what_python_found(page, address, board):
    page.goto(f"{address}/index.html")
    assert rows(page) == expected_rows(board, board["start"], "raw")
    for preset in board["presets"]:
        page.evaluate(f"document.querySelector('[data-preset=\"{preset['id']}\"]').click()")
        for scale in ("clipped", "unclipped", "raw"):
            page.evaluate(f"document.querySelector('#scales [value={scale}]').click()")
            assert rows(page) == expected_rows(board, preset["id"], scale), (preset["id"], scale)
            means = page.evaluate(
                "[...document.querySelectorAll('#ranked [data-col=mean]')].map((c) => Number(c.dataset.sort))"
            )
            assert means == pytest.approx(
                [row["mean"] for row in board["expected"][preset["id"]][scale]["rows"]], abs=1e-9
            )


def test_the_server_wrote_what_the_script_writes(page, address, sample_site):
    """The page without scripts is whole, and the script changes no letter of it for the same choice."""
    cells = """[...document.querySelectorAll('#board tbody tr')].map((r) => [...r.cells].map((c) => c.textContent.replace(/\\s+/g, ' ').trim()))"""
    drawings = "['intervals', 'ties', 'size'].map((id) => [...document.querySelectorAll(`#${id}-figure svg`)].map((s) => s.outerHTML))"
    page.goto(f"{address}/index.html")
    drawn = (page.evaluate(cells), page.evaluate(drawings))
    page.evaluate(
        "document.querySelector('#scales [value=unclipped]').click(); document.querySelector('#scales [value=raw]').click()"
    )
    assert (page.evaluate(cells), page.evaluate(drawings)) == drawn
    raw = json.dumps((sample_site / "index.html").read_text("utf-8"))
    inert = f"((document) => [{cells}, {drawings}])(new DOMParser().parseFromString({raw}, 'text/html'))"
    assert page.evaluate(inert) == list(drawn)


def test_without_scripts_the_page_is_whole(browser, address, board):
    page = browser.page()
    page.scripts(False)
    page.goto(f"{address}/index.html")
    page.scripts(True)
    assert page.evaluate("document.documentElement.className") == "no-js"
    assert rows(page) == expected_rows(board, board["start"], "raw")
    assert page.evaluate("getComputedStyle(document.getElementById('picker')).display") == "none"
    assert page.evaluate("document.querySelectorAll('#intervals-figure svg').length") == 2
    page.close()


def test_a_choice_is_said_and_stays_in_the_address(page, address, board):
    page.goto(f"{address}/index.html")
    assert page.evaluate("location.hash") == ""
    box = "document.querySelectorAll('#tasks input:checked')[0]"
    task = page.evaluate(f"{box}.value")
    page.evaluate(f"{box}.click()")
    said = page.evaluate("document.getElementById('said').textContent")
    chosen = len(next(p for p in board["presets"] if p["id"] == board["start"])["tasks"]) - 1
    assert f"Mean of {chosen} task" in said and "ranked" in said
    kept = page.evaluate("location.href")
    assert "tasks=" in kept
    order = rows(page)
    page.goto("about:blank")
    page.goto(kept)
    assert (
        rows(page) == order
        and page.evaluate(f"document.querySelector('#tasks input[value=\"{task}\"]').checked") is False
    )
    page.goto(f"{kept}&scale=clipped&sort=nonsense&text=%3Cimg%20src%3Dx%20onerror%3D__pwned%3D1%3E")
    page.wait("document.querySelector('#scales [value=clipped]').checked")
    assert page.evaluate("document.querySelectorAll('#board tbody tr:not([hidden])').length") <= 1
    page.evaluate("[...document.querySelectorAll('#tasks input:checked')].forEach((b) => b.click())")
    assert "no mean" in page.evaluate("document.getElementById('said').textContent") and rows(page) == []


def test_names_are_text(page, address, board):
    evil = next(m for m in board["models"] if "<script>" in m["name"])
    page.goto(f"{address}/index.html")
    assert page.evaluate(
        f"[...document.querySelectorAll('#board tbody th')].some((h) => h.textContent.includes({json.dumps(evil['name'][:20])}))"
    )
    # The script writes names too: in the sentence, the caption, what it says, the drawings. Now every name is an evil one.
    script = """PUNA_BOARD.models.concat(PUNA_BOARD.tasks).forEach((one) => { one.name = one.title = `<img src=x>${one.slug.slice(0, 20)}`; });
    [...document.querySelectorAll('#tasks input')].map((one) => {
      document.querySelectorAll('#tasks input').forEach((box) => { if (box.checked !== (box === one)) box.click(); });
      return ['main > .summary', '#caption', '#said', '#ties-figure .wide text.label'].map((what) => document.querySelector(what)).map((e) => [e.textContent, e.childElementCount]);
    })"""
    said = [text for choice in page.evaluate(script) for text, children in choice if children == 0]
    assert len(said) == 4 * page.evaluate("document.querySelectorAll('#tasks input').length")
    assert sum("<img" in text for text in said) > len(said) / 2  # else this shows nothing
    assert page.evaluate("document.querySelectorAll('main img').length") == 0
    page.goto(f"{address}/models/{evil['slug']}.html")
    assert page.evaluate("document.querySelector('h1').textContent").startswith(evil["name"][:20])
    assert (
        page.evaluate("document.querySelectorAll('main img, main script, main i, main a[href^=\"javascript\"]').length")
        == 0
    )
    page.goto(f"{address}/compare.html#a={evil['slug']}&b={board['models'][0]['slug']}")
    settle(page)
    assert page.evaluate("document.querySelectorAll('main img, main script, #items b > *').length") == 0


def focused(page: Page) -> str:
    return page.evaluate(
        "(() => { const e = document.activeElement; return e.dataset.preset ? `preset ${e.dataset.preset}` : e.type === 'checkbox' && e.name === 'task' ? `task ${e.value}`"
        " : e.type === 'radio' ? `scale ${e.value}` : e.className === 'sort' ? `sort ${e.closest('th').cellIndex}` : e.id || e.tagName; })()"
    )


def tab_to(page: Page, wanted: str, most: int = 150) -> None:
    """Goes on with the Tab key alone until what is wanted has the focus, and the focus can be seen."""
    for _ in range(most):
        page.press("Tab")
        if focused(page) == wanted:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"the Tab key never reached {wanted}")


def test_keyboard_alone_through_picker_and_sorting(page, address, board):
    page.goto(f"{address}/index.html")
    page.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip-link"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    other = next(p for p in board["presets"] if p["id"] != board["start"])
    tab_to(page, f"preset {other['id']}")
    page.press("Enter")
    assert rows(page) == expected_rows(board, other["id"], "raw")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    tab_to(page, f"task {other['tasks'][0]}")
    page.press("Space")
    assert f"Mean of {len(other['tasks']) - 1} task" in page.evaluate("document.getElementById('said').textContent")
    page.press("Space")
    tab_to(page, "scale raw")
    page.press("ArrowDown")
    assert rows(page) == expected_rows(board, other["id"], "clipped")
    tab_to(page, "sort 1")
    page.press("Enter")
    names = page.evaluate("[...document.querySelectorAll('#ranked [data-col=model] a')].map((a) => a.textContent)")
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    page.press("Space")
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
    assert (
        page.evaluate("[...document.querySelectorAll('#ranked [data-col=model] a')].map((a) => a.textContent)")
        == names[::-1]
    )
    assert "sort=1.descending" in page.evaluate("location.hash")


def test_sorting_by_numbers(page, address, board):
    """Upwards and downwards by the number that stands there, "4.10 M" too; what is not known comes last both ways."""
    page.goto(f"{address}/index.html")
    head = "[...document.querySelectorAll('#known thead th')].find((h) => h.textContent.startsWith('training tokens'))"
    order = "[...document.querySelectorAll('#known tbody tr')].map((r) => Number(r.dataset.model))"
    tokens = [model["train_tokens"] for model in board["models"]]
    seen = []
    for direction in ("ascending", "descending"):
        page.evaluate(f"{head}.querySelector('button').click()")
        assert page.evaluate(f"{head}.getAttribute('aria-sort')") == direction
        seen.append([tokens[m] for m in page.evaluate(order)])
    known = sorted(value for value in tokens if value is not None)
    lacking = [None] * (len(tokens) - len(known))
    assert len(known) > 2 and lacking and seen == [known + lacking, known[::-1] + lacking]


def test_filters_hide_rows_and_leave_ranks(page, address, board):
    page.goto(f"{address}/index.html")
    before = rows(page)
    shown = "[...document.querySelectorAll('#board tbody tr:not([hidden])')].map((r) => Number(r.dataset.model))"
    page.evaluate("document.querySelector('#filters input[type=search]').focus()")
    chinese = next(k for k, model in enumerate(board["models"]) if "高原" in model["name"])
    page.type("高原")
    assert page.evaluate(shown) == [chinese] and rows(page) == before
    assert "ranks are those among all" in page.evaluate("document.getElementById('said').textContent")
    page.press("Backspace", "Backspace")
    assert len(page.evaluate(shown)) == len(board["models"])
    page.evaluate("document.querySelectorAll('#filters input[type=number]')[0].focus()")
    page.type("1")  # million parameters
    assert set(page.evaluate(shown)) == {
        k for k, model in enumerate(board["models"]) if (model["parameters"] or 0) >= 1e6
    }


def test_two_models_down_to_items(page, address, board):
    both = [m for m in range(len(board["models"])) if board["answers"][m][0]][:2]
    a, b = (board["models"][m]["slug"] for m in both)
    page.goto(f"{address}/compare.html#a={a}&b={b}&task={board['tasks'][0]['slug']}")
    settle(page)
    n = board["items"][0]["n"]
    assert page.evaluate("document.querySelectorAll('#items article').length") == 20
    assert page.evaluate("document.getElementById('said').textContent") == f"{n} items; shown: 1 to 20."
    text = page.evaluate("document.querySelector('#items article').textContent")
    assert "right answer" in text and "chosen by A" in text and re.search(r"(right|wrong)", text)
    detail = page.evaluate(f"PUNA_BOARD.pairs_detail[0][PUNA.place({both[0]}, {both[1]}, PUNA_BOARD.models.length)]")
    figures = page.evaluate("document.getElementById('summary').textContent")
    assert f"only A right{detail['a_only']}" in figures and f"only B right{detail['b_only']}" in figures
    tab_to(page, "differ")
    page.press("Space")
    settle(page)
    differing = detail["a_only"] + detail["b_only"]
    page.wait(f"document.getElementById('said').textContent.startsWith('{differing} item')")
    verdicts = page.evaluate(
        "[...document.querySelectorAll('#items article')].map((x) => [...x.querySelectorAll('.verdict-word')].map((v) => v.textContent))"
    )
    assert verdicts and all(sorted(pair) == ["right", "wrong"] for pair in verdicts)
    page.press("Space")
    page.wait(f"document.getElementById('said').textContent.startsWith('{n} items')")
    tab_to(page, "BUTTON")  # the first that is not switched off: the next page
    assert page.evaluate("document.activeElement.textContent") == "Next"
    page.press("Enter")
    page.wait("document.getElementById('said').textContent.includes('shown: 21 to 40')")
    assert "page=2" in page.evaluate("location.hash") and page.evaluate("document.activeElement.id") == "items"
    fold = "document.querySelector('#items details')"
    assert page.evaluate(f"{fold}.open") is False
    tab_to(page, "SUMMARY")
    page.press("Enter")
    assert page.evaluate(f"{fold}.open") and "Question" in page.evaluate(f"{fold}.querySelector('pre').textContent")
    # The other way round: what A alone had right is now B's alone.
    page.goto(f"{address}/compare.html#a={b}&b={a}&task={board['tasks'][0]['slug']}")
    page.wait(f"document.getElementById('summary').textContent.includes('only B right{detail['a_only']}')")
    assert detail["a_only"] != detail["b_only"]
    assert f"only A right{detail['b_only']}" in page.evaluate("document.getElementById('summary').textContent")


def test_items_that_cannot_be_shown_are_said(page, address, board):
    without = next((m for m in range(len(board["models"])) if not any(board["answers"][m])), None)
    other = next(m for m in range(len(board["models"])) if board["answers"][m][0])
    assert without is not None
    page.goto(
        f"{address}/compare.html#a={board['models'][without]['slug']}&b={board['models'][other]['slug']}&task={board['tasks'][0]['slug']}"
    )
    settle(page)
    assert "holds no single answers" in page.evaluate("document.getElementById('items').textContent")
    page.goto(f"{address}/compare.html#a={board['models'][other]['slug']}&b={board['models'][other]['slug']}")
    page.wait("document.getElementById('summary').textContent.includes('two different models')")


def test_a_command_is_copied_or_selected(page, address, board):
    page.goto(f"{address}/models/{board['models'][0]['slug']}.html")
    click = "document.querySelector('.command button').click()"
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.copied = text; }}, configurable: true})"
    )
    page.evaluate(click)
    page.wait("document.querySelector('.copied').textContent === 'Copied.'")
    assert page.evaluate(
        "window.copied === document.querySelector('.command code').textContent && window.copied.startsWith('puna judge')"
    )
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined}); document.execCommand = () => false;"
    )
    page.evaluate(click)
    page.wait("document.querySelector('.copied').textContent.includes('Ctrl+C')")
    assert page.evaluate("String(getSelection()) === document.querySelector('.command code').textContent")


def test_colours_follow_the_system_and_the_reader(page, address, sample_site):
    ground = "getComputedStyle(document.body).backgroundColor"
    for start in (address, sample_site.as_uri()):
        page.media(scheme="light")
        page.goto(f"{start}/index.html")
        light = page.evaluate(ground)
        page.media(scheme="dark")
        dark = page.evaluate(ground)
        assert light != dark
        choose = "(v) => { const c = document.getElementById('colours'); c.value = v; c.dispatchEvent(new Event('change', {bubbles: true})); }"
        page.evaluate(f"({choose})('light')")
        assert page.evaluate(ground) == light
        page.goto(f"{start}/family.html")
        assert page.evaluate(ground) == light  # it is kept from page to page
        page.evaluate(f"({choose})('')")
        assert page.evaluate(ground) == dark


def test_the_kind_of_likelihood_and_an_unknown_chance_level_are_said(page, tmp_path):
    store = Store(tmp_path / "results")
    for model in (0, 1):
        for which, more in ((0, {"kind": "quiz"}), (1, {"chance": None})):
            one = measurement(model, which)
            store.add(one.model_copy(update={"task": one.task.model_copy(update=more)}), now=1)
    build_board(store.results(), tmp_path / "board")
    with served(tmp_path / "board") as at:
        for task, said in (
            ("arc-challenge", "log-likelihood above that without the question: A"),
            ("hellaswag", "log-likelihood: A"),
        ):
            page.goto(f"{at}/compare.html#a=stories260k&b=grown-400k&task={task}")
            page.wait("document.querySelectorAll('#items article').length > 0")
            assert said in page.evaluate("document.querySelector('#items article .beside:not(h3 *)').textContent")
            assert "smallest difference visible" in page.evaluate("document.getElementById('summary').textContent")
            page.goto("about:blank")
        page.goto(f"{at}/index.html")
        assert len(rows(page)) == 2
        page.evaluate("document.querySelector('#scales [value=unclipped]').click()")
        assert rows(page) == []  # not ranked as if guessing gave nothing
        lacks = page.evaluate("[...document.querySelectorAll('#unranked [data-col=mean]')].map((c) => c.textContent)")
        assert lacks == ["lacks HellaSwag (its chance level)"] * 2
        t = page.evaluate("PUNA_BOARD.tasks.findIndex((task) => task.name === 'hellaswag')")
        assert (
            page.evaluate(f"document.querySelector('#unranked td[data-task=\"{t}\"] .value').textContent")
            == "not known"
        )
