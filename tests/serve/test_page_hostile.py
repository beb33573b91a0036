"""Hostile text on the chat page, in Chromium: replies, messages and Markdown become text and plain elements, no text freezes the page, and
the browser itself refuses what the policy forbids."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the browser

from tests_serve_page import PWNED, answered, click, greedy, talk, texts, watched, write
from tests_serve_running import Running, running_server
from tests_serve_taught import HOSTILE

from browser import Browser, Page, find

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def running(taught_models: dict[str, Path]) -> Iterator[Running]:
    with running_server(taught_models) as one:
        yield one


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    with watched(browser, running.base_url) as one:
        yield one


def test_a_reply_with_a_script_is_text(page):
    greedy(page)
    assert talk(page, "Say something hostile") == HOSTILE
    page.evaluate("new Promise((done) => setTimeout(done, 100))")
    assert page.evaluate("document.querySelectorAll('.reply .body *').length") == 1  # a paragraph
    write(page, HOSTILE)
    answered(page)
    assert texts(page, ".turn.user .bubble")[-1] == HOSTILE
    assert page.evaluate("document.querySelectorAll('.turn.user .bubble *').length") == 0
    click(page, "#list .entry:first-child .quiet")
    assert page.evaluate(PWNED) is False


RENDERED = [  # Markdown, what comes of it
    ("**重点：**后文", "<p><strong>重点：</strong>后文</p>"),
    ("a **b *c* d** `*e*` snake_case_name 2 * 3 * 4", "<p>a <strong>b <em>c</em> d</strong> <code>*e*</code> snake_case_name 2 * 3 * 4</p>"),
    ("***both*** ~~gone~~ **open", "<p><em><strong>both</strong></em> <del>gone</del> **open</p>"),
    ("<b onclick=x>&amp;</b>", "<p>&lt;b onclick=x&gt;&amp;amp;&lt;/b&gt;</p>"),
    ("[x](javascript:alert(1)) [d](data:text/html,x)", "<p>[x](javascript:alert(1)) [d](data:text/html,x)</p>"),
    ("[u](https://bank.example@evil.example/)", "<p>[u](https://bank.example@evil.example/)</p>"),
    ("[bank.example](https://evil.example/)", '<p><a href="https://evil.example/">bank.example</a><span> (evil.example)</span></p>'),
    ("![p](https://a.example/i.png)", '<p><a href="https://a.example/i.png">p</a><span> (a.example)</span></p>'),
    ("见 https://a.example/b_c(d)。", '<p>见 <a href="https://a.example/b_c(d)">https://a.example/b_c(d)</a>。</p>'),
    ("# H #\ntext", "<h3>H</h3><p>text</p>"),
    ("- a\n  - b\n\n  c\n- d", "<ul><li><p>a</p><ul><li><p>b</p></li></ul><p>c</p></li><li><p>d</p></li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>'),
    ("> a\nb\n\nc", "<blockquote><p>a\nb</p></blockquote><p>c</p>"),
    ("|a|b|\n|-|-|\n|`x`|<i>|", "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td><code>x</code></td><td>&lt;i&gt;</td></tr></tbody></table></div>"),
    ("```<script>\n</code><b>\n```\nend", "<figure><figcaption><span>&lt;script&gt;</span><button></button></figcaption><pre><code>&lt;/code&gt;&lt;b&gt;</code></pre></figure><p>end</p>"),
    ("```py\nstill open", "<figure><figcaption><span>py</span><button></button></figcaption><pre><code>still open</code></pre></figure>"),
    ("a\u202eb\u0000", "<p>a⟨U+202E⟩b␀</p>"),
]  # fmt: skip


def test_markdown_becomes_elements_and_nothing_else(page):
    script = f"""import('/static/markdown.js').then((m) => {json.dumps([source for source, _ in RENDERED])}.map((source) => {{
        const place = document.createElement('div');
        for (let end = 1; end < source.length; end += 1) m.render(place, source.slice(0, end));  // as it grows
        m.render(place, source);
        const once = document.createElement('div');
        m.render(once, source);
        if (once.innerHTML !== place.innerHTML) return `grown: ${{place.innerHTML}} at once: ${{once.innerHTML}}`;
        place.querySelectorAll('svg').forEach((svg) => svg.remove());
        place.querySelectorAll('*').forEach((e) => e.getAttributeNames().filter((n) => !['href', 'start'].includes(n)).forEach((n) => e.removeAttribute(n)));
        return place.innerHTML;
    }}))"""
    for (source, wanted), made in zip(RENDERED, page.evaluate(script), strict=True):
        assert made == wanted, source


def test_links_are_told_nothing_of_where_they_were(page):
    script = """import('/static/markdown.js').then((m) => { const place = document.createElement('div'); m.render(place, '[a](https://b.example/)');
        const a = place.querySelector('a'); return [a.rel, a.target, a.title]; })"""
    assert page.evaluate(script) == ["noreferrer noopener", "_blank", "opens b.example in a new tab"]


def test_no_reply_can_freeze_the_page(page):
    hostile = [
        "*a " * 30000, "a* " * 30000, "*_~`[" * 20000, "[" * 100000, "[a](" * 30000, "](" * 50000, ">" * 100000, ("> " * 5000 + "x\n") * 10,
        "".join("`" * (n % 300 + 1) + " " for n in range(900)), "".join(" " * 2 * n + "- x\n" for n in range(400)), "* " * 50000 + "x", "- x\n" * 10000,
        "|" * 50000 + "\n" + "|-" * 50000, "http://" * 20000, "https://a.b/" + "(" * 50000 + ")" * 50000, "![" * 40000, "```\n" * 10001, "\\" * 100000,
        "# " + "#" * 100000, "**a*" * 20000, "1. a\n" + "\n" * 20000 + "2. b", "- a\n" + "lazy\n" * 20000, "-" * 100000 + "x", ("- a\n" + "\n" * 200) * 200,
    ]  # fmt: skip
    script = """import('/static/markdown.js').then((m) => %s.map((text) => { const begin = performance.now(); m.render(document.createElement('div'), text);
        return performance.now() - begin; }))"""
    for source, took in zip(hostile, page.evaluate(script % json.dumps(hostile)), strict=True):
        assert took < 5000, (
            f"{source[:12]!r} took {took:.0f} ms"
        )  # linear ways take under 0.5 s on a busy machine; others minutes


def test_the_policy_holds_in_the_browser(page):
    """What an injected text could try: each is refused by the browser itself."""
    tries = {
        "markup": "document.body.innerHTML = '<b>x</b>'",
        "code": "setTimeout('window.__pwned = 1')",
        "eval": "(0, eval)('1')",
    }
    for name, script in tries.items():
        # In a timer, since what a debugger runs itself may do anything.
        said = page.evaluate(
            f"new Promise((done) => setTimeout(() => {{ try {{ {script}; done('done'); }} catch (error) {{ done(error.name); }} }}))"
        )
        assert said in ("TypeError", "EvalError"), name
    blocked = page.evaluate("fetch('http://127.0.0.2:9/').then(() => 'sent', (error) => error.name)")
    assert blocked == "TypeError"
    script = "new Promise((done) => { const s = document.createElement('img'); s.onerror = () => done('refused'); s.onload = () => done('shown'); s.src = 'http://127.0.0.2:9/x.png'; })"
    assert page.evaluate(script) == "refused"
    assert any("Content Security Policy" in line for line in page.console)
    page.forget()
    page.requests.append(page.evaluate("location.href"))
