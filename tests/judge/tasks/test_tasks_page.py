"""docs/tasks.md is true: its example works, its table is what the bundled files say."""

import re
from pathlib import Path
from typing import Any

from puna.judge.tasks import catalog, harness
from puna.judge.tasks.reading import read_task
from puna.judge.tasks.spec import METRICS, TaskSpec
from puna.judge.tasks.templates import _FILTERS

PAGE = (Path(__file__).parents[3] / "docs/tasks.md").read_text(encoding="utf-8")


def test_the_example_is_a_task(tmp_path: Path, rule_model: Any, rule: Any) -> None:
    (rows,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (task,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "capitals.jsonl").write_text(rows)
    (tmp_path / "capitals.yaml").write_text(task)
    (spec,) = catalog.find_tasks([str(tmp_path / "capitals.yaml")])
    items = harness.evaluate(rule_model(), read_task(spec, None))
    assert [item.id for item in items] == ["1", "2", "3", "4"] and items[1].cluster == "Africa"
    for item in items:
        assert re.fullmatch(
            r"(Question: What is the capital of \w+\?\nAnswer: \w+\n\n){2}Question: .*\nAnswer:", item.prompt
        )
        assert item.loglikelihoods == tuple(rule(item.prompt, f" {city}") for city in item.choices)


def test_the_table_is_what_the_files_say() -> None:
    rows = {
        cells[0].strip("` ").split("`")[0]: cells
        for line in PAGE.splitlines()
        if len(cells := line.strip("|").split(" | ")) == 7
    }
    rows.pop("task")
    rows = {name.strip(): cells for name, cells in rows.items()}
    assert set(rows) == {name for name in catalog.bundled() if catalog.bundled_task(name).kind in METRICS}
    for name, cells in rows.items():
        spec = catalog.bundled_task(name)
        assert (cells[2].split()[0], cells[3], cells[6].strip()) == (str(spec.shots), spec.metrics[0], spec.licence), (
            name
        )
        files = [*spec.data, *(spec.fewshot if spec.fewshot_else == "refuse" else ())]
        assert re.findall(r"`([^`]+)`", cells[5]) == files, name


def test_every_key_and_filter_is_told() -> None:
    for name in TaskSpec.model_fields:
        if name not in ("kind", "form"):
            assert f"`{name}`" in PAGE or f"`{name}: " in PAGE, name
    assert all(f"`{name}`" in PAGE for name in _FILTERS)
