"""/v1/embeddings: the vectors are the mean of the last hidden states, in both forms, for every kind of input."""

import base64
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from tests_serve_openai import wrong_by_openai
from tests_serve_running import MODEL, Running, running_server

from puna.model.formats import load_model
from puna.serve import embeddings
from puna.tokens import Tokenizer

TEXTS = ["the llama walks over the high grass", "羊驼走过高原的草地，你好。", "x", "<|im_end|>"]


def post(client: httpx.Client, input: Any, **fields: Any) -> Any:  # noqa: A002
    answer = client.post("/v1/embeddings", json={"model": MODEL, "input": input, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def vectors(made: Any) -> list[list[float]]:
    assert [one["index"] for one in made["data"]] == list(range(len(made["data"])))
    return [one["embedding"] for one in made["data"]]


@pytest.fixture(scope="module")
def expected(server: Running) -> list[torch.Tensor]:
    """By the model itself, as training runs it: one pass, no cache."""
    model, tokens = load_model(server.folder, device="cpu"), Tokenizer.load(server.folder)
    with torch.inference_mode():
        means = [model(torch.tensor([tokens.encode(text)]))[0].double().mean(0) for text in TEXTS]
    return [(mean / mean.norm()).float() for mean in means]


def test_a_vector_is_the_mean_of_the_last_hidden_states(client: httpx.Client, expected: list[torch.Tensor]) -> None:
    made = post(client, TEXTS)
    assert wrong_by_openai(made, "CreateEmbeddingResponse") == []
    for vector, wanted in zip(vectors(made), expected, strict=True):
        torch.testing.assert_close(torch.tensor(vector), wanted, atol=1e-5, rtol=0)
        assert abs(sum(x * x for x in vector) - 1) < 1e-5
    assert vectors(made)[0] != vectors(made)[1]


def test_every_kind_of_input_gives_the_same(client: httpx.Client, server: Running) -> None:
    tokens = Tokenizer.load(server.folder)
    rows = [tokens.encode(text) for text in TEXTS]
    wanted = vectors(post(client, TEXTS))
    assert vectors(post(client, rows)) == wanted
    assert [vectors(post(client, text))[0] for text in TEXTS] == wanted
    assert [vectors(post(client, row))[0] for row in rows] == wanted
    usage = post(client, TEXTS)["usage"]
    assert usage == {"prompt_tokens": sum(map(len, rows)), "total_tokens": sum(map(len, rows))}
    assert len(rows[3]) > 1  # the chat format's mark is text here


def test_base64_is_the_same_vector(client: httpx.Client) -> None:
    plain, packed = vectors(post(client, TEXTS)), vectors(post(client, TEXTS, encoding_format="base64"))
    for numbers, text in zip(plain, packed, strict=True):
        raw = base64.b64decode(str(text), validate=True)
        assert list(struct.unpack(f"<{len(numbers)}f", raw)) == numbers


def test_client_reads_them(server: Running, client: httpx.Client) -> None:
    with OpenAI(base_url=f"{server.base_url}/v1", api_key=server.key, max_retries=0) as theirs:
        made = theirs.embeddings.create(model=MODEL, input=TEXTS)  # asks for base64 by itself
        wanted = vectors(post(client, TEXTS))
        assert [one.embedding for one in made.data] == wanted and made.usage.prompt_tokens > 0
        width = len(wanted[0])
        assert theirs.embeddings.create(model=MODEL, input="x", dimensions=width).data[0].embedding == wanted[2]
        with pytest.raises(openai.BadRequestError, match=f"{width}"):
            theirs.embeddings.create(model=MODEL, input="x", dimensions=width // 2)


def test_a_text_that_fills_the_context_fits_and_a_longer_one_does_not(client: httpx.Client) -> None:
    assert post(client, [5] * 512)["usage"]["prompt_tokens"] == 512
    for given_, param in (([5] * 513, "input"), (["x", "羊驼" * 2000], "input[1]"), ([[5], [5] * 513], "input[1]")):
        error = client.post("/v1/embeddings", json={"model": MODEL, "input": given_}).json()["error"]
        assert (error["param"], error["code"]) == (param, "context_length_exceeded")
        assert " 512" in error["message"] and (" 513 " in error["message"] or "input[1]" in error["message"])


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "input"), ({"input": None}, "input"), ({"input": ""}, "input"), ({"input": []}, "input"), ({"input": [""]}, "input[0]"),
    ({"input": [[]]}, "input[0]"), ({"input": [1, "x"]}, "input[0]"), ({"input": ["x", None]}, "input[1]"), ({"input": [-1]}, "input[0]"),
    ({"input": [1.5]}, "input[0]"), ({"input": [True]}, "input[0]"), ({"input": {"a": 1}}, "input"), ({"input": [[1, [2]]]}, "input[0][1]"),
    ({"input": [10_000]}, "input"), ({"input": [[1], [10_000]]}, "input[1]"), ({"input": ["x"] * 65}, "input"),
    ({"input": "x", "dimensions": 0}, "dimensions"), ({"input": "x", "dimensions": 33}, "dimensions"),
    ({"input": "x", "encoding_format": "int8"}, "encoding_format"), ({"input": "x", "n": 2}, "n"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_by_name(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/embeddings", json={"model": MODEL, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"model": "nobody", "input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@given(st.lists(st.integers(1, 700), min_size=1, max_size=64))
def test_portions_are_bounded_and_lose_nothing(lengths: list[int]) -> None:
    rows = [[number] * length for number, length in enumerate(lengths)]
    portions = list(embeddings._portions(rows))
    assert [row for portion in portions for row in portion] == rows
    assert all(len(portion) == 1 or sum(map(len, portion)) <= embeddings.CALL_TOKENS for portion in portions)


@pytest.fixture
def slow(
    make_tiny_release: Callable[..., Path], tmp_path: Path
) -> Iterator[tuple[Running, threading.Event, list[int]]]:
    """A server whose engine waits at each text until it is let go, and counts them."""
    with running_server({MODEL: make_tiny_release(tmp_path / "slow")}) as running:
        engine, go, seen = running.models.get(MODEL).engine, threading.Event(), []
        embed = engine.embed

        def waiting(ids: Any) -> Any:
            seen.append(len(ids))
            go.wait(10)
            return embed(ids)

        engine.embed = waiting  # type: ignore[method-assign]
        yield running, go, seen


def test_a_client_that_goes_away_is_not_worked_for(slow: tuple[Running, threading.Event, list[int]]) -> None:
    """Two texts fill a portion. With the client gone, the next portion is not begun."""
    running, go, seen = slow
    with running.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(
            "/v1/embeddings", json={"model": MODEL, "input": [[5] * 512] * 20}, timeout=httpx.Timeout(10, read=0.5)
        )
    go.set()
    with running.client() as client:  # answered after what was begun
        assert client.post("/v1/embeddings", json={"model": MODEL, "input": "x"}).status_code == 200
    assert seen[:-1] == [512, 512]
