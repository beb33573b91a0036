"""A model of 12 blocks grown to 18, as Yi-9B, SOLAR and LLaMA Pro grew theirs: what is inherited, and what training adds.

    python bench/depth_upscaling.py [--tokens 1e6] [--more 5e5] [--seeds 3] [--quick]

A base of 12 blocks (dim 128, some 2.6 M parameters) reads `--tokens` of one half of ../shared/data/train/en_open. Grown in three
ways it reads `--more` of the other half, beside the base itself that reads the same, and a model of 18 blocks from random weights
that reads as much of both halves as the whole compute of a grown one pays for. The table has the form of Yi-9B's (Yi report 2024,
section 7.3): the base, each grown model before any training (what is inherited) and after (what is its own). Bits per byte on
held-out documents; the interval of a difference is Student's over the seeds, or drawn from documents where there is one seed.
Writes bench/results/depth_upscaling.json.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from recipe_gain import T95, half_width

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "train" / "en_open.jsonl.zst"
RESULTS = Path(__file__).parent / "results" / "depth_upscaling.json"
BLOCKS, GROWN, CONTEXT, VOCAB, DIM, FFN, HEADS = 12, 18, 256, 2048, 128, 344, 4
RATE_SHARE = 0.3  # of a run's from random weights: the recipe's own for a [base]
WAYS = ("duplicate", "solar", "silent")


@dataclass
class Bench:
    """What every arm shares."""

    folder: Path
    tokenizer: Any
    first: Path  # packed rows that the base reads
    second: Path  # packed rows that come after
    both: Path  # all of them together
    heldout: list[str]
    table: dict[str, Any]


def read_texts(quick: bool) -> tuple[list[str], list[str], list[str]]:
    """Documents of the first half, of the second, and held out (every tenth, cut)."""
    with open(DATA, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        texts = [json.loads(line)["text"] for line in stream.read().decode().splitlines()]
    heldout = [text[:2000] for text in texts[::10]]
    rest = [text for number, text in enumerate(texts) if number % 10]
    rest = rest[:120] if quick else rest
    return rest[::2], rest[1::2], heldout[:20] if quick else heldout


def prepare(folder: Path, quick: bool) -> Bench:
    """The tokenizer, both halves as rows."""
    from puna.tokens import Tokenizer, train_tokenizer
    from puna.tokens.pack import pack_documents

    one, two, heldout = read_texts(quick)
    train_tokenizer(iter(one), VOCAB, folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")

    def documents(texts: list[str]) -> Iterator[tuple[list[int], None]]:
        for ids in tokenizer.encode_batch(texts):
            yield [*ids, tokenizer.eos_id], None

    for name, texts in (("first", one), ("second", two), ("both", [*one, *two])):
        pack_documents(documents(texts), CONTEXT, folder / name, vocab_size=tokenizer.vocab_size)
    return Bench(folder, tokenizer, folder / "first", folder / "second", folder / "both", heldout, {"arms": {}})


def trained(bench: Bench, name: str, rows: Path, blocks: int, tokens: float, seed: int, init: Path | None) -> Path:
    """Trains one model and keeps it in a folder; from `init` at re-warmed rates, else from random weights."""
    from puna.model.config import ModelConfig
    from puna.model.device import pick_device
    from puna.model.formats import save_model
    from puna.recipe.scaling import Shape, plan_pretraining
    from puna.recipe.schema import Train
    from puna.tokens.loader import Batches
    from puna.train.loop import train

    shape = Shape(dim=DIM, layers=blocks, heads=HEADS, kv_heads=HEADS, head_dim=DIM // HEADS, ffn=FFN, context=CONTEXT,
                  vocab=bench.tokenizer.vocab_size, tied=True, qk_norm=False, rope_theta=10_000.0)  # fmt: skip
    plan = plan_pretraining(Train(tokens=int(tokens), compile="off"), shape, int(tokens))
    if init:
        plan = plan.model_copy(
            update={key: getattr(plan, key) * RATE_SHARE for key in ("lr_matrix", "lr_embed", "lr_vector")}
        )
    config = ModelConfig.from_shape(shape, eos_token_id=bench.tokenizer.eos_id, pad_token_id=bench.tokenizer.pad_id)
    out = bench.folder / f"{name}-{seed}"
    result = train(plan, config, Batches(rows, plan.rows, seed), out / "work", seed=seed, init=init,
                   device=pick_device(plan.precision))  # fmt: skip
    save_model(result.model, config, out / "model")
    bench.table["arms"].setdefault(name, {}).update(tokens=plan.tokens, parameters=config.parameters)
    return out / "model"


def document_bits(bench: Bench, model: Path) -> np.ndarray:
    """Bits of every held-out document."""
    from puna.engine import Engine
    from puna.judge.bits_per_byte import document_bits as measure
    from puna.model.formats import load_model

    decoder = load_model(model)
    bits, _ = measure(Engine(decoder.eval(), bench.tokenizer, decoder.config), bench.heldout)
    return bits


def one_seed(bench: Bench, seed: int, tokens: float, more: float) -> dict[str, dict[str, np.ndarray]]:
    """Every arm once: {arm: {"init": bits, "after": bits}}."""
    import torch

    from puna.model.formats import load_config, open_model, save_model
    from puna.model.surgery.plan import grow
    from puna.tokens.loader import Batches

    base = trained(bench, "base", bench.first, BLOCKS, tokens, seed, None)
    found = {"base": {"after": document_bits(bench, base)}}
    on = trained(bench, "12 blocks, trained on", bench.second, BLOCKS, more, seed, base)
    found["12 blocks, trained on"] = {"init": found["base"]["after"], "after": document_bits(bench, on)}
    ids = Batches(bench.first, 16, 0).batch(0).inputs
    for how in WAYS:
        grown, report = grow(open_model(base), layers=GROWN, how=how, ids=ids)
        init, decoder = bench.folder / f"{how}-{seed}-init", grown.decoder()
        save_model(decoder, decoder.config, init)
        with torch.no_grad():
            small, large = (model.logits(model(ids[:4])) for model in (open_model(base).decoder(), decoder))
        report["largest_logit_change"] = float((small - large).abs().max())
        bench.table["arms"].setdefault(how, {}).setdefault("reports", []).append(report)
        after = trained(bench, how, bench.second, GROWN, more, seed, init)
        found[how] = {"init": document_bits(bench, init), "after": document_bits(bench, after)}
        line = {key: float(bits.sum() / sizes(bench).sum()) for key, bits in found[how].items()}
        print(f"seed {seed}, {how}: {line['init']:.4f} before training, {line['after']:.4f} after", flush=True)
    costs = {"small": load_config(base).flops_per_token(CONTEXT), "large": load_config(after).flops_per_token(CONTEXT)}
    equal = tokens * costs["small"] / costs["large"] + more
    scratch = trained(bench, "18 blocks, from scratch", bench.both, GROWN, equal, seed, None)
    found["18 blocks, from scratch"] = {"after": document_bits(bench, scratch)}
    return found


def sizes(bench: Bench) -> np.ndarray:
    """Bytes of every held-out document."""
    return np.array([len(text.encode()) for text in bench.heldout], np.float64)


def difference(bench: Bench, ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, Any]:
    """Bits per byte of ours minus theirs, paired: Student's over seeds, or drawn from documents where there is one seed."""
    from puna.judge.stats import ratio_interval

    gaps = [one - other for one, other in zip(ours, theirs, strict=True)]
    values = [float(gap.sum() / sizes(bench).sum()) for gap in gaps]
    half = half_width(values)
    drawn = ratio_interval(np.mean(gaps, axis=0), sizes(bench), 2000, 0)
    mean = sum(values) / len(values)
    return {"mean": mean, "by_seed": values, "interval": [mean - half, mean + half] if half is not None else drawn,
            "interval_over": "seeds" if half is not None else "documents", "interval_over_documents": drawn}  # fmt: skip


def summarise(bench: Bench, found: list[dict[str, dict[str, np.ndarray]]]) -> None:
    """Means, and differences to the base and to the base trained on."""
    base = [seed["base"]["after"] for seed in found]
    on = [seed["12 blocks, trained on"]["after"] for seed in found]
    for arm in found[0]:
        row = bench.table["arms"].setdefault(arm, {})
        for key in found[0][arm]:
            row[key] = [float(seed[arm][key].sum() / sizes(bench).sum()) for seed in found]
        after = [seed[arm]["after"] for seed in found]
        if arm != "base":
            row["own"] = difference(bench, after, base)  # what training on added to what was inherited
        if arm not in ("base", "12 blocks, trained on"):
            row["minus_trained_on"] = difference(bench, after, on)


def print_table(table: dict[str, Any]) -> None:
    """80 columns, black and white."""

    def signed(cell: dict[str, Any] | None) -> str:
        if cell is None:
            return f"{'':>10}{'':>8}"
        return f"{cell['mean']:>+10.4f}" + (
            f"{(cell['interval'][1] - cell['interval'][0]) / 2:>8.4f}" if cell["interval"] else f"{'':>8}"
        )

    print(
        f"\n{table['seeds']} seed(s); bits per byte of {table['heldout_bytes'] / 1e3:,.0f} kB held out; init: before any training\n"
    )
    print(f"{'':<25}{'init':>9}{'after':>9}{'own gain':>10}{'±':>8}{'minus 12':>10}{'±':>8}")
    for arm, row in table["arms"].items():
        init = f"{np.mean(row['init']):>9.4f}" if "init" in row else f"{'':>9}"
        print(
            f"{arm:<25}{init}{np.mean(row['after']):>9.4f}{signed(row.get('own'))}{signed(row.get('minus_trained_on'))}"
        )
    for how in WAYS:
        report = table["arms"][how]["reports"][0]
        print(
            f"{how}: layers {report['order']}; largest change of a logit at step 0: {report['largest_logit_change']:g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=1e6, help="that the base reads (default: 1e6)")
    parser.add_argument("--more", type=float, default=5e5, help="that each model reads after it (default: 5e5)")
    parser.add_argument("--seeds", type=int, default=3, help="bases, each grown in every way (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help="a minute: whether it runs, not what it shows; writes no file"
    )
    options = parser.parse_args()
    if not 1 <= options.seeds <= len(T95) + 1:
        parser.error(f"--seeds takes 1 to {len(T95) + 1}")
    tokens, more, seeds = (5e4, 2.5e4, 1) if options.quick else (options.tokens, options.more, options.seeds)
    from puna.build.graph import environment

    with tempfile.TemporaryDirectory() as name:
        bench = prepare(Path(name), options.quick)
        bench.table |= {"tokens": tokens, "more": more, "seeds": seeds, "versions": environment(),
                        "heldout_bytes": int(sizes(bench).sum()), "heldout_documents": len(bench.heldout)}  # fmt: skip
        summarise(bench, [one_seed(bench, seed, tokens, more) for seed in range(1, seeds + 1)])
    print_table(bench.table)
    if not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(bench.table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
