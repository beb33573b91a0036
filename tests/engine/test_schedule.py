"""The scheduler and its blocks, without a model: whatever comes and goes, nobody is forgotten and no block is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.engine.blocks import ROOT, BlockPool
from puna.engine.schedule import Scheduler, Text
from puna.errors import PunaError


def run(
    scheduler: Scheduler, cache: dict[int, list[int | None]], ends: dict[Text, int], most: int = 20_000
) -> list[Text]:
    """Play the engine: what a pass writes is kept by place, and what it reads must be the text's own. The texts in order of ending."""
    size, done = scheduler.pool.size, []
    for _ in range(most):
        parts = scheduler.plan()
        if not parts:
            return done
        assert len({id(part.text) for part in parts}) == len(parts)
        for part in parts:
            text = part.text
            assert part.start == text.read
            for place, id_ in enumerate(part.ids, start=part.start):
                cache[text.blocks[place // size]][place % size] = id_
        for part in parts:
            text, end = part.text, part.start + len(part.ids)
            seen = [cache[text.blocks[place // size]][place % size] for place in range(end)]
            assert seen == text.ids[:end], "a text reads what is not its own"
            scheduler.advance(text, end)
            if part.last:
                text.ids.append(1 + len(text.ids) % 7)
                if len(text.ids) >= min(text.limit, ends[text]):
                    scheduler.remove(text)
                    done.append(text)
    raise AssertionError("the scheduler does not come to an end")


def a_cache(pool: BlockPool) -> dict[int, list[int | None]]:
    return {block: [None] * pool.size for block in range(pool.blocks)}


@settings(max_examples=150, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=12),
    grow=st.lists(st.integers(1, 20), min_size=12, max_size=12),
    size=st.integers(1, 5),
    blocks=st.integers(1, 40),
    running=st.integers(1, 6),
    step=st.integers(1, 40),
)
def test_every_text_ends_and_every_block_comes_back(prompts, grow, size, blocks, running, step):
    pool = BlockPool(blocks, size)
    scheduler = Scheduler(pool, running=running, step_tokens=step)
    texts = {}
    for prompt, more in zip(prompts, grow, strict=False):
        text = Text(list(prompt), len(prompt) + more)
        if len(prompt) >= blocks * size:
            with pytest.raises(PunaError, match=f"{len(prompt)} tokens and the cache holds {blocks * size}"):
                scheduler.add(text)
        else:
            scheduler.add(text)
            texts[text] = text.limit
    done = run(scheduler, a_cache(pool), texts)
    assert set(done) == set(texts)
    assert all(len(text.ids) == text.limit for text in texts)
    assert pool.free == blocks and not scheduler.running and not scheduler.waiting


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.booleans()), min_size=1, max_size=25),
    st.integers(3, 12),
)
def test_texts_may_be_taken_out_at_any_time(events, blocks):
    """Between any two passes a text is added, or one that waits or runs is taken out: its blocks are free at once."""
    pool = BlockPool(blocks, 2)
    scheduler, cache, there = Scheduler(pool, running=3, step_tokens=5), a_cache(pool), []
    for number, length, out in events:
        if out and there:
            text = there.pop(number % len(there))
            before, held = pool.free, pool.held(text.blocks) - pool_shared(pool, text)
            scheduler.remove(text)
            assert pool.free >= before + held and text not in scheduler.running
        elif length < 2 * blocks:
            there.append(Text([number] * length, min(length + 4, 2 * blocks)))
            scheduler.add(there[-1])
        for part in scheduler.plan():
            for place, id_ in enumerate(part.ids, start=part.start):
                cache[part.text.blocks[place // 2]][place % 2] = id_
            scheduler.advance(part.text, part.start + len(part.ids))
            if part.last:
                part.text.ids.append(9)
                if len(part.text.ids) >= part.text.limit:
                    scheduler.remove(part.text)
                    there.remove(part.text)
    for text in there:
        scheduler.remove(text)
    assert pool.free == blocks


def pool_shared(pool: BlockPool, text: Text) -> int:
    return sum(pool._holders[block] > 1 for block in text.blocks)


def test_a_beginning_that_was_read_is_found_again_and_read_once():
    pool = BlockPool(32, 4)
    scheduler, cache = Scheduler(pool, step_tokens=100), a_cache(pool)
    common = list(range(10, 22))
    first = Text([*common, 1], 15)
    scheduler.add(first)
    run(scheduler, cache, {first: 15})
    second = Text([*common, 2], 15)
    scheduler.add(second)
    (part,) = scheduler.plan()
    assert (part.start, part.ids, second.found) == (12, [2], 12)
    other = Text([99, *common[1:], 2], 15)  # equal blocks behind another beginning are other contents
    scheduler.add(other)
    assert next(part for part in scheduler.plan() if part.text is other).start == 0


def test_a_whole_prompt_in_the_cache_still_leaves_one_id_to_read():
    pool = BlockPool(8, 4)
    scheduler = Scheduler(pool)
    for _ in range(2):
        text = Text(list(range(8)), 9)
        scheduler.add(text)
        (part,) = scheduler.plan()
        scheduler.advance(text, 8)
        scheduler.remove(text)
    assert (part.start, list(part.ids)) == (4, [4, 5, 6, 7])


def test_the_newest_gives_way_and_the_oldest_goes_on():
    pool = BlockPool(4, 2)
    scheduler = Scheduler(pool, step_tokens=8)
    old, new = Text([1, 2, 3], 8), Text([4, 5, 6], 8)
    scheduler.add(old)
    scheduler.add(new)
    assert [part.text for part in scheduler.plan()] == [
        old
    ]  # the new one would be sent back with the next block: it waits
    assert scheduler.running == [old]
    for part in (old, new):
        scheduler.remove(part)
    roomy = Scheduler(BlockPool(5, 2), step_tokens=8)
    old, new = Text([1, 2, 3], 10), Text([4, 5, 6], 8)
    for text in (old, new):
        roomy.add(text)
        for part in roomy.plan():
            roomy.advance(part.text, part.start + len(part.ids))
            part.text.ids.append(7)
    assert roomy.running == [old, new]
    while roomy.preemptions == 0:
        for part in roomy.plan():
            roomy.advance(part.text, part.start + len(part.ids))
            part.text.ids.append(7)
    assert roomy.running == [old] and list(roomy.waiting) == [new] and new.blocks == []


def test_long_prompts_are_read_in_parts_between_the_others_tokens():
    scheduler = Scheduler(BlockPool(64, 4), step_tokens=8)
    short, long = Text([1, 2], 50), Text(list(range(40)), 50)
    scheduler.add(short)
    scheduler.plan()
    scheduler.advance(short, 2)
    short.ids.append(3)
    scheduler.add(long)
    for _ in range(5):
        sizes = {part.text: len(part.ids) for part in scheduler.plan()}
        assert sizes == {short: 1, long: 7}
        scheduler.advance(short, len(short.ids))
        short.ids.append(3)
        scheduler.advance(long, long.read + 7)


def test_texts_of_like_length_lie_at_equal_distances():
    pool = BlockPool(64, 4)
    runs = [pool.claim(5) for _ in range(4)]
    assert [run.start for run in runs] == [0, 8, 16, 24]
    assert [pool.take(run[0]) for run in runs] == [0, 8, 16, 24]
    assert pool.take() not in {
        block for run in runs for block in run
    }  # a stranger keeps off what is claimed, while it can
    pool.unclaim(runs[1])
    pool.give_back([8])
    assert pool.claim(8).start == 8


def test_a_block_without_content_goes_first_and_the_oldest_content_next():
    pool = BlockPool(3, 1)
    kept = [pool.take() for _ in range(3)]
    content = pool.keep(kept[0], ROOT, (7,))
    pool.keep(kept[1], content, (8,))
    pool.give_back([kept[0], kept[1]])
    pool.give_back([kept[2]])
    assert pool.take() == kept[2]
    assert pool.take() == kept[1]  # the end of a text before its beginning
    assert pool.match([7, 8, 9]) == ([kept[0]], content)
    pool.forget([kept[0]])
    assert pool.match([7, 8, 9]) == ([], ROOT)


def test_what_makes_no_sense_is_refused():
    for wrong in (lambda: BlockPool(0), lambda: BlockPool(1, 0), lambda: Scheduler(BlockPool(1), running=0)):
        with pytest.raises(ValueError, match="nothing|at least"):
            wrong()
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="held by nobody"):
        pool.give_back([0])
    assert [pool.take(), pool.take(), pool.take()] == [0, 1, None]
