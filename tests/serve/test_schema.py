"""Schemathesis on the live server's own description: what the description allows is answered as it says, what it does not allow is
refused, and nothing is ever a 500.

Three of four allowed requests ask for the model that is there: else nearly all of them would end at 404.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.generation.modes import GenerationMode
from tests_serve_running import KEY, MODEL, Running, running_server

from puna.engine import Engine
from puna.serve.app import create_app
from puna.serve.metrics import Meters
from puna.serve.models import Models
from puna.serve.settings import Settings
from puna.serve.timed import start_loop


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, make_tiny_release: Callable[..., Path]) -> Iterator[Running]:
    """A server of its own, whose model has a short context: whatever is asked for, a reply ends soon."""
    folder = make_tiny_release(tmp_path_factory.mktemp("schema") / "tiny", max_position_embeddings=64)
    with running_server({MODEL: folder}, key=KEY) as running:
        yield running
        with running.client() as client:
            assert client.get("/health").status_code == 200
        stats = running.models.get(MODEL).loop.stats()
        assert (stats.running, stats.waiting, stats.blocks_free) == (0, 0, stats.blocks)  # nothing is left behind


@pytest.fixture(scope="module")
def counted() -> Counter[str]:
    """How many requests were made, and what was answered."""
    return Counter()


def schema_of(mode: GenerationMode, *, at_length: bool = False) -> Any:
    """The description as the app writes it; that the live server gives the same is tested below.

    At length, schemathesis also walks through every keyword of every schema (hundreds of requests to the large routes).
    """
    config = SchemathesisConfig()
    project = config.projects.default
    project.generation.update(modes=[mode], deterministic=True)
    project.phases.coverage.enabled = at_length
    project.checks.positive_data_acceptance.expected_statuses = ["2xx", "400", "404", "503"]
    return schemathesis.openapi.from_dict(DESCRIPTION, config=config)


def description() -> dict[str, Any]:
    chosen = Settings(key=KEY)
    app = create_app(Models({}, chosen, Engine.load, partial(start_loop, chosen, Meters())), chosen)
    made: dict[str, Any] = json.loads(json.dumps(app.openapi()))
    return made


DESCRIPTION = description()
ALLOWED, FORBIDDEN = schema_of(GenerationMode.POSITIVE), schema_of(GenerationMode.NEGATIVE)
ALL_ALLOWED, ALL_FORBIDDEN = (
    schema_of(mode, at_length=True) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
)


def ask(case: Any, running: Running, counted: Counter[str]) -> None:
    """One request, with every check that schemathesis has."""
    response = case.call_and_validate(running.base_url, headers=running.headers)
    counted[f"{case.operation.label} {response.status_code}"] += 1
    assert response.status_code < 500 or response.status_code == 503, response.text
    if case.meta.generation.mode.is_positive and response.status_code == 400:
        # What a description cannot say: that a prompt fits the context, that a token exists, that two fields go together.
        param = response.json()["error"]["param"]
        assert param and param.partition(".")[0].partition("[")[0] in fields_of(case.operation.path), response.text


def fields_of(path: str) -> set[str]:
    """The names of a POST's fields."""
    body = DESCRIPTION["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return set(DESCRIPTION["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"])


def with_the_model(case: Any) -> Any:
    """Ask the model that is there, in three requests of four; but leave it there."""
    if case.operation.path == "/models/unload":
        return case
    for given in (whole_numbers(case.body), case.path_parameters):
        if isinstance(given, dict) and "model" in given and crc32(str(given).encode()) % 4:
            given["model"] = MODEL
            if (
                case.operation.path == "/v1/responses"
            ):  # a drawn id never exists, and without an input there is nothing to answer
                given.pop("previous_response_id", None)
                given["input"] = given.get("input") or "羊驼"
        if given is not case.path_parameters:
            case.body = given
    return case


def whole_numbers(value: Any) -> Any:
    """6.0 is drawn as an integer, as JSON schema has it. OpenAI's servers, and this one, want it written 6."""
    if isinstance(value, dict):
        return {key: whole_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [whole_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def few(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@ALLOWED.parametrize()
@few(12)
def test_what_is_allowed(case: Any, described: Running, counted: Counter[str]) -> None:
    ask(with_the_model(case), described, counted)


@FORBIDDEN.parametrize()
@few(12)
def test_what_is_forbidden(case: Any, described: Running, counted: Counter[str]) -> None:
    ask(case, described, counted)


@pytest.mark.slow
@ALL_ALLOWED.parametrize()
@few(60)
def test_what_is_allowed_at_length(case: Any, described: Running, counted: Counter[str]) -> None:
    ask(with_the_model(case), described, counted)


@pytest.mark.slow
@ALL_FORBIDDEN.parametrize()
@few(60)
def test_what_is_forbidden_at_length(case: Any, described: Running, counted: Counter[str]) -> None:
    ask(case, described, counted)


def test_the_server_answered_in_every_way(described: Running, counted: Counter[str]) -> None:
    """The tests above have asked: of every described route something was answered as it says, and something was refused."""
    print(f"{sum(counted.values())} requests:", dict(sorted(counted.items())))
    with described.client() as client:
        assert client.get("/openapi.json").json() == DESCRIPTION
    routes = {f"{method.upper()} {path}" for path, one in DESCRIPTION["paths"].items() for method in one}
    for route in routes:
        statuses = {int(key.split()[-1]) for key in counted if key.startswith(route + " ")}
        assert statuses, route
        assert statuses & {200} or "{" in route or route.startswith("POST /models"), (route, statuses)
