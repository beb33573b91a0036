"""Guesses at what a reply says next, out of what it and its prompt have said before: prompt lookup (Saxena 2023,
https://github.com/apoorvumang/prompt-lookup-decoding), which is speculative decoding without a second model.

In: one reply's ids, as they come. Out: drafts, which the model reads together with the last id in one pass and which are
kept as far as they are the model's own choice. Must never happen: text without repeats is slowed down, or a guess costs more than
microseconds. (A wrong guess changes no text: `choosing.Chooser.check` takes only what reading one at a time would have chosen.)

The end of the text is followed through its last earlier occurrence: the longer the two have been the same, the longer the draft.
How much longer is learned from what came of the drafts before.
"""

from collections.abc import Collection, Iterable

_LONGEST = 3  # ids of an n-gram: longer repeats are followed from there
_MOST = 16  # ids of a draft: beyond, a pass over a small model takes as long as what it saves
_FAR = 64  # how far back a repeat is measured
_BITS = 22  # an id's bits in an n-gram's key: `Tokenizer` takes no id above
_GAIN, _LEAST_GAIN, _MOST_GAIN = 0.5, 1 / 16, 4.0


class Lookup:
    """One reply's index. `ends` are ids that no draft goes past (they end the reply)."""

    def __init__(self, prompt: Iterable[int], ends: Collection[int] = ()) -> None:
        self._ids: list[int] = []
        self._ends = frozenset(ends)
        self._follows: tuple[dict[int, int], ...] = tuple(
            {} for _ in range(_LONGEST)
        )  # n-gram -> where its next id stands
        self._at = 0  # the place of the id that would come next if the repeat went on; 0: there is none
        self._same = 0  # how many ids before it are the same as the text's last
        self._gain = _GAIN
        self._draft: list[int] = []
        self._right = 0  # of the draft's ids, that came
        self._missed = True  # the draft has come to its end
        for id_ in prompt:
            self._index(id_)
        self._find()

    def push(self, id_: int) -> None:
        """State that `id_` is the text's next token."""
        if not self._missed:
            if self._right < len(self._draft) and self._draft[self._right] == id_:
                self._right += 1
            else:
                self._missed = True
        going_on = bool(self._at) and self._ids[self._at] == id_
        self._index(id_)
        if going_on:
            self._at += 1
            self._same += 1
        else:
            self._find()

    def propose(self, k: int) -> list[int]:
        """At most `k` ids that may come next; none where the text's end has not been before, or guesses have been wrong."""
        self._learn()
        count = min(k, _MOST, int(self._gain * self._same))
        if count < 1:
            return []
        ids, start = self._ids, self._at
        period = len(ids) - start  # a repeat that reaches the end of the text goes round
        draft = [ids[start + number % period] for number in range(count)]
        draft = draft[: next((number for number, id_ in enumerate(draft) if id_ in self._ends), count)]
        self._draft, self._right, self._missed = draft, 0, False
        return list(draft)

    def _learn(self) -> None:
        """Longer drafts after one that came whole, shorter ones after one of which less than half came."""
        if self._draft:
            if self._right == len(self._draft):
                self._gain = min(_MOST_GAIN, 1.5 * self._gain)
            elif 2 * self._right < len(self._draft):
                self._gain = max(_LEAST_GAIN, 0.5 * self._gain)
            self._draft = []

    def _index(self, id_: int) -> None:
        """Append an id: the n-grams that end before it are followed by it."""
        ids, place, key = self._ids, len(self._ids), 0
        for n, follows in enumerate(self._follows[:place], 1):
            key = key << _BITS | ids[place - n]
            follows[key] = place
        ids.append(id_)

    def _find(self) -> None:
        """Look the text's end up, the longest n-gram first, and see how far back the two are the same."""
        ids, place, key = self._ids, len(self._ids), 0
        self._at = self._same = 0
        for n, follows in enumerate(self._follows[:place], 1):
            key = key << _BITS | ids[place - n]
            at = follows.get(key)
            if at is None:
                break  # a longer one that ends the same has not been either
            self._at = at
        if self._at:
            most = min(self._at, _FAR)
            while self._same < most and ids[self._at - 1 - self._same] == ids[place - 1 - self._same]:
                self._same += 1
