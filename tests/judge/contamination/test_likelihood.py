"""Min-K%++ against its formula, and the ROC area beside it."""

import itertools

import numpy as np
import pytest
import torch

from puna.engine import Engine
from puna.errors import PunaError
from puna.judge.bits_per_byte import start_id
from puna.judge.contamination.likelihood import examine, lowest, scores
from puna.judge.contamination.membership import auc, beside_controls, membership, twin
from puna.judge.measured import Item, TaskFacts

TEXTS = [
    "def read(self, size):",
    "羊驼走过高原的草地。",
    "The quick brown fox jumps over the lazy dog, and returns.",
    "x",
]


def by_the_formula(engine: Engine, text: str, k: float) -> tuple[float, float]:
    ids = engine.tokenizer.encode(text)
    with torch.inference_mode():
        logits = engine.model.logits(engine.model(torch.tensor([[start_id(engine), *ids[:-1]]])))[0].double()
    plain, standard = [], []
    for row, token in zip(torch.log_softmax(logits, -1).numpy(), ids, strict=True):
        p = np.exp(row)
        mu = float(p @ row)
        plain.append(row[token])
        standard.append((row[token] - mu) / np.sqrt(p @ row**2 - mu**2))
    count = max(1, int(k * len(ids)))
    return float(np.mean(sorted(standard)[:count])), float(np.mean(sorted(plain)[:count]))


@pytest.mark.parametrize("k", [0.2, 0.5, 1.0])
def test_the_scores_are_those_of_the_paper(engine: Engine, k: float) -> None:
    found = scores(engine, TEXTS, k)
    for number, text in enumerate(TEXTS):
        assert (found.minkpp[number], found.mink[number]) == pytest.approx(by_the_formula(engine, text, k), abs=1e-4)
    assert found.cut == 0 and found.tokens.tolist() == [len(engine.tokenizer.encode(text)) for text in TEXTS]


def test_a_text_is_scored_by_itself_and_cut_aloud(engine: Engine) -> None:
    long = "def f(a, b): return a + b\n" * 40
    found = scores(engine, [*TEXTS, long])
    assert found.cut == 1 and found.tokens[-1] == engine.context
    for number, text in enumerate([*TEXTS, long]):
        assert scores(engine, [text]).minkpp[0] == pytest.approx(found.minkpp[number], abs=1e-4)
    with pytest.raises(PunaError, match="without a token"):
        scores(engine, ["a", ""])
    with pytest.raises(ValueError, match="k must be"):
        scores(engine, ["a"], 0)


def test_a_model_that_gives_no_numbers_is_refused(engine: Engine) -> None:
    weight = engine.model.head_weight()
    kept = weight[5].clone()
    with torch.no_grad():
        weight[5] = torch.nan
    try:
        with pytest.raises(PunaError, match="not finite"):
            scores(engine, TEXTS)
    finally:
        with torch.no_grad():
            weight[5] = kept


def test_the_lowest_share() -> None:
    values = np.array([3.0, -1.0, 0.0, 2.0, 5.0])
    assert lowest(values, 0.2) == -1 and lowest(values, 0.4) == -0.5 and lowest(values, 1) == 1.8
    assert lowest(values[:1], 0.2) == 3  # one token at least


def test_the_area_is_the_share_of_pairs() -> None:
    rng = np.random.default_rng(3)
    own, rest = rng.integers(0, 9, 40).astype(float), rng.integers(2, 11, 30).astype(float)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(own, rest)]
    assert auc(own, rest) == pytest.approx(np.mean(pairs))
    assert auc(np.arange(3.0) + 9, np.arange(3.0)) == 1 and auc(np.ones(3), np.ones(4)) == 0.5


def test_read_texts_stand_out_and_others_do_not() -> None:
    rng = np.random.default_rng(4)
    found = membership(rng.normal(1, 1, 80), rng.normal(0, 1, 90), draws=300)
    assert found.p is not None and found.p < 0.01 and found.interval is not None
    assert found.interval[0] < found.auc < found.interval[1] and 0.65 < found.auc < 0.85
    hits = 0
    for seed in range(60):
        found = membership(rng.normal(0, 1, 20), rng.normal(0, 1, 25), draws=60, seed=seed)
        hits += found.p is not None and found.p <= 0.05
    assert hits <= 9
    few = membership(np.ones(7), np.zeros(50))
    assert few.p is None and few.interval is None and few.auc == 1 and "cannot tell" in few.says
    with pytest.raises(PunaError, match="not finite"):
        membership([1.0, float("nan")], [0.0])
    with pytest.raises(PunaError, match="no texts"):
        membership([], [0.0])


def test_what_every_model_finds_easier_falls_away_beside_a_control() -> None:
    rng = np.random.default_rng(5)
    items, others = rng.normal(2, 1, 100), rng.normal(0, 1, 100)  # a task is another sort of text than its reference
    same = (items + rng.normal(0, 0.3, 100), others + rng.normal(0, 0.3, 100))
    (row,) = beside_controls(items, others, {"control": same}, draws=300)
    assert (
        row.control_auc > 0.85
        and row.p is not None
        and row.p > 0.05
        and row.interval is not None
        and row.interval[0] < 0 < row.interval[1]
    )
    weak = (rng.normal(0.3, 1, 100), rng.normal(0, 1, 100))
    (row,) = beside_controls(items, others, {"weak": weak}, draws=300)
    assert row.p is not None and row.p < 0.02 and row.difference > 0.2
    with pytest.raises(PunaError, match="the same texts"):
        beside_controls(items, others, {"short": (items[:5], others)})


def test_a_twin_has_the_same_words_in_another_order() -> None:
    text = "The old mill stood near the river, and nobody came. Who would have built it there?"
    other = twin(text, seed=1)
    assert other != text and other == twin(text, seed=1) and other != twin(text, seed=2)
    assert sorted(other.replace(",", "").replace(".", "").replace("?", "").split()) == sorted(
        text.replace(",", "").replace(".", "").replace("?", "").split()
    )
    chinese = "羊驼走过高原的草地。山上的风唱着歌。"
    assert sorted(twin(chinese)) == sorted(chinese) and twin(chinese) != chinese and twin(chinese)[9] == "。"


def test_items_of_one_passage_count_once() -> None:
    rng = np.random.default_rng(6)
    own, rest = np.repeat(rng.normal(0, 1, 15), 10), rng.normal(0, 1, 150)
    alone = membership(own, rest, draws=300)
    together = membership(own, rest, clusters=[f"c{n // 10}" for n in range(150)], draws=300)
    assert (
        alone.interval is not None and together.interval is not None and alone.p is not None and together.p is not None
    )
    widths = [high - low for low, high in (alone.interval, together.interval)]
    assert widths[1] > 1.7 * widths[0] and together.p > alone.p and together.auc == alone.auc
    assert membership(own, rest, clusters=[f"c{n // 30}" for n in range(150)]).p is None


def test_a_task_is_examined_as_it_is_asked(engine: Engine) -> None:
    task = TaskFacts(name="made", title="Made", kind="choices", metric="acc")
    items = [Item(id=str(n), question=f"What does module {n} return?", prompt=f"Q: What does module {n} return?\nA:", choices=("a list", "none"),
                  target=(0,)) for n in range(9)]  # fmt: skip
    found = examine(engine, items, task, controls={"itself": engine})
    assert found["p"] is None and found["interval"] is not None and "shuffled" in found["says"] and found["items"] == 9
    (row,) = found["beside"]
    assert row["control"] == "itself" and row["difference"] == 0 and row["p"] == 1
    text = "What does module 3 return?\nA: a list"
    other = examine(engine, items, task, [text] * 9, k=0.5)
    assert other["p"] is not None and "shuffled" not in other["says"] and other["beside"] == [] and other["k"] == 0.5
    assert 0 < other["auc"] < 1
