"""Can a maker recognise what was made from his model by likelihoods alone? Twenty runs, each with a thief and a stranger.

    python bench/lineage_claim.py [--trials 20] [--rows 3000] [--add]

Each trial draws a fresh seed, commits to it, and trains a small model (dim 64, 2 blocks) for one epoch on packed rows of half the running
Python's standard library, a run folder with ledger and artefacts as `puna make` leaves them. The thief fine-tunes that model on the other
half (a quarter as many tokens at 0.3 of the rates); the stranger trains its own, from a fresh start, on the very same rows in another
order. Both are put to `puna lineage claim`. Every model is also put to the orders of the other trials, with which it has nothing to do:
these p-values must be uniform. --add goes on from the trials in bench/results/lineage_claim.json.
"""

import argparse
import json
import os
import secrets
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
RESULTS = Path(__file__).parent / "results" / "lineage_claim.json"
VOCAB, CONTEXT, DIM, BLOCKS, BATCH_ROWS, RATE_SHARE = 1024, 64, 64, 2, 8, 0.3


@dataclass(frozen=True)
class Texts:
    """What all trials share: the tokenizer, the rows that are trained on, and rows of other text."""

    folder: Path
    tokenizer: Any
    mine: Path
    other: Path


@dataclass(frozen=True)
class Scored:
    """A model's likelihoods of all rows, asked once."""

    name: str
    scores: dict[tuple[int, ...], float]

    def loglikelihoods(self, rows: Sequence[Sequence[int]]) -> list[float]:
        return [self.scores[tuple(row)] for row in rows]


def prepare(folder: Path, rows: int) -> Texts:
    """Every other module of the standard library for the maker, the rest for the thief."""
    from puna.tokens import Tokenizer, train_tokenizer
    from puna.tokens.pack import pack_documents

    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in modules]
    train_tokenizer(iter(texts[:60]), VOCAB, folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")

    def documents(part: list[str]) -> Iterator[tuple[list[int], None]]:
        left = rows * (CONTEXT + 1)
        for text in part:
            ids = [*tokenizer.encode(text), tokenizer.eos_id][:left]
            left -= len(ids)
            if ids:
                yield ids, None

    for name, part in (("mine", texts[::2]), ("other", texts[1::2])):
        pack_documents(documents(part), CONTEXT, folder / name, vocab_size=tokenizer.vocab_size)
    return Texts(folder, tokenizer, folder / "mine", folder / "other")


def plan_of(texts: Texts, tokens: int, share: float = 1.0) -> tuple[Any, Any]:
    """(plan, shape): the recipe's schedule and the rates of its least batch (2,048 tokens), in batches of 512."""
    from puna.recipe.scaling import Shape, plan_pretraining
    from puna.recipe.schema import Train

    shape = Shape(dim=DIM, layers=BLOCKS, heads=4, kv_heads=4, head_dim=DIM // 4, ffn=160, context=CONTEXT,
                  vocab=texts.tokenizer.vocab_size, tied=True, qk_norm=False, rope_theta=10_000.0)  # fmt: skip
    planned = max(tokens, 10 * 2048)  # a shorter run is refused; only its number of steps is its own
    plan = plan_pretraining(Train(tokens=planned, compile="off", precision="fp32", threads=1), shape, planned, share)
    batch = BATCH_ROWS * CONTEXT
    return plan.model_copy(update={"batch_tokens": batch, "steps": tokens // batch, "checkpoint_seconds": 1e9}), shape


def trained(texts: Texts, rows: Path, tokens: int, seed: int, out: Path, init: Path | None = None) -> Path:
    """One model in `out`, its steps and rates by `plan_of`; from `init` at RATE_SHARE of the rates."""
    from puna.model.config import ModelConfig
    from puna.model.device import pick_device
    from puna.model.formats import save_model
    from puna.tokens.loader import Batches
    from puna.train.loop import train

    plan, shape = plan_of(texts, tokens, RATE_SHARE if init else 1.0)
    config = ModelConfig.from_shape(shape, eos_token_id=texts.tokenizer.eos_id, pad_token_id=texts.tokenizer.pad_id)
    with tempfile.TemporaryDirectory(dir=texts.folder) as work:
        result = train(
            plan, config, Batches(rows, plan.rows, seed), Path(work), seed=seed, init=init, device=pick_device("fp32")
        )
    save_model(result.model, config, out)
    shutil.copyfile(texts.folder / "tokenizer" / "tokenizer.json", out / "tokenizer.json")
    return out


def committed_run(texts: Texts, run: Path, tokens: int, seed: int | None = None) -> Path:
    """A run as `puna make` leaves it, as far as its order goes; returns the trained model's folder. `seed`: fresh where None."""
    from puna.build.store import Store, read_manifest
    from puna.files import digest_of
    from puna.ledger import Ledger, new_salt, seed_commitment

    run.mkdir(parents=True)
    seed, salt = secrets.randbits(48) if seed is None else seed, new_salt()
    store, ledger = Store(run), Ledger(run / "ledger.jsonl")
    ledger.append("seed", {"commitment": seed_commitment(seed, salt)})

    def stage(name: str, settings: Any, inputs: dict[str, Path], fill: Any) -> Path:
        about = {
            "settings": settings,
            "inputs": {key: read_manifest(path)["content"] for key, path in inputs.items()},
            "code": "bench",
        }
        digest = digest_of({"stage": name, **about})
        folder = store.build(name, digest, lambda out: fill(out) or {}, about)
        ledger.append("stage", {"stage": name, "digest": digest, "content": read_manifest(folder)["content"], "inputs": about["inputs"],
                                "code": "bench"})  # fmt: skip
        return folder

    def copy(source: Path) -> Any:
        return lambda out: shutil.copytree(source, out, dirs_exist_ok=True) and None

    plan, shape = plan_of(texts, tokens)
    reader = stage("tokenizer", {"vocab": VOCAB}, {}, copy(texts.folder / "tokenizer"))
    pack = stage("pack", {"context": CONTEXT}, {"tokenizer": reader}, copy(texts.mine))
    settings = {"plan": plan.model_dump(exclude={"checkpoint_seconds"}), "shape": shape.model_dump(), "seed": seed}
    model = stage("pretrain", settings, {"pack": pack, "tokenizer": reader},
                  lambda out: trained(texts, pack, tokens, seed, out) and None)  # fmt: skip
    ledger.append("seed-revealed", {"seed": seed, "salt": salt})
    return model


def scored(texts: Texts, name: str, model: Path) -> Scored:
    """What `model` says of every row."""
    from puna.lineage.claim import LocalSuspect
    from puna.tokens.loader import Batches

    count = Batches(texts.mine, BATCH_ROWS, 0).total_rows
    rows = np.fromfile(texts.mine / "tokens.bin", dtype="<u2").reshape(count, CONTEXT + 1).tolist()
    suspect = LocalSuspect(model, name, texts.tokenizer, texts.tokenizer.vocab_size)
    return Scored(name, {tuple(row): score for row, score in zip(rows, suspect.loglikelihoods(rows), strict=True)})


def one_trial(texts: Texts, number: int, rows: int) -> tuple[Any, list[Scored], dict[str, Any]]:
    """The order, the three models' likelihoods, and the p-values."""
    from puna.lineage.claim import claim
    from puna.lineage.order import read_order

    began, tokens, run = time.monotonic(), rows * CONTEXT, texts.folder / f"run-{number}"
    own = committed_run(texts, run, tokens)
    thief = trained(texts, texts.other, tokens // 4, secrets.randbits(48), run / "thief", init=own)
    stranger = trained(texts, texts.mine, tokens, secrets.randbits(48), run / "stranger")
    order = read_order(run)
    models = [scored(texts, name, path) for name, path in (("own", own), ("thief", thief), ("stranger", stranger))]
    row: dict[str, Any] = {}
    for model in models:
        found = claim(model, order)
        row[model.name] = {
            "p": found.p_value,
            "log10_p": found.log10_p,
            "p_permuted": found.p_permuted,
            "rho": found.statistic,
        }
    row["seconds"] = time.monotonic() - began
    return order, models, row


def strangers_p(orders: list[Any], models: list[list[Scored]]) -> list[float]:
    """p of every model against every order of another trial."""
    from puna.lineage.claim import claim

    return [
        claim(model, order).p_value
        for i, order in enumerate(orders)
        for j, group in enumerate(models)
        if i != j
        for model in group
    ]


def print_table(table: dict[str, Any]) -> None:
    """80 columns."""
    from scipy.stats import kstest

    print(f"\n{'trial':>5}{'own model':>14}{'fine-tuned':>14}{'same text, other order':>26}{'s':>8}")
    for number, row in enumerate(table["trials"], 1):
        cells = [f"1e{row[name]['log10_p']:.0f}" for name in ("own", "thief")]
        print(f"{number:>5}{cells[0]:>14}{cells[1]:>14}{row['stranger']['p']:>26.3f}{row['seconds']:>8.1f}")
    trials = table["trials"]
    thieves, strangers = ([row[name]["p"] for row in trials] for name in ("thief", "stranger"))
    n = len(trials)
    print(f"\nfine-tuned, p < 1e-4: {sum(p < 1e-4 for p in thieves)} of {n} (largest p {max(thieves):.1e})")
    print(f"other order, p > 0.05: {sum(p > 0.05 for p in strangers)} of {n} (an exact test gives {0.95 * n:.0f} of {n} on average; "
          f"Kolmogorov-Smirnov\nagainst uniform: p = {kstest(strangers, 'uniform').pvalue:.2f})")  # fmt: skip
    nulls = table["foreign_orders"]
    if nulls:
        shares = ", ".join(f"{np.mean(np.array(nulls) < a):.4f} below {a}" for a in (0.5, 0.1, 0.05, 0.01))
        print(f"{len(nulls)} pairs of a model and another trial's order (not independent of each other: the rows are the same):\n{shares}; "
              f"least {min(nulls):.1e}")  # fmt: skip
    gap = max(abs(row[name]["p"] - row[name]["p_permuted"]) for row in trials for name in ("own", "thief", "stranger"))
    print(f"Student's t against drawn permutations: largest difference of p {gap:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rows", type=int, default=3000, help="packed rows of 64 tokens in the maker's text")
    parser.add_argument("--add", action="store_true", help="to the trials in the results file")
    options = parser.parse_args()
    from puna.build.graph import environment

    table: dict[str, Any] = {"rows": options.rows, "trials": [], "foreign_orders": []}
    if options.add and RESULTS.is_file():
        before = json.loads(RESULTS.read_text())
        if before["rows"] != options.rows:
            parser.error(f"the results are of {before['rows']} rows")
        table |= {key: before[key] for key in ("trials", "foreign_orders")}
    with tempfile.TemporaryDirectory() as name:
        texts = prepare(Path(name), options.rows)
        orders, models = [], []
        for number in range(options.trials):
            order, group, row = one_trial(texts, number, options.rows)
            orders.append(order)
            models.append(group)
            table["trials"].append(row)
            print(f"trial {number + 1}: {json.dumps(row)}", flush=True)
        table["foreign_orders"] += strangers_p(orders, models)
    print_table(table)
    RESULTS.write_text(json.dumps({**table, "versions": environment()}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
