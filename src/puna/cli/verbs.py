"""The verbs and their options. The work behind each is imported when it is called."""

import json as _json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import typer

RUNS = Path("runs")
_JSON = typer.Option(False, "--json", help="One JSON object on stdout; progress on stderr.")
_SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Change a key of the recipe: --set model.size=8M.")
_RECIPE = typer.Argument(
    None, metavar="[RECIPE]", help="A recipe; without it, the default: the running Python's own text."
)


def add_to(app: typer.Typer) -> None:
    """Register every verb."""
    verbs: list[tuple[str, Callable[..., None]]] = [
        ("make", make), ("new", new), ("plan", plan), ("chat", chat), ("bench", bench), ("test", test),
    ]  # fmt: skip
    for name, verb in verbs:
        settings = {"allow_extra_args": True, "ignore_unknown_options": True} if name in ("test", "bench") else {}
        app.command(
            name,
            epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in _EXAMPLES[name]),
            context_settings=settings,
        )(verb)


_EXAMPLES = {
    "make": [
        "puna make",
        "puna make mine.toml",
        "puna make --set train.minutes=2 --set name=quick",
        "puna make --until pack",
    ],
    "new": ["puna new mine --text notes/", "puna new mine --text a.jsonl --text b/ --size 8M --minutes 20"],
    "plan": ["puna plan", "puna plan mine.toml --set model.size=60M", "puna plan --json"],
    "chat": ["puna chat python", 'puna chat python -p "What does str.split do?" --temperature 0 --max-tokens 40'],
    "bench": ["puna bench train_speed", "puna bench recipe_gain --minutes 2 --seeds 3"],
    "test": ["puna test", "puna test tests/model -q", "puna test -m slow"],
}


def make(
    recipe: Optional[Path] = _RECIPE,  # noqa: UP045  Typer reads Optional on every Python we support
    set: list[str] = _SET,
    until: Optional[str] = typer.Option(None, metavar="STAGE", help="Stop after this stage."),  # noqa: UP045
    with_reference: bool = typer.Option(
        False, help="Also train the plain recipe (AdamW, cosine) for the same minutes."
    ),
    runs: Path = typer.Option(RUNS, help="The folder of runs."),
    json: bool = _JSON,
) -> None:
    """Build everything the recipe names; a second run does only what changed."""
    from puna.cli.make import run_make

    run_make(recipe, set, until=until, with_reference=with_reference, runs=runs, json=json)


def new(
    name: str = typer.Argument(help="The name of the recipe and of its run."),
    text: list[Path] = typer.Option([], help="A file or folder of your own text; may be repeated."),
    size: str = typer.Option("4M", help="Parameters to aim at: 4M, 60M, 1B."),
    minutes: float = typer.Option(8.0, min=0.01, help="Minutes of pretraining."),
    json: bool = _JSON,
) -> None:
    """Write a commented recipe, NAME.toml."""
    from puna.cli.new import run_new

    run_new(name, text=text, size=size, minutes=minutes, json=json)


def plan(recipe: Optional[Path] = _RECIPE, set: list[str] = _SET, runs: Path = typer.Option(RUNS, help="The folder of runs."),  # noqa: UP045
         json: bool = _JSON) -> None:  # fmt: skip
    """Say what will run, and its time, memory and disk; refuse what cannot fit."""
    from puna.cli.plan import run_plan

    run_plan(recipe, set, runs=runs, json=json)


def chat(
    model: str = typer.Argument(help="A model folder, or the name of a run."),
    prompt: Optional[str] = typer.Option(None, "-p", "--prompt", help="One shot: print the reply alone and end."),  # noqa: UP045
    system: Optional[str] = typer.Option(None, help="A system message."),  # noqa: UP045
    temperature: float = typer.Option(0.7, min=0.0, help="0 is greedy."),
    max_tokens: int = typer.Option(256, min=1),
    top_p: float = typer.Option(0.95, min=0.0, max=1.0),
    top_k: int = typer.Option(0, min=0, help="0: off."),
    min_p: float = typer.Option(0.0, min=0.0, max=1.0),
    repetition_penalty: float = typer.Option(1.0, min=0.01),
    seed: Optional[int] = typer.Option(None, help="The same seed gives the same reply."),  # noqa: UP045
    runs: Path = typer.Option(RUNS, help="The folder of runs."),
    json: bool = _JSON,
) -> None:
    """Talk to a model in the terminal."""
    from puna.cli.chat import run_chat

    run_chat(model, prompt=prompt, system=system, temperature=temperature, max_tokens=max_tokens, top_p=top_p, top_k=top_k,
             min_p=min_p, repetition_penalty=repetition_penalty, seed=seed, runs=runs, json=json)  # fmt: skip


def bench(context: typer.Context, what: str = typer.Argument(help="A file of bench/, without its ending.")) -> None:
    """Measure side by side with peers; further options go to the bench."""
    from puna.cli.bench import run_bench

    raise typer.Exit(run_bench(what, list(context.args)))


def test(context: typer.Context) -> None:
    """Run the project's tests; further options go to pytest."""
    from puna.cli.test import run_tests

    raise typer.Exit(run_tests(list(context.args)))


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(_json.dumps(value, ensure_ascii=False, sort_keys=True))
