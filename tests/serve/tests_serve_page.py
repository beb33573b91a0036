"""The chat page in a real browser, as its tests and the pictures of the documents use it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from browser import Browser, Page

PWNED = "window.__pwned !== undefined || document.querySelector('main script, main img, main a[href^=\"javascript\"]') !== null"
NETWORK = "Failed to load resource"  # what the browser itself notes of a refusal; the page shows it in words


def opened(
    browser: Browser, address: str, *, width: int = 1280, height: int = 860, language: str = "en", scheme: str = "light"
) -> Page:
    """The page, ready, in a browser that speaks `language`."""
    page = browser.page(width, height)
    page.send("Page.bringToFront")
    page.send("Emulation.setFocusEmulationEnabled", enabled=True)
    page.send("Emulation.setLocaleOverride", locale="zh_CN" if language == "zh" else "en_US")
    page.send(
        "Network.setUserAgentOverride", userAgent="puna-tests", acceptLanguage="zh-CN" if language == "zh" else "en-US"
    )
    page.media(scheme=scheme)
    page.goto(f"{address}/")
    page.resize(width, height, mobile=width < 500)
    ready(page)
    return page


@contextmanager
def watched(browser: Browser, address: str) -> Iterator[Page]:
    """The page in English on a wide screen, which must not complain, nor ask anybody but its own server."""
    page = opened(browser, address)
    yield page
    still_quiet(page)
    asked = {request.split("/")[2] for request in page.requests if request.startswith("http")}
    assert asked == {address.split("/")[2]}
    page.close()


def greedy(page: Page) -> None:
    settings(page, temperature="0")


def ready(page: Page) -> None:
    page.wait("document.documentElement.dataset.ready === 'true'", 10)


def click(page: Page, selector: str) -> None:
    """A click on the one element that fits, by script: the place of the mouse is not what is tested."""
    found = page.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length")
    assert found == 1, f"{selector}: {found} elements"
    page.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def text(page: Page, selector: str) -> Any:
    return page.evaluate(f"document.querySelector({json.dumps(selector)})?.textContent ?? null")


def texts(page: Page, selector: str) -> list[str]:
    return page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)")


def write(page: Page, message: str) -> None:
    """Types a message and presses Enter."""
    page.evaluate("document.getElementById('message').focus()")
    page.type(message)
    page.press("Enter")


def answered(page: Page, seconds: float = 20) -> None:
    """Waits until no reply runs, and the page has shown its end."""
    page.wait("document.querySelector('.reply') && !document.querySelector('.reply[aria-busy=true]')", seconds)
    time.sleep(0.05)


def talk(page: Page, message: str) -> str:
    """Sends a message and gives the text of the reply."""
    write(page, message)
    answered(page)
    return texts(page, ".reply .body")[-1]


def settings(page: Page, **values: str) -> None:
    """Fills fields of the settings and closes them."""
    click(page, "#settings")
    for name, value in values.items():
        page.evaluate(f"document.getElementById('set-{name}').value = {json.dumps(value)}")
    click(page, "dialog[open] .ends button.main")


def still_quiet(page: Page) -> None:
    """No error, no warning, nothing run that a text brought."""
    assert page.console == [] and page.exceptions == []
    assert page.evaluate(PWNED) is False
