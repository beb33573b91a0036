"""What other programs make of our files, as far as tests need it: ollama's Modelfile and its templates, which are Go's text/template."""

import re
from collections.abc import Sequence
from pathlib import Path

_ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
_INSTRUCTION = re.compile(
    r'^(FROM|TEMPLATE|PARAMETER|SYSTEM|LICENSE) +(?:"""(.*?)"""|([^\n]*))', re.MULTILINE | re.DOTALL
)


def modelfile(path: Path) -> dict[str, list[str]]:
    """Instruction -> what it was given, in order; a text in triple quotes is taken as it stands."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"^#[^\n]*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for match in _INSTRUCTION.finditer(text):
        found.setdefault(match[1], []).append(match[2] if match[2] is not None else match[3].strip())
    return found


def rendered_by_go(template: str, messages: Sequence[dict[str, str]]) -> str:
    """The text that ollama makes: `range .Messages`, `.Role`, `.Content`, `end`, and trimming by `{{-` and `-}}`.

    `.Messages` holds the system's turn too; ollama joins turns of one role that follow each other (not done here). Raises ValueError for
    any other action.
    """
    pieces: list[tuple[str, str]] = []  # (text, action after it)
    place, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[place : match.start()]
        text = text.lstrip() if trim else text
        pieces.append((text.rstrip() if match[1] else text, match[2]))
        place, trim = match.end(), bool(match[3])
    last = template[place:].lstrip() if trim else template[place:]
    made, start = "", 0
    while start < len(pieces):
        text, action = pieces[start]
        made += text
        if action != "range .Messages":
            raise ValueError(f"no action that is known here: {action}")
        end = next(number for number in range(start + 1, len(pieces)) if pieces[number][1] == "end")
        for message in messages:
            for text, action in pieces[start + 1 : end]:
                made += text + {".Role": message["role"], ".Content": message["content"]}[action]
            made += pieces[end][0]
        start = end + 1
    return made + last
