"""Evaluation items in training text: what is found, what is not, and what stays the same however it is computed."""

import dataclasses
import json
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import itemindex
from puna.corpus.decontaminate import Hits, ItemIndex, cut, flagged, report, verdict, write_hits
from puna.corpus.evalitems import EvalItem
from puna.corpus.folding import fold
from puna.corpus.segment import segment
from puna.errors import PunaError

ZH_CHARS = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈剑号巨阙珠称夜光"
)
DUCKS = EvalItem(
    "gsm8k/test", "1",
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends every "
    "day with four. How much does she make every day at the market?",
    "She makes 9 * 2 = 18 dollars every day at the farmer's market.",
)  # fmt: skip
FARM = EvalItem(
    "cmmlu/test", "1", "在农业生产中被当作极其重要的劳动对象发挥作用，最主要的不可替代的基本生产资料是", "土地"
)
FOG = EvalItem("obqa", "2", "There is most likely going to be fog around:", "a marsh")
SUM = EvalItem("sums", "3", "25 - 759 =", "-734")
ITEMS = [DUCKS, FARM, FOG, SUM]


def prose(seed: int, words: int = 400) -> str:
    draw = random.Random(seed)
    return ". ".join(" ".join(f"w{draw.randrange(3000)}" for _ in range(20)) for _ in range(words // 20)) + "."


def chinese(seed: int, length: int = 600) -> str:
    draw = random.Random(seed)
    return "。".join("".join(draw.choice(ZH_CHARS) for _ in range(30)) for _ in range(length // 30))


def shares(hits: Hits) -> dict[tuple[int, int], float]:
    return {
        (d, i): s for d, i, s in zip(*(c.tolist() for c in (hits.document, hits.item, hits.share)), strict=True) if s
    }


def same(one: Hits, other: Hits) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Hits))


INDEX = ItemIndex.build(ITEMS)


def test_exact_copies_are_found_where_they_stand() -> None:
    texts = [prose(1), f"{prose(2)}\n{DUCKS.question}\n{DUCKS.answer}\n{prose(3)}", chinese(1),
             f"{chinese(2)}{FARM.question}{chinese(3)}", f"see: {FOG.question} a marsh"]  # fmt: skip
    hits = INDEX.scan(texts)
    assert shares(hits) == {(1, 0): 1.0, (3, 1): 1.0, (4, 2): 1.0}
    found = [texts[d][a:b] for d, a, b in zip(hits.span_document, hits.start, hits.end, strict=True)]
    assert found[0] == f"{DUCKS.question}\n{DUCKS.answer}"[:-1]
    assert found[1:] == [FARM.question, FOG.question[:-1]]


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text.replace(" ", " \n ").replace("，", "，\n"),
        lambda text: text.replace(",", ";").replace(".", " --").replace("'", "\u2019").replace("，", " "),
        lambda text: text.translate({c: c + 0xFEE0 for c in range(0x21, 0x7F)}),  # full width
        lambda text: "**" + text + "**",
        lambda text: text.replace("eggs", "eg\u00adgs").replace("day", "da\u200by"),
    ],
)
def test_case_punctuation_space_and_width_change_nothing(change) -> None:
    for number, item in enumerate([DUCKS, FARM, FOG]):
        assert shares(INDEX.scan([change(item.question)])) == {(0, number): 1.0}


def test_composed_and_decomposed_letters_are_one() -> None:
    item = EvalItem(
        "fr", "1", "Où est né le célèbre écrivain français qui a écrit le roman Les Misérables en exil ?", ""
    )
    index = ItemIndex.build([item])
    apart = "x é " + unicodedata.normalize("NFD", item.question) + " y"
    hits = index.scan([apart])
    assert shares(hits) == {(0, 0): 1.0}
    assert apart[hits.start[0] : hits.end[0]] == unicodedata.normalize("NFD", item.question)[:-2]


def test_a_part_counts_by_its_share_and_a_question_alone_is_whole() -> None:
    words = DUCKS.question.split()
    half = " ".join(words[:20])
    got = shares(INDEX.scan([half, DUCKS.question, DUCKS.answer, " ".join(words[:12])]))
    tokens = len(segment([DUCKS.question]).codes)
    assert got[0, 0] == pytest.approx((len(segment([half]).codes) - 12) / (tokens - 12))
    assert got[1, 0] == 1.0
    assert 0 < got[2, 0] < 0.2  # the answer has few n-grams of its own
    assert (3, 0) not in got or got[3, 0] < 0.1


def test_short_items_are_taken_whole_or_not_decidable() -> None:
    assert INDEX.undecidable.tolist() == [False, False, False, True]
    assert not shares(
        INDEX.scan(["There is most likely going to be fog nearby", "25 - 759 = -734", "fog around: a marsh"])
    )
    items = [
        EvalItem("t", "1", "Who came first here?", "Nobody whom I could ever name"),  # 4 + 6 words: together whole
        EvalItem("t", "2", "天时不如地利地利", "不如"),  # 8 + 2 characters
        EvalItem("t", "3", "天时不如地利地", "不如"),
        EvalItem("t", "4", "", ""),
    ]
    index = ItemIndex.build(items)
    assert index.undecidable.tolist() == [False, False, True, True]
    assert shares(index.scan(["Who came first here? Nobody whom I could ever name.", "天时不如，地利地利不如。"])) == {
        (0, 0): 1.0,
        (1, 1): 1.0,
    }


def test_lengths_can_be_set() -> None:
    item = EvalItem("t", "1", prose(9, 20), "")
    part = " ".join(item.question.split()[3:9])
    assert not shares(ItemIndex.build([item]).scan([part]))
    assert shares(ItemIndex.build([item], words=5).scan([part])) == {(0, 0): pytest.approx(2 / 16)}
    zh = EvalItem("t", "1", chinese(9, 30), "")
    assert shares(ItemIndex.build([zh], characters=6).scan([zh.question[4:12]])) == {(0, 0): pytest.approx(3 / 25)}
    for wrong in (1, 101):
        with pytest.raises(PunaError, match="n-grams of"):
            ItemIndex.build([item], words=wrong)
    with pytest.raises(PunaError, match="two items"):
        ItemIndex.build([item, item])


def test_a_tasks_template_tells_nothing() -> None:
    template = (
        "Read the passage below with care and then choose the one best answer to the question that follows it now: "
    )
    items = [EvalItem("t", str(n), template + prose(n, 20), "") for n in range(11)] + [EvalItem("t", "x", template, "")]
    index = ItemIndex.build(items)
    assert index.exact.templates[0] > 0
    assert index.undecidable.tolist() == [False] * 11 + [True]  # the last is nothing but the template
    assert len(index.scan([template + prose(99, 20)])) == 0
    assert shares(index.scan([items[3].question])) == {(0, 3): 1.0}
    few = ItemIndex.build(items[:10])
    assert set(shares(few.scan([template]))) == {(0, n) for n in range(10)}


def test_the_near_tier_suspects_what_was_rewritten_and_nothing_else() -> None:
    rewritten = (
        "Janet's ducks lay 18 eggs per day. She eats three at breakfast every morning and bakes cakes for her friends every "
        "day with five. What does she make every day at the market?"
    )
    other = (
        "Tom's hens lay 9 eggs a week. He sells all of them at the market for 3 dollars each. How much does he make?"
    )
    lost = FARM.question.replace("当作", "看成").replace("主要的不可", "要紧而不可").replace("作用", "功用")
    hits = INDEX.scan([rewritten, other, lost, prose(5), chinese(5)])
    assert not shares(hits)
    assert list(zip(hits.document.tolist(), hits.item.tolist(), strict=True)) == [(0, 0), (2, 1)]
    assert (hits.near >= 0.2).all()
    # The same n-grams strewn over a long text are no suspicion.
    words = DUCKS.question.split()
    strewn = " ".join(" ".join(words[i : i + 4]) + " " + prose(i, 200) for i in range(0, len(words), 2))
    assert len(INDEX.scan([strewn])) == 0


def test_one_hash_for_two_texts_is_no_hit(monkeypatch) -> None:
    index = ItemIndex.build(ITEMS)
    tokens = [index._tokens[0].replace("muffins", "scones"), *index._tokens[1:]]
    monkeypatch.setattr(index, "_tokens", tokens)  # as if the hashes collided
    hits = index.scan([DUCKS.question, FARM.question])
    assert (0, 0) not in shares(hits)
    assert shares(hits) == {(1, 1): 1.0}


def test_nothing_depends_on_batch_process_or_order(tmp_path) -> None:
    texts = [prose(1), f"{prose(2)} {DUCKS.question}", FARM.question, "", FOG.question + prose(3), DUCKS.question[:120]]
    whole = INDEX.scan(texts)
    for place, text in enumerate(texts):
        one = INDEX.scan([text])
        assert {(0, i): s for (d, i), s in shares(whole).items() if d == place} == shares(one)
    path, again = tmp_path / "index.npz", tmp_path / "again.npz"
    INDEX.save(path)
    ItemIndex.load(path).save(again)
    assert path.read_bytes() == again.read_bytes()
    assert same(ItemIndex.load(path).scan(texts), whole)
    code = (
        "import sys; from pathlib import Path; from puna.corpus.decontaminate import ItemIndex; import json\n"
        f"h = ItemIndex.load(Path({str(path)!r})).scan(json.loads(sys.stdin.read()))\n"
        "print(json.dumps([h.document.tolist(), h.item.tolist(), h.share.tolist(), h.near.tolist(), h.start.tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [
        column.tolist() for column in (whole.document, whole.item, whole.share, whole.near, whole.start)
    ]


def test_groups_change_nothing(monkeypatch) -> None:
    texts = [prose(n) + (DUCKS.question if n % 3 else FARM.question) for n in range(12)]
    whole = INDEX.scan(texts)
    monkeypatch.setattr(itemindex, "_GROUP", 5000)
    assert same(INDEX.scan(texts), whole)


def test_a_broken_index_is_refused(tmp_path) -> None:
    path = tmp_path / "index.npz"
    for content in (b"", b"nonsense", b"PK\x03\x04 no zip"):
        path.write_bytes(content)
        with pytest.raises(PunaError, match="no index of evaluation items"):
            ItemIndex.load(path)
    np.savez(path, meta=np.frombuffer(b"{}", np.uint8))
    with pytest.raises(PunaError, match="no index of evaluation items"):
        ItemIndex.load(path)


def test_no_items_and_no_texts() -> None:
    assert len(ItemIndex.build([]).scan(["text", ""])) == 0
    assert len(INDEX.scan([])) == 0
    assert len(INDEX.scan(["", "。", "\ud800 lone"])) == 0


def test_documents_are_flagged_or_cut() -> None:
    texts = [prose(1), prose(2, 2000) + "\n" + DUCKS.question + "\n" + prose(3, 2000), DUCKS.question, chinese(4)]
    hits = INDEX.scan(texts)
    assert flagged(hits, len(texts)).tolist() == [False, True, True, False]
    kept = cut(texts, hits)
    assert (kept[0], kept[2], kept[3]) == (texts[0], "", texts[3])
    assert not shares(INDEX.scan(kept))
    assert len(texts[1]) - 1200 < len(kept[1]) < len(texts[1]) - len(DUCKS.question)
    assert kept[1].split("\n\n")[0].endswith(".")  # cut at the end of a sentence
    whole = prose(6, 300).join([DUCKS.question] * 12)
    assert cut([whole], INDEX.scan([whole])) == [""]
    zh = chinese(5, 3000) + "。" + FARM.question + "。" + chinese(6, 3000)
    (short,) = cut([zh], INDEX.scan([zh]))
    assert "生产资料" not in short
    assert len(short) > 5000


def test_small_shares_and_suspicions_flag_only_when_asked() -> None:
    item = EvalItem("t", "1", prose(7, 400), "")
    index = ItemIndex.build([item, DUCKS])
    quoted = prose(8) + " ".join(item.question.split()[5:25])
    rewritten = DUCKS.question.replace("three", "two").replace("muffins", "cakes").replace("four", "five")
    hits = index.scan([quoted, rewritten])
    assert flagged(hits, 2).tolist() == [False, False]
    assert flagged(hits, 2, 0.0).tolist() == [True, False]
    assert flagged(hits, 2, near=True).tolist() == [False, True]


def record_of(folder, texts, ids, action="flag", parts=1):
    files = []
    for part in range(parts):
        files.append(folder / f"{part}.npz")
        batches = [([ids[n]], INDEX.scan([texts[n]])) for n in range(part, len(texts), parts)]
        write_hits(files[-1], batches)
    return report(INDEX, files, action)


def test_the_record_names_items_documents_and_verdicts(tmp_path) -> None:
    part = " ".join(DUCKS.question.split()[:20])
    texts = [f"{FARM.question}{chinese(1)}", part, prose(1), f"{part} {prose(2)}"]
    ids = ["zh", "b", "none", "a"]
    record = record_of(tmp_path, texts, ids)
    assert (record["format"], record["documents"], record["action"]) == ("puna-contamination-1", 4, "flag")
    assert record["tasks"]["gsm8k/test"] == {
        "items": 1, "clean": 0, "touched": 1, "contaminated": 0, "undecidable": 0, "suspected": 0, "found": 1,
    }  # fmt: skip
    assert record["tasks"]["cmmlu/test"]["contaminated"] == 1
    assert record["tasks"]["obqa"]["clean"] == 1
    assert record["undecidable"] == {"sums": ["3"]}
    ducks, farm = record["items"]
    assert (ducks["verdict"], ducks["documents"], [name for name, _ in ducks["first"]]) == ("touched", 2, ["a", "b"])
    assert (farm["verdict"], farm["share"], farm["first"]) == ("contaminated", 1.0, [["zh", 1.0]])
    assert record == json.loads(json.dumps(record)) == record_of(tmp_path, texts, ids, parts=3)
    assert record == record_of(tmp_path, texts[::-1], ids[::-1])
    many = record_of(tmp_path, [FARM.question] * 100, [f"d{n:03}" for n in range(100)])["items"][0]
    assert (many["documents"], [name for name, _ in many["first"]]) == (100, [f"d{n:03}" for n in range(5)])
    assert [verdict(share) for share in (0, 0.01, 0.69, 0.7, 1)] == [
        "clean", "touched", "touched", "contaminated", "contaminated",
    ]  # fmt: skip
    empty = record_of(tmp_path, [], [])
    assert (empty["documents"], empty["items"], empty["tasks"]["obqa"]["clean"]) == (0, [], 1)


def test_the_record_tells_what_stayed_after_the_action(tmp_path) -> None:
    quote = DUCKS.question.split()
    texts = [f"{FARM.question} {' '.join(quote[:15])}", " ".join(quote[:14]), prose(1)]
    got = shares(INDEX.scan(texts))
    assert got.pop((0, 1)) == 1.0
    assert all(0 < share < 0.2 for share in got.values())

    def told(action):
        record = record_of(tmp_path, texts, ["a", "b", "c"], action)
        return {item["task"]: (item["verdict"], item["share"] > 0, item["found_share"] > 0) for item in record["items"]}

    assert told("flag") == {"gsm8k/test": ("touched", True, True), "cmmlu/test": ("contaminated", True, True)}
    assert told("cut") == told("drop") == {"gsm8k/test": ("touched", True, True), "cmmlu/test": ("clean", False, True)}
    texts = texts[:1]  # dropped with the document, the quotation goes too; cut, it stays
    assert told("cut")["gsm8k/test"] == ("touched", True, True)
    assert told("drop")["gsm8k/test"] == ("clean", False, True)


@given(st.text(max_size=80))
def test_folding_keeps_places(text) -> None:
    folded = fold(text)
    assert fold(folded.text).text == folded.text or not text.isascii()
    batch = segment([folded.text])
    starts, ends = folded.original(batch.starts, end=False), folded.original(batch.ends, end=True)
    assert (starts < ends).all()
    assert (ends <= len(text)).all()
    for start, end, a, b in zip(starts, ends, batch.starts, batch.ends, strict=True):
        assert folded.text[a:b] in unicodedata.normalize(
            "NFKC", text[start:end].replace("\u00ad", "").replace("\u200b", "")
        )


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_around_an_item_leaves_it_found(before, after) -> None:
    hits = INDEX.scan([f"{before}\n{FARM.question}\n{after}"])
    assert shares(hits).get((0, 1)) == 1.0


def test_time_is_linear_in_hostile_text() -> None:
    for text in (
        "a " * 300_000,
        "的" * 300_000,
        (FOG.question + " ") * 3000,
        "a\u0301" * 100_000,
        "Ａ１" * 100_000,
        "x" * 10**6,
    ):
        INDEX.scan([text])
