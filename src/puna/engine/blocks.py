"""Who holds which block of the paged cache, and which blocks hold what was read before.

In: sequences' token ids, block by block. Out: numbers of blocks. Must never happen: a block is in two hands that do not know of each
other, a block is found by ids other than its own, or one is lost.

A block holds the keys and values of `size` tokens. A full one is known by (the content before it, its own ids): a chain from the
beginning of the text, so that equal ids behind different beginnings are different contents (PagedAttention, Kwon et al. 2023,
arXiv:2309.06180, section 4). A dict's look-up compares the ids themselves: no hash is trusted. A block that nobody holds keeps its
content until it is needed for another; the one let go longest ago is taken first.

No torch here: the numbers mean places in whatever tensors the cache has. A sequence claims a run of neighbours, so that
its keys lie in one piece and attention reads them without a copy; a claim is a wish and holds nobody up.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

ROOT = 0  # the content before the first block
_Key = tuple[int, tuple[int, ...]]


class BlockPool:
    """`blocks` blocks of `size` tokens each, all free at first."""

    def __init__(self, blocks: int, size: int = 16) -> None:
        if blocks < 1 or size < 1:
            raise ValueError(f"a pool of {blocks} blocks of {size} tokens holds nothing")
        self.blocks, self.size = blocks, size
        self._holders = [0] * blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))  # let go longest ago first
        self._known: dict[_Key, tuple[int, int]] = {}  # (content before, ids) -> (block, its content's number)
        self._key: list[_Key | None] = [None] * blocks
        self._contents = ROOT
        self._claims = [0] * blocks
        self._clean = bytearray(b"\1" * blocks)  # free, unclaimed and without content
        self._open = bytearray(b"\1" * blocks)  # free and unclaimed

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def match(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """The longest known beginning of `ids` in whole blocks: its blocks (not yet held) and the number of its content.

        At least one id is left over: something has to be read to go on from.
        """
        found, content, size = [], ROOT, self.size
        for start in range(0, len(ids) - size, size):
            here = self._known.get((content, tuple(ids[start : start + size])))
            if here is None:
                break
            block, content = here
            found.append(block)
        return found, content

    def held(self, blocks: Iterable[int]) -> int:
        """How many of these blocks somebody holds."""
        return sum(self._holders[block] > 0 for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Count one more holder of each."""
        for block in blocks:
            if not self._holders[block]:
                del self._free[block]
            self._holders[block] += 1
            self._mark(block)

    def give_back(self, blocks: Sequence[int]) -> None:
        """One holder less of each; the end of a text is forgotten before its beginning. Raises `ValueError` for a block nobody holds."""
        for block in reversed(blocks):
            if not self._holders[block]:
                raise ValueError(f"block {block} is held by nobody")
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free[block] = None
                if self._key[block] is None:
                    self._free.move_to_end(block, last=False)
                self._mark(block)

    def take(self, wish: int | None = None) -> int | None:
        """A free block, now held by the asker and without content: the one wished for, else the best; None where none is free."""
        if not self._free:
            return None
        block = wish if wish is not None and wish in self._free else self._best()
        key = self._key[block]
        if key is not None:
            del self._known[key]
            self._key[block] = None
        self.hold((block,))
        return block

    def keep(self, block: int, content: int, ids: tuple[int, ...]) -> int:
        """State that `block` is full and holds `ids` behind `content`; the number of the content up to its end.

        Where another block holds the same already, that one stays the known one.
        """
        key = (content, ids)
        known = self._known.get(key)
        if known is None:
            self._contents += 1
            known = self._known[key] = (block, self._contents)
            self._key[block] = key
        return known[1]

    def claim(self, count: int) -> range:
        """A run of `count` free neighbours that nobody else claims, now claimed; an empty one where there is none.

        Runs begin at multiples of the next power of two, so that texts of like length lie at equal distances.
        """
        step = 1 << max(count - 1, 0).bit_length()
        wanted = b"\1" * count
        for there in (self._clean, self._open):
            for start in range(0, self.blocks - count + 1, step):
                if count and there[start : start + count] == wanted:
                    run = range(start, start + count)
                    self._add_claim(run, 1)
                    return run
        return range(0)

    def unclaim(self, run: range) -> None:
        """Let a claim go."""
        self._add_claim(run, -1)

    def forget(self, blocks: Iterable[int]) -> None:
        """Forget what these blocks hold: no text will find it. They stay with those who hold them."""
        for block in blocks:
            key = self._key[block]
            if key is not None:
                del self._known[key]
                self._key[block] = None
                self._mark(block)

    def _add_claim(self, run: range, by: int) -> None:
        for block in run:
            self._claims[block] += by
            self._mark(block)

    def _best(self) -> int:
        """Without content before with content, unclaimed before claimed, let go longest ago first."""
        for there in (self._clean, self._open):
            block = there.find(1)
            if block >= 0:
                # Among those with content the order of letting go decides, not the number.
                return block if there is self._clean else next(one for one in self._free if self._open[one])
        return next(iter(self._free))

    def _mark(self, block: int) -> None:
        there = not self._holders[block] and not self._claims[block]
        self._open[block] = there
        self._clean[block] = there and self._key[block] is None
