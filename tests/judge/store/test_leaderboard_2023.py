"""Yi-34B and its rivals, entered as imported results, have the means that the boards showed."""

import csv
from pathlib import Path

import pytest

from puna.judge.store.importing import import_results
from puna.judge.store.store import Store

LEADERBOARD = Path(__file__).resolve().parents[3] / "recipes" / "leaderboard-2023.csv"
FOUR = ("arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2")
SIX = (*FOUR, "winogrande", "gsm8k")
STATED = {  # the means that the boards showed
    "01-ai/Yi-34B": (70.72, 69.42, 68.68), "meta-llama/Llama-2-70b-hf": (67.35, None, None), "Qwen/Qwen-72B": (None, 73.60, None),
    "chargoddard/Yi-34B-Llama": (None, 70.95, None), "upstage/SOLAR-10.7B-v1.0": (None, 66.04, None), "01-ai/Yi-6B": (None, None, 53.06),
    "OpenAssistant/llama2-70b-oasst-sft-v10": (None, None, 57.58), "psmathur/model_420_preview": (None, None, 55.99),
    "oh-yeontaek/llama-2-70B-LoRA-assemble-v2": (None, None, 59.93), "mistralai/Mixtral-8x7B-Instruct-v0.1": (None, 72.62, None),
    "upstage/SOLAR-10.7B-Instruct-v1.0": (None, 74.20, None), "Stellar Bright": (74.10, None, None),
    "meta-llama/Llama-2-70b-chat-hf": (66.80, None, None),
}  # fmt: skip


def test_yi_and_its_rivals_have_the_means_that_the_boards_showed(store: Store) -> None:
    found: dict[str, dict[str, float]] = {}
    for one in import_results(LEADERBOARD, store):
        assert one.summary.score is not None and one.summary.standard_error and one.summary.interval and one.imported
        found.setdefault(one.model.name, {})[one.task.name] = 100 * one.summary.score
    for model, means in STATED.items():
        for tasks, mean in zip((FOUR, SIX, (*SIX, "drop")), means, strict=True):
            if mean is not None:
                assert sum(found[model][task] for task in tasks) / len(tasks) == pytest.approx(mean, abs=0.0075), model
    assert "drop" not in found["Qwen/Qwen-72B"]
    with open(LEADERBOARD, encoding="utf-8") as stream:
        rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    assert all(row["url"] or "model card" in row["notes"] for row in rows)
