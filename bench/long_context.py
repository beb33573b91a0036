"""A model of context 128 made longer, to 512: by a raised RoPE base (ABF) and by YaRN, beside the base as it is.

    python bench/long_context.py [--minutes 6] [--quick]

A small model (dim 128, 6 blocks, 1.3 M parameters) is trained for `--minutes` at context 128 on ../shared/data/train: books cut into
pieces, and short speeches and reviews. Lengthened to 512 in both ways, it goes on for a quarter of the minutes on text in which long
documents are upsampled four times. The control goes on for as many tokens at context 128. Every model is then read up to position 512 on
pieces of books that none was trained on: bits per byte by position, and the needle test. Intervals are 95 %, drawn again by whole
books; differences are paired. Prints tables and writes bench/results/long_context.json.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import zstandard

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "train"
RESULTS = Path(__file__).parent / "results" / "long_context.json"
SHORT, LONG, VOCAB = 128, 512, 1024
DIM, LAYERS, FFN, HEADS = 128, 6, 344, 4
PIECE = 8_000  # characters of a piece of a book: about 2,500 tokens, well above the new context
EACH_BOOK = 4  # held-out pieces of a book
UPSAMPLED = 4  # times that a document of LONG tokens or more counts in the text that training goes on with
MORE, RATE_SHARE = 0.25, 0.3  # of the base's minutes and of its peak rates
DRAWS, SEED = 1000, 1
QUICK_TOKENS = 60_000
ARMS = ("base", "base, more at 128", "abf, untrained", "abf", "yarn, untrained", "yarn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="of training for the base (default: 6)")
    parser.add_argument(
        "--quick", action="store_true", help="60,000 tokens and few needles: shows that it works, proves nothing"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = measure(Path(folder), options.minutes, 2 if options.quick else 40, options.quick)
    show(table)
    if not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")


def read(name: str) -> list[str]:
    """The texts of one file."""
    with open(DATA / name, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        return [json.loads(line)["text"].replace("\r\n", "\n") for line in stream.read().decode().splitlines()]


def texts(quick: bool) -> tuple[list[str], list[str], list[str]]:
    """(to train on, held-out pieces, the book of each). Every sixth book is held out whole."""
    books = read("en_classics.jsonl.zst")
    cut = [[book[at : at + PIECE] for at in range(0, len(book) - PIECE, PIECE)] for book in books]
    kept = [pieces for number, pieces in enumerate(cut) if number % 6]
    train = [piece for pieces in kept for piece in (pieces[:4] if quick else pieces)]
    train += read("en_open.jsonl.zst")[: 50 if quick else None]
    heldout = [(piece, str(number)) for number, pieces in enumerate(cut) if number % 6 == 0
               for piece in pieces[1 :: max(1, len(pieces) // EACH_BOOK)][:EACH_BOOK]]  # fmt: skip
    return train, [piece for piece, _ in heldout], [book for _, book in heldout]


def measure(folder: Path, minutes: float, trials: int, quick: bool) -> dict[str, Any]:
    """Trains every arm, reads every arm."""
    from puna.build.graph import environment
    from puna.build.machine import describe
    from puna.engine import Engine
    from puna.judge.long_context import stretched
    from puna.judge.needle import needle_test
    from puna.judge.positions import compare_positions
    from puna.model.device import pick_device
    from puna.tokens import Tokenizer

    train, heldout, books = texts(quick)
    rows, tokenizer = packed(folder, train)
    made = arms(folder, None if quick else minutes, rows, tokenizer)
    engines = {}
    for name in ARMS:
        decoder = made["models"][name].eval()
        engines[name] = Engine(decoder, Tokenizer.load(folder / "tokenizer"), decoder.config)
    told = compare_positions(list(engines.items()), heldout, context=LONG, draws=DRAWS, seed=SEED, sources=books)
    needles = {}
    for name, engine in engines.items():
        needles[name] = needle_test(
            stretched(engine, LONG), heldout, lengths=[SHORT, LONG // 2, LONG], trials=trials, seed=SEED
        )
        print(f"read {name}", flush=True)
    return {"minutes": None if quick else minutes, "short": SHORT, "long": LONG, "trials": trials, "rope": made["rope"], "tokens": made["tokens"],
            "parameters": made["parameters"], "positions": told, "needle": needles,
            "machine": {**describe(pick_device()), "versions": environment()}}  # fmt: skip


def packed(folder: Path, train: list[str]) -> tuple[dict[int, Path], Any]:
    """The tokenizer, and rows of either context; those of the longer one with long documents upsampled."""
    from puna.tokens import Tokenizer, train_tokenizer
    from puna.tokens.pack import pack_documents

    train_tokenizer(iter(train[::4]), VOCAB, folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    encoded = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(train)]

    def documents(context: int) -> Iterator[tuple[list[int], None]]:
        for ids in encoded:
            for _ in range(UPSAMPLED if context == LONG and len(ids) >= LONG else 1):
                yield ids, None

    for context in (SHORT, LONG):
        pack_documents(documents(context), context, folder / f"rows-{context}", vocab_size=tokenizer.vocab_size)
    return {context: folder / f"rows-{context}" for context in (SHORT, LONG)}, tokenizer


def arms(folder: Path, minutes: float | None, rows: dict[int, Path], tokenizer: Any) -> dict[str, Any]:
    """Every arm's decoder, by name."""
    from puna.model.config import ModelConfig
    from puna.model.decoder import Decoder
    from puna.model.formats import save_model
    from puna.model.surgery.context import lengthen
    from puna.model.weights import Weights
    from puna.recipe.scaling import Shape

    shape = Shape(dim=DIM, layers=LAYERS, heads=HEADS, kv_heads=HEADS, head_dim=DIM // HEADS, ffn=FFN, context=SHORT,
                  vocab=tokenizer.vocab_size, tied=True, qk_norm=False, rope_theta=10_000.0)  # fmt: skip
    config = ModelConfig.from_shape(shape, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id)
    tokens = QUICK_TOKENS if minutes is None else int(minutes * 60 * rate(folder, shape, config, rows[SHORT]))
    models: dict[str, Decoder] = {"base": trained(folder, "base", tokens, shape, config, rows[SHORT], None)}
    save_model(models["base"], config, folder / "base-model")
    more, rope = max(int(tokens * MORE), QUICK_TOKENS // 2), {}
    models["base, more at 128"] = trained(folder, "more", more, shape, config, rows[SHORT], folder / "base-model")
    for how in ("abf", "yarn"):
        longer = lengthen(Weights.of(models["base"]), LONG, how)
        models[f"{how}, untrained"] = longer.decoder()
        rope[how] = {"theta": longer.config.rope_theta,
                     "scaling": longer.config.rope_scaling.to_hf() if longer.config.rope_scaling else None}  # fmt: skip
        wide = shape.model_copy(update={"context": LONG})
        models[how] = trained(folder, how, more, wide, longer.config, rows[LONG], folder / "base-model")
    return {"models": models, "rope": rope, "tokens": {"base": tokens, "more": more}, "parameters": config.parameters}


def trained(folder: Path, name: str, tokens: int, shape: Any, config: Any, rows: Path, init: Path | None) -> Any:
    """One training by Puna's own loop; from `init` at re-warmed, lower rates."""
    from puna.model.device import pick_device
    from puna.recipe.scaling import plan_pretraining
    from puna.recipe.schema import Train
    from puna.tokens.loader import Batches
    from puna.train.loop import train

    plan = plan_pretraining(Train(tokens=tokens, compile="off"), shape, tokens)
    if init:
        rates = {key: getattr(plan, key) * RATE_SHARE for key in ("lr_matrix", "lr_embed", "lr_vector")}
        plan = plan.model_copy(update=rates)
    done = train(plan, config, Batches(rows, plan.rows, SEED), folder / f"work-{name}", seed=SEED, init=init,
                 device=pick_device(plan.precision))  # fmt: skip
    print(
        f"trained {name}: {done.tokens / 1e6:.2f} M tokens, loss {done.final_loss:.3f}, {done.seconds:.0f} s",
        flush=True,
    )
    return done.model


def rate(folder: Path, shape: Any, config: Any, rows: Path) -> float:
    """Tokens a second of this machine, from a short training that is thrown away."""
    from puna.train.metrics import read_metrics

    trained(folder, "trial", QUICK_TOKENS, shape, config, rows, None)
    found = [row["tokens_per_second"] for row in read_metrics(folder / "work-trial" / "metrics.jsonl")]
    return median(found)


def show(table: dict[str, Any]) -> None:
    """80 columns, black and white."""
    positions, edges = table["positions"], table["positions"]["edges"]
    ranges = [f"{low}-{high}" for low, high in zip(edges, edges[1:], strict=False)]
    print(
        f"\n{table['parameters']:,} parameters, {table['tokens']['base'] / 1e6:.1f} M tokens at context {table['short']}, then {table['tokens']['more'] / 1e6:.1f} M"
    )
    print(f"\n{'bits per byte at':<20}" + "".join(f"{name:>20}" for name in ranges))
    for name, found in positions["models"].items():
        if "reason" in found:
            print(f"{name:<20}  {found['reason']}")
            continue
        print(
            f"{name:<20}"
            + "".join(f"{one['bits_per_byte']:.3f} {_within(one['interval'])}".rjust(20) for one in found["ranges"])
        )
    print("\nminus the base, paired")
    for gap in positions["differences"]:
        print(
            f"{gap['after']:<20}"
            + "".join(f"{one['value']:+.3f} {_within(one['interval'])}".rjust(20) for one in gap["ranges"])
        )
    any_ = next(iter(table["needle"].values()))
    print(f"\nneedles told from {any_['choices'] - 1} others, % (chance {100 / any_['choices']:g}), and bits likelier")
    lengths = [told["length"] for told in any_["by_length"]]
    print(f"{'tokens':<20}" + "".join(f"{length:>20}" for length in lengths))
    for name, found in table["needle"].items():
        cells = [
            f"{100 * told['share']:.0f} ({100 * told['interval'][0]:.0f}..{100 * told['interval'][1]:.0f}) {told['lift_bits']:+.2f}"
            for told in found["by_length"]
        ]
        print(f"{name:<20}" + "".join(f"{cell:>20}" for cell in cells))


def _within(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f}..{interval[1]:.2f}"


if __name__ == "__main__":
    main()
