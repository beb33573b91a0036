"""The verbs and their options. The work behind each is imported when it is called."""

import json as _json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from puna.called import PUNA

RUNS = Path("runs")
_RUNS = typer.Option(RUNS, metavar="FOLDER", help="The folder of runs.")
_JSON = typer.Option(False, "--json", help="One JSON object on stdout; progress on stderr.")
_SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Change a key of the recipe: --set model.size=8M.")
_RECIPE = typer.Argument(
    None, metavar="RECIPE", help="A recipe; without it, the default: the running Python's own text."
)
_STORE = typer.Option(Path("results"), metavar="FOLDER", help="The folder of results.")
_KINDS = "GGUF: f16, f32, bf16, q8_0, q4_0. llama2.c: legacy, fp32, int8. Folder: fp32, bf16, fp16, int8, int4, or as stored."


def add_to(app: typer.Typer) -> None:
    """Register every verb."""
    verbs: list[tuple[str, Callable[..., None]]] = [
        ("make", make), ("new", new), ("plan", plan), ("chat", chat), ("serve", serve), ("judge", judge), ("board", board),
        ("convert", convert), ("bench", bench), ("test", test),
        ("lineage", lineage), ("verify", verify),
    ]  # fmt: skip
    for name, verb in verbs:
        settings: dict[str, Any] = {}
        if name in ("test", "bench"):
            settings |= {"allow_extra_args": True, "ignore_unknown_options": True}
        if name == "bench":  # `bench NAME --help` is the bench's own
            settings["help_option_names"] = []
        app.command(
            name,
            epilog="\b\nExamples:\n" + "\n".join(f"  {PUNA} {line}" for line in _EXAMPLES[name]),
            context_settings=settings,
        )(verb)


_EXAMPLES = {
    "make": [
        "make",
        "make mine.toml",
        "make --set train.minutes=2 --set name=quick",
        "make --until pack",
    ],
    "new": [
        "new mine --text notes/",
        "new mine --base models/llama --text notes/",
        "new mine --text a.jsonl --text b/ --size 8M --minutes 20",
    ],
    "plan": ["plan", "plan mine.toml --set model.size=60M", "plan --json"],
    "chat": ["chat python", 'chat python -p "What does str.split do?" --temperature 0'],
    "serve": [
        "serve python",
        "serve python stories=stories260K.bin --port 9000",
        "serve python --host 0.0.0.0 --key-file key.txt",
        "serve python --json --port 0",
    ],
    "judge": [
        "judge python --task small --data evals",
        "judge python stories260K.bin --task leaderboard --data evals --limit 200",
        "judge openai:http://127.0.0.1:8000/v1#model --task mmlu --data evals --limit 20",
        "judge mymodel --task arc_easy --data evals --control stories260K.bin",
        "judge --reproduce RESULT",
        "judge --import recipes/leaderboard-2023.csv",
        "judge --twin arc_easy=arc_twin",
    ],
    "board": ["board", "board --store results --out board", "board --serve"],
    "convert": [
        "convert stories260K.bin stories",
        "convert python python.gguf --to q8_0",
        "convert llama/ small --to int4 --calibrate notes.txt",
        "convert llama/ llama.bin --tokenizer llama/tokenizer.model",
    ],
    "lineage": [
        "lineage mymodel models/llama",
        "lineage merged models/a models/b --html lineage.html",
        "lineage student models/llama --control models/yi --control models/mistral",
        "lineage scan mymodel --against models/",
        "lineage claim suspect/ --ledger runs/python",
        "lineage zoo",
    ],
    "verify": [
        "verify python",
        "verify python --step0 --replay 2",
        "verify release/ --key maker.pem.pub",
        "verify --new-key maker.pem",
        "verify python --sign maker.pem",
    ],
    "bench": ["bench train_speed", "bench recipe_gain --minutes 2 --seeds 3", "bench recipe_gain --help"],
    "test": ["test", "test tests/model -q", "test -m slow"],
}


def make(
    recipe: Path | None = _RECIPE,
    set: list[str] = _SET,
    until: str | None = typer.Option(None, metavar="STAGE", help="Stop after this stage."),
    with_reference: bool = typer.Option(
        False, "--with-reference", help="Also train the plain recipe (AdamW, cosine) for the same minutes."
    ),
    runs: Path = _RUNS,
    json: bool = _JSON,
) -> None:
    """Build what a recipe names, or what has changed since."""
    from puna.cli.make import run_make

    run_make(recipe, set, until=until, with_reference=with_reference, runs=runs, json=json)


def new(
    name: str = typer.Argument(metavar="NAME", help="The name of the recipe and of its run."),
    text: list[Path] = typer.Option(
        [], metavar="PATH", show_default=False, help="A file or folder of your own text; may be repeated."
    ),
    base: str | None = typer.Option(None, metavar="MODEL", help="Open weights to start from."),
    size: str = typer.Option("4M", metavar="SIZE", help="Parameters to aim at, where there is no base: 4M, 60M, 1B."),
    minutes: float = typer.Option(8.0, metavar="N", help="Minutes of pretraining."),
    json: bool = _JSON,
) -> None:
    """Write a commented recipe, NAME.toml."""
    from puna.cli.new import run_new

    run_new(name, text=text, base=base, size=size, minutes=minutes, json=json)


def plan(recipe: Path | None = _RECIPE, set: list[str] = _SET, runs: Path = _RUNS,
         json: bool = _JSON) -> None:  # fmt: skip
    """Say what will run, its time, memory and disk."""
    from puna.cli.plan import run_plan

    run_plan(recipe, set, runs=runs, json=json)


def chat(
    model: str = typer.Argument(metavar="MODEL", help="A model folder, a .gguf or .bin file, or the name of a run."),
    prompt: str | None = typer.Option(None, "-p", "--prompt", metavar="TEXT", help="Answer this and end."),
    system: str | None = typer.Option(None, metavar="TEXT", help="A system message."),
    temperature: float = typer.Option(0.7, metavar="N", help="How freely to draw; 0 takes the likeliest token."),
    max_tokens: int = typer.Option(256, metavar="N", help="The most tokens of a reply."),
    top_p: float = typer.Option(0.95, metavar="N", help="Keep the likeliest with this much probability."),
    top_k: int = typer.Option(0, metavar="N", help="Keep this many of the likeliest tokens; 0: all."),
    min_p: float = typer.Option(0.0, metavar="N", help="Keep what is this share as likely as the likeliest."),
    repetition_penalty: float = typer.Option(1.0, metavar="N", help="Above 1, repeats become less likely."),
    stop: list[str] = typer.Option([], metavar="TEXT", show_default=False, help="End before this; may be repeated."),
    seed: int | None = typer.Option(None, metavar="N", help="The same seed gives the same reply."),
    session: Path | None = typer.Option(
        None, metavar="FILE", help="Go on with the conversation in it, and keep it there."
    ),
    plain: bool = typer.Option(False, "--plain", help="Show replies as they are, without Markdown."),
    no_history: bool = typer.Option(False, "--no-history", help="Keep nothing of what you type."),
    runs: Path = _RUNS,
    json: bool = _JSON,
) -> None:
    """Talk to a model in the terminal."""
    from puna.cli.chat import run_chat

    run_chat(model, prompt=prompt, system=system, temperature=temperature, max_tokens=max_tokens, top_p=top_p, top_k=top_k,
             min_p=min_p, repetition_penalty=repetition_penalty, stop=stop, seed=seed, runs=runs, json=json, session=session, plain=plain,
             history=not no_history)  # fmt: skip


def serve(
    models: list[str] = typer.Argument(
        metavar="MODEL...", help="Model folders, .gguf or .bin files, names of runs; NAME=MODEL names one."
    ),
    host: str = typer.Option(
        "127.0.0.1", metavar="ADDRESS", help="Where it listens; one that others reach needs a key."
    ),
    port: int = typer.Option(8000, min=0, max=65535, metavar="N", help="0 takes a free one."),
    key_file: Path | None = typer.Option(
        None, metavar="FILE", help="The key that requests must bring; or set PUNA_SERVE_KEY."
    ),
    allow_host: list[str] = typer.Option(
        [], metavar="NAME", show_default=False, help="A further name of a server on loopback; may be repeated."
    ),
    device: str | None = typer.Option(None, metavar="NAME", help="cpu or cuda; the GPU where there is one."),
    precision: str = typer.Option("fp32", metavar="KIND", help="fp32, bf16 or int8: the weights' numbers in memory."),
    backend: str = typer.Option(
        "auto", metavar="NAME", help="torch or openvino; auto: the faster one for this machine."
    ),
    lookup: bool = typer.Option(
        False, "--lookup", help="Guess repetitions of greedy replies; the same text, for long copies faster."
    ),
    cache_tokens: int | None = typer.Option(None, min=64, metavar="N", help="Tokens of each model's cache."),
    running: int = typer.Option(64, min=1, max=1024, metavar="N", help="Replies made together."),
    queue: int = typer.Option(256, min=1, max=100_000, metavar="N", help="Replies that wait; beyond: 503."),
    drain: float = typer.Option(30.0, min=0, max=3600, metavar="SECONDS", help="For replies to end after SIGTERM."),
    log: bool = typer.Option(False, "--log", help="A line for each request on stderr."),
    runs: Path = _RUNS,
    json: bool = _JSON,
) -> None:
    """Serve models: OpenAI's interface and a chat page."""
    from puna.cli.serve import run_serve

    run_serve(models, host=host, port=port, key_file=key_file, allow_host=allow_host, device=device, precision=precision, backend=backend,
              lookup=lookup, cache_tokens=cache_tokens, running=running, queue=queue, drain=drain, log=log, runs=runs, json=json)  # fmt: skip


def judge(
    models: list[str] | None = typer.Argument(
        None, metavar="MODEL...", help="Model folders, .gguf or .bin files, names of runs, openai:URL#MODEL."
    ),
    task: list[str] = typer.Option(
        [],
        "--task",
        "-t",
        metavar="TASK",
        show_default=False,
        help="leaderboard, small, mmlu, ...; my.yaml; text:FILE; quiz:RUN; lm_eval:NAME. May be repeated.",
    ),
    data: Path | None = typer.Option(None, metavar="DIR", help="The folder of the tasks' files."),
    limit: int | None = typer.Option(None, min=1, metavar="N", help="At most N items of a task, or of each subtask."),
    seed: int = typer.Option(1234, metavar="N", help="Which items a limit keeps, which examples are shown."),
    chat: bool = typer.Option(False, "--chat", help="Ask in the model's chat format."),
    store: Path = _STORE,
    reproduce: str | None = typer.Option(None, metavar="RESULT", help="Instead of MODEL: run a result again, compare."),
    import_: list[Path] = typer.Option(
        [],
        "--import",
        metavar="PATH",
        show_default=False,
        help="Instead of MODEL: take in others' results (lm_eval, .eval_results, EEE, CSV).",
    ),
    of: str | None = typer.Option(None, metavar="MODEL", help="Whose results --import reads, where they do not say."),
    unit: str | None = typer.Option(None, metavar="UNIT", help="share or percent, where --import's files do not say."),
    export: Path | None = typer.Option(None, metavar="FOLDER", help="Instead of MODEL: write the store for others."),
    control: list[str] = typer.Option(
        [], metavar="MODEL", show_default=False, help="Also Min-K%++ of the items, beside this model; may be repeated."
    ),
    twin: str | None = typer.Option(
        None, metavar="TASK=TWIN", help="Instead of MODEL: scores beside what a twin predicts."
    ),
    ask: str | None = typer.Option(None, metavar="SQL", help="Instead of MODEL: ask the tables results and items."),
    context: int | None = typer.Option(
        None, min=1, metavar="N", help="Tokens of an endpoint's context, where it is not told."
    ),
    bos: str | None = typer.Option(None, metavar="TEXT", help="What begins a document at an endpoint, like <s>."),
    keep_answers: bool = typer.Option(
        False, "--keep-answers", help="Of an endpoint, take earlier runs' answers: the same model is there."
    ),
    batch_tokens: int = typer.Option(4096, min=1, metavar="N", help="Tokens that are read at once."),
    device: str | None = typer.Option(None, metavar="NAME", help="cpu or cuda; the GPU where there is one."),
    fresh: bool = typer.Option(False, "--fresh", help="Ask again what was answered before."),
    runs: Path = _RUNS,
    json: bool = _JSON,
) -> None:
    """Score models on tasks, with error bars, into a store."""
    from puna.cli.judge import run_judge

    run_judge(models or [], task, data=data, limit=limit, seed=seed, chat=chat, store=store, reproduce=reproduce, imports=import_, of=of,
              unit=unit, export=export, control=control, twin=twin, ask=ask, context=context, bos=bos, keep_answers=keep_answers, batch_tokens=batch_tokens, device=device, fresh=fresh, runs=runs, json=json)  # fmt: skip


def board(
    store: Path = _STORE,
    out: Path = typer.Option(
        Path("board"), metavar="FOLDER", help="Where the pages go; an older board there is replaced."
    ),
    title: str = typer.Option("Leaderboard", metavar="TEXT", help="What stands above it."),
    serve: bool = typer.Option(False, "--serve", help="Then show it on this machine, until Ctrl-C."),
    port: int = typer.Option(8080, min=0, max=65535, metavar="N", help="The port for --serve."),
    json: bool = _JSON,
) -> None:
    """Make the leaderboard's pages from the store."""
    from puna.cli.board import run_board

    run_board(store, out, title=title, serve=serve, port=port, json=json)


def convert(
    source: str = typer.Argument(metavar="SRC", help="A model folder, a .gguf or .bin file, or the name of a run."),
    target: Path = typer.Argument(metavar="DEST", help="x.gguf, x.bin (llama2.c), or a new folder (Hugging Face)."),
    to: str | None = typer.Option(None, metavar="KIND", help=_KINDS),
    shard_size: str = typer.Option("4GB", metavar="SIZE", help="The most that one file of a folder holds."),
    calibrate: Path | None = typer.Option(None, metavar="FILE", help="A text that 4-bit rounding goes by."),
    tokenizer: Path | None = typer.Option(None, metavar="PATH", help="The tokenizer, where SRC has none beside it."),
    adapter: Path | None = typer.Option(None, metavar="FOLDER", help="A LoRA or DoRA adapter (peft) to merge in."),
    text: Path | None = typer.Option(None, metavar="FILE", help="Also measure bits per byte of this text."),
    runs: Path = _RUNS,
    json: bool = _JSON,
) -> None:
    """Write a model in another form, and check that it is the same."""
    from puna.cli.convert import run_convert

    run_convert(source, target, to=to, shard_size=shard_size, calibrate=calibrate, tokenizer=tokenizer, adapter=adapter, text=text,
                runs=runs, json=json)  # fmt: skip


def lineage(
    models: list[str] = typer.Argument(
        metavar="MODEL REFERENCE...", help="A model and what it may stem from; or scan MODEL, claim SUSPECT, zoo."
    ),
    html: Path | None = typer.Option(None, metavar="FILE", help="Also write one page with block map and differences."),
    control: list[str] = typer.Option(
        [],
        metavar="MODEL",
        show_default=False,
        help="A stranger (two or more; better four): compare what is said, too.",
    ),
    text: Path | None = typer.Option(None, metavar="FILE", help="Lines to continue, for --control."),
    against: Path | None = typer.Option(None, metavar="DIR", help="scan: the folder of models."),
    ledger: Path | None = typer.Option(None, metavar="RUN", help="claim: your own run, its release or its ledger."),
    size: str = typer.Option("default", metavar="SIZE", help="zoo: tiny, default or large."),
    out: Path | None = typer.Option(None, metavar="FOLDER", help="zoo: keep its models here."),
    seed: int | None = typer.Option(None, metavar="N", help="zoo: the same seed gives the same models."),
    sampled: bool = typer.Option(False, "--sampled", help="Look at a drawn part of each block."),
    store: Path = _STORE,
    runs: Path = _RUNS,
    json: bool = _JSON,
) -> None:
    """Say what a model inherits from others, in six layers."""
    from puna.cli.lineage import Asked, run_lineage

    run_lineage(models, Asked(against=against, ledger=ledger, controls=control, text=text, html=html, store=store, size=size, out=out,
                              seed=seed, sampled=sampled, runs=runs, json=json))  # fmt: skip


def verify(
    release: str | None = typer.Argument(None, metavar="RELEASE", help="A release's folder, or the name of a run."),
    run: Path | None = typer.Option(None, metavar="FOLDER", help="The run that made it, where it does not lie there."),
    key: Path | None = typer.Option(None, metavar="FILE", help="The maker's public key (PEM): check the signature."),
    head: str | None = typer.Option(None, metavar="HASH", help="The fingerprint as it was published."),
    step0: bool = typer.Option(False, "--step0", help="Make the first weights again from the seed, and compare."),
    replay: int = typer.Option(0, min=0, metavar="N", help="Train N segments again from their checkpoints."),
    seed: int | None = typer.Option(None, metavar="N", help="Which segments are drawn; unset: fresh."),
    sign: Path | None = typer.Option(None, metavar="KEY", help="Instead: sign the release with this private key."),
    new_key: Path | None = typer.Option(None, metavar="FILE", help="Write a new private key, and FILE.pub."),
    runs: Path = _RUNS,
    json: bool = _JSON,
) -> None:
    """Check a release against its record: files, ledger, seed, signature."""
    from puna.cli.verify import run_verify

    run_verify(release, run=run, key=key, head=head, step0=step0, replay=replay, seed=seed, sign=sign, new_key=new_key,
               runs=runs, json=json)  # fmt: skip


def bench(context: typer.Context, what: str = typer.Argument(metavar="NAME", help="A file of bench/, without its ending.")) -> None:  # fmt: skip
    """Measure side by side with peers; further options go to the bench."""
    from puna.cli.bench import run_bench

    if what == "--help":
        typer.echo(context.get_help())
        return
    raise typer.Exit(run_bench(what, list(context.args)))


def test(context: typer.Context) -> None:
    """Run the project's tests; further options go to pytest."""
    from puna.cli.test import run_tests

    raise typer.Exit(run_tests(list(context.args)))


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(_json.dumps(value, ensure_ascii=False, sort_keys=True))
