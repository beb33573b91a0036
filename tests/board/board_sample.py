"""A hand-made store of results with known truths, and the board of it: `python tests/board/board_sample.py FOLDER` renders it.

Abilities are set, answers are drawn with a fixed seed, so what the board must say about most pairs is known beforehand.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from puna.board.pages import build_board
from puna.judge.measured import Item, Measurement, ModelFacts, Origin, Parent, Published, Settings, TaskFacts
from puna.judge.store.store import Store, StoredResult

EVIL = '<script>alert("1")</script><img src=x onerror=alert(2)> & friends'
CHINESE = "高原小羊驼"
SPLIT = "</script><script>alert(3)</script>\u2028<!--"  # what breaks out of a script that holds unescaped JSON
HEADER = "".join(f"Question: What is {n} and {n}?\nAnswer: {2 * n}\n\n" for n in range(5))

MODELS = [
    ModelFacts(
        name="stories260K", developer="karpathy", digest="a" * 64, tokenizer_digest="b" * 64, parameters=264_512,
        context=512, licence="MIT",
    ),
    ModelFacts(
        name="grown-400K", developer="us", digest="c" * 64, tokenizer_digest="b" * 64, parameters=401_000, context=512,
        train_tokens=12_000_000, flops=2.9e13, licence="Apache-2.0",
        parents=(Parent(name="stories260K", relation="grown and continued", digest="a" * 64, evidence="its ledger says so: step 0 is the parent with copied layers"),),
    ),
    ModelFacts(
        name=EVIL, developer="<b>bold</b>", digest="d" * 64, parameters=1_000_000, licence="<i>none</i>", train_tokens=30_000_000, flops=1.8e14,
        parents=(Parent(name="unheard-of <b>base</b>", relation="fine-tuned", evidence="the maker says so <script>alert(4)</script>"),),
    ),
    ModelFacts(
        name=CHINESE, developer="我们", digest="e" * 64, parameters=4_100_000, context=2048, train_tokens=80_000_000, flops=2.0e15, licence="Apache-2.0",
        parents=(Parent(name="grown-400K", relation="merged", digest="c" * 64, evidence="说明见账本"), Parent(name="stories260K", relation="", digest="a" * 64)),
    ),
]  # fmt: skip
ABILITY = [-0.1, 0.9, 1.0, 2.6]  # so: the last leads, the two in the middle cannot be told apart, the first is behind
IMPORTED = ModelFacts(name="Yi-34B", developer="01-ai", kind="published", parameters=34_000_000_000, train_tokens=3_100_000_000_000, licence="Apache-2.0")  # fmt: skip


def task(name: str, title: str, metric: str = "acc_norm", **more: object) -> TaskFacts:
    facts: dict[str, object] = {
        "name": name, "title": title, "kind": "choices", "metric": metric, "chance": 0.25, "shots": 5, "digest": f"{name}-definition",
        "data_digest": f"{name}-data", "prompt_digest": f"{name}-prompts", "source": "made by hand for this test", "licence": "CC0-1.0",
    }  # fmt: skip
    return TaskFacts.model_validate(facts | more)


TASKS = [
    task("arc_challenge", "ARC-Challenge", items_in_all=120, notes=("60 of 1172 items",)),
    task("hellaswag", "HellaSwag", items_in_all=120, shots=10),
    task("mmlu", "MMLU", "acc", items_in_all=240, chances={"law": 0.25, "maths": 0.2}, chance=0.225, aggregate="items"),
    task("truthfulqa_mc2", "TruthfulQA MC2", "mc2", items_in_all=90, shots=0),
    task("cmmlu", "CMMLU 中文", "acc", items_in_all=100, language="zh", notes=("问题以中文给出",)),
    task("text", "Bits per byte: <held> out", "bits_per_byte", kind="text", unit="bits per byte", higher_is_better=False, chance=None, shots=0, items_in_all=40),
]  # fmt: skip


def _rng(*parts: int) -> np.random.Generator:
    return np.random.default_rng([20231106, *parts])


def _item(which: int, facts: TaskFacts, place: int, model: int, *, dirty: bool) -> Item:
    """One item: its difficulty is the item's, the noise is the item's and the model's."""
    hard = float(_rng(which, place).normal(0, 1.2))
    luck = float(_rng(which, place, model + 1).logistic(0, 0.8))
    subtask = ("law", "maths")[place % 2] if facts.name == "mmlu" else ""
    cluster = f"passage {place // 4}" if facts.name == "hellaswag" else ""
    seen = (0.9 if place % 10 == 0 else 0.0) if dirty else None
    if facts.kind == "text":
        bytes_ = 400 + 10 * (place % 7)
        bits = bytes_ * (2.2 - 0.2 * ABILITY[model] + 0.1 * hard + 0.02 * luck)
        return Item(
            id=f"{facts.name}-{place}",
            question=f"Document {place}",
            prompt="",
            score=bits,
            weight=float(bytes_),
            scores={"bits": bits},
        )
    chinese = facts.language == "zh"
    question = f"第{place}题：高原上住着什么动物？" if chinese else f"Question {place}: which is right?"
    if place == 3:
        question += SPLIT
    choices = (
        ("羊驼", "鲸鱼", "企鹅", "猫") if chinese else ("alpaca", "whale <b>blue</b>", "penguin", f"number {place}")
    )
    right = place % 4
    if facts.name == "truthfulqa_mc2":
        score = float(1 / (1 + np.exp(-(ABILITY[model] * 0.6 - hard + luck))))
        answer = right if score > 0.5 else (right + 1) % 4
    else:
        good = ABILITY[model] - hard + luck > 0.4 or (seen or 0) > 0.5
        answer, score = (right, 1.0) if good else ((right + 1 + place % 3) % 4, 0.0)
    lls = tuple(-3.0 - 0.25 * ((c - answer) % 4) for c in range(4))
    return Item(
        id=f"{facts.name}-{place}", subtask=subtask, cluster=cluster, question=question, prompt=f"{HEADER if facts.shots else ''}Question: {question}\nAnswer:",
        choices=choices, target=(right,), answer=answer, loglikelihoods=lls, score=score, scores={facts.metric: score}, tie=place == 7,
        truncated=37 if facts.name == "hellaswag" and model == 0 and place < 5 else 0, dirty=seen,
    )  # fmt: skip


def measurement(model: int, which: int) -> Measurement:
    """Model number `model` on task number `which`."""
    facts, known = TASKS[which], MODELS[model]
    dirty = model in (1, 3) and facts.name == "arc_challenge"
    items = tuple(_item(which, facts, place, model, dirty=dirty) for place in range(facts.items_in_all))
    return Measurement(
        model=known, task=facts, settings=Settings(data="evals"), items=items, seconds=1.5, harness={"puna": "0.1.0", "lm_eval": "0.4.13"},
        command=f"puna judge 'models/{model}' --tasks {facts.name} --data evals",
    )  # fmt: skip


def measurements() -> list[Measurement]:
    """Four models on six tasks: one failed, one never run."""
    found = []
    for model in range(len(MODELS)):
        for which, facts in enumerate(TASKS):
            if model == 2 and facts.name == "cmmlu":
                bad = measurement(model, which).model_copy(
                    update={"items": (), "failed": "the logits are not numbers (NaN) <b>from item 3 on</b>"}
                )
                found.append(bad)
            elif not (model == 1 and facts.name == "text"):
                found.append(measurement(model, which))
    return found


PUBLISHED = {"arc_challenge": 0.6459, "hellaswag": 0.8569, "mmlu": 0.7635, "truthfulqa_mc2": 0.5623}


def published() -> list[Measurement]:
    """Somebody else's numbers of a model that is not here."""
    origin = Origin(
        form="table", name="Press <b>report</b>, 6 November 2023", url="https://example.invalid/yi", date="2023-11-06"
    )
    found = []
    for facts in TASKS:
        if facts.name in PUBLISHED:
            bare = TaskFacts(name=facts.name, title=facts.title, kind=facts.kind, metric=facts.metric, chance=facts.chance, chances=facts.chances, shots=facts.shots)  # fmt: skip
            number = Published(
                score=PUBLISHED[facts.name],
                n=1172 if facts.name == "arc_challenge" else None,
                n_source="the data set's size",
            )
            found.append(Measurement(model=IMPORTED, task=bare, origin=origin, published=number))
    return found


def stored(folder: Path) -> list[StoredResult]:
    """All of it in a real store, at a fixed time."""
    store = Store(folder)
    for one in [*measurements(), *published()]:
        store.add(one, now=1_700_000_000)
    return store.results()


if __name__ == "__main__":
    site = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        report = build_board(
            stored(Path("results")),
            site.absolute(),
            title="Sample board 样板",
            refused=[("results/x.json", "was changed after it was written")],
        )
    print(report)
