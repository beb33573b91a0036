"""Passages that stand word for word in several places: what is found, what is cut, and that nothing else is."""

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from puna.corpus import spans, tables
from puna.corpus.segment import segment

DATA = Path(__file__).parents[3] / "shared/data/train"


@cache
def _real(name):
    path = DATA / name
    if not path.exists():
        pytest.skip("needs shared/data")
    zstandard = pytest.importorskip("zstandard")
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line, _ in zip(file, range(40), strict=False)]


def _words(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghij", k=6)) for _ in range(count)]


def _find(tmp_path, texts, keep=None):
    tables.write_keys(tmp_path / "k", *spans.span_keys(segment(texts), range(len(texts))))
    return tables.of_partition(tables.find_repeats([tmp_path / "k"], tmp_path / "out", 1 << 22, keep), 0, len(texts))


def _cut(tmp_path, texts, keep=None):
    found = _find(tmp_path, texts, keep)
    return [spans.without_spans(text, found.of(number)) for number, text in enumerate(texts)]


def _windows(texts, length):
    """Every run of `length` tokens that stands in the texts."""
    runs = set()
    for text in texts:
        codes = segment([text]).codes.tolist()
        runs.update(tuple(codes[at : at + length]) for at in range(len(codes) - length + 1))
    return runs


@pytest.mark.parametrize(("length", "is_found"), [(spans.WORDS + spans.SPAN - 1, True), (spans.WORDS - 1, False)])
def test_the_guarantee(tmp_path, length, is_found):
    for seed in range(25):
        run = _words(length, seed)
        at = random.Random(seed).randrange(200)
        one = " ".join([*_words(at, seed + 1000), *run, *_words(77, seed + 2000)])
        other = " ".join([*_words(200 - at, seed + 3000), *run, *_words(50, seed + 4000)])
        found = _find(tmp_path, [one, other])
        assert (len(found.order) > 0) == is_found, seed


def test_the_guarantee_in_chinese(tmp_path):
    length = spans.CHARACTERS + spans.SPAN - 1
    for seed in range(25):
        rng = random.Random(seed)
        draw = lambda count: "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(count))  # noqa: B023, E731
        run = draw(length)
        texts = [draw(rng.randrange(300)) + run + draw(200), draw(rng.randrange(300)) + run]
        assert len(_find(tmp_path, texts).order) >= 2
        texts = [draw(150) + run[:99] + draw(200), draw(60) + run[:99]]
        assert len(_find(tmp_path, texts).order) == 0


def test_winnowing_is_schleimers(tmp_path):
    # Of every SPAN windows in a row at least one is kept; and each kept one is the smallest of some SPAN in a row.
    batch = segment(
        ["\n".join(_words(3000, 1)), " ".join(_words(60, 2)), " ".join(_words(49, 3)), " ".join(_words(50, 4))]
    )
    hashes, orders, places = spans.span_keys(batch, [0, 1, 2, 3])
    assert [int((orders == order).sum()) for order in range(4)][1:] == [1, 0, 1]
    kept = places[orders == 0]
    assert np.diff(kept).max() <= spans.SPAN
    assert kept[0] < spans.SPAN
    assert 2951 - kept[-1] <= spans.SPAN
    assert len(kept) < 2.6 * 2951 / spans.SPAN
    assert len(hashes) == len(kept) + 2


@pytest.mark.parametrize("name", ["en_classics.jsonl.zst", "zh_modern.jsonl.zst"])
def test_a_copied_passage_goes_and_nothing_else(tmp_path, name):
    real = [text for text in _real(name) if len(text) > 9000]
    size = 2500 if name.startswith("en") else 700
    first, second = real[0][:9000], real[1][:9000]
    copied = real[0][3000 : 3000 + size]
    texts = [first, second[:4000] + "\n\n" + copied + "\n\n" + second[4000:]]
    (one, nothing), (other, gone) = _cut(tmp_path, texts)
    assert (one, nothing) == (first, [])
    assert len(gone) == 1
    assert gone[0].strip() in copied
    assert len(gone[0]) > 0.5 * size
    assert second[:3900] in other
    assert second[4100:] in other


def test_what_goes_stays_elsewhere(tmp_path):
    # Overlapping copies of one source, in many documents: each repeated window must stay somewhere, whole.
    rng = random.Random(8)
    source = _words(900, 5)
    texts = []
    for number in range(30):
        at, length = rng.randrange(600), rng.randrange(100, 300)
        texts.append(" ".join([*_words(40, 100 + number), *source[at : at + length], *_words(30, 200 + number)]))
    found = _find(tmp_path, texts)
    kept = [spans.without_spans(text, found.of(number))[0] for number, text in enumerate(texts)]
    gone = [piece for number, text in enumerate(texts) for piece in spans.without_spans(text, found.of(number))[1]]
    assert sum(map(len, kept)) < 0.75 * sum(map(len, texts))
    staying = _windows(kept, spans.WORDS)
    first = found.is_first()
    for order, place in zip(found.order[first].tolist(), found.place[first].tolist(), strict=True):
        assert tuple(segment([texts[order]]).codes[place : place + spans.WORDS].tolist()) in staying
    words_that_stay = {code for text in kept for code in segment([text]).codes.tolist()}
    assert {code for piece in gone for code in segment([piece]).codes.tolist()} <= words_that_stay


def test_ha_ha_ha_keeps_one_window(tmp_path):
    text = "He laughed: " + "ha " * 5000 + "and then he stopped."
    ((kept, gone),) = _cut(tmp_path, [text])
    assert kept.startswith("He laughed: ha ha ha")
    assert kept.endswith("and then he stopped.")
    assert spans.WORDS <= kept.count("ha") <= spans.WORDS + 3 * spans.SPAN
    assert len(gone) == 1
    assert len(spans.span_keys(segment([text]), [0])[0]) < 200
    ((kept, _),) = _cut(tmp_path, ["哈" * 9000 + "。"])
    assert spans.CHARACTERS <= len(kept) < 400


def test_a_refrain_stays_once(tmp_path):
    verse = " ".join(_words(120, 9)) + ". "
    text = "".join(f"{' '.join(_words(60, seed))}. {verse}" for seed in range(5))
    ((kept, gone),) = _cut(tmp_path, [text])
    assert verse.strip() in kept
    assert len(gone) == 4
    assert all(f"{' '.join(_words(60, seed))}." in kept for seed in range(5))


@pytest.mark.parametrize(("mark", "space", "size"), [(". ", " ", 12), ("。", "", 30)])
def test_cuts_give_way_to_the_ends_of_sentences(tmp_path, mark, space, size):
    rng = random.Random(4)

    def sentence():
        if space:
            return " ".join(_words(size, rng.random())) + mark
        return "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(size)) + mark

    shared = [sentence() for _ in range(30)]
    before, after = [sentence() for _ in range(5)], [sentence() for _ in range(5)]
    _, (kept, gone) = _cut(tmp_path, ["".join(shared), "".join(before + shared + after)])
    assert len(gone) == 1
    sentences = {s.strip() for s in (*before, *shared, *after)}
    assert {part.strip() + mark.strip() for part in kept.split(mark.strip()) if part.strip()} <= sentences
    assert kept.startswith("".join(before))
    assert kept.endswith("".join(after))


def test_paragraphs_that_a_cut_parted_stay_parted(tmp_path):
    shared = "\n\n".join(" ".join(_words(70, seed)) + "." for seed in range(4))
    text = f"Before it.\n\n{shared}\n\nAfter it."
    kept, gone = _cut(tmp_path, [shared, text])[1]
    assert kept.startswith("Before it.\n\n")
    assert kept.endswith("\n\nAfter it.")
    assert "\n\n\n" not in kept
    assert gone
    whole, _ = _cut(tmp_path, [shared, shared])[1]
    assert len(whole) < len(shared) / 2


def test_a_first_that_is_gone_does_not_count(tmp_path):
    text = " ".join(_words(300, 1)) + "."
    kept = _cut(tmp_path, [text, "One. " + text, "Two. " + text], tables.Without(np.array([0])))
    assert kept[0] == (text, [])
    assert kept[1] == ("One. " + text, [])
    assert kept[2][1]


def test_keys_do_not_depend_on_the_batch(tmp_path):
    texts = [
        "ha " * 300,
        " ".join(_words(400, 1)),
        "",
        "短" * 20,
        " ".join(_words(70, 2)),
        "好的" * 80 + "end of words " * 40,
    ]
    hashes, orders, places = spans.span_keys(segment(texts), range(10, 16))
    alone = [spans.span_keys(segment([text]), [10 + number]) for number, text in enumerate(texts)]
    for together, parts in zip((hashes, orders, places), zip(*alone, strict=True), strict=True):
        assert together.tolist() == np.concatenate(parts).tolist()
    assert spans.span_keys(segment([]), [])[0].shape == (0,)


def test_the_keys_of_another_text_are_refused(tmp_path):
    text = " ".join(_words(300, 1))
    found = _find(tmp_path, [text, text])
    with pytest.raises(ValueError, match="another text"):
        spans.without_spans(text[:600], found.of(1))
    assert spans.without_spans(text, found.of(7)) == (text, [])


def test_walls_of_marks_take_no_time(tmp_path):
    words = _words(200, 1)
    for wall in ("." * 20_000, '."' * 9000, "\n " * 9000, "。" * 20_000, " " * 20_000):
        text = wall.join(words)
        (kept, gone) = _cut(tmp_path, ["First. " + text, text])[1]
        assert gone
        assert len(kept) < len(text)
