"""/v1/completions over HTTP: texts and ids, echo and scoring, streams, and what is refused, by name."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from tests_serve_running import KEY, MODEL, Running, running_server
from tests_serve_streams import events_of, put_together

from puna.engine import Engine, Sampling

PATH = "/v1/completions"
STORIES = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260K"
PROMPT = "the llama walks 羊驼走"


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(PATH, json={"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **fields})


def whole(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = ask(client, **fields)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def texts_of(made: dict[str, Any]) -> list[str]:
    assert [one["index"] for one in made["choices"]] == list(range(len(made["choices"])))
    return [one["text"] for one in made["choices"]]


def test_a_text_goes_on(client: httpx.Client, server: Running) -> None:
    made = whole(client)
    engine = server.models.get(MODEL).engine
    (expected,) = engine.complete([engine.begin(PROMPT)], Sampling(max_tokens=12, temperature=0))
    assert made["object"] == "text_completion" and made["id"].startswith("cmpl-")
    (choice,) = made["choices"]
    assert choice == {"index": 0, "text": expected.text, "logprobs": None, "finish_reason": expected.finish_reason}
    usage = made["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(engine.begin(PROMPT)), len(expected.ids))
    assert (
        whole(client, max_tokens=None, logit_bias={str(id_): -100 for id_ in engine.stop_ids})["usage"][
            "completion_tokens"
        ]
        == 16
    )


def test_ids_are_as_good_as_text(client: httpx.Client, server: Running) -> None:
    engine = server.models.get(MODEL).engine
    ids = engine.begin(PROMPT)
    assert texts_of(whole(client, prompt=ids)) == texts_of(whole(client))
    assert texts_of(whole(client, prompt=[ids, ids[:5]])) == texts_of(whole(client)) + texts_of(
        whole(client, prompt=ids[:5])
    )
    (echoed,) = texts_of(whole(client, prompt=[engine.tokenizer.im_start_id, *ids], echo=True, max_tokens=0))
    assert echoed == "<|im_start|>" + PROMPT  # asked for by its id it is shown; typed it would be letters


def test_several_prompts_and_replies(client: httpx.Client) -> None:
    prompts = ["the llama", "羊驼", "grass of the puna"]
    single = [texts_of(whole(client, prompt=one, n=2, temperature=1, seed=5)) for one in prompts]
    made = whole(client, prompt=prompts, n=2, temperature=1, seed=5)
    assert texts_of(made) == [text for pair in single for text in pair]
    chunks = events_of(ask(client, prompt=prompts, n=2, temperature=1, seed=5, stream=True))
    assert [one.text for one in put_together(chunks)] == texts_of(made)
    assert made["usage"]["prompt_tokens"] == sum(whole(client, prompt=one)["usage"]["prompt_tokens"] for one in prompts)


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"echo": True}, {"logprobs": 2}, {"logprobs": 0, "echo": True}, {"logprobs": 1, "echo": True, "n": 2, "temperature": 1, "seed": 3},
        {"echo": True, "max_tokens": 0, "logprobs": 1}, {"max_tokens": 0}, {"stop": ["a", "的", "s"], "max_tokens": 40, "logprobs": 1},
        {"prompt": ["a", "草"], "echo": True},
    ],
    ids=range(9),
)  # fmt: skip
def test_a_stream_says_what_the_whole_reply_says(client: httpx.Client, fields: dict[str, Any]) -> None:
    made = whole(client, **fields)
    for options in ({}, {"stream_options": {"include_usage": True}}):
        chunks = events_of(ask(client, stream=True, **options, **fields))
        told = put_together(chunks, usage=bool(options))
        assert chunks[0]["object"] == "text_completion"
        assert [(one.text, one.finish_reason) for one in told] == [
            (one["text"], one["finish_reason"]) for one in made["choices"]
        ]
        for own, choice in zip(told, made["choices"], strict=True):
            expected = choice["logprobs"] or {"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []}
            for name in ("tokens", "text_offset"):
                assert [value for part in own.logprobs for value in part[name]] == expected[name]
            assert own.logprobs == [] or fields.get("logprobs") is not None
        if options:
            assert chunks[-1]["usage"]["completion_tokens"] == made["usage"]["completion_tokens"]


def test_logprobs_are_the_models_own(client: httpx.Client, server: Running) -> None:
    """Scored with echo, against a plain pass over the model; the offsets lead to the tokens' own text."""
    engine = server.models.get(MODEL).engine
    (choice,) = whole(client, echo=True, logprobs=3, max_tokens=5)["choices"]
    logs, ids = choice["logprobs"], engine.begin(PROMPT)
    made = len(logs["tokens"]) - len(ids)
    assert 1 <= made <= 5 and logs["token_logprobs"][0] is None and logs["top_logprobs"][0] is None
    ids += [
        next(id_ for id_ in range(engine.tokenizer.vocab_size) if token_name(engine, id_) == name)
        for name in logs["tokens"][len(ids) :]
    ]
    with torch.inference_mode():
        expected = torch.log_softmax(engine.model.logits(engine.model(torch.tensor([ids])))[0], -1)
    for place in range(1, len(ids)):
        assert logs["token_logprobs"][place] == pytest.approx(float(expected[place - 1, ids[place]]), abs=1e-4)
        best = sorted(logs["top_logprobs"][place].values(), reverse=True)[:3]
        assert best == pytest.approx(expected[place - 1].topk(3).values.tolist(), abs=1e-4)
    for offset, name in zip(logs["text_offset"], logs["tokens"], strict=True):
        assert name.startswith("bytes:") or choice["text"][offset:].startswith(name)
    assert "".join(name for name in logs["tokens"] if not name.startswith("bytes:"))
    scored = whole(client, echo=True, logprobs=3, max_tokens=0)["choices"][0]
    assert scored["text"] == PROMPT and scored["logprobs"]["token_logprobs"][1:] == pytest.approx(
        logs["token_logprobs"][1 : len(engine.begin(PROMPT))], abs=1e-4
    )


def token_name(engine: Engine, id_: int) -> str:
    data = engine.tokenizer.token_bytes(id_)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def test_an_empty_prompt_begins_a_document(client: httpx.Client, server: Running) -> None:
    eos = server.models.get(MODEL).engine.tokenizer.eos_id
    assert texts_of(whole(client, prompt="")) == texts_of(whole(client, prompt=[eos]))
    assert texts_of(whole(client, prompt="", echo=True)) == texts_of(whole(client, prompt=""))


def test_stops_cut_the_text(client: httpx.Client) -> None:
    (full,) = texts_of(whole(client, max_tokens=40))
    stop = full[5:8]
    made = whole(client, max_tokens=40, stop=stop)
    assert texts_of(made) == [full[: full.index(stop)]] and made["choices"][0]["finish_reason"] == "stop"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [10**6]}, "prompt"),
    ({"prompt": [[1, 2], [10**6]]}, "prompt"),
    ({"prompt": ["a", 5]}, "prompt[1]"),
    ({"prompt": [1] * 512}, "prompt"),
    ({"prompt": ["a"] * 65}, "prompt"),
    ({"prompt": ["a"] * 60, "n": 5}, "n"),
    ({"prompt": "草" * 600}, "prompt"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"suffix": "x"}, "suffix"),
    ({"suffix": ""}, "suffix"),
    ({"best_of": 2}, "best_of"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"echo": "yes"}, "echo"),
    ({"n": 17}, "n"),
    ({"stop": [""]}, "stop[0]"),
    ({"messages": []}, "messages"),
    ({"max_completion_tokens": 5}, "max_completion_tokens"),
    ({"stream_options": {}}, "stream_options"),
]


@pytest.mark.parametrize(
    ("fields", "param"), WRONG, ids=[f"{number}-{param}" for number, (_, param) in enumerate(WRONG)]
)
def test_what_is_wrong_is_named(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = ask(client, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_prompt_of_the_whole_context_can_be_scored(client: httpx.Client) -> None:
    made = whole(client, prompt=[1] * 512, max_tokens=0, echo=True, logprobs=0)
    assert len(made["choices"][0]["logprobs"]["tokens"]) == 512
    too_long = ask(client, prompt=[1] * 513, max_tokens=0, echo=True)
    assert too_long.status_code == 400 and too_long.json()["error"]["code"] == "context_length_exceeded"


def test_null_is_the_same_as_nothing(client: httpx.Client) -> None:
    names = ["n", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "stop", "stream", "seed",
             "stream_options", "logprobs", "echo", "best_of", "suffix", "user"]  # fmt: skip
    assert texts_of(whole(client, **dict.fromkeys(names))) == texts_of(whole(client))
    assert texts_of(whole(client, best_of=2, n=2, temperature=0)) == texts_of(whole(client)) * 2


@pytest.fixture(scope="module")
def stories() -> Iterator[httpx.Client]:
    if not STORIES.exists():
        pytest.skip("no ../shared/data/weights/stories260K here")
    (weights,) = STORIES.glob("*260K.bin")
    with running_server({"stories": weights}, key=KEY) as running, running.client() as client:
        yield client


def test_a_real_model_without_a_chat_format(stories: httpx.Client) -> None:
    (text,) = texts_of(whole(stories, model="stories", prompt="", max_tokens=24))
    assert text.startswith("Once upon a time, there was a little girl named Lily.")
    made = whole(stories, model="stories", prompt="Once upon a time", max_tokens=20, echo=True, logprobs=1)["choices"][
        0
    ]
    assert made["text"].startswith("Once upon a time, there was a little girl")
    logs = made["logprobs"]
    assert logs["tokens"][0] == "<s>" and logs["text_offset"][:2] == [0, 0]
    for offset, name in zip(logs["text_offset"][2:], logs["tokens"][2:], strict=True):
        assert made["text"][offset:].startswith(name)
    assert all(value is None or math.isfinite(value) for value in logs["token_logprobs"])
    refused = stories.post(
        "/v1/chat/completions", json={"model": "stories", "messages": [{"role": "user", "content": "Hi"}]}
    )
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "model"
    assert "/v1/completions" in refused.json()["error"]["message"]
