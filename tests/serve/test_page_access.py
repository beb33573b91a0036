"""The chat page without a mouse, without sight, on a phone, in both colours: in Chromium, on a real server with a tiny model."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the browser

from tests_serve_page import answered, click, opened, ready, settings, talk, text, texts, write
from tests_serve_running import Running, running_server
from tests_serve_taught import SECOND

from browser import Browser, Page, find

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def running(short_model: Path) -> Iterator[Running]:
    with running_server({"tiny": short_model}) as one:
        yield one


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    one = opened(browser, running.base_url)
    yield one
    assert one.console == [] and one.exceptions == []
    one.close()


# ---- Without a mouse, without sight ----


def test_every_control_has_a_role_and_a_name(page):
    settings(page, temperature="0")
    talk(page, "Hello")
    for opener in (None, "#settings", "#about", "#help", "#data"):
        if opener:
            page.evaluate(f"document.querySelector('{opener}').focus()")
            page.press("Enter")
            page.wait("!!document.querySelector('dialog[open]')")
            time.sleep(0.1)
        nodes = page.tree()
        for node in nodes:
            if node["role"] in (
                "button",
                "textbox",
                "combobox",
                "checkbox",
                "link",
                "dialog",
                "navigation",
                "region",
                "article",
            ):
                assert node["name"].strip(), (opener, node)
        roles = [node["role"] for node in nodes]
        if opener:
            assert roles.count("dialog") == 1 and "main" not in roles  # behind a modal dialog nothing is told
            page.press("Escape")
            assert page.evaluate(f"document.activeElement === document.querySelector('{opener}')"), opener
        else:
            assert roles.count("main") == 1 and roles.count("navigation") == 1 and "status" in roles
            names = {(node["role"], node["name"]) for node in nodes}
            assert {
                ("region", "Conversation"),
                ("textbox", "Message"),
                ("button", "Send"),
                ("combobox", "Model"),
                ("article", "You"),
                ("article", "tiny"),
            } <= names
            levels = [node["level"] for node in nodes if node["role"] == "heading"]
            assert levels[0] == 1 and all(
                after - before <= 1 for before, after in zip(levels, levels[1:], strict=False)
            )


def test_the_keyboard_reaches_everything(page):
    settings(page, temperature="0")
    talk(page, "Hello")
    page.evaluate("document.activeElement.blur(); document.querySelector('.skip-link').focus()")
    seen = []
    for _ in range(40):
        element = page.evaluate(
            "(() => { const e = document.activeElement; const b = e.getBoundingClientRect(); return [e.id || e.ariaLabel || e.textContent, b.left >= 0 && b.width > 0, getComputedStyle(e).outlineStyle, e.matches(':focus-visible')]; })()"
        )
        seen.append(element[0])
        if element[0] == "message" or element[0] == "":
            pass
        elif element[3]:
            assert element[1] and element[2] != "none", element
        if element[0] == "send":
            break
        page.press("Tab")
    wanted = [
        "new",
        "language",
        "colours",
        "data",
        "help",
        "model",
        "compare",
        "settings",
        "about",
        "Copy",
        "Edit",
        "Try again",
        "message",
        "send",
    ]
    assert set(wanted) <= set(seen), set(wanted) - set(seen)


def test_shortcuts(page):
    page.evaluate("document.activeElement.blur()")
    page.press("?")
    assert text(page, "dialog[open] h2") == "Keyboard and help"
    assert {"Enter", "Shift", "Esc", "/", "n", "?"} <= set(texts(page, "dialog kbd"))
    page.press("s")  # not while a dialog is open
    assert page.evaluate("document.querySelectorAll('dialog').length") == 1
    page.press("Escape")
    for key, title in (("s", "Instructions and sampling"), ("i", "About this model")):
        page.evaluate("document.activeElement.blur()")
        page.press(key)
        page.wait("!!document.querySelector('dialog[open]')")
        assert text(page, "dialog[open] h2").startswith(title)
        page.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.press("/")
    assert page.evaluate("document.activeElement.id") == "message"
    page.press("?", "n")
    assert page.evaluate("document.getElementById('message').value") == "?n"  # in the field they are letters
    click(page, "#help")
    click(page, "#single-keys")
    page.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.press("?")
    assert page.evaluate("document.querySelector('dialog[open]') === null")  # switched off


def test_a_growing_reply_is_not_read_out(page):
    settings(page, temperature="0")
    page.evaluate(
        "window.said = []; new MutationObserver(() => window.said.push(document.getElementById('said').textContent)).observe(document.getElementById('said'), { childList: true, characterData: true, subtree: true })"
    )
    talk(page, "Hello")
    assert page.evaluate("window.said") == [f"Reply of tiny: {SECOND['Hello']}"]
    assert page.evaluate("[...document.querySelectorAll('[aria-live]')].map((e) => e.id)") == ["said"]


# ---- Sizes and colours ----


@pytest.mark.parametrize(("width", "language"), [(320, "zh"), (360, "en"), (768, "zh"), (1280, "en")])
def test_nothing_is_wider_than_the_page(browser, running, width, language):
    page = opened(browser, running.base_url, width=width, height=700, language=language)
    settings(page, temperature="0")
    write(page, "x" * 300 + "\n" + "长" * 300)
    answered(page)
    wide = "import('/static/markdown.js').then((m) => m.render(document.querySelector('.reply .body'), '`' + 'y'.repeat(200) + '`\\n\\n```\\n' + 'z'.repeat(300) + '\\n```\\n\\n|a|b|\\n|-|-|\\n|' + 'w'.repeat(200) + '|' + 'v'.repeat(200) + '|'))"
    page.evaluate(wide)
    for opener in (None, "#settings", "#help", "#data", "#about", "#compare"):
        if opener:
            click(page, opener)
            time.sleep(0.05)
        over = page.evaluate(
            "[...document.querySelectorAll('body *')].filter((e) => !e.closest('.table, pre, .skip-link, .hidden, #sidebar:not(.open), .entry .open') && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"
        )
        assert over == [], opener
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if opener and opener != "#compare":
            page.press("Escape")
    page.close()


def test_the_drawer_on_a_phone(browser, running):
    page = opened(browser, running.base_url, width=360, height=740)
    assert page.evaluate("getComputedStyle(document.getElementById('sidebar')).visibility") == "hidden"
    click(page, "#show-sidebar")
    assert page.evaluate("document.activeElement.id") == "hide-sidebar" and page.evaluate(
        "document.getElementById('main').inert"
    )
    page.press("Escape")
    assert page.evaluate("document.activeElement.id") == "show-sidebar" and not page.evaluate(
        "document.getElementById('main').inert"
    )
    click(page, "#show-sidebar")
    click(page, "#new")
    assert not page.evaluate("document.getElementById('main').inert")
    targets = page.evaluate(
        "[...document.querySelectorAll('button, select')].filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect()).filter((b) => b.width && Math.min(b.width, b.height) < 24).length"
    )
    assert targets == 0  # WCAG 2.5.8
    page.close()


CONTRAST = """(() => {
  const shown = (colour) => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, n) => s + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = shown(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; } return shown('canvas'); };
  return [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.closest('.hidden, .skip-link, :disabled, noscript, #send') && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => { const [a, b] = [light(shown(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x); return [(a + 0.05) / (b + 0.05), e.textContent.slice(0, 30), e.className]; })
    .filter(([ratio]) => ratio < 4.5);
})()"""  # WCAG 2.2, contrast ratio


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colours(browser, running, scheme):
    page = opened(browser, running.base_url, scheme=scheme)
    settings(page, temperature="0")
    talk(page, "Hello")
    page.evaluate(
        "import('/static/markdown.js').then((m) => m.render(document.querySelector('.reply .body'), '# h\\n> quote\\n\\n`code` [l](https://a.example/)\\n\\n```py\\nx\\n```'))"
    )
    assert page.evaluate(CONTRAST) == []
    for opener in ("#settings", "#help", "#data", "#about"):
        click(page, opener)
        time.sleep(0.05)
        assert page.evaluate(CONTRAST) == [], opener
        page.press("Escape")
    page.close()


def test_the_switch_of_colours_is_kept(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    click(page, "#colours")  # light
    click(page, "#colours")  # dark
    assert (
        page.evaluate("document.getElementById('colours').ariaLabel") == "Colours: dark"
        and page.evaluate(ground) != light
    )
    page.goto(page.evaluate("location.href"))
    ready(page)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark" and page.evaluate(ground) != light
    click(page, "#colours")
    assert page.evaluate(ground) == light  # as the system has it


def test_no_motion_for_those_who_want_none(page):
    page.media(motion="reduce")
    click(page, "#settings")
    assert page.evaluate("document.getAnimations().length") == 0
    page.press("Escape")


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fills_the_window(browser, running, width):
    """The field for messages stands at the foot, with an empty conversation and with a long one; the thread alone scrolls."""
    page = opened(browser, running.base_url, width=width, height=700)
    settings(page, temperature="0")
    for message in ("Hello\n" * 60, None):
        places = page.evaluate(
            "['main', 'foot'].map((id) => document.getElementById(id).getBoundingClientRect()).map((b) => [b.top, b.bottom])"
        )
        assert (places[0], places[1][1]) == ([0, 700], 700)
        assert page.evaluate("document.documentElement.scrollHeight") == 700
        if message:
            write(page, "x")
            answered(page)
            page.evaluate(f"document.getElementById('message').value = {json.dumps(message)}")
            page.press("Enter")
            answered(page)
            page.wait("document.getElementById('scroll').scrollHeight > 1000")
            place = page.evaluate(
                "(() => { const s = document.getElementById('scroll'); return s.scrollHeight - s.scrollTop - s.clientHeight; })()"
            )
            assert place < 2  # at its end
    page.close()
