"""Which tokens of which sequences the next pass reads: continuous batching over a paged cache.

In: sequences as they come and go. Out: for each step, (sequence, first token, count). Must never happen: a sequence that never gets
its turn, one that reads what it was not given a block for, or a block that is not given back.

Every running sequence has tokens that are not read yet: one while it writes, many while its prompt is read. A step gives each, oldest
first, what it needs out of one budget of tokens; so long prompts are read in chunks between the others' tokens. Where blocks
run out the NEWEST running sequence gives its own back and waits at the front of the queue: it reads again what it had read, which
the cache may still know. The oldest always goes on, so all of them end. No torch here: tests run it without a model.
"""

from collections import deque
from dataclasses import dataclass, field

from puna.engine.blocks import ROOT, BlockPool
from puna.errors import PunaError


@dataclass(eq=False)
class Sequence:
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
    """One sequence's share of a pass: `ids` at positions `start`, `start` + 1, ...; whether all of it is read then."""

    sequence: Sequence
    start: int
    ids: list[int]
    last: bool


class Scheduler:
    """At most `running` sequences at once, `step_tokens` tokens a pass."""

    def __init__(self, pool: BlockPool, *, running: int = 64, step_tokens: int = 512) -> None:
        if running < 1 or step_tokens < 1:
            raise ValueError("a scheduler runs at least one sequence and one token")
        self.pool, self._most, self._budget = pool, running, step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue. Raises `PunaError` where it could never fit, alone in the whole cache."""
        room = self.pool.blocks * self.pool.size
        if len(sequence.ids) >= room:
            raise PunaError(
                f"the prompt has {len(sequence.ids)} tokens and the cache holds {room}", mend="give a shorter prompt"
            )
        sequence.limit = min(sequence.limit, room)
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is: its blocks are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def plan(self) -> list[Part]:
        """The next pass; empty where there is nothing to do."""
        budget, parts, before = self._budget, [], self.preemptions
        for sequence in list(self.running):
            if sequence.admitted and budget:  # it may have been sent back to the queue by an older one just now
                part = self._part(sequence, budget)
                if part is not None:
                    parts.append(part)
                    budget -= len(part.ids)
        while self.waiting and budget and len(self.running) < self._most and self.preemptions == before:
            if not self._admit(self.waiting[0]):
                break
            sequence = self.waiting.popleft()
            self.running.append(sequence)
            part = self._part(sequence, budget)
            if part is not None:
                parts.append(part)
                budget -= len(part.ids)
        return parts

    def advance(self, sequence: Sequence, read: int) -> None:
        """State that the cache holds the first `read` of the sequence's ids. Full blocks become known."""
        sequence.read, size = read, self.pool.size
        while (sequence.known + 1) * size <= read:
            start, block = sequence.known * size, sequence.blocks[sequence.known]
            sequence.content = self.pool.keep(block, sequence.content, tuple(sequence.ids[start : start + size]))
            sequence.known += 1

    def _part(self, sequence: Sequence, budget: int) -> Part | None:
        """The sequence's share of the pass, with blocks for it; None where it went back to the queue itself."""
        ids = [*sequence.ids[sequence.read :], *sequence.draft]
        if len(sequence.draft) and len(ids) > budget:
            ids, sequence.draft = ids[: len(ids) - len(sequence.draft)], []
        count = min(len(ids), budget)
        if not self._grow(sequence, sequence.read + count):
            return None
        return Part(sequence, sequence.read, ids[:count], count == len(ids))

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        while len(sequence.blocks) * self.pool.size < tokens:
            number = len(sequence.blocks) - sequence.shared
            wish = sequence.claim[number] if 0 <= number < len(sequence.claim) else None
            block = self.pool.take(wish)
            if block is not None:
                sequence.blocks.append(block)
                continue
            newest = self.running[-1]
            self._preempt(newest)
            if newest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence what the cache knows of it, where there is room for the rest of what it has to read."""
        found, content = self.pool.match(sequence.ids)
        needed = -(-len(sequence.ids) // self.pool.size) - len(found)
        # One block for each running sequence is left free: else the next full block would send this one back at once.
        free = self.pool.free - (len(found) - self.pool.held(found))
        if self.running and free < needed + len(self.running):
            return False
        self.pool.hold(found)
        sequence.blocks, sequence.content, sequence.known = list(found), content, len(found)
        sequence.read, sequence.shared = len(found) * self.pool.size, len(found)
        sequence.claim = self.pool.claim(-(-sequence.limit // self.pool.size) - len(found))
        if not sequence.admitted and not sequence.found:
            sequence.found = sequence.read
        sequence.admitted = True
        return True

    def _release(self, sequence: Sequence) -> None:
        self.pool.give_back(sequence.blocks)
        self.pool.unclaim(sequence.claim)
        sequence.blocks, sequence.claim, sequence.draft, sequence.admitted = [], range(0), [], False
        sequence.read = sequence.known = sequence.shared = 0
        sequence.content = ROOT
