"""Inference: KV cache, sampling, batched generation, scoring, the conversation.

In: a model folder and prompts. Out: replies as they are made, or the likelihood of given ones.
Must never happen: a batch changes what one of its rows gets, or a damaged model folder answers.
"""

from puna.engine.chat import Conversation
from puna.engine.engine import Completion, Engine, Step
from puna.engine.resolve import resolve_model
from puna.engine.sampling import Sampling
from puna.engine.text import StopStream, TextStream, Utf8Stream

__all__ = [
    "Completion",
    "Conversation",
    "Engine",
    "Sampling",
    "Step",
    "StopStream",
    "TextStream",
    "Utf8Stream",
    "resolve_model",
]
