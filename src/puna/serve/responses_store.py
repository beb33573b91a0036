"""Responses that are kept for a while, so that a conversation can go on from one by its id.

In: finished responses. Out: the same, by id. Must never happen: more memory than was allowed, or an id that can be guessed.

They are in this process's memory only and are gone when it ends. Of the three limits (how many, how large, how old) whichever is
met first lets the oldest go.
"""

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from puna.serve.errors import ApiError
from puna.serve.responses_items import Turn, size_of

_OVERHEAD = 1000  # bytes of a kept response beside its texts, about


@dataclass(frozen=True)
class Kept:
    """One finished response, and the conversation up to its end: what a next input stands after."""

    response: dict[str, Any]
    conversation: tuple[Turn, ...]
    bytes: int
    since: float


class Store:
    """Used within one event loop. `most`: responses; `bytes`: of all together; `seconds`: that one is kept."""

    def __init__(self, most: int, bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:  # noqa: A002
        self._most, self._most_bytes, self._seconds, self._clock = most, bytes, seconds, clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self.bytes = 0
        """What all that is kept takes, about."""

    def __len__(self) -> int:
        self._forget()
        return len(self._kept)

    def keep(self, response: dict[str, Any], conversation: tuple[Turn, ...]) -> None:
        """Keep a finished response. One that is larger than all may be together is not kept."""
        size = len(json.dumps(response, ensure_ascii=False).encode()) + size_of(conversation) + _OVERHEAD
        if size > self._most_bytes:
            return
        self._kept[response["id"]] = Kept(response, conversation, size, self._clock())
        self.bytes += size
        self._forget()

    def get(self, id_: str, param: str | None = None) -> Kept:
        """Raises `ApiError` 404 where it is not kept, or not any more."""
        self._forget()
        kept = self._kept.get(id_)
        if kept is None:
            code = "previous_response_not_found" if param else "not_found"
            told = f"there is no response {id_[:100]!r} here; they are kept for {self._seconds:g} seconds at most"
            raise ApiError(404, f"{param}: {told}" if param else told, param=param, code=code)
        return kept

    def delete(self, id_: str) -> None:
        """Keep it no longer. Raises as `get`."""
        self._drop(self.get(id_).response["id"])

    def _forget(self) -> None:
        """Let the oldest go as long as a limit is passed."""
        oldest = self._clock() - self._seconds
        while self._kept:
            id_, first = next(iter(self._kept.items()))
            if len(self._kept) <= self._most and self.bytes <= self._most_bytes and first.since > oldest:
                break
            self._drop(id_)

    def _drop(self, id_: str) -> None:
        self.bytes -= self._kept.pop(id_).bytes


def new_id(kind: str) -> str:
    """An id that nobody guesses: who knows a response's id may read it."""
    return f"{kind}_{secrets.token_hex(24)}"
