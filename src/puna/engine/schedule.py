"""Which tokens of which texts the next pass reads: continuous batching over a paged cache.

In: texts as they come and go. Out: for each step, (text, first token, count). Must never happen: a text that never gets
its turn, one that reads what it was not given a block for, or a block that is not given back.

Every running text has tokens that are not read yet: one while it writes, many while its prompt is read. A step gives each, oldest
first, what it needs out of one budget of tokens; so long prompts are read in chunks between the others' tokens. Where blocks
run out the NEWEST running text gives its own back and waits at the front of the queue: it reads again what it had read, which
the cache may still know. The oldest always goes on, so all of them end. No torch here: tests run it without a model.
"""

from collections import deque
from dataclasses import dataclass, field

from puna.engine.blocks import ROOT, BlockPool
from puna.errors import PunaError


@dataclass(eq=False)
class Text:
    """A prompt with its reply so far. `ids[:read]` are in the cache, in `blocks`."""

    ids: list[int]
    limit: int  # the most tokens, prompt and reply together
    draft: list[int] = field(default_factory=list)  # guessed ids, to be read behind `ids` in the next pass
    read: int = 0
    found: int = 0  # of the prompt's tokens, found in the cache when it was first admitted
    blocks: list[int] = field(default_factory=list)
    content: int = ROOT  # of the blocks that are known
    known: int = 0  # how many blocks are
    claim: range = range(0)
    shared: int = 0  # blocks before the claim's first
    admitted: bool = False


@dataclass(frozen=True)
class Part:
    """One text's share of a pass: `ids` at positions `start`, `start` + 1, ...; whether all of it is read then."""

    text: Text
    start: int
    ids: list[int]
    last: bool


class Scheduler:
    """At most `running` texts at once, `step_tokens` tokens a pass."""

    def __init__(self, pool: BlockPool, *, running: int = 64, step_tokens: int = 512) -> None:
        if running < 1 or step_tokens < 1:
            raise ValueError("a scheduler runs at least one text and one token")
        self.pool, self._most, self._budget = pool, running, step_tokens
        self.waiting: deque[Text] = deque()
        self.running: list[Text] = []
        self.preemptions = 0

    def add(self, text: Text) -> None:
        """Put a text at the end of the queue. Raises `PunaError` where it could never fit, alone in the whole cache."""
        room = self.pool.blocks * self.pool.size
        if len(text.ids) >= room:
            raise PunaError(
                f"the prompt has {len(text.ids)} tokens and the cache holds {room}", mend="give a shorter prompt"
            )
        text.limit = min(text.limit, room)
        self.waiting.append(text)

    def remove(self, text: Text) -> None:
        """Take a text out, wherever it is: its blocks are free at once."""
        if text in self.running:
            self.running.remove(text)
            self._release(text)
        elif text in self.waiting:
            self.waiting.remove(text)

    def plan(self) -> list[Part]:
        """The next pass; empty where there is nothing to do."""
        budget, parts, before = self._budget, [], self.preemptions
        for text in list(self.running):
            if text.admitted and budget:  # it may have been sent back to the queue by an older one just now
                part = self._part(text, budget)
                if part is not None:
                    parts.append(part)
                    budget -= len(part.ids)
        while self.waiting and budget and len(self.running) < self._most and self.preemptions == before:
            if not self._admit(self.waiting[0]):
                break
            text = self.waiting.popleft()
            self.running.append(text)
            part = self._part(text, budget)
            if part is not None:
                parts.append(part)
                budget -= len(part.ids)
        return parts

    def advance(self, text: Text, read: int) -> None:
        """State that the cache holds the first `read` of the text's ids. Full blocks become known."""
        text.read, size = read, self.pool.size
        while (text.known + 1) * size <= read:
            start, block = text.known * size, text.blocks[text.known]
            text.content = self.pool.keep(block, text.content, tuple(text.ids[start : start + size]))
            text.known += 1

    def _part(self, text: Text, budget: int) -> Part | None:
        """The text's share of the pass, with blocks for it; None where it went back to the queue itself."""
        ids = [*text.ids[text.read :], *text.draft]
        if len(text.draft) and len(ids) > budget:
            ids, text.draft = ids[: len(ids) - len(text.draft)], []
        count = min(len(ids), budget)
        if not self._grow(text, text.read + count):
            return None
        return Part(text, text.read, ids[:count], count == len(ids))

    def _grow(self, text: Text, tokens: int) -> bool:
        while len(text.blocks) * self.pool.size < tokens:
            number = len(text.blocks) - text.shared
            wish = text.claim[number] if 0 <= number < len(text.claim) else None
            block = self.pool.take(wish)
            if block is not None:
                text.blocks.append(block)
                continue
            newest = self.running[-1]
            self._preempt(newest)
            if newest is text:
                return False
        return True

    def _preempt(self, text: Text) -> None:
        self.running.remove(text)
        self._release(text)
        self.waiting.appendleft(text)
        self.preemptions += 1

    def _admit(self, text: Text) -> bool:
        """Give a waiting text what the cache knows of it, where there is room for the rest of what it has to read."""
        found, content = self.pool.match(text.ids)
        needed = -(-len(text.ids) // self.pool.size) - len(found)
        # One block for each running text is left free: else the next full block would send this one back at once.
        free = self.pool.free - (len(found) - self.pool.held(found))
        if self.running and free < needed + len(self.running):
            return False
        self.pool.hold(found)
        text.blocks, text.content, text.known = list(found), content, len(found)
        text.read, text.shared = len(found) * self.pool.size, len(found)
        text.claim = self.pool.claim(-(-text.limit // self.pool.size) - len(found))
        if not text.admitted and not text.found:
            text.found = text.read
        text.admitted = True
        return True

    def _release(self, text: Text) -> None:
        self.pool.give_back(text.blocks)
        self.pool.unclaim(text.claim)
        text.blocks, text.claim, text.draft, text.admitted = [], range(0), [], False
        text.read = text.known = text.shared = 0
        text.content = ROOT
