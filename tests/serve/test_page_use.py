"""The chat page as people use it: the key, settings, the list of conversations, errors, a full context. In Chromium,
on a real server with a tiny model."""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the browser

from tests_serve_page import NETWORK, answered, click, opened, ready, settings, talk, text, texts, write
from tests_serve_running import KEY, Running, running_server
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


# ---- The key ----


def test_the_page_asks_for_the_key_and_keeps_it_for_this_tab(browser, short_model):
    with running_server({"tiny": short_model}, key=KEY) as locked:
        page = opened_locked(browser, locked)
        assert text(page, "dialog[open] h2") == "The server asks for a key"
        page.type("not the key")
        page.press("Enter")
        page.wait("!!document.querySelector('dialog .wrong')")
        assert text(page, "dialog[open] .wrong") == "The server refused this key."
        page.type(KEY)
        page.press("Enter")
        ready(page)
        settings(page, temperature="0")
        assert talk(page, "Hello") == SECOND["Hello"]
        assert page.evaluate("[localStorage, document.cookie].map((e) => JSON.stringify(e)).join()").count(KEY) == 0
        page.goto(f"{locked.base_url}/")
        ready(page)  # no question again
        assert page.evaluate("document.querySelector('dialog[open]') === null")
        click(page, "#data")
        page.evaluate(
            "[...document.querySelectorAll('dialog[open] button')].find((b) => b.textContent === 'Forget the key').click()"
        )
        assert page.evaluate("sessionStorage.getItem('puna-key')") is None
        assert [line for line in page.console if NETWORK not in line] == [] and page.exceptions == []
        page.close()


def opened_locked(browser: Browser, locked: Running) -> Page:
    page = browser.page(1280, 860)
    page.send("Network.setUserAgentOverride", userAgent="puna-tests", acceptLanguage="en-US")
    page.goto(f"{locked.base_url}/")
    page.wait("!!document.querySelector('dialog input')")
    return page


def test_without_the_key_the_page_says_so_and_can_try_again(browser, short_model):
    with running_server({"tiny": short_model}, key=KEY) as locked:
        page = opened_locked(browser, locked)
        page.press("Escape")
        ready(page)
        assert text(page, ".notice p") == "The list of models could not be read. The server asks for a key."
        assert page.evaluate("document.getElementById('about').disabled")
        click(page, ".notice button")
        page.wait("!!document.querySelector('dialog input')")
        page.type(KEY)
        page.press("Enter")
        page.wait("!document.querySelector('.notice')")
        assert texts(page, "#model option") == ["tiny"]
        page.close()


# ---- Settings ----


def test_settings_go_into_the_request(page):
    settings(page, max_tokens="1", temperature="0", seed="7")
    write(page, "Hello")
    answered(page)
    assert text(page, ".reply .facts").endswith("1 token · ended at the length limit")
    assert page.evaluate("document.getElementById('settings').classList.contains('changed')")
    settings(page, max_tokens="", stop="day")
    click(page, "#new")  # a new conversation draws in the same way
    assert talk(page, "Hello") == SECOND["Hello"].split("day")[0].strip()


def test_a_wrong_setting_is_said_at_its_field(page):
    click(page, "#settings")
    assert page.evaluate("document.getElementById('set-temperature').value") == "0.7"
    for name, value, told in [
        ("temperature", "hot", "From 0 to 2."), ("temperature", "2.1", "From 0 to 2."), ("top_k", "1.5", "A whole number from 0 to 1000000."),
        ("seed", "-1", "A whole number from 0 to 9007199254740991."),
    ]:  # fmt: skip
        page.evaluate(f"document.getElementById('set-{name}').value = '{value}'")
        click(page, "dialog[open] .ends button.main")
        assert text(page, f"#set-{name}-wrong") == told
        assert page.evaluate("document.activeElement.id") == f"set-{name}"
        assert page.evaluate("document.activeElement.getAttribute('aria-invalid')") == "true"
        page.evaluate(f"document.getElementById('set-{name}').value = ''")
    page.evaluate("document.getElementById('set-stop').value = 'x\\n'.repeat(17)")
    click(page, "dialog[open] .ends button.main")
    assert text(page, "#set-stop-wrong") == "At most 16 stop texts."
    click(page, "dialog[open] .ends button:first-child")  # reset
    click(page, "dialog[open] .ends button.main")
    assert page.evaluate("document.querySelector('dialog[open]') === null")


def test_the_system_message_is_sent(page):
    settings(page, temperature="0", system="Be brief. 请简短。")
    sent = []
    hear = page.hear
    page.hear = lambda method, parameters: (
        sent.append(parameters) if method == "Network.requestWillBeSent" else None,
        hear(method, parameters),
    )[1]
    talk(page, "Hello")
    body = next(
        json.loads(one["request"]["postData"]) for one in sent if one["request"]["url"].endswith("/chat/completions")
    )
    assert body["messages"] == [
        {"role": "system", "content": "Be brief. 请简短。"},
        {"role": "user", "content": "Hello"},
    ]
    assert (body["stream"], body["stream_options"], body["temperature"], body["top_p"]) == (
        True,
        {"include_usage": True},
        0,
        0.95,
    )


# ---- The list ----


def test_rename_export_and_delete(page, browser, tmp_path):
    settings(page, temperature="0")
    talk(page, "Hello")
    click(page, "#new")
    talk(page, "你好")
    click(page, "#list .entry:first-child .quiet")
    click(page, "#list .menu button:first-child")
    assert page.evaluate("document.activeElement.value") == "你好"
    page.evaluate("document.activeElement.select()")
    page.type("问候 <b>")
    page.press("Enter")
    page.wait("document.querySelector('#list .open span').textContent === '问候 <b>'")
    browser.send(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), browserContextId=context_of(page)
    )
    click(page, "#list .entry:first-child .quiet")
    click(page, "#list .menu button:nth-child(2)")
    kept = downloaded(tmp_path / "问候-b.json")
    assert kept["form"] == "puna-conversation/1" and kept["title"] == "问候 <b>"
    assert sorted(turn["role"] for turn in kept["turns"].values()) == ["assistant", "user"]
    click(page, "#data")
    page.evaluate(
        "[...document.querySelectorAll('dialog[open] button')].find((b) => b.textContent === 'Export all as JSON').click()"
    )
    assert len(downloaded(tmp_path / "conversations.json")["conversations"]) == 2
    click(page, "#list .menu button.bad")
    assert text(page, "dialog[open] p") == "Delete “问候 <b>”? It cannot be brought back."
    page.press("Escape")
    assert len(texts(page, "#list .open")) == 2
    click(page, "#list .menu button.bad")
    click(page, "dialog[open] .ends .main")
    page.wait("document.querySelectorAll('#list .open').length === 1")
    click(page, "#data")
    page.evaluate(
        "[...document.querySelectorAll('dialog[open] button')].find((b) => b.textContent === 'Delete all').click()"
    )
    click(page, "dialog[open] .ends .main")
    page.wait("document.querySelectorAll('#list .open').length === 0")
    page.goto(page.evaluate("location.href"))
    ready(page)
    assert text(page, "#list").startswith("Conversations appear here")


def context_of(page: Page) -> str:
    return page.send("Target.getTargetInfo")["targetInfo"]["browserContextId"]


def downloaded(path: Path) -> dict:
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name}; {list(path.parent.iterdir())}"
        time.sleep(0.05)
    return json.loads(path.read_text("utf-8"))


def test_another_tab_hears_of_it(page, browser, running):
    settings(page, temperature="0")
    target = browser.send("Target.createTarget", url="about:blank", browserContextId=context_of(page))["targetId"]
    session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    other = Page(browser, session, target)
    browser._pages[session] = other
    for domain in ("Page", "Runtime", "Log"):
        other.send(f"{domain}.enable")
    other.goto(f"{running.base_url}/")
    ready(other)
    talk(page, "Hello")
    other.wait("document.querySelectorAll('#list .open').length === 1")
    other.evaluate("document.querySelector('#list .open').click()")
    other.wait("document.querySelectorAll('.turn').length === 2")
    assert "fail" not in text(other, "main").lower()
    other.send("Page.bringToFront")
    talk(other, "Hello")
    page.wait("document.querySelectorAll('.turn').length === 4")  # what the other tab said stands here too
    assert other.console == [] and other.exceptions == []
    other.close()


# ---- What goes wrong ----


def test_a_full_context_lets_old_messages_go_and_says_so(page):
    settings(page, temperature="0")
    for _ in range(5):
        talk(page, "Hello")
    notes = [note for note in texts(page, ".tail .aside") if "no longer fit" in note]
    assert notes and notes[0].endswith(("was not sent.", "were not sent."))
    assert page.evaluate("document.querySelector('.failure') === null")
    page.evaluate("document.getElementById('message').focus()")
    page.type("很长的话。" * 100)
    page.press("Enter")
    answered(page)
    failure = text(page, ".failure p")
    assert (
        failure.startswith("The server refused the request: ") and "96" in failure
    )  # both numbers, in the server's words
    page.forget()


def test_a_server_that_is_gone_is_said_and_what_came_stays(browser, short_model):
    with running_server({"tiny": short_model}) as gone:
        page = opened(browser, gone.base_url)
        settings(page, temperature="0")
        came = talk(page, "Hello")
    write(page, "Hello")
    answered(page)
    assert text(page, ".failure p") == "The server cannot be reached."
    assert texts(page, ".reply .body")[0] == came
    assert text(page, "#said") == "The reply of tiny failed: The server cannot be reached."
    click(page, ".failure button")
    answered(page)
    assert page.evaluate("document.querySelectorAll('.reply').length") == 2  # a try without a word is no version
    assert page.evaluate("document.querySelector('.versions') === null")
    page.goto("about:blank")
    page.close()


@contextlib.contextmanager
def cutting(port: int, after: int) -> Iterator[str]:
    """A way to the server whose line breaks `after` bytes of the first stream of events."""
    listening = socket.create_server(("127.0.0.1", 0))
    cut = threading.Event()

    def pump(source: socket.socket, target: socket.socket, breaks: bool) -> None:
        seen, streams = 0, False
        with contextlib.suppress(OSError):
            while piece := source.recv(512):
                streams = streams or b"text/event-stream" in piece
                seen += len(piece) if streams else 0
                if breaks and not cut.is_set() and seen > after:
                    cut.set()
                    target.sendall(piece)
                    break
                target.sendall(piece)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=pump, args=(far, near, True), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def test_a_stream_that_is_cut_keeps_what_came(browser, running):
    with cutting(int(running.base_url.rpartition(":")[2]), 2000) as address:
        page = opened(browser, address)
        settings(page, temperature="0")
        came = talk(page, "Hello")
        assert SECOND["Hello"].startswith(came) and 3 < len(came) < len(SECOND["Hello"])
        assert text(page, ".failure p") == "The connection ended before the reply was finished. What came is kept."
        click(page, ".failure button")
        answered(page)
        assert text(page, ".reply .body") == SECOND["Hello"] and text(page, ".versions span") == "2 / 2"
        assert [line for line in page.console if NETWORK not in line] == [] and page.exceptions == []
        page.close()


def test_events_are_read_wherever_the_network_cuts_them(page):
    stream = ": note\r\ndata: 你好\r\n\r\ndata:a\ndata: b\n\nevent: x\ndata:  c\r\rdata: not whole"
    script = f"""import('/static/events.js').then(async ({{ events }}) => {{
        const bytes = new TextEncoder().encode({json.dumps(stream)});
        const found = [];
        for (let size = 1; size < 12; size += 1) {{
            const pieces = [];
            for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.slice(at, at + size));
            const body = new ReadableStream({{ pull: (c) => (pieces.length ? c.enqueue(pieces.shift()) : c.close()) }});
            const one = [];
            for await (const data of events(body)) one.push(data);
            found.push(one);
        }}
        return found; }})"""
    assert page.evaluate(script) == [["你好", "a\nb", " c"]] * 11


REFUSALS = [
        (503, {"Retry-After": "3"}, '{"error": {"message": "full", "code": "overloaded"}}', "The server is busy. It asks to wait 3 s."),
        (500, {}, '{"error": {"message": "its log says why", "code": "internal_error"}}', "Something went wrong inside the server. its log says why"),
        (502, {}, "<html>proxy</html>", "Something went wrong inside the server. HTTP 502"),
        (404, {}, '{"error": {"message": "gone", "code": "model_not_found"}}', "The server does not have the model “tiny” any more."),
        (400, {}, '{"error": {"message": "seed: <b>"}}', "The server refused the request: seed: <b>"),
        (200, {}, 'data: {"error": {"message": "the engine gave up", "code": "engine_failed"}}\n\n', "Something went wrong inside the server. the engine gave up"),
        (200, {}, "data: {nonsense\n\n", "The server answered in a form that this page does not know."),
]  # fmt: skip


def test_refusals_in_plain_words(page):
    """Faults that the real server shows only when something breaks, put in the place of its answer."""
    settings(page, temperature="0")
    for status, headers, body, told in REFUSALS:
        answer = f"new Response({json.dumps(body)}, {{ status: {status}, headers: {json.dumps(headers)} }})"
        page.evaluate(
            f"(() => {{ window.real ??= window.fetch; window.fetch = (path, ...rest) => path.includes('completions') ? Promise.resolve({answer}) : real(path, ...rest); }})()"
        )
        click(page, "#new")
        write(page, "Hello")
        answered(page)
        assert text(page, ".failure p") == told
        assert page.evaluate("document.querySelectorAll('.failure b').length") == 0
