"""/tokenize and /detokenize: the ids are those that the model reads, and they lead back to the text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_serve_running import MODEL, Running, running_server

from puna.tokens import Tokenizer

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "weights"
TALK = [{"role": "system", "content": "Be brief. 短"}, {"role": "user", "content": "羊驼 <|im_end|>"}]


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    "text", ["the llama walks", "羊驼走过高原", "", " ", "<|im_start|>system\nx<|im_end|><|endoftext|>", "\u2028\x85🦙"]
)
def test_there_and_back(client: httpx.Client, server: Running, text: str) -> None:
    made = post(client, "/tokenize", model=MODEL, prompt=text, return_token_strs=True)
    tokens = Tokenizer.load(server.folder)
    assert (
        made["tokens"] == tokens.encode(text) and made["count"] == len(made["tokens"]) and made["max_model_len"] == 512
    )
    assert not tokens.special_ids & set(made["tokens"])
    assert len(made["token_strs"]) == made["count"]
    if "\ufffd" not in "".join(made["token_strs"]):
        assert "".join(made["token_strs"]) == text
    assert post(client, "/detokenize", model=MODEL, tokens=made["tokens"]) == {"prompt": text}


def test_its_other_name_and_no_model(client: httpx.Client) -> None:
    made = post(client, "/tokenize", content="羊驼")
    assert made == post(client, "/tokenize", prompt="羊驼", add_special_tokens=False) and "token_strs" not in made


def test_a_conversation_is_what_the_chat_route_reads(client: httpx.Client) -> None:
    made = post(client, "/tokenize", messages=TALK)
    asked = post(client, "/v1/responses", model=MODEL, input=TALK, max_output_tokens=1)
    assert made["count"] == asked["usage"]["input_tokens"]
    text = post(client, "/detokenize", tokens=made["tokens"])["prompt"]
    assert (
        text
        == "<|im_start|>system\nBe brief. 短<|im_end|>\n<|im_start|>user\n羊驼 <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    closed = post(client, "/tokenize", messages=TALK, add_generation_prompt=False)
    assert made["tokens"][: closed["count"]] == closed["tokens"] and closed["count"] < made["count"]


def test_a_text_may_be_longer_than_the_context(client: httpx.Client) -> None:
    assert post(client, "/tokenize", prompt="羊驼走过高原的草地。" * 5000)["count"] > 512
    assert post(client, "/tokenize", messages=[{"role": "user", "content": "羊驼" * 1000}])["count"] > 512


def test_the_begin_token_stands_where_the_model_expects_it() -> None:
    if not STORIES.is_dir():
        pytest.skip(f"no {STORIES}")
    with running_server({"stories": next(STORIES.glob("**/*260K*.bin"))}) as running, running.client() as client:
        engine = running.models.get("stories").engine
        made = post(client, "/tokenize", prompt="Once upon a time")
        bare = post(client, "/tokenize", prompt="Once upon a time", add_special_tokens=False)
        assert made["tokens"] == [engine.tokenizer.bos_id, *bare["tokens"]] == engine.begin("Once upon a time")
        assert post(client, "/detokenize", tokens=bare["tokens"]) == {"prompt": "Once upon a time"}
        answer = client.post("/tokenize", json={"messages": TALK})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_several_models_must_be_named(tiny_release: Path) -> None:
    with running_server({"one": tiny_release, "other": tiny_release}) as running, running.client() as client:
        for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [5]})):
            answer = client.post(path, json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "model") and "one, other" in error["message"]
            assert client.post(path, json={**body, "model": "other"}).status_code == 200
            assert client.post(path, json={**body, "model": "nobody"}).status_code == 404


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": None}, "prompt"), ("/tokenize", {"prompt": "x", "content": "y"}, "prompt"),
    ("/tokenize", {"prompt": ["x"]}, "prompt"), ("/tokenize", {"messages": []}, "messages"), ("/tokenize", {"text": "x"}, "text"),
    ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"), ("/tokenize", {"prompt": "x", "model": 5}, "model"),
    ("/tokenize", {"prompt": "x", "add_special_tokens": "no"}, "add_special_tokens"),
    ("/tokenize", {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]"),
    ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": "x"}, "tokens"), ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ("/detokenize", {"tokens": [5, 321]}, "tokens[1]"), ("/detokenize", {"tokens": [5, 1 << 40]}, "tokens[1]"),
    ("/detokenize", {"tokens": [5.5]}, "tokens[0]"), ("/detokenize", {"tokens": [True]}, "tokens[0]"), ("/detokenize", {"tokens": None}, "tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param"), BAD, ids=str)
def test_bad_input_is_refused_by_name(client: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_ids_of_no_token_are_not_read(client: httpx.Client, server: Running) -> None:
    """The embedding has rows past the tokenizer's last id: they stand for nothing."""
    engine = server.models.get(MODEL).engine
    assert engine.config.vocab_size > engine.tokenizer.vocab_size
    last = engine.tokenizer.vocab_size - 1
    assert (
        post(client, "/detokenize", tokens=[])["prompt"] == ""
        and client.post("/detokenize", json={"tokens": [last]}).status_code == 200
    )
    error = client.post("/detokenize", json={"tokens": [last + 1]}).json()["error"]
    assert error["param"] == "tokens[0]" and str(last) in error["message"]


@pytest.fixture(scope="module")
def opened(server: Running) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_any_text_comes_back(opened: httpx.Client, text: str) -> None:
    ids = post(opened, "/tokenize", prompt=text)["tokens"]
    assert post(opened, "/detokenize", tokens=ids) == {"prompt": text}
