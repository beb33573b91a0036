"""Pictures of a board for these pages: `python docs/screenshots.py SITE [FOLDER]` writes docs/board/*.webp (or into FOLDER).

Comes in: the folder that `puna board` wrote. Goes out: one small picture a view. Must never happen: a picture of a page that reported
an error, or one of more than 150 kB. Needs Chromium.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import Browser, Page, settle  # noqa: E402

MOST = 150_000  # bytes of one picture
VIEWS = {  # name: (page, width, height, colours)
    "index": ("index.html", 1280, 1000, "light"),
    "index-phone": ("index.html", 360, 780, "dark"),
    "intervals": ("index.html#intervals-figure", 1280, 1000, "light"),
    "compare": ("compare.html", 1280, 1000, "light"),
    "task": ("tasks/{task}.html", 1280, 1000, "light"),
    "model": ("models/{model}.html", 1280, 1000, "dark"),
    "family": ("family.html", 1280, 720, "light"),
}


def small(page: Page) -> bytes:
    """The picture in the best quality that is small enough."""
    for quality in (90, 80, 70, 55, 40):
        picture = page.picture("webp", quality)
        if len(picture) <= MOST:
            return picture
    raise SystemExit(f"the picture has {len(picture):,} bytes at the lowest quality")


def facts(site: Path) -> dict[str, object]:
    """The board's own data, which lie in a script: `window.PUNA_BOARD = {...};`."""
    text = (site / "data" / "board.js").read_text("utf-8")
    return json.JSONDecoder().raw_decode(text[text.index("{") :])[0]


def main() -> None:
    """Opens each view, waits until its scripts are done, and keeps the picture."""
    parser = argparse.ArgumentParser(description="Pictures of a board for the documents.")
    parser.add_argument("site", type=Path, help="the folder that `puna board` wrote")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "board", help="where the pictures go")
    parser.add_argument("--pair", nargs=2, metavar="SLUG", help="the two models of the page that compares")
    parser.add_argument("--task", metavar="SLUG", help="the task of the page of a task and of the comparison")
    given = parser.parse_args()
    board = facts(given.site)
    models, tasks = [[row["slug"] for row in board[key]] for key in ("models", "tasks")]
    task = given.task or tasks[0]
    first, second = given.pair or (models * 2)[:2]
    given.folder.mkdir(parents=True, exist_ok=True)
    with Browser() as browser:
        for name, (address, width, height, colours) in VIEWS.items():
            page = browser.page(width, height)
            page.media(scheme=colours)
            where, _, anchor = address.format(task=task, model=first).partition("#")
            if name == "compare":
                anchor = f"a={first}&b={second}&task={task}&differ=1"
            page.goto((given.site.resolve() / where).as_uri() + (f"#{anchor}" if anchor else ""))
            page.evaluate("document.fonts.ready.then(() => true)")
            settle(page)
            if page.console or page.exceptions:
                raise SystemExit(f"{where} reports: {page.console + page.exceptions}")
            picture = small(page)
            (given.folder / f"{name}.webp").write_bytes(picture)
            sys.stderr.write(f"{name}.webp: {len(picture):,} bytes\n")
            page.close()


if __name__ == "__main__":
    main()
