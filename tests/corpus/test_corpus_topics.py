"""Topics: clusters that are real ones, words that name them, the same bytes whatever the threads."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from puna.corpus.topics import Topics
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data/train"
FIELDS = {
    "ships": ("en", "harbour sail mast anchor captain deck voyage sailor storm compass rudder cargo"),
    "bread": ("en", "flour oven yeast dough crust baker butter knead loaf recipe sugar salt"),
    "stars": ("en", "planet orbit telescope comet galaxy moon eclipse gravity meteor nebula solar astronomer"),
    "music": ("en", "violin melody chord opera singer concert piano rhythm choir flute sonata orchestra"),
    "律": ("zh", "法院 判决 被告 原告 律师 上诉 合同 证据 诉讼 审理 条款 赔偿"),
    "医": ("zh", "患者 药物 手术 症状 护士 诊断 疾病 血压 肿瘤 感染 疫苗 康复"),
    "农": ("zh", "水稻 播种 灌溉 肥料 拖拉 蔬菜 养殖 果园 耕地 农民 丰收 小麦"),
    "球": ("zh", "足球 进球 教练 守门 冠军 联赛 射门 裁判 球迷 比分 点球 赛季"),
}


def text_of(field: str, seed: int) -> str:
    lang, words = FIELDS[field]
    draw = random.Random(seed)
    filler = "the and with from about this that" if lang == "en" else "的 了 是 在 我 有 和"
    return (" " if lang == "en" else "").join(draw.choice((words + " " + filler).split()) for _ in range(60))


def sample(count: int) -> tuple[list[str], list[str], list[str]]:
    fields = [list(FIELDS)[n % 8] for n in range(count)]
    return [text_of(field, n) for n, field in enumerate(fields)], [FIELDS[field][0] for field in fields], fields


def test_clusters_are_the_fields_and_their_words_name_them() -> None:
    texts, langs, fields = sample(400)
    model = Topics.train(texts, langs, 8)
    labels, distance = model.assign(texts)
    assert sorted(model.sizes) == [50] * 8
    for field, (_, words) in FIELDS.items():
        (cluster,) = {label for label, its in zip(labels.tolist(), fields, strict=True) if its == field}
        assert set(model.labels[cluster]) <= set(words.split()), model.labels[cluster]
    assert distance.max() < 0.7
    apart = [model.assign([text]) for text in texts]
    assert [int(one[0][0]) for one in apart] == labels.tolist()
    assert [float(one[1][0]) for one in apart] == distance.tolist()


def test_what_resembles_nothing_is_far_from_every_centre() -> None:
    texts, langs, _ = sample(400)
    model = Topics.train(texts, langs, 8)
    labels, distance = model.assign(
        ["zzz qqq", "", "anchor anchor anchor captain dough sugar violin opera 患者 药物", texts[0]]
    )
    assert (labels[:2].tolist(), distance[:2].tolist()) == ([-1, -1], [1, 1])
    limits = model.limits(99)
    assert distance[2] > limits[labels[2]]
    assert distance[3] <= model.limits(100)[labels[3]] + 1e-5
    assert (model.limits(50) <= limits).all()


def test_the_model_is_the_same_bytes_with_one_thread_and_with_two(tmp_path: Path) -> None:
    program = (
        "import sys, runpy; from pathlib import Path; m = runpy.run_path(sys.argv[1]); t, l, _ = m['sample'](400)\n"
        "from puna.corpus.topics import Topics; Topics.train(t, l, 8).save(Path(sys.argv[2]))"
    )
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        there = os.environ | dict.fromkeys(names, threads)
        subprocess.run([sys.executable, "-c", program, __file__, str(tmp_path / threads)], env=there, check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    Topics.load(tmp_path / "1").save(tmp_path / "3")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()


def test_too_few_documents_are_a_mistake_of_the_user() -> None:
    texts, langs, _ = sample(30)
    for own in (texts, ["", " "] * 20, ["x"] * 40):
        with pytest.raises(PunaError, match="topics"):
            Topics.train(own, (langs * 2)[: len(own)], 8)


def test_laws_reviews_and_histories_are_apart() -> None:
    texts, langs, kinds = [], [], []
    for name, lang in (("zh_laws", "zh"), ("zh_modern", "zh"), ("en_open", "en")):
        path = DATA / f"{name}.jsonl.zst"
        if not path.is_file():
            pytest.skip("needs shared/data")
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            own = [json.loads(line)["text"][:1500] for line, _ in zip(lines, range(300), strict=False)]
        texts, langs, kinds = [*texts, *own], [*langs, *[lang] * 300], [*kinds, *[name] * 300]
    model = Topics.train(texts, langs, 12)
    labels = model.assign(texts)[0]
    majority = sum(max(np.unique(np.array(kinds)[labels == own], return_counts=True)[1]) for own in np.unique(labels))
    assert majority / len(texts) > 0.97
    assert all(len(words) >= 5 for words in model.labels)
