"""docs/api.md is true: it names every route and every field that the server's own description has, and its examples are answered."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from tests_serve_running import MODEL, Running

from puna.engine import Engine
from puna.serve.app import create_app
from puna.serve.metrics import Meters
from puna.serve.models import Models
from puna.serve.settings import Settings
from puna.serve.timed import start_loop

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```text\n(GET|POST) (\S+)\n(.*?)```", PAGE, re.DOTALL)


def description() -> dict[str, Any]:
    chosen = Settings()
    made: dict[str, Any] = create_app(
        Models({}, chosen, Engine.load, partial(start_loop, chosen, Meters())), chosen
    ).openapi()
    return made


DESCRIPTION = description()


def fields(path: str) -> Iterator[str]:
    body = DESCRIPTION["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    yield from DESCRIPTION["components"]["schemas"][body.rpartition("/")[2]]["properties"]


def section(path: str) -> str:
    """What stands under the heading that names the path, and what is said of all routes."""
    shared = PAGE[: PAGE.index("## Models")]
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    return shared + next(
        (part for part in parts if path in part.split("\n")[0]), next(part for part in parts if f"POST {path}" in part)
    )


def test_every_route_is_named() -> None:
    missing = [f"{method.upper()} {path}" for path, one in DESCRIPTION["paths"].items() for method in one
               if f"{method.upper()} {path}" not in PAGE]  # fmt: skip
    assert missing == []


@pytest.mark.parametrize("path", [path for path, one in DESCRIPTION["paths"].items() if "post" in one])
def test_every_field_is_named(path: str) -> None:
    assert [name for name in fields(path) if f"`{name}`" not in section(path)] == []


def test_no_field_is_made_up() -> None:
    """The first column of the tables."""
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"):
        part = section(path)
        told = [
            name for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
        ]
        assert len(told) > 4 and set(told) <= set(fields(path)), set(told) - set(fields(path))


@pytest.mark.parametrize(("method", "path", "body"), EXAMPLES, ids=[path for _, path, _ in EXAMPLES])
def test_the_examples_are_answered(client: httpx.Client, server: Running, method: str, path: str, body: str) -> None:
    given = json.loads(body)
    if method == "GET":
        answer = client.get(path).json()
        assert set(given["data"][0]) == set(answer["data"][0])
        return
    answer = client.post(path, json=given)
    assert answer.status_code == 200 and server.model == MODEL, answer.text


def test_there_are_examples() -> None:
    posts = {path for path, one in DESCRIPTION["paths"].items() if "post" in one}
    assert posts - {path for _, path, _ in EXAMPLES} == {"/models/unload"}


def test_the_stored_limits_are_the_settings() -> None:
    chosen = Settings()
    assert f"newest {chosen.responses:,} responses" in PAGE and f"{chosen.responses_bytes >> 20} MiB" in PAGE
    assert chosen.responses_seconds == 3600 and "for an hour at most" in PAGE and f"up to {chosen.prompts}," in PAGE
