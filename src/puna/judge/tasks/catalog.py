"""Which tasks there are: the bundled ones, groups of them, a user's own files, any text, and what lm_eval knows by name.

Comes in: names as they were typed. Goes out: task definitions, in the order of the names, none twice. Must never happen: a name
that is guessed at.
"""

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from puna.errors import PunaError
from puna.judge.tasks.spec import TaskSpec, placed, read_spec

HERE = Path(__file__).parent
TEXT, REMOTE = "text:", "lm_eval:"
GROUPS = {
    "leaderboard": ("arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "gsm8k"),
    "small": ("blimp", "lambada", "arc_easy", "copa", "winograd"),  # what a tiny model can be better than chance at
}


def bundled() -> tuple[str, ...]:
    """The names of the bundled tasks."""
    return tuple(sorted(path.stem for path in HERE.glob("*.yaml")))


@cache
def bundled_task(name: str) -> TaskSpec:
    """One of them."""
    return read_spec(HERE / f"{name}.yaml", bundled=True)


def find_tasks(names: Sequence[str], data: Path | None = None) -> list[TaskSpec]:
    """The tasks that names stand for: a bundled task, a group, a YAML file, `text:FILE`, or `lm_eval:NAME`.

    A path is one that ends in .yaml or .yml; `data` is searched for it too. Raises PunaError for all unknown names at once, each
    with the names that are near, and for two tasks of one name.
    """
    found: dict[str, TaskSpec] = {}
    unknown = []
    for name in names:
        specs = _named(name.strip(), data)
        if not specs:
            near = difflib.get_close_matches(name, [*bundled(), *GROUPS], 2, 0.5)
            unknown.append(repr(name) + (f" (did you mean {' or '.join(near)}?)" if near else ""))
        for spec in specs:
            other = found.setdefault(spec.task, spec)
            if other.typed != spec.typed:
                raise PunaError(
                    f"two tasks are called {spec.task}",
                    where=f"{other.typed}, {spec.typed}",
                    mend="change the key task in one",
                )
    if unknown:
        raise PunaError(
            f"no task {', no task '.join(unknown)}",
            mend=f"there are {', '.join([*bundled(), *GROUPS])}; or a task file .yaml, text:FILE, lm_eval:NAME",
        )
    return list(found.values())


def _named(name: str, data: Path | None) -> list[TaskSpec]:
    if name in GROUPS:
        return [bundled_task(one) for one in GROUPS[name]]
    if name in bundled():
        return [bundled_task(name)]
    if name.startswith(REMOTE) and len(name) > len(REMOTE):
        inner = name.removeprefix(REMOTE)
        return [placed(TaskSpec(task=_safe(f"lm_eval.{inner}"), title=inner, kind="remote", data=(inner,)), name, None)]
    if name.startswith(TEXT) and len(name) > len(TEXT):
        path = Path(name.removeprefix(TEXT))
        spec = TaskSpec(
            task=_safe(f"text.{path.name}"), title=path.name, kind="text", form="paragraphs", data=(str(path),), text="{{ text }}",
            source=path.name, where="it is the file named after text:",
        )  # fmt: skip
        return [placed(spec, name, Path.cwd())]
    if name.endswith((".yaml", ".yml")):
        beside = [Path(name), *([data / name] if data else [])]
        path = next((one for one in beside if one.is_file()), beside[0])
        return [read_spec(path, data)]
    return []


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:64]
