"""Near-duplicates: components, clusters, passages of editions; English and Chinese."""

import json
import random
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from puna.corpus import near, neardup, tables
from puna.corpus.components import Forest, components
from puna.corpus.passages import passages
from puna.corpus.signatures import signatures
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data"


@cache
def _rows(name):
    path = DATA / name
    if not path.exists():
        pytest.skip("needs shared/data")
    zstandard = pytest.importorskip("zstandard")
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _clusters(tmp_path, texts, parts=3, memory=1 << 24, keep=None, threshold=neardup.THRESHOLD):
    """The clusters of texts in that many partitions; document i of all has the order i."""
    keys, sketches = [], []
    for part, orders in enumerate(np.array_split(np.arange(len(texts)), parts)):
        keys.append(tmp_path / f"keys-{part}")
        sketches.append(tmp_path / f"sketches-{part}")
        neardup.write_bands(keys[-1], sketches[-1], signatures([texts[i] for i in orders]), orders)
    return neardup.find_clusters(keys, sketches, tmp_path / "work", memory, threshold, keep)


def _sets(found):
    sets = {}
    for order, cluster in zip(found.order.tolist(), found.cluster.tolist(), strict=True):
        sets.setdefault(cluster, []).append(order)
    return sorted(sets.values())


def _changed(text, share, seed):
    """A text with that share of its words exchanged."""
    rng = random.Random(seed)
    return " ".join(f"x{rng.random()}" if rng.random() < share else word for word in text.split())


def _words(count, seed):
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(count))


@pytest.mark.parametrize("kind", ["random", "path", "shuffled path", "star", "zigzag"])
def test_components_are_a_plain_union_finds(kind):
    rng = np.random.default_rng(1)
    count = 2000
    if kind == "random":
        a, b = rng.integers(0, count, (2, count // 2))
    elif kind == "star":
        a, b = np.full(count - 1, count - 1), np.arange(count - 1)
    else:
        line = {"path": np.arange(count), "shuffled path": rng.permutation(count)}.get(kind)
        if line is None:
            line = np.stack([np.arange(count // 2), np.arange(count // 2) + count // 2], 1).ravel()
        a, b = line[:-1], line[1:]
    a, b = a * 7 - 3000, b * 7 - 3000  # any integers are orders
    parent = {x: x for x in [*a.tolist(), *b.tolist()]}

    def root(x):
        while parent[x] != x:
            x = parent[x]
        return x

    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        high, low = max(root(x), root(y)), min(root(x), root(y))
        parent[high] = low
    nodes, roots = components(a, b)
    assert nodes.tolist() == sorted(parent)
    assert roots.tolist() == [root(x) for x in sorted(parent)]
    forest = Forest(1 << 30)
    for piece in np.array_split(rng.permutation(len(a)), 13):
        forest.add(a[piece], b[piece])
        forest._merge()
    for found, expected in zip(forest.result()[:2], (nodes, roots), strict=True):
        assert found.tolist() == expected.tolist()
    assert forest.result()[2].tolist() == [roots.tolist().count(x) for x in roots.tolist()]


def test_a_forest_says_when_memory_is_too_small():
    forest = Forest(1000)
    with pytest.raises(PunaError, match="more than the memory allows"):
        forest.add(np.arange(300_000), np.arange(300_000) + 1)
    assert [len(part) for part in Forest(1).result()] == [0, 0, 0]


def test_copies_are_gathered_and_the_first_stands_for_them(tmp_path):
    a, b, c = (_words(400, seed) for seed in range(3))
    texts = [
        b,
        a,
        c,
        _changed(a, 0.01, 1),
        _changed(b, 0.4, 2),
        a.upper().replace(" ", ", "),
        "too short",
        "too short",
        c,
    ]
    found = _clusters(tmp_path, texts)
    assert _sets(found) == [[1, 3, 5], [2, 8]]
    assert found.size.tolist() == [3, 2, 3, 3, 2]
    assert found.order[found.representative()].tolist() == [1, 2]
    assert found.of(3, 8).order.tolist() == [3, 5]


def test_memory_and_partitions_change_nothing(tmp_path):
    rng = random.Random(6)
    texts = [_words(150, seed) for seed in range(120)]
    texts += [_changed(rng.choice(texts), 0.02, seed) for seed in range(150)]
    rng.shuffle(texts)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = _clusters(tmp_path / "a", texts, parts=1)
    other = _clusters(tmp_path / "b", texts, parts=11, memory=60_000)
    assert len(list((tmp_path / "b" / "work").iterdir())) > 3
    assert len(one.order) > 150
    for name in ("order", "cluster", "size"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_candidates_that_are_not_alike_are_no_edges(tmp_path):
    # Two halves in common make a similarity of a third: of 60 such pairs a band meets for some, and none is an edge.
    texts = []
    for seed in range(60):
        half = _words(100, seed)
        texts += [half + " " + _words(100, 1000 + seed), half + " " + _words(100, 2000 + seed)]
    assert _sets(_clusters(tmp_path, texts)) == []
    ends = _clusters(tmp_path, texts, threshold=0.0)
    assert all(a // 2 == b // 2 for a, b in zip(ends.order.tolist(), ends.cluster.tolist(), strict=True))


def test_a_document_that_is_gone_stands_for_nothing(tmp_path):
    text = _words(300, 1)
    found = _clusters(
        tmp_path, [text, _changed(text, 0.005, 1), text, _words(300, 2)], keep=tables.Without(np.array([0]))
    )
    assert _sets(found) == [[1, 2]]
    assert len(_clusters(tmp_path, ["", "short", "短"]).order) == 0


def test_all_pairs_of_editions_are_found_and_no_others(tmp_path):
    parts, book, edition = [], [], []
    seen = {}
    for row in _rows("dirty/dup_editions_novels.jsonl.zst"):
        number = seen[row["dup_group"]] = seen.get(row["dup_group"], 0) + 1
        cut = passages(row["text"])
        assert "".join(cut) == row["text"]
        assert 1500 < sum(map(len, cut)) / len(cut) < 3000
        parts += cut
        book += [row["dup_group"]] * len(cut)
        edition += [number] * len(cut)
    found = _clusters(tmp_path, parts, parts=5)
    pairs = [(int(o), int(c)) for o, c in zip(found.order, found.cluster, strict=True) if o != c]
    assert all(book[o] == book[c] for o, c in pairs)  # none between different books
    assert all((edition[o], edition[c]) == (2, 1) for o, c in pairs)  # nor within one edition
    assert {book[o] for o, _ in pairs} == set(seen)
    assert len(seen) == 12
    # Of the passages whose words stand in the first edition, 95 % are found.
    firsts = {name: near.index_of(p for p, b, e in zip(parts, book, edition, strict=True) if (b, e) == (name, 1))
              for name in seen}  # fmt: skip
    there = {i for i in range(len(parts)) if edition[i] == 2 and near.containment(firsts[book[i]], parts[i]) >= 0.8}
    assert len(there) > 700
    assert len(there & {o for o, _ in pairs}) > 0.95 * len(there)


@pytest.mark.parametrize("name", ["train/zh_modern.jsonl.zst", "train/zh_laws.jsonl.zst"])
def test_chinese_with_other_punctuation_is_found_and_distinct_texts_are_not_merged(tmp_path, name):
    rng = random.Random(1)
    texts = [row["text"][:4000] for row in _rows(name)[:120]]
    texts = [text for text in texts if len(near.shingles(text)) >= near.MIN_SHINGLES]
    changed = [re.sub(r"[，。；：、\n]", lambda _: rng.choice(["，", "。", "；", "", " "]), text) for text in texts]
    found = _clusters(tmp_path, texts + changed)
    exact = [set(near.shingles(text).tolist()) for text in texts]
    for members in _sets(found):
        originals = [i for i in members if i < len(texts)]
        for i in originals[1:]:  # the laws hold one law twice; whatever is merged is alike indeed
            assert len(exact[originals[0]] & exact[i]) >= 0.6 * len(exact[originals[0]] | exact[i])
        assert {i + len(texts) for i in originals} <= set(members)
    assert len(found.order) == 2 * len(texts)
    assert len(_sets(found)) >= len(texts) - 2


def test_passages_are_cut_alike_in_two_editions():
    rng = random.Random(2)
    sentences = [_words(rng.randrange(6, 30), seed).capitalize() + "." for seed in range(900)]
    wrapped = re.sub(r"((?:\S+ ){9}\S+) ", r"\1\r\n", " ".join(sentences))
    other = " ".join(['"' + s.upper().lower().replace(" ", " - ", 1) + '"' for s in sentences])
    letters = lambda text: re.sub(r"\W", "", text.lower())  # noqa: E731
    one = [letters(part) for part in passages(wrapped)]
    assert one == [letters(part) for part in passages(" ".join(sentences))]
    late = [letters(part) for part in passages("Preface. " * 40 + " ".join(sentences[3:]))]
    assert set(one[2:]) <= set(late)
    assert len(passages(other)) > 1
    assert min(map(len, one)) >= 1000
    assert "".join(passages(wrapped)) == wrapped


def test_passages_of_odd_texts():
    for text in (
        "",
        "a",
        "word " * 9000,
        "字" * 9000,
        "\n" * 5000,
        "。" * 9000,
        "A b. " * 9000,
        "ab\u0301\U0001f600. " * 900,
    ):
        cut = passages(text)
        assert "".join(cut) == text
    assert len(passages(_words(9000, 1))) > 10  # no sentences: between words
    zh = "".join(chr(random.Random(i).randrange(0x4E00, 0x9000)) + "。" * (i % 20 == 0) for i in range(30_000))
    assert 8 < len(passages(zh)) < 30
