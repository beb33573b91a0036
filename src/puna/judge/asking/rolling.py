"""The log-likelihood of a whole text by a server that has a bounded context and shows no tokenizer.

Comes in: a text, what tells its tokens. Goes out: nats. Must never happen: a character counted twice, or none of them.

After lm_eval's protocol for local models: windows of the whole context, the last one filled up from the left. Here they are cut in the
text, before a space where there is one, as only the server has the tokenizer; so they overlap by a few characters instead of one
token, and the tokens at a cut may be others than those of the whole text. A window is first tried as long as the one before shows to
fit, and cut shorter where the server refuses it.
"""

from collections.abc import Callable

from puna.errors import PunaError
from puna.judge.asking.replies import Told, first_of, total
from puna.judge.asking.wire import Refused

_FILL = 0.95  # of the context that a further window is cut for: tokens are not all of one length
_OVERLAP = 16  # characters that stand before a further window's own: a few tokens in any script
_LONGEST_WORD = 64
_MOST_TRIES = 60


def rolling_likelihood(
    text: str,
    bos: str,
    context: int | None,
    tell: Callable[[str], Told],
    is_too_long: Callable[[Refused], bool],
    where: str,
) -> tuple[float, int]:
    """(nats of all of `text`, its first tokens that have no likelihood). `bos` is put before the text, and not counted.

    Raises `PunaError` where a text does not fit and the context is not known.
    """
    nats, done, unscored, size, tries = 0.0, 0, 0, len(text), 0
    while done < len(text):
        end = _end(text, done, size)
        begin = max(0, min(done - min(_OVERLAP, size // 2), end - size if end == len(text) else done))
        before = (bos if begin == 0 else "") + text[begin:done]
        window = before + text[done:end]
        try:
            told = tell(window)
        except Refused as refused:
            tries += 1
            if not is_too_long(refused) or size < 2 or tries > _MOST_TRIES:
                raise
            if context is None:
                raise PunaError("a text is too long for it, and it does not say how long its context is", where=where,
                                mend="name the context in tokens") from None  # fmt: skip
            size = max(1, (end - done) * 3 // 4)
            continue
        first = first_of(told, window, len(before), tell) if before else 0
        part, _, missing = total(told, first, window, where)
        nats, unscored, done, tries = nats + part, unscored + missing, end, 0
        if context is not None and done < len(text):
            size = max(1, int(context * _FILL * len(window) / len(told.tokens)) - _OVERLAP)
    return nats, unscored


def _end(text: str, done: int, size: int) -> int:
    """Where a window of `size` characters from `done` ends: before the last space in it, where a word is not too long for that."""
    end = min(len(text), done + size)
    if end < len(text):
        space = max(text.rfind(" ", max(done + 1, end - _LONGEST_WORD), end), 0)
        end = space or end
    return end
