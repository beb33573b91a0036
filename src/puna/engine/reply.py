"""One reply as it grows: from drawn ids to text that may be shown.

In: the ids that were drawn, one after another. Out: a `Delta` for each. Must never happen: a marker of the chat format comes out as
text, a reply runs past its limit, or an id is lost where a stop text was completed in the middle of several.
"""

from collections.abc import Sequence

from puna.engine.request import Delta, FinishReason, TokenLogprob
from puna.engine.text import TextStream
from puna.tokens import Tokenizer


class Reply:
    """`limit`: the most ids; `starts_text`: the prompt holds no text, so a SentencePiece token's first space is none of the reply's."""

    def __init__(
        self, tokenizer: Tokenizer, stop_ids: frozenset[int], stops: Sequence[str], limit: int, *, starts_text: bool
    ) -> None:
        self._tokens, self._stop_ids, self._left, self._starts_text = tokenizer, stop_ids, limit, starts_text
        self._text = TextStream(stops)
        self.finished = False

    def take(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob] = (), *, ends: bool = False) -> Delta:
        """What `ids` make; of several, those behind the reply's end are left out. `ends`: the reply's shape is complete with them.

        The id that ends a reply is no part of it; a stop text's ids are, as far as they were drawn.
        """
        taken: list[int] = []
        text = ""
        reason: FinishReason | None = None
        for id_ in ids:
            if id_ in self._stop_ids:
                reason, text = "stop", text + self._text.finish()
                break
            taken.append(id_)
            text += self._text.push(self._tokens.token_bytes(id_, starts_text=self._starts_text))
            self._starts_text = False
            self._left -= 1
            if self._text.stopped:
                reason = "stop"
                break
            if self._left == 0:
                reason, text = "length", text + self._text.finish()
                break
        if reason is None and ends:
            reason, text = "stop", text + self._text.finish()
        self.finished = reason is not None
        return Delta(tuple(taken), text, tuple(logprobs[: len(taken)]), reason)
