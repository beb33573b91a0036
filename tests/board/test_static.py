"""The scripts and the style sheet as files: nothing that turns text into markup or code, nothing that leads elsewhere."""

import re
from pathlib import Path

import pytest

import puna.board

STATIC = sorted((Path(puna.board.__file__).parent / "static").iterdir())
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\(|createContextualFragment|srcdoc|\bfetch\(|XMLHttpRequest"
    r"|WebSocket|EventSource|sendBeacon|\.style\b|cssText"
)


@pytest.mark.parametrize("path", STATIC, ids=lambda path: path.name)
def test_no_way_from_text_to_markup_and_none_to_the_network(path):
    text = path.read_text("utf-8")
    assert FORBIDDEN.findall(text) == []
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()
    assert "@import" not in text and "url(" not in text
    assert len(text.splitlines()) <= 400
    if path.suffix == ".js":
        assert '\n"use strict";\n' in text


def test_both_kinds_of_file_are_there():
    assert {path.suffix for path in STATIC} == {".css", ".js"}
