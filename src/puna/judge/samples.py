"""What the models say, for a reader: the base model going on from held-out openings, the chat model answering.

Comes in: engines, held-out texts. Goes out: samples for the report. Must never happen: a sample picked by how good it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from puna.engine import Conversation, Engine, Sampling
from puna.judge.bits_per_byte import start_id

QUESTIONS = ("What does str.split do?", "你好", "Who are you?", "你是谁？")
_OPENINGS = 4
_OPENING_CHARS = 120
_MAX_TOKENS = 96


def base_samples(engine: Engine, texts: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """The base model going on from the openings of some held-out documents, drawn and sampled by `seed`."""
    drawn = np.random.default_rng([seed, 4]).permutation(len(texts))[:_OPENINGS]
    start, room = start_id(engine), engine.context // 2
    prompts = [[start, *engine.tokenizer.encode(_opening(texts[i]))[: room - 1]] for i in drawn]
    settings = [
        Sampling(max_tokens=_MAX_TOKENS, temperature=0.7, top_p=0.95, seed=(seed + number) % 2**63)
        for number in range(len(drawn))
    ]
    replies = engine.complete(prompts, settings)
    return [
        {"kind": "base", "prompt": engine.tokenizer.decode(ids[1:]), "text": reply.text, "temperature": 0.7, "top_p": 0.95,
         "finish_reason": reply.finish_reason}
        for ids, reply in zip(prompts, replies, strict=True)
    ]  # fmt: skip


def _opening(text: str) -> str:
    """The beginning of a text, ended before a word or line end where it has one."""
    head = text[:_OPENING_CHARS]
    return head.rsplit(None, 1)[0] if len(text) > _OPENING_CHARS and len(head.split()) > 3 else head


def chat_samples(engine: Engine) -> list[dict[str, Any]]:
    """The chat model's answers to QUESTIONS, each in a conversation of its own, taking the likeliest token always."""
    prompts = []
    for question in QUESTIONS:
        talk = Conversation(engine.tokenizer, engine.context)
        talk.say("user", question)
        prompts.append(talk.prompt(_MAX_TOKENS)[0])
    replies = engine.complete(prompts, Sampling(max_tokens=_MAX_TOKENS, temperature=0.0, seed=0))
    return [
        {
            "kind": "chat",
            "prompt": question,
            "text": reply.text,
            "temperature": 0.0,
            "finish_reason": reply.finish_reason,
        }
        for question, reply in zip(QUESTIONS, replies, strict=True)
    ]
