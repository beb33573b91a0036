"""Shingles, families and the choice of what is held out."""

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import near, split

ZH_CHARS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"


def prose(seed: int, words: int = 400) -> str:
    draw = random.Random(seed)
    return ". ".join(" ".join(f"w{draw.randrange(3000)}" for _ in range(20)) for _ in range(words // 20))


def chinese(seed: int, length: int = 600) -> str:
    draw = random.Random(seed)
    return "。".join("".join(draw.choice(ZH_CHARS) for _ in range(30)) for _ in range(length // 30))


@pytest.mark.parametrize("make", [prose, chinese])
def test_copies_are_found_and_others_are_not(make) -> None:
    index = near.index_of([make(1)])
    assert near.containment(index, make(1)) == 1
    assert near.containment(index, make(2)) < 0.05
    assert near.take_out(index, make(1), 0.5, False).whole
    kept = near.take_out(index, make(2) + "\n\n" + make(3) + "\n\n" + make(1)[:500], 0.5, False)
    assert (kept.passages, kept.whole) == (1, False)
    assert make(2) in kept.text
    assert make(1)[:100] not in kept.text


def test_code_loses_whole_definitions() -> None:
    def function(seed: int) -> str:
        return f"def f{seed}(x):\n" + "\n\n".join(f"    y = {line}" for line in prose(seed, 100).split(". "))

    parts = [function(seed) for seed in range(6)]
    kept = near.take_out(near.index_of([parts[2]]), "\n\n".join(parts), 0.5, True)
    assert kept.text == "\n\n".join(parts[:2] + parts[3:])
    assert kept.passages == 1


@given(st.text(alphabet="ab \n中文", max_size=900), st.booleans())
def test_passages_joined_are_the_text(text: str, code: bool) -> None:
    parts = near.passages(text, code)
    assert "".join(parts) == text


def test_hashes_are_the_same_in_every_process() -> None:
    program = "from puna.corpus import near; print(near.shingles('one two three four five six 天地玄黄宇宙洪荒日月盈昃').tolist())"
    runs = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(2)}
    assert runs == {f"{near.shingles('one two three four five six 天地玄黄宇宙洪荒日月盈昃').tolist()}\n".encode()}


def test_families_join_copies_also_where_many_share_one_page() -> None:
    shared = prose(9, 300)
    few = [near.shingles(shared + prose(n, 100)) for n in range(3)] + [near.shingles(prose(50))]
    assert split.families(list("abcd"), few, 0.5) == {"a": "a", "b": "a", "c": "a"}
    names = [f"cp{n}" for n in range(60)]
    many = [near.shingles(shared + prose(100 + n, 100)) for n in range(60)]
    assert set(split.families(names, many, 0.5).values()) == {"cp0"}
    assert split.families(["a"], [np.empty(0, np.uint64)], 0.5) == {}


@given(st.dictionaries(st.text(max_size=8), st.integers(1, 1000), min_size=1, max_size=60), st.floats(0.02, 0.4))
def test_the_choice_is_stable_and_bounded(sizes: dict[str, int], share: float) -> None:
    taken = split.choose(sizes, share)
    assert taken == split.choose(dict(reversed(sizes.items())), share)
    assert sum(sizes[name] for name in taken) <= max(0.2, 1.1 * share) * sum(sizes.values())


def test_families_fall_on_one_side_and_pinned_units_stay() -> None:
    sizes = {f"m{n}": 100 for n in range(200)}
    family = {f"m{n}": "m0" for n in range(5)}
    for pinned in ((), ("m3",)):
        taken = split.choose(sizes, 0.1, pinned=pinned, family=family)
        assert 1000 <= sum(sizes[n] for n in taken) <= 2100
        assert len(taken & set(family)) in ((0, 5) if not pinned else (0,))


def test_a_new_file_moves_few_others() -> None:
    sizes = {f"m{n}": 100 for n in range(200)}
    assert len(split.choose(sizes, 0.1) - split.choose({**sizes, "new": 100}, 0.1)) <= 1
