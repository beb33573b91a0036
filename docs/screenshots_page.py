"""Pictures of the chat page for these pages: `python docs/screenshots_page.py URL [FOLDER]` writes docs/serve/*.webp (or into FOLDER).

Comes in: the address of a running `puna serve` with at least two models that chat. Goes out: one small picture a view. Must never happen: a
picture of a page that reported an error, or one of more than 150 kB. Needs Chromium.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "serve"), str(ROOT / "docs")]

from screenshots import small  # noqa: E402
from tests_serve_page import answered, click, opened, settings, write  # noqa: E402

from browser import Browser, Page  # noqa: E402

QUESTION = "What does str.split do?"
ASKED = {
    "en": (QUESTION, "How do I use os.path.join?"),
    "zh": ("str.split 是做什么的？", QUESTION),
}


def talk(page: Page, language: str) -> None:
    """Two questions and their replies, the likeliest ones."""
    settings(page, temperature="0", max_tokens="90")
    for number, question in enumerate(ASKED[language], 1):
        write(page, question)
        page.wait(f"document.querySelectorAll('.reply').length >= {number}")
        answered(page, 60)


def compare(page: Page, language: str) -> None:
    """One question to two models."""
    settings(page, temperature="0", max_tokens="90")
    click(page, "#compare")
    write(page, ASKED[language][0])
    answered(page, 60)


def about(page: Page, language: str) -> None:
    """The card over an empty conversation."""
    click(page, "#about")
    page.wait("!!document.querySelector('dialog .plot')", 20)


VIEWS: dict[str, tuple[Callable[[Page, str], None], int, int, str, str]] = {  # name: what is done, width, height, language, colours
    "chat": (talk, 1280, 800, "en", "light"),
    "compare": (compare, 1280, 800, "en", "dark"),
    "about": (about, 1280, 900, "en", "light"),
    "phone": (talk, 360, 740, "zh", "dark"),
}  # fmt: skip


def main() -> None:
    """Opens each view and keeps its picture."""
    parser = argparse.ArgumentParser(description="Pictures of the chat page for the documents.")
    parser.add_argument("url", help="the address of a running `puna serve`")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "serve", help="where the pictures go")
    parser.add_argument("--view", action="append", choices=VIEWS, help="only these views")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with Browser() as browser:
        for name in given.view or VIEWS:
            work, width, height, language, colours = VIEWS[name]
            page = opened(browser, given.url.rstrip("/"), width=width, height=height, language=language, scheme=colours)
            if width < 500:
                page.resize(width, height, 2, mobile=True)
            work(page, language)
            page.evaluate("document.activeElement.blur()")
            time.sleep(0.4)
            if page.console or page.exceptions:
                raise SystemExit(f"{name} reports: {json.dumps(page.console + page.exceptions)}")
            picture = small(page)
            (given.folder / f"{name}.webp").write_bytes(picture)
            sys.stderr.write(f"{name}.webp: {len(picture):,} bytes\n")
            page.close()


if __name__ == "__main__":
    main()
