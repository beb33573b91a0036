"""A real browser for tests: Chromium without a window, spoken to over a pipe by the DevTools protocol.

Comes in: addresses to open and things to press. Goes out: what the page did: messages, exceptions, requests, values, pictures. Must
never happen: a browser left running, a port opened, or a wait without an end.

`with Browser() as browser: page = browser.page(); page.goto(url)`. Messages are JSON, ended by NUL, on file descriptors 3 and 4 of
the browser (`--remote-debugging-pipe`), so nothing but the standard library is needed.
"""

import base64
import contextlib
import fcntl
import http.server
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 30.0  # the longest wait for one answer
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions",
    "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe",
)  # fmt: skip
# Chromium reads its commands from descriptor 3 and writes to 4: this moves ours there and becomes the browser.
_MOVE = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_KEYS = {
    "Tab": ("Tab", 9, ""), "Enter": ("Enter", 13, "\r"), "Space": (" ", 32, " "), "Escape": ("Escape", 27, ""),
    "ArrowDown": ("ArrowDown", 40, ""), "ArrowUp": ("ArrowUp", 38, ""), "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowRight": ("ArrowRight", 39, ""), "Home": ("Home", 36, ""), "End": ("End", 35, ""),
    "Backspace": ("Backspace", 8, ""),
}  # fmt: skip


def find() -> str | None:
    """The browser of this machine, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Refused(Exception):
    """The browser answered a command with an error, or a script in the page threw."""


class Browser:
    """One Chromium. Its profile is a temporary folder that goes with it."""

    def __init__(self, program: str | None = None) -> None:
        found = program or find()
        if found is None:
            raise FileNotFoundError("no Chromium on this machine")
        self._profile = tempfile.TemporaryDirectory(prefix="puna-browser-", ignore_cleanup_errors=True)
        theirs_in, self._write = (_high(end) for end in os.pipe())
        self._read, theirs_out = (_high(end) for end in os.pipe())
        command = [sys.executable, "-c", _MOVE, str(theirs_in), str(theirs_out), found, *_FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={self._profile.name}"],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._pages: dict[str, Page] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def page(self, width: int = 1200, height: int = 900) -> "Page":
        """A new, empty page of its own (nothing stored is shared with another)."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            page.send(f"{domain}.enable")
        page.resize(width, height)
        return page

    def send(self, method: str, session: str | None = None, /, **parameters: Any) -> dict[str, Any]:
        """One command and its answer. Raises Refused where the browser says no, TimeoutError where it says nothing."""
        number, end = self.post(method, session, **parameters), time.monotonic() + SECONDS
        while number not in self._answers:
            self.take(end - time.monotonic(), method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise Refused(f"{method}: {answer['error'].get('message')}")
        return answer.get("result", {})

    def post(self, method: str, session: str | None = None, /, **parameters: Any) -> int:
        """One command without a wait; gives its number."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        rest = memoryview(json.dumps(message).encode() + b"\0")
        while rest:
            rest = rest[os.write(self._write, rest) :]
        return self._number

    def take(self, seconds: float, what: str = "an event") -> None:
        """Waits for one message of the browser and files it."""
        try:
            message = self._inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError(f"the browser said nothing about {what}") from None
        if message is None:
            raise Refused("the browser ended")
        if "id" in message:
            self._answers[message["id"]] = message
        elif message.get("sessionId") in self._pages:
            self._pages[message["sessionId"]].hear(message["method"], message.get("params", {}))

    def close(self) -> None:
        """Ends the browser and forgets its profile."""
        with contextlib.suppress(Refused, TimeoutError, OSError):
            self.send("Browser.close")
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        os.close(self._write)
        self._profile.cleanup()

    def _listen(self) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while piece := os.read(self._read, 1 << 16):
                *whole, rest = (rest + piece).split(b"\0")
                for message in whole:
                    self._inbox.put(json.loads(message))
        os.close(self._read)
        self._inbox.put(None)


class Page:
    """One page and all that it said: `console` and `exceptions` (texts), `requests` (addresses)."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self._session, self.target = browser, session, target
        self.console: list[str] = []  # "error: ...", "warning: ..."; other levels are not kept
        self.exceptions: list[str] = []
        self.requests: list[str] = []
        self._loads = 0

    def send(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """One command to this page."""
        return self.browser.send(method, self._session, **parameters)

    def hear(self, method: str, parameters: dict[str, Any]) -> None:
        """Files one event."""
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.javascriptDialogOpening":  # it stops the page until somebody answers
            self.exceptions.append(f"dialog: {parameters['message']}")
            self.browser.post("Page.handleJavaScriptDialog", self._session, accept=False)
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.exceptions.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            entry = parameters["entry"]
            self.console.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            said = " ".join(str(part.get("value", part.get("description"))) for part in parameters["args"])
            self.console.append(f"{parameters['type']}: {said}")

    def forget(self) -> None:
        """Drops what was said and asked for until now."""
        self.console, self.exceptions, self.requests = [], [], []

    def goto(self, url: str) -> None:
        """Opens an address and waits until it has loaded."""
        loads, end = self._loads, time.monotonic() + SECONDS
        answer = self.send("Page.navigate", url=url)
        if answer.get("errorText"):
            raise Refused(f"{url}: {answer['errorText']}")
        while answer.get("loaderId") and self._loads == loads:  # a change of the hash alone loads nothing
            self.browser.take(end - time.monotonic(), url)

    def evaluate(self, script: str) -> Any:
        """The value of a script in the page; a promise is waited for. Raises Refused where it throws."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise Refused(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 5.0) -> Any:
        """Waits until a script is true, and gives its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}")
            time.sleep(0.02)
        return value

    def press(self, *keys: str, shift: bool = False) -> None:
        """Presses keys one after the other, as a person would: "Tab", "Space", "Enter", ..., or one letter."""
        for key in keys:
            name, code, text = _KEYS.get(key, (key, ord(key.upper()[0]), key))
            down = {"key": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
            down |= {"code": key if key in _KEYS else f"Key{key.upper()}"}
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **down, text=text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **down)

    def type(self, text: str) -> None:
        """Puts text where the cursor is, Chinese too."""
        self.send("Input.insertText", text=text)

    def resize(self, width: int, height: int, scale: float = 1.0, *, mobile: bool = False) -> None:
        """The size of the window in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def media(self, *, scheme: str = "light", medium: str = "", motion: str = "reduce") -> None:
        """Which looks the page is told that its reader wants."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.send("Emulation.setEmulatedMedia", media=medium, features=features)

    def scripts(self, allowed: bool) -> None:
        """Whether pages opened from now on may run scripts."""
        self.send("Emulation.setScriptExecutionDisabled", value=not allowed)

    def tree(self) -> list[dict[str, Any]]:
        """What a screen reader is told: the nodes that are not ignored, each with role, name and the rest as plain values."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [
            {"role": node.get("role", {}).get("value", ""), "name": node.get("name", {}).get("value", "")}
            | {item["name"]: item["value"].get("value") for item in node.get("properties", [])}
            for node in nodes
            if not node.get("ignored")
        ]

    def picture(self, kind: str = "png", quality: int | None = None, *, whole: bool = False) -> bytes:
        """A picture of the window, or of the whole page."""
        more = {"quality": quality} if quality is not None else {}
        answer = self.send("Page.captureScreenshot", format=kind, captureBeyondViewport=whole, **more)
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """Shuts the page."""
        self.browser.send("Target.closeTarget", targetId=self.target)


def settle(page: Page) -> None:
    """Waits until the board's list of items, where the page has one, has come."""
    if page.evaluate("document.body.dataset.page") == "compare":
        page.wait("!document.querySelector('#items[aria-busy]') && document.getElementById('said').textContent !== ''")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: the test's own output is what counts."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder behind http on this machine alone; gives the address, without a slash at its end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _high(end: int) -> int:
    """A descriptor above those that are moved to, so that one move cannot overwrite the other."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved
