"""The model card: front matter that hubs read, Markdown that a stranger's names cannot break."""

import json
import re
from typing import Any

import pytest

from puna.report import render_card

HOSTILE = 'x"\n---\nlicense: "mit"\n| <script>alert(1)</script> [a](b) ``` `` `~~~`'


def front(card: str) -> dict[str, Any]:
    """The front matter, each of whose lines is a key and a JSON value."""
    lines = card.split("\n---\n", 1)[0].split("\n")
    assert lines[0] == "---"
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines[1:])}


def test_front_matter(report: dict[str, Any]) -> None:
    found = front(render_card(report))
    assert found["license"] == "apache-2.0"
    assert found["pipeline_tag"] == "text-generation"
    assert found["language"] == ["en"]
    assert found["model-index"][0]["results"][0]["metrics"][0] == {
        "type": "bits_per_byte",
        "value": 1.214,
        "name": "bits per byte",
    }


def test_hub_reads_it(report: dict[str, Any]) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(render_card(report | {"title": HOSTILE}))
    assert card.data.license == "apache-2.0"
    assert card.data.model_name == HOSTILE
    assert {result.metric_value for result in card.data.eval_results} >= {1.214, 0.437}


def test_says_what_a_reader_needs(report: dict[str, Any]) -> None:
    card = render_card(report)
    for part in (
        "apply_chat_template",
        "puna chat .",
        "1.171 to 1.259",
        "near duplicates of heldout",
        "## Limits",
        "seed = 5318008135012",
    ):
        assert part in card
    assert "\n\n\n" not in card
    assert card.endswith("\n")


def test_python_in_it_compiles(report: dict[str, Any]) -> None:
    for data in (report, {**report, "tuning": []}):
        code = re.search(r"```python\n(.*?)```", render_card(data), flags=re.S)
        assert code is not None
        compile(code[1], "card", "exec")


def test_hostile_names_stay_text(report: dict[str, Any]) -> None:
    report |= {"title": HOSTILE, "licence": HOSTILE, "recipe_toml": HOSTILE}
    report["corpus"]["sources"][0]["name"] = HOSTILE
    report["corpus"]["steps"][2]["removed"] = {HOSTILE: 5}
    card = render_card(report)
    found = front(card)
    assert found["license"] == "other"
    assert set(found) <= {"license", "license_name", "language", "library_name", "pipeline_tag", "tags", "model-index"}
    body = card.split("\n---\n", 1)[1]
    assert body.count("<script>") == 1  # inside the recipe's fence only
    assert "````toml\n" + HOSTILE in body
    assert all(line.count(" | ") >= 4 for line in body.split("\n") if line.startswith("| x"))


def test_little_is_known() -> None:
    card = render_card({"run": "empty"})
    assert "Nothing was measured" in card
    assert front(card)["license_name"] == "unstated"
    assert "None" not in card


def test_chinese_corpus(report: dict[str, Any]) -> None:
    report["corpus"]["sources"] = report["corpus"]["sources"][1:]
    report["corpus"]["languages"] = {
        code: {"documents": 1, "bytes": size} for code, size in (("zh", 900), ("und", 3), ("en", 12))
    }
    assert front(render_card(report))["language"] == ["zh", "en"]


def test_a_model_from_scratch_inherits_nothing(report: dict[str, Any]) -> None:
    card = render_card(report)
    assert "**Inherited: nothing.**" in card and "base_model" not in front(card)
    assert "What it does not prove" in card and "puna verify . --step0" in card
    assert "Energy was not measured" in card and "Contamination: 0.3 %" in card
    report["stages"][0]["joules"], report["gate"] = 41.6, []
    assert "Energy: 42 joules." in render_card(report) and "The export gate was not run" in render_card(report)


def test_a_child_says_whose_weights_and_which_licence(report: dict[str, Any]) -> None:
    cards = [{"licence": "llama2", "parents": ["meta-llama/Llama-2-7b"]}, {"licence": None, "parents": []}]
    report["base"] = {
        "names": ["mine-7b", "other-7b"],
        "cards": cards,
        "merge": "linear",
        "start": {"grown": {"layers": 8}},
    }
    card = render_card(report)
    assert front(card)["base_model"] == ["mine-7b", "other-7b"] and front(card)["base_model_relation"] == "merge"
    assert "Inherited: nothing" not in card and "merged" in card and "then grown in depth" in card
    rows = {
        line.split(" | ")[0].removeprefix("| "): line
        for line in card.split("## Licence")[1].splitlines()
        if line.startswith("| ")
    }
    assert (
        "Llama 2 Community License Agreement" in rows["the weights of mine-7b"]
        and "NOTICE" in rows["the weights of mine-7b"]
    )
    assert "not stated" in rows["the weights of other-7b"] and "ask whoever made it" in rows["the weights of other-7b"]
    assert "meta-llama/Llama-2-7b, from which mine-7b was made by its own card" in rows
    assert "PSF-2.0" in rows["the text: python"] and "This is not legal advice" in card


def test_which_of_two_models_a_score_is_of(report: dict[str, Any]) -> None:
    report["results"]["scores"][0]["model"] = "base"
    assert "| held-out text, before tuning |" in render_card(report)
    assert "before tuning |" not in render_card({**report, "tuning": []})


def test_what_it_wrote_breaks_nothing(report: dict[str, Any]) -> None:
    report["results"]["samples"] = [
        {"kind": "chat", "prompt": HOSTILE, "text": "```\n" + HOSTILE + "x" * 2000 + "\u202e"}
    ]
    card = render_card(report)
    told = card.split("## What it writes")[1].split("## Scores")[0]
    assert "````" in told and "[…]" in told and len(told) < 1500 and "\u202e" not in told
