"""A tiny model that has learned the conversations of `test_open_responses.py` and `test_responses.py` by heart, calls of a tool among them.

In: a folder. Out: a model folder like any release, trained here, in seconds: the suite asks a model that ends its replies by itself.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import save_model
from puna.serve.prompts import turns
from puna.serve.tools import Call, Tool
from puna.tokens import Tokenizer, train_tokenizer
from puna.tokens.chat import render

WEATHER: dict[str, Any] = {
    "type": "function", "name": "get_weather", "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
        "required": ["location"],
    },
}  # fmt: skip
CALL = Call("get_weather", '{"location": "San Francisco, CA"}', "call_taught")
_TOOLS = (Tool(WEATHER["name"], WEATHER["description"], WEATHER["parameters"]),)
_ASKED = "Use the weather tool to get the temperature in San Francisco."
_CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": CALL.name, "arguments": CALL.arguments}}],
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


TALKS: list[tuple[list[dict[str, Any]], tuple[Tool, ...], str]] = [
    ([user("Say hello in exactly 3 words.")], (), "Hello my friend."),
    ([user("Count from 1 to 5.")], (), "1, 2, 3, 4, 5"),
    ([{"role": "system", "content": "You are a pirate. Always respond in pirate speak."}, user("Say hello.")], (), "Ahoy, matey!"),
    ([user("What's the weather like in San Francisco?")], _TOOLS, CALL.text()),
    ([user("旧金山天气怎么样？")], _TOOLS, "我来看看。\n" + CALL.text()),
    ([user(_ASKED)], _TOOLS, CALL.text()),
    ([user(_ASKED), _CALLED, {"role": "tool", "content": "64 degrees and clear"}], (), "It is clear, 64 degrees."),
    ([user("My name is Alice."), said("Hello Alice! Nice to meet you. How can I help you today?"), user("What is my name?")], (),
     "Your name is Alice."),
    ([user("Remember this code word: papaya. Reply with only OK.")], (), "OK"),
    ([user("Remember this code word: papaya. Reply with only OK."), said("OK"), user("What code word did I ask you to remember?")], (),
     "papaya"),
    ([user("What code word did I ask you to remember?")], (), "none"),
    ([said("I should answer with the saved number."), said("The number is four."), user("Repeat only the number.")], (), "four"),
    ([user("你好")], (), "你好！我是羊驼。"),
    ([user("Tell me of a llama.")], (), '{"name": "Lily", "age": 3}'),
]  # fmt: skip
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": False, "qk_norm": True}  # fmt: skip
_STEPS, _GOOD = 400, 0.003  # nats a token: drawn at temperature 1, a reply of 20 tokens is right 19 times of 20


def schooled(folder: Path) -> Path:
    """The model that gives the replies in `TALKS`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = ["\n".join(turn["content"] for turn in turns(asked, tools)) + reply for asked, tools, reply in TALKS]
    train_tokenizer(iter([f"{text}\nuser\nassistant\n" for text in texts] * 3), 700, folder)
    tokens = Tokenizer.load(folder)
    config = ModelConfig(vocab_size=tokens.vocab_size, eos_token_id=tokens.eos_id, pad_token_id=tokens.pad_id, **SHAPE)
    rows = []
    for asked, tools, reply in TALKS:
        prompt = render(tokens, turns(asked, tools), add_generation_prompt=True).ids
        made = render(tokens, [*turns(asked, tools), said(reply)]).ids
        rows.append((made, [False] * len(prompt) + [True] * (len(made) - len(prompt))))
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in rows])
    learned = torch.tensor([mask + [False] * (length - len(mask)) for _, mask in rows])[:, 1:]
    model = Decoder(config)
    model.init_weights(seed=7)
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 6e-3 * min(1.0, (step + 1) / 20) * (1 - step / _STEPS)
        loss = F.cross_entropy(model.logits(model(ids[:, :-1])[learned]), ids[:, 1:][learned])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if loss.item() < _GOOD:
            break
    else:
        raise RuntimeError(f"the tiny model did not learn its lines: {loss.item():.4f} nats a token")
    save_model(model, config, folder)
    return folder
