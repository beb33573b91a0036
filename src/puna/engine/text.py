"""From tokens' bytes to text that may be shown: whole characters only, and nothing of a stop text.

In: the bytes of one token after another. Out: pieces of text, as early as they are certain.
Must never happen: half a character, or the beginning of a stop text, leaves here; or the pieces depend on where
the bytes were cut into tokens (joined, they are the same for every cut).
"""

import codecs
from collections.abc import Sequence


class Utf8Stream:
    """Bytes in, whole characters out. Bytes that can be no UTF-8 become U+FFFD, as in `bytes.decode`."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """The characters that `data` completes; an unfinished last one is held back."""
        return self._decoder.decode(data)

    @property
    def held(self) -> bytes:
        """The bytes of a character that is not whole yet. At the end of a reply they are not text and are let go."""
        return self._decoder.getstate()[0]


class StopStream:
    """Text in, text before the first stop text out.

    The stop text that is complete first ends the stream (of several complete at once, the longest).
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What is certain to stand before any stop text; "" once stopped."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        text = self._held + text
        found = [(text.index(stop) + len(stop), -len(stop)) for stop in self._stops if stop in text]
        if found:
            end, minus_length = min(found)
            self.stopped, self._held = True, ""
            return text[: end + minus_length]
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, at the end of a reply in which no stop text was completed."""
        text, self._held = self._held, ""
        return text


def overlap(text: str, stop: str) -> int:
    """How many last characters of `text` are first characters of `stop`, less than all of it."""
    for count in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:count]):
            return count
    return 0


class TextStream:
    """A reply's tokens in, its text out: `Utf8Stream`, then `StopStream`."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._characters = Utf8Stream()
        self._stop = StopStream(stops)

    @property
    def stopped(self) -> bool:
        """True once a stop text was met."""
        return self._stop.stopped

    def push(self, data: bytes) -> str:
        """The text that a token's bytes set free."""
        return self._stop.push(self._characters.push(data))

    def finish(self) -> str:
        """The rest of the text at the end of the reply; half a character at its very end is no text."""
        return self._stop.finish()
