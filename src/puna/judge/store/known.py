"""Tests that the world knows under many names: which one is meant, and how many items it has.

Comes in: a name as it stands in somebody's file. Goes out: the task's own name, metric, chance level and size. Must never happen: a
size without its source, or two different tests taken for one.

Version 2. Sizes are those of the split that the public boards score. Where the set is among the project's data, the size was counted
there; else it is the one in the paper that is named.
"""

import re
from dataclasses import dataclass, field

from puna.judge.measured import Kind, TaskFacts

VERSION = 2


@dataclass(frozen=True)
class Known:
    """A test."""

    name: str
    title: str
    kind: Kind
    metric: str
    n: int
    source: str  # of `n`
    chance: float | None = None  # of the whole; 0: guessing gives nothing; None: not known
    shots: int = 0  # of the first Open LLM Leaderboard, else of the paper
    names: tuple[str, ...] = ()  # what else it is called, in small letters, marks left out
    hub: tuple[str, str] | None = None  # dataset and task on the Hugging Face hub
    language: str = "en"
    subtasks: bool = False  # the mean over subtasks
    chances: dict[str, float] = field(default_factory=dict)  # of each subtask, where they differ


def _mean(chances: dict[str, float]) -> float:
    return sum(chances.values()) / len(chances)


# One choice in so many, for each subtask of the second Open LLM Leaderboard: the length of each task's list of choices in lm_eval 0.4.13
# (tasks/leaderboard/bbh_mc), which is what that board took off.
_BBH = {
    name: 1 / choices
    for choices, names in {
        2: "boolean_expressions causal_judgement formal_fallacies hyperbaton navigate snarks sports_understanding web_of_lies",
        3: "disambiguation_qa logical_deduction_three_objects tracking_shuffled_objects_three_objects",
        4: "temporal_sequences",
        5: "logical_deduction_five_objects penguins_in_a_table tracking_shuffled_objects_five_objects",
        6: "date_understanding movie_recommendation ruin_names salient_translation_error_detection",
        7: "logical_deduction_seven_objects tracking_shuffled_objects_seven_objects",
        11: "geometric_shapes",
        18: "reasoning_about_colored_objects",
        19: "object_counting",
    }.items()
    for name in names.split()
}
_MUSR = {
    "murder_mysteries": 1 / 2,
    "object_placements": 1 / 5,
    "team_allocation": 1 / 3,
}  # Sprague et al. 2023: that board's levels

# Chance of TruthfulQA MC2: the mean share of right answers over the 817 questions of the set among the project's data. Of BoolQ: yes or no.
_TESTS = (
    Known("arc_challenge", "ARC-Challenge", "choices", "acc_norm", 1172, "test set; Clark et al. 2018, arXiv 1803.05457", 0.25, 25, ("arc", "arcc", "ai2arc", "ai2reasoningchallenge", "arc25shot"), ("allenai/ai2_arc", "arc_challenge")),
    Known("arc_easy", "ARC-Easy", "choices", "acc_norm", 2376, "test set; Clark et al. 2018, arXiv 1803.05457", 0.25, 0, ("arce",), ("allenai/ai2_arc", "arc_easy")),
    Known("hellaswag", "HellaSwag", "choices", "acc_norm", 10042, "validation set; Zellers et al. 2019, arXiv 1905.07830", 0.25, 10, ("hswag",), ("Rowan/hellaswag", "hellaswag")),
    Known("mmlu", "MMLU", "choices", "acc", 14042, "test sets of the 57 subjects; Hendrycks et al. 2021, arXiv 2009.03300, as distributed", 0.25, 5, ("hendrycks", "hendryckstest"), ("cais/mmlu", "mmlu"), subtasks=True),
    Known("truthfulqa_mc2", "TruthfulQA MC2", "choices", "mc2", 817, "Lin et al. 2022, arXiv 2109.07958", 0.4643, 0, ("truthfulqa", "truthfulqamc", "tqa"), ("truthfulqa/truthful_qa", "multiple_choice")),
    Known("winogrande", "WinoGrande", "contexts", "acc", 1267, "development set; Sakaguchi et al. 2019, arXiv 1907.10641", 0.5, 5, ("winograndexl",), ("allenai/winogrande", "winogrande_xl")),
    Known("gsm8k", "GSM8K", "answer", "exact_match", 1319, "test set; Cobbe et al. 2021, arXiv 2110.14168", 0.0, 5, ("gsm8kcot", "gsm"), ("openai/gsm8k", "gsm8k")),
    Known("drop", "DROP", "answer", "f1", 9536, "development set; Dua et al. 2019, arXiv 1903.00161", 0.0, 3, (), ("ucinlp/drop", "drop")),
    Known("blimp", "BLiMP", "choices", "acc", 67000, "67 sets of 1,000 pairs; Warstadt et al. 2020, arXiv 1912.00582", 0.5, 0, (), ("nyu-mll/blimp", "blimp"), subtasks=True),
    Known("boolq", "BoolQ", "choices", "acc", 3270, "development set; Clark et al. 2019, arXiv 1905.10044", 0.5, 0, ("boolquestions",), ("google/boolq", "boolq")),
    Known("openbookqa", "OpenBookQA", "choices", "acc_norm", 500, "test set; Mihaylov et al. 2018, arXiv 1809.02789", 0.25, 0, ("obqa",), ("allenai/openbookqa", "openbookqa")),
    Known("lambada", "LAMBADA", "cloze", "acc", 5153, "test set; Paperno et al. 2016, arXiv 1606.06031", 0.0, 0, ("lambadaopenai",), ("EleutherAI/lambada_openai", "lambada")),
    Known("mmlu_pro", "MMLU-Pro", "choices", "acc", 12032, "test set; Wang et al. 2024, arXiv 2406.01574", 0.1, 5, ("leaderboardmmlupro",), ("TIGER-Lab/MMLU-Pro", "mmlu_pro"), subtasks=True),
    Known("gpqa_diamond", "GPQA Diamond", "choices", "acc", 198, "Rein et al. 2023, arXiv 2311.12022", 0.25, 0, ("leaderboardgpqadiamond",), ("Idavidrein/gpqa", "gpqa_diamond")),
    Known("ifeval", "IFEval", "remote", "prompt_level_strict_acc", 541, "Zhou et al. 2023, arXiv 2311.07911", 0.0, 0, ("leaderboardifeval",), ("google/IFEval", "ifeval")),
    Known("gpqa", "GPQA", "choices", "acc_norm", 1192, "diamond 198, main 448, extended 546; Rein et al. 2023, arXiv 2311.12022", 0.25, 0, ("leaderboardgpqa",), subtasks=True),
    Known("bbh", "BIG-Bench Hard", "choices", "acc_norm", 5761, "24 subtasks of 250, but causal_judgement 187, penguins_in_a_table 146, snarks 178; Suzgun et al. 2022, arXiv 2210.09261", _mean(_BBH), 3, ("leaderboardbbh", "bigbenchhard"), subtasks=True, chances=_BBH),
    Known("math_lvl_5", "MATH level 5", "answer", "exact_match", 1324, "test set, level 5; Hendrycks et al. 2021, arXiv 2103.03874", 0.0, 4, ("leaderboardmathhard", "mathhard", "mathlevel5"), subtasks=True),
    Known("musr", "MuSR", "choices", "acc_norm", 756, "250, 256 and 250; Sprague et al. 2023, arXiv 2310.16049", _mean(_MUSR), 0, ("leaderboardmusr",), subtasks=True, chances=_MUSR),
)  # fmt: skip
_BY_NAME = {name: test for test in _TESTS for name in (test.name.replace("_", ""), *test.names)}
_BY_HUB = {(test.hub[0].lower(), test.hub[1].lower()): test for test in _TESTS if test.hub}
_MARKS = re.compile(r"[^a-z0-9]")
_SHOTS = re.compile(r"\(?\b\d{1,3}[- ]?shots?\b\)?", re.IGNORECASE)


def find(name: str) -> Known | None:
    """The test that is called so, whatever marks and letters and number of examples stand with it; None for another one."""
    return _BY_NAME.get(_MARKS.sub("", _SHOTS.sub("", name[:200]).lower()))


def find_hub(dataset: str, task: str) -> Known | None:
    """The test that stands under this dataset and task on the Hugging Face hub."""
    return _BY_HUB.get((dataset.lower(), task.lower())) or (find(task) if task.lower() not in ("", "default") else None)


def on_hub(task: str) -> tuple[str, str] | None:
    """Dataset and task on the hub, of a task by our own name."""
    test = _BY_NAME.get(task.replace("_", ""))
    return test.hub if test is not None and test.name == task else None


SHOTS_NOT_STATED = "the number of examples (shots) is not stated"


def facts(test: Known, **more: object) -> TaskFacts:
    """What is known of a test before anybody has run it. Where `more` has no `shots`, a note says that those are the usual ones."""
    told: dict[str, object] = {
        "name": test.name,
        "title": test.title,
        "kind": test.kind,
        "metric": test.metric,
        "chance": test.chance,
        "chances": test.chances,
        "shots": test.shots,
        "language": test.language,
        "aggregate": "subtasks" if test.subtasks else "items",
        "items_in_all": test.n,
    }
    told |= more
    if "shots" not in more:
        notes = told.get("notes")
        told["notes"] = (*(notes if isinstance(notes, tuple) else ()), SHOTS_NOT_STATED)
    return TaskFacts.model_validate(told)
