"""Keys and what occurs more than once, in bounded memory; repeated documents, paragraphs and lines."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from puna.corpus import paragraphs, tables

LONG_EN = "It was the best of times, it was the worst of times, and of neither was there ever a short account. " * 3
LONG_ZH = "天下大势，分久必合，合久必分。周末七国分争，并入于秦；及秦灭之后，楚、汉分争，又并入于汉。" * 3


def _reference(parts):
    """All occurrences of what occurs more than once, by a dictionary."""
    seen = {}
    for hashes, orders, places in parts:
        for key in zip(hashes.tolist(), orders.tolist(), places.tolist(), strict=True):
            seen.setdefault(key[0], []).append(key[1:])
    rows = [(*at, *min(ats), len(ats)) for ats in seen.values() if len(ats) > 1 for at in ats]
    return sorted(rows)


def _rows(found):
    return list(zip(*(getattr(found, name).tolist() for name in tables.OCCURRENCES.names), strict=True))


def _random_parts(seed=3, parts=7, rows=3000):
    rng = np.random.default_rng(seed)
    made = []
    for part in range(parts):
        hashes = rng.integers(0, 1 << 64, rows, dtype=np.uint64)
        again = rng.random(rows) < 0.3
        hashes[again] = rng.integers(0, 400, again.sum()).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        hashes[::50] = 7  # one that is everywhere
        hashes[:2] = [0, np.iinfo(np.uint64).max]  # the ends of the first and the last range
        orders = (part << 32) + np.arange(rows) // 5
        made.append((hashes, orders.astype(np.int64), (np.arange(rows) % 5).astype(np.int32)))
    return made


def _write(folder: Path, parts):
    files = [folder / f"keys-{number}.parquet" for number in range(len(parts))]
    for path, part in zip(files, parts, strict=True):
        tables.write_keys(path, *part)
    return files


@pytest.mark.parametrize("memory", [1 << 30, 200_000, 20_000])
def test_repeats_are_a_dictionarys_whatever_the_memory(tmp_path, memory):
    parts = _random_parts()
    files = _write(tmp_path, parts)
    found = tables.find_repeats(files, tmp_path / "out", memory)
    assert len(found) == tables.ranges_for(files, memory)
    assert _rows(tables.of_partition(found, 0, 1 << 62)) == _reference(parts)
    one = tables.of_partition(found, 3 << 32, 4 << 32)
    assert _rows(one) == [row for row in _reference(parts) if row[0] >> 32 == 3]
    order = (3 << 32) + 20
    assert _rows(one.of(order)) == [row for row in _reference(parts) if row[0] == order]


def test_ranges_may_run_in_any_order_and_twice(tmp_path):
    files = _write(tmp_path, _random_parts())

    def backwards(job, names):
        job = pickle.loads(pickle.dumps(job))  # what Daft and Ray do with it
        for name in [*reversed(names), names[0]]:
            job(name)

    one = tables.find_repeats(files, tmp_path / "one", 50_000)
    other = tables.find_repeats(files, tmp_path / "other", 50_000, run=backwards)
    assert len(one) > 10
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == sorted(p.name for p in other)


def test_a_document_that_is_gone_is_no_first_occurrence(tmp_path):
    orders = np.array([1, 2, 3, 4], np.int64)
    hashes = np.array([9, 9, 9, 8], np.uint64)
    tables.write_keys(tmp_path / "k", hashes, orders, np.zeros(4, np.int32))
    found = tables.find_repeats([tmp_path / "k"], tmp_path / "out", 1 << 20, tables.Without(np.array([1])))
    assert _rows(tables.of_partition(found, 0, 10)) == [(2, 0, 2, 0, 2), (3, 0, 2, 0, 2)]
    found = tables.find_repeats([tmp_path / "k"], tmp_path / "out", 1 << 20, tables.Without(np.array([1, 2])))
    assert _rows(tables.of_partition(found, 0, 10)) == []


def test_files_out_of_order_are_refused_and_empty_ones_are_not(tmp_path):
    parts = _random_parts(parts=2)
    files = _write(tmp_path, parts)
    with pytest.raises(ValueError, match="reading order"):
        tables.find_repeats(files[::-1], tmp_path / "out", 1 << 30)
    nothing = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int32)
    tables.write_keys(tmp_path / "empty", *nothing)
    found = tables.find_repeats([tmp_path / "empty", *files], tmp_path / "out", 1 << 30)
    assert _rows(tables.of_partition(found, 0, 1 << 62)) == _reference(parts)
    found = tables.find_repeats([tmp_path / "empty"], tmp_path / "none", 1 << 30)
    assert _rows(tables.of_partition(found, 0, 1 << 62)) == []
    assert tables.of_partition([], 0, 1).order.dtype == np.int64


def test_a_key_that_is_everywhere_costs_one_row_a_file(tmp_path):
    parts = [
        (np.full(5000, 5, np.uint64), (part << 32) + np.arange(5000), np.zeros(5000, np.int32)) for part in range(4)
    ]
    files = _write(tmp_path, parts)
    hashes, orders, _, counts = tables._first_occurrences(tuple(files), 0, 1 << 64, None)
    assert (hashes.tolist(), orders.tolist(), counts.tolist()) == ([5], [0], [20000])


def _without_repeats(tmp_path, texts, kinds=None):
    kinds = kinds or ["prose"] * len(texts)
    tables.write_keys(tmp_path / "k", *paragraphs.paragraph_keys(texts, range(len(texts)), kinds))
    found = tables.of_partition(tables.find_repeats([tmp_path / "k"], tmp_path / "out", 1 << 20), 0, len(texts))
    again = found.place[~found.is_first()], found.order[~found.is_first()]
    return [paragraphs.without_paragraphs(text, again[0][again[1] == i].tolist()) for i, text in enumerate(texts)]


@pytest.mark.parametrize("long", [LONG_EN, LONG_ZH])
def test_the_first_paragraph_stays(tmp_path, long):
    texts = [f"One.\n\n{long}\n\nTwo.", f"Three.\n\n  {long}\n\nOne.", f"{long}\n\nFour.\n\n{long}"]
    kept = _without_repeats(tmp_path, texts)
    assert [text for text, _ in kept] == [texts[0], "Three.\n\nOne.", "Four."]
    assert [[part.strip() for part in gone] for _, gone in kept] == [[], [long.strip()], [long.strip()] * 2]


def test_short_paragraphs_code_and_other_kinds_stay(tmp_path):
    texts = ["All rights reserved.\n\nA", "All rights reserved.\n\nB", LONG_EN, LONG_EN, LONG_EN, LONG_EN]
    kinds = ["prose", "prose", "source", "source", "prose", "manual"]
    assert [text for text, _ in _without_repeats(tmp_path, texts, kinds)] == texts


def test_the_size_of_a_paragraph_is_in_bytes():
    just, under = "字" * 66 + "ab", "字" * 66 + "a"
    _, orders, _ = paragraphs.paragraph_keys([just, under, "a" * 200, "a" * 199], range(4), ["p"] * 4)
    assert orders.tolist() == [0, 2]


def test_the_same_document_however_it_is_spaced():
    texts = ["A  text\nof words.", "A text of words. ", "A text of words!", "一段 文字", "一段\n文字"]
    hashes, orders, places = paragraphs.document_keys(texts, range(5), ["p"] * 5)
    assert (hashes[0] == hashes[1], hashes[1] == hashes[2], hashes[3] == hashes[4]) == (True, False, True)
    assert orders.tolist() == [0, 1, 2, 3, 4]
    assert places.tolist() == [0] * 5
    other = paragraphs.document_keys(texts[:1], [0], ["source"])[0]
    assert other[0] != hashes[0]


def test_real_laws_lose_only_paragraphs_that_stay_elsewhere(tmp_path):
    path = Path(__file__).parents[3] / "shared/data/train/zh_laws.jsonl.zst"
    if not path.exists():
        pytest.skip("needs shared/data")
    zstandard = pytest.importorskip("zstandard")
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    kept = _without_repeats(tmp_path, texts)
    gone = [part.strip() for _, parts in kept for part in parts]
    assert gone
    stay = {part.strip() for text, _ in kept for part in text.split("\n\n")}
    assert set(gone) <= stay
    assert sum(len(text) for text, _ in kept) > 0.9 * sum(map(len, texts))


def test_the_key_files_are_plain_parquet(tmp_path):
    tables.write_keys(tmp_path / "k", *_random_parts(parts=1)[0])
    table = pq.read_table(tmp_path / "k")
    assert table.schema == tables.KEYS
    assert table["hash"].to_pylist() == sorted(table["hash"].to_pylist())
