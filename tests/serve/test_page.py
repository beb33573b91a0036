"""The chat page in Chromium, on a real server with tiny models that know their lines: conversations in two languages, stop, edit,
compare, the card. Whatever a test does, the page must not complain."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the browser

from tests_serve_page import (
    answered,
    click,
    greedy,
    opened,
    ready,
    still_quiet,
    talk,
    text,
    texts,
    watched,
    write,
)
from tests_serve_running import Running, running_server
from tests_serve_taught import CODE, GRASS, LONG, SECOND, STORY, STORY_END, TALKS

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


# ---- Conversations ----


def test_a_conversation_in_english(page):
    assert page.evaluate("document.documentElement.lang") == "en" and text(page, "#new span") == "New conversation"
    greedy(page)
    assert talk(page, "Hello") == TALKS["Hello"]
    talk(page, "What does str.split do?")  # the first turn is part of the prompt, so the model may say anything
    click(page, "#new")
    answer = talk(page, "What does str.split do?")
    assert answer.startswith("It splits at spaces:")
    assert text(page, ".reply .body strong") == "splits"
    assert text(page, ".reply .body pre code") == "print('a b'.split())"
    assert text(page, ".reply figcaption span") == "python"
    assert texts(page, ".reply .body li") == ["one", "two"]
    facts = text(page, ".reply .facts")
    assert " tokens/s · first token after " in facts and facts.endswith(" tokens")
    assert texts(page, "#list .open span") == ["What does str.split do?", "Hello"]
    assert text(page, "#said") == f"Reply of First: {CODE}"
    page.goto(page.evaluate("location.href"))  # again: kept, and open
    ready(page)
    page.wait("!!document.querySelector('.reply .body strong')")
    assert text(page, ".turn.user .bubble") == "What does str.split do?"
    click(page, "#list li:nth-child(2) .open")
    page.wait("document.querySelectorAll('.turn.user').length === 2")
    assert texts(page, ".turn.user .bubble") == ["Hello", "What does str.split do?"]


def test_a_conversation_in_chinese(browser, running):
    page = opened(browser, running.base_url, language="zh")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    assert text(page, "#new span") == "新对话" and text(page, "#language") == "English"
    greedy(page)
    assert talk(page, "羊驼吃什么？") == "羊驼吃高原上的草。早上吃晚上睡"
    assert text(page, ".reply .body strong") == "高原" and texts(page, ".reply .body ol li") == ["早上吃", "晚上睡"]
    assert " 词元/秒 · " in text(page, ".reply .facts")
    assert text(page, "#said") == f"First 的回复：{GRASS}"
    assert texts(page, "#list .open span") == ["羊驼吃什么？"]
    english = [name for name in page.evaluate("[...document.querySelectorAll('button, select, textarea, nav, section')].map((e) => e.ariaLabel || e.textContent)")
               if name.isascii() and name not in ("English", "English interface", "First")]  # fmt: skip
    assert english == []
    click(page, "#language")
    assert page.evaluate("document.documentElement.lang") == "en" and text(page, "#new span") == "New conversation"
    assert " tokens/s" in text(page, ".reply .facts")
    page.goto(page.evaluate("location.href"))
    ready(page)
    assert page.evaluate("document.documentElement.lang") == "en"  # the choice is kept
    still_quiet(page)
    page.close()


def test_enter_within_an_input_method_sends_nothing(page):
    """Chinese is written by composing: Enter takes the letters as they are and must not send."""
    page.evaluate("document.getElementById('message').focus()")
    page.evaluate(
        "window.keys = []; document.addEventListener('keydown', (e) => keys.push(e.key + (e.isComposing || e.keyCode === 229)), true)"
    )
    page.send("Input.imeSetComposition", text="ni hao", selectionStart=6, selectionEnd=6)
    assert page.evaluate("document.getElementById('message').value") == "ni hao"
    enter = {
        "key": "Enter",
        "code": "Enter",
    }  # as browsers send it: while composing (13), or as the input method's own (229)
    for number in (13, 229):
        page.send("Input.dispatchKeyEvent", type="rawKeyDown", windowsVirtualKeyCode=number, **enter)
        page.send("Input.dispatchKeyEvent", type="keyUp", windowsVirtualKeyCode=number, **enter)
    assert page.evaluate("window.keys") == ["Entertrue", "Entertrue"]
    assert page.evaluate("document.querySelectorAll('.turn').length") == 0
    page.send("Input.insertText", text="你好")
    assert page.evaluate("document.getElementById('message').value") == "你好"
    page.press("Enter", shift=True)
    assert page.evaluate("document.querySelectorAll('.turn').length") == 0
    page.press("Enter")
    answered(page)
    assert text(page, ".turn.user .bubble").strip() == "你好"


def slow(page: Page) -> None:
    """The network brings a few tokens a second: a reply can be met in its middle."""
    page.send(
        "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=3000, uploadThroughput=-1
    )


def fast(page: Page) -> None:
    page.send("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)


def test_stop_keeps_what_came(page, running):
    greedy(page)
    slow(page)
    write(page, "Count")
    page.wait("document.querySelector('.reply .body').textContent.length > 15", 15)
    assert page.evaluate("document.getElementById('send').ariaLabel") == "Stop"
    page.press("Escape")
    answered(page)
    came = text(page, ".reply .body")
    assert LONG.startswith(came) and 15 < len(came) < len(LONG)
    assert text(page, ".reply .facts").endswith("stopped") and text(page, "#said") == "Stopped."
    fast(page)
    end = time.monotonic() + 5
    while any(hosted.loop.stats().running for hosted in running.models.all()):
        assert time.monotonic() < end, "the server still works for a reader who is gone"
        time.sleep(0.02)
    click(page, '[data-action="retry"]')
    answered(page)
    assert text(page, ".reply .body") == LONG
    assert text(page, ".versions span") == "2 / 2"  # what was stopped is still there
    click(page, '[data-action="before"]')
    assert text(page, ".reply .body") == came


def test_a_conversation_deleted_in_the_middle_of_a_reply_stays_deleted(page, running):
    greedy(page)
    slow(page)
    write(page, "Count")
    page.wait("document.querySelector('.reply .body').textContent.length > 15", 15)
    page.evaluate("document.querySelector('#list [aria-expanded]').click()")
    click(page, "#list .menu button.bad")
    click(page, "dialog[open] .ends .main")
    page.wait("document.querySelectorAll('#list .open').length === 0")
    end = time.monotonic() + 5
    while any(hosted.loop.stats().running for hosted in running.models.all()):
        assert time.monotonic() < end, "the server still works for a conversation that is gone"
        time.sleep(0.02)
    fast(page)
    page.evaluate("new Promise((done) => setTimeout(done, 1500))")
    page.goto(page.evaluate("location.href"))
    ready(page)
    assert page.evaluate("document.querySelectorAll('#list .open').length") == 0


def test_edit_makes_a_branch_and_both_stay(page):
    greedy(page)
    talk(page, "Hello")
    click(page, '.turn.user [data-action="edit"]')
    assert page.evaluate("document.activeElement.matches('.edit textarea')")
    page.press("Escape")
    assert (
        page.evaluate("document.activeElement.dataset.action") == "edit" and text(page, ".turn.user .bubble") == "Hello"
    )
    click(page, '.turn.user [data-action="edit"]')
    page.evaluate("document.querySelector('.edit textarea').select()")
    page.type("你好")
    page.press("Enter")
    answered(page)
    assert (text(page, ".turn.user .bubble"), text(page, ".reply .body")) == ("你好", TALKS["你好"])
    assert text(page, ".turn.user .versions span") == "2 / 2"
    click(page, '.turn.user [data-action="before"]')
    assert (text(page, ".turn.user .bubble"), text(page, ".reply .body")) == ("Hello", TALKS["Hello"])
    assert page.evaluate("document.activeElement.dataset.action") == "after"  # the focus stays on the switch
    page.goto(page.evaluate("location.href"))
    ready(page)
    page.wait("!!document.querySelector('.versions')")
    assert text(page, ".versions span") == "1 / 2" and text(page, ".reply .body") == TALKS["Hello"]
    click(page, '.turn.user [data-action="after"]')
    assert text(page, ".reply .body") == TALKS["你好"]
    page.evaluate("document.getElementById('message').focus()")
    page.press("ArrowUp")  # in an empty field: edit the last message
    assert page.evaluate("document.querySelector('.edit textarea').value") == "你好"
    page.press("Escape")


def test_two_models_side_by_side(page):
    greedy(page)
    click(page, "#compare")
    page.evaluate(
        "(() => { const s = document.getElementById('second'); s.value = '第二'; s.dispatchEvent(new Event('change')); })()"
    )
    write(page, "Hello")
    answered(page)
    assert texts(page, ".reply .who") == ["First", "第二"]
    assert texts(page, ".reply .body") == [TALKS["Hello"], SECOND["Hello"]]
    assert [" tokens/s" in facts for facts in texts(page, ".reply .facts")] == [True, True]
    boxes = page.evaluate(
        "[...document.querySelectorAll('.reply')].map((e) => e.getBoundingClientRect()).map((b) => [b.left, b.top, b.right])"
    )
    assert boxes[0][1] == boxes[1][1] and boxes[0][2] < boxes[1][0]
    page.resize(360, 740, mobile=True)
    boxes = page.evaluate(
        "[...document.querySelectorAll('.reply')].map((e) => e.getBoundingClientRect()).map((b) => [b.left, b.top])"
    )
    assert boxes[0][0] == boxes[1][0] and boxes[0][1] < boxes[1][1]
    page.resize(1280, 860)
    # Each side goes on with its own past.
    page.send("Network.enable", maxPostDataSize=1 << 20)
    sent = []
    hear = page.hear
    page.hear = lambda method, parameters: (
        sent.append(parameters["request"].get("postData", "")) if method == "Network.requestWillBeSent" else None,
        hear(method, parameters),
    )[1]
    write(page, "你好")
    answered(page)
    bodies = [json.loads(body) for body in sent if '"messages"' in body]
    said = {body["model"]: [message["content"] for message in body["messages"]] for body in bodies}
    assert said == {"First": ["Hello", TALKS["Hello"], "你好"], "第二": ["Hello", SECOND["Hello"], "你好"]}
    click(page, "#compare")
    assert page.evaluate("document.getElementById('second').hidden")


def test_a_model_without_a_chat_format_goes_on_with_a_text(page):
    page.evaluate(
        "(() => { const s = document.getElementById('model'); s.value = 'text'; s.dispatchEvent(new Event('change')); })()"
    )
    assert "no chat format" in text(page, ".start .summary") and "No chat format" in text(page, "#mode")
    greedy(page)
    assert talk(page, STORY) == STORY_END
    assert page.evaluate("document.getElementById('send').ariaLabel") == "Continue the text"
    page.press("Enter")  # an empty field goes on from what there is
    page.wait("document.querySelectorAll('.reply').length === 2")
    answered(page)
    click(page, "#compare")
    assert "First" in texts(page, "#second option")
    assert page.evaluate("document.getElementById('mode').textContent").startswith("text has no chat format")


# ---- The card ----


def test_about_a_model_without_a_record(page):
    page.press("Tab")
    click(page, "#about")
    page.wait("document.querySelectorAll('dialog .card section').length === 5")
    facts = dict(zip(texts(page, "dialog .rows dt"), texts(page, "dialog .rows dd"), strict=True))
    assert facts["Context"].startswith("1,024 tokens") and len(facts["SHA-256 of its weights"]) == 64
    assert texts(page, "dialog[open] h4") == [
        "Scores",
        "Its maker’s own",
        "Inherited",
        "Compared with other models",
        "Licences",
    ]
    assert "shared architecture is no evidence of shared weights" in text(page, "dialog[open] .card")
    assert (
        page.evaluate("document.querySelectorAll('dialog .plot').length") == 0
    )  # nothing is drawn that was not measured
    page.press("Escape")
    click(page, "#compare")
    click(page, "#about")  # of both
    page.wait("document.querySelectorAll('dialog .card section').length === 10")
    assert texts(page, "dialog[open] h3") == ["First", "第二"]


ABOUT = {
    "model": "First", "kind": "chat", "facts": [{"name": "Parameters", "value": "2,114,880"}, {"name": "<b>new</b>", "value": "<img src=x>"}],
    "scores": [
        {"name": "four-choice quiz about functions", "of": "chat", "value": 0.475285, "low": 0.42, "high": 0.567, "chance": 0.25, "n": 263, "higher_is_better": True, "note": ""},
        {"name": "held-out text, bits per byte", "of": "base", "value": 1.5827, "low": None, "high": None, "chance": 8.0, "n": 45, "higher_is_better": False, "note": "No interval: one source."},
    ],
    "no_scores": "", "own": ["Text: python, 12.1 MB."], "inherited": ["Its architecture is LLaMA's."],
    "compared": [{"reference": "llama <i>", "layers": [{"layer": "weights", "verdict": "independent", "sentence": "p = 0.4"}]}],
    "not_compared": "", "licences": [{"name": "These weights", "value": "Apache-2.0"}], "notes": ["A note <script>."],
}  # fmt: skip


def test_scores_are_drawn_with_interval_and_chance(page):
    """A card with everything in it, put in the place of the server's answer."""
    page.evaluate(
        f"(() => {{ const real = window.fetch; window.fetch = (path, ...rest) => path.startsWith('/about/') ? Promise.resolve(new Response({json.dumps(json.dumps(ABOUT))})) : real(path, ...rest); }})()"
    )
    click(page, "#about")
    page.wait("document.querySelectorAll('dialog .plot').length === 2")
    assert texts(page, "dialog .score b") == ["47.5 %", "1.583"]
    quiz, heldout = texts(page, "dialog .score")
    assert "95 % interval 42 % to 56.7 % · chance 25 % · n = 263 · higher is better" in quiz
    assert "no interval · chance 8 · n = 45 · lower is better" in heldout and "one source" in heldout
    drawn = page.evaluate(
        "[...document.querySelectorAll('dialog .plot')].map((p) => ['bar', 'chance', 'dot'].map((k) => p.querySelector('.' + k)).map((e) => e && [e.getAttribute('x1') ?? e.getAttribute('cx'), e.getAttribute('x2')].map(Number)))"
    )
    at = lambda share: 8 + share * 304  # noqa: E731
    assert drawn[0][0] == pytest.approx([at(0.42), at(0.567)]) and drawn[0][1][0] == pytest.approx(at(0.25))
    assert drawn[0][2][0] == pytest.approx(at(0.475285))
    assert drawn[1][0] is None and drawn[1][2][0] == pytest.approx(at(1.5827 / 8))
    assert texts(page, "dialog .compared b") == ["independent"]
    assert page.evaluate("document.querySelectorAll('dialog .card :is(img, script, i)').length") == 0
    assert (
        "<b>new</b>" in text(page, "dialog[open] .card")
        and page.evaluate("document.querySelectorAll('dialog .card a').length") == 0
    )
    page.press("Escape")
    click(page, "#language")
    click(page, "#about")
    page.wait("document.querySelectorAll('dialog .plot').length === 2")
    assert "95% 区间 42 % 到 56.7 % · 随机水平 25 %" in text(page, "dialog .score") and texts(
        page, "dialog .compared b"
    ) == ["独立"]
    assert (
        page.evaluate("[...document.querySelectorAll('dialog .card li[lang=en], dialog .card dd[lang=en]')].length") > 2
    )
