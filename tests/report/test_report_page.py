"""The page as a stranger gets it: whole without network, safe with hostile text, readable with parts missing."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests_report_pages import HOSTILE, poisoned, read

from puna.report import ReportData, render_report
from puna.report.page import report_html

PARTS = ["title", "created", "recipe_toml", "licence", "machine", "corpus", "tokenizer", "model", "training", "tuning", "chat_data",
         "results", "gate", "stages", "ledger", "commands"]  # fmt: skip


def page(data: dict[str, Any]) -> str:
    return report_html(ReportData.model_validate(data))


def test_writes_one_whole_page(report: dict[str, Any], tmp_path: Path) -> None:
    render_report(report, tmp_path / "report.html")
    reader = read((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = " ".join(reader.text)
    for expected in (
        "5,065,472",
        "1.214",
        "43.7",
        "exact duplicates",
        "puna chat python",
        "nats per token",
        "largest difference",
    ):
        assert expected in text
    assert {"main", "nav", "table", "caption", "svg", "details", "title"} <= reader.tags


def test_nothing_is_fetched_or_run(report: dict[str, Any]) -> None:
    html = page(report)
    reader = read(html)
    assert not reader.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not [
        key for _, key, _ in reader.attributes if key in ("src", "srcset", "style", "action") or key.startswith("on")
    ]
    assert "url(" not in html
    assert "@import" not in html
    assert "http:" not in html
    assert "https:" not in html


def test_policy_allows_exactly_our_style(report: dict[str, Any]) -> None:
    html = page(report)
    style = re.findall(r"<style>(.*?)</style>", html, flags=re.S)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    policy = next(
        value
        for tag, key, value in read(html).attributes
        if tag == "meta" and key == "content" and "default-src" in value
    )
    assert policy.startswith("default-src 'none'")
    assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_hostile_strings_stay_text(report: dict[str, Any]) -> None:
    tags = read(page(report)).tags
    bad = poisoned(report)
    bad["corpus"]["steps"][0]["removed"] = {HOSTILE: 3}
    bad["machine"] = {HOSTILE: HOSTILE, "a": [HOSTILE], "b": {HOSTILE: HOSTILE}}
    bad["results"]["samples"].append({"kind": "chat", "messages": [{"role": HOSTILE, "content": HOSTILE}]})
    html = page(bad)
    reader = read(html)
    assert reader.tags <= tags
    assert not [key for _, key, _ in reader.attributes if key.startswith("on")]
    assert "\x00" not in html
    assert "\u202e" not in html
    assert "␀" in html
    assert "⟨U+202E⟩" in html
    assert "{{ 7*7 }}" in html


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_be_missing(report: dict[str, Any], part: str) -> None:
    del report[part]
    read(page(report))


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_be_alone(report: dict[str, Any], part: str) -> None:
    read(page({"run": report["run"], part: report[part]}))


def test_bare_run_says_little_and_nothing_wrong() -> None:
    reader = read(page({"run": "empty"}))
    assert "table" not in reader.tags
    assert "svg" not in reader.tags
    assert "None" not in " ".join(reader.text)


def test_no_functions_quiz(report: dict[str, Any]) -> None:
    report["results"]["scores"] = report["results"]["scores"][:1]
    report["results"]["baselines"] = report["results"]["baselines"][:5]
    report["results"]["left_out"] = [{"task": "quiz", "reason": "the corpus has no functions"}]
    html = page(report)
    assert "Right answers" not in html
    assert "the corpus has no functions" in html
    assert "quiz</dt>" not in html


def test_misspelt_part_is_refused(report: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        page({**report, "trainings": {}})


def test_chinese_is_marked_as_chinese(report: dict[str, Any]) -> None:
    report["title"] = "高原模型"
    html = page(report)
    assert '<h1 lang="zh">高原模型</h1>' in html
    assert re.search(r'class="said" lang="zh">你好！', html)
    assert re.search(r'<pre class="text" lang="zh"><mark>普纳的草地上，</mark>', html)


def test_conversations_read_as_talks(report: dict[str, Any]) -> None:
    talks = page(report).split('<details class="conversations">')[1].split("</details>")[0]
    assert "identity (zh)" in talks and '<div class="said" lang="zh">你是谁？</div>' in talks
    assert "&lt;i&gt;Puna&lt;/i&gt;" in talks and "role" not in talks
    report["chat_data"] = {"chat-0": {"conversations": 3}}  # a user's own file: counted, not shown
    assert "Conversations" in page(report) and '<details class="conversations">' not in page(report)


def test_small_and_the_same_again(report: dict[str, Any]) -> None:
    one = report["training"]["metrics"]
    report["training"]["metrics"] = [row | {"step": i, "tokens": (i + 1) * 4096} for i, row in enumerate(one * 20)]
    report["results"]["samples"] *= 10
    first, second = page(report), page(report)
    assert first == second
    assert len(first.encode()) < 1_000_000


def test_long_samples_are_cut_and_marked(report: dict[str, Any]) -> None:
    report["results"]["samples"] = [{"kind": "base", "prompt": "x", "text": "字" * 50_000}]
    html = page(report)
    assert "[…]" in html
    assert html.count("字") == 4000


def test_failed_gate_is_said_at_the_top(report: dict[str, Any]) -> None:
    report["gate"][0]["passed"] = False
    html = page(report)
    assert "Do not use this release" in html
    assert html.index("Do not use this release") < html.index('id="data"')
