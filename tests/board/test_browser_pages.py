"""Every kind of page of the sample board in a real browser: silent, readable, no wider than the screen, and told to a screen reader."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the browser

from browser import Browser, find, settle

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on this machine")


def pages_of(site: Path) -> list[str]:
    """Every kind of page; of models and tasks the strangest ones and a plain one."""
    every = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    wanted = re.compile(r"[^/]*|models/(script|yi|stories).*|tasks/(arc|cmmlu|text).*")
    return [name for name in every if wanted.fullmatch(name)]


# WCAG 2.1, 1.4.3: the ratio of relative luminances, over every element that holds text of its own.
CONTRAST = """(() => {
  const lum = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((s, v, k) => s + v * [0.2126, 0.7152, 0.0722][k], 0);
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.99) return c; } return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length || e.disabled || e.closest('[disabled]')) continue;
    if (e.closest('title, desc, option, .hidden, .skip-link')) continue;
    const style = getComputedStyle(e);
    const [a, b] = [lum(rgb(e.closest('svg') ? style.fill : style.color)), lum(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([e.tagName, String(e.className.baseVal ?? e.className), e.textContent.trim().slice(0, 30), ratio.toFixed(2)].join(' | '));
  }
  return found;
})()"""


STATE = """(() => {
  const all = (what) => [...document.querySelectorAll(what)];
  const ids = all('[id]').map((e) => e.id);
  return {
    class: document.documentElement.className, lang: document.documentElement.lang, title: document.title,
    clean: window.__pwned === undefined && !document.querySelector('main script, main img, main iframe, main i, main b b'),
    unscoped: all('thead th:not([scope=col]), tbody th:not([scope=row])').map((e) => e.textContent),
    doubled: ids.filter((id, at) => ids.indexOf(id) !== at),
    dangling: all('[aria-labelledby], label[for]').flatMap((e) => (e.getAttribute('aria-labelledby') || e.htmlFor).split(' ')).filter((id) => !document.getElementById(id)),
  };
})()"""

# The page itself, folded and unfolded; and tables that stand in nothing that scrolls.
WIDER = """(() => {
  const found = [];
  const look = (when) => {
    const wide = document.documentElement.scrollWidth;
    if (wide > innerWidth) found.push(`${when}: ${wide} of ${innerWidth}`);
  };
  look('folded');
  const folds = [...document.querySelectorAll('details')];
  const open = folds.map((d) => d.open);
  folds.forEach((d) => { d.open = true; });
  look('unfolded');
  folds.forEach((d, at) => { d.open = open[at]; });
  for (const t of document.querySelectorAll('table')) {
    if (!['auto', 'scroll'].includes(getComputedStyle(t.parentElement).overflowX)) found.push(`does not scroll: ${t.id || t.className}`);
  }
  return found;
})()"""


@dataclass
class Visit:
    """What one page did and is, looked at once: pages are many and a browser is slow."""

    console: list[str]
    strangers: list[str]
    requests: int
    state: dict[str, Any]
    tree: list[dict[str, Any]]
    faint: dict[str, list[str]]  # [colours] text that has too little contrast
    wide: dict[int, list[str]]  # [screen] what is wider than it


@pytest.fixture(scope="module")
def visits(browser: Browser, sample_site: Path, address: str) -> dict[str, Visit]:
    page, ours, found = browser.page(1280, 900), urlsplit(address).netloc, {}
    for name in pages_of(sample_site):
        page.forget()
        page.resize(1280, 900)
        page.media(scheme="light")
        page.goto(f"{address}/{name}")
        settle(page)
        state, tree, faint = page.evaluate(STATE), page.tree(), {"light": page.evaluate(CONTRAST)}
        page.media(scheme="dark")
        faint["dark"] = page.evaluate(CONTRAST)
        wide = {}
        for width in (768, 360):
            page.resize(width, 780)
            wide[width] = page.evaluate(WIDER)
        strangers = [url for url in page.requests if urlsplit(url).scheme != "data" and urlsplit(url).netloc != ours]
        found[name] = Visit(page.console + page.exceptions, strangers, len(page.requests), state, tree, faint, wide)
    page.close()
    return found


def test_every_page_is_silent_and_asks_nobody_else(visits):
    assert {"index.html", "compare.html", "family.html", "about.html"} < set(visits) and len(visits) == 10
    for name, visit in visits.items():
        assert visit.console == [] and visit.strangers == [], name
        assert visit.requests >= 3 and visit.state["class"] == "js", name  # it did load its own
        assert visit.state["clean"], name


def test_opened_from_a_folder_it_is_the_same(browser, sample_site):
    page = browser.page()
    for name in pages_of(sample_site):
        page.goto(f"{sample_site.as_uri()}/{name}")
        settle(page)
        assert page.evaluate("document.documentElement.className") == "js", name
        assert page.evaluate(
            "document.body.dataset.page !== 'compare' || document.querySelectorAll('#items article').length > 0"
        ), name
    assert page.console == [] and page.exceptions == []
    assert {urlsplit(url).scheme for url in page.requests} <= {"file", "data"}
    page.close()


def test_text_can_be_read_in_both_colours(visits):
    for name, visit in visits.items():
        assert visit.faint == {"light": [], "dark": []}, name


def test_no_page_is_wider_than_the_screen(visits):
    for name, visit in visits.items():
        assert visit.wide == {768: [], 360: []}, name


CONTROLS = {
    "button",
    "link",
    "checkbox",
    "radio",
    "combobox",
    "textbox",
    "searchbox",
    "spinbutton",
    "DisclosureTriangle",
    "image",
    "region",
    "form",
    "navigation",
}


def test_a_screen_reader_is_told_everything(visits):
    for name, visit in visits.items():
        nameless = [node["role"] for node in visit.tree if node["role"] in CONTROLS and not node["name"].strip()]
        assert nameless == [], name
        levels = [node["level"] for node in visit.tree if node["role"] == "heading"]
        assert levels[0] == 1 and levels.count(1) == 1, name
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), (name, levels)
        assert visit.state["lang"] == "en" and visit.state["title"].strip(), name
        assert visit.state["unscoped"] == [] and visit.state["doubled"] == [] and visit.state["dangling"] == [], name
    assert {"combobox", "checkbox", "radio", "searchbox", "spinbutton", "image"} <= {
        node["role"] for visit in visits.values() for node in visit.tree
    }


def test_printed_on_white_without_controls(browser, address):
    page = browser.page()
    page.media(scheme="dark", medium="print")
    page.goto(f"{address}/index.html")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(
        "['#picker', '#filters', '#tools', 'header nav'].every((s) => getComputedStyle(document.querySelector(s)).display === 'none')"
    )
    assert page.evaluate("getComputedStyle(document.getElementById('board')).display") == "table"
