"""What the recipe gains: same shape, text and minutes; ours (Muon, WSD) against the reference (AdamW, cosine), paired seeds.

    python bench/recipe_gain.py --minutes 2 --seeds 3

Each method gets the tokens that it can see in the same minutes on this machine, by its own calibration; a reference whose
calibration met a busy moment gets no fewer than ours. The score is bits per byte on the held-out modules of the default
corpus; the interval of a difference is Student's over the seeds.
"""

import argparse
import json
import math
import os
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
T95 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
}  # Student's t, two-sided 95 %, by degrees of freedom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, for each model (default: 2)")
    parser.add_argument("--seeds", type=int, default=3, help="models of each recipe (default: 3)")
    parser.add_argument("--size", default="4M", help="as model.size of a recipe (default: 4M)")
    parser.add_argument("--lr", type=float, action="append", help="reference rates to try besides its default")
    options = parser.parse_args()
    if not 1 <= options.seeds <= len(T95) + 1:
        parser.error(f"--seeds takes 1 to {len(T95) + 1}")
    with tempfile.TemporaryDirectory() as folder:
        table = measure(Path(folder), options.minutes, options.seeds, options.size, options.lr or [])
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "recipe_gain.json").write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
    print_table(table)


def measure(folder: Path, minutes: float, seeds: int, size: str, rates: list[float]) -> dict[str, Any]:
    """Data once, then each method for each seed. Bits per byte on the same held-out text."""
    from puna.build.graph import environment
    from puna.build.machine import describe
    from puna.build.make import default_recipe, make
    from puna.files import read_json
    from puna.model.device import pick_device
    from puna.recipe.load import load_recipe

    budget = ["name=bench", f"model.size={size}", f"train.minutes={minutes}"]
    make(load_recipe(default_recipe(), budget), folder, until="pack")
    contenders: list[tuple[str, list[str]]] = [
        ("puna", ["train.method=puna"]),
        ("reference", ["train.method=reference"]),
    ]
    contenders += [
        (f"reference, rate {rate:g}", ["train.method=reference", f"train.lr_matrix={rate}", f"train.lr_embed={rate}"])
        for rate in rates
    ]
    ours = 0
    for number, (name, changes) in enumerate(contenders):
        made = make(load_recipe(default_recipe(), [*budget, *changes, "seed=1"]), folder, until="calibrate")
        tokens = read_json(made.run / made.stages[-1]["folder"] / "plan.json")["plan"]
        tokens = tokens["steps"] * tokens["batch_tokens"]
        ours = ours or tokens
        contenders[number] = (name, [*changes, f"train.tokens={max(ours, tokens)}"])
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in contenders}
    for seed in range(1, seeds + 1):
        for name, changes in contenders:
            recipe = load_recipe(default_recipe(), [*budget, *changes, f"seed={seed}"])
            made = make(recipe, folder, until="pretrain")
            done = {row["name"]: made.run / row["folder"] for row in made.stages}
            row = {"seed": seed, **score(done)}
            rows[name].append(row)
            print(
                f"{name:<22} seed {seed}: {row['bits_per_byte']:.4f} bits per byte after {row['tokens'] / 1e6:.2f} M tokens",
                flush=True,
            )
    return {
        "minutes": minutes,
        "size": size,
        "machine": {**describe(pick_device()), "versions": environment()},
        "rows": rows,
        "summary": summary(rows),
    }


def score(done: dict[str, Path]) -> dict[str, Any]:
    """Bits per byte of one trained model over the whole held-out text."""
    from puna.build.store import read_manifest
    from puna.engine import Engine
    from puna.judge.bits_per_byte import document_bits
    from puna.judge.documents import load

    heldout = load(done["corpus"], "heldout", 1 << 62, 0)
    bits, _ = document_bits(Engine.load(done["pretrain"]), heldout.texts)
    facts = read_manifest(done["pretrain"])["facts"]
    size = sum(len(text.encode()) for text in heldout.texts)
    return {"bits_per_byte": float(sum(bits)) / size, "tokens": facts["tokens"], "seconds": facts["seconds"]}


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means with 95 % intervals over seeds, and ours minus each other, paired by seed."""
    ours = [row["bits_per_byte"] for row in rows["puna"]]
    out: dict[str, Any] = {}
    for name, found in rows.items():
        values = [row["bits_per_byte"] for row in found]
        out[name] = {
            "mean": mean(values),
            "half_width": half_width(values),
            "tokens": mean(row["tokens"] for row in found),
            "seconds": mean(row["seconds"] for row in found),
        }
        if name != "puna":
            differences = [a - b for a, b in zip(ours, values, strict=True)]
            out[name]["puna_minus_this"] = {"mean": mean(differences), "half_width": half_width(differences)}
    return out


def half_width(values: list[float]) -> float | None:
    """Half of Student's 95 % interval of the mean; None for a single value."""
    n = len(values)
    return T95[n - 1] * stdev(values) / math.sqrt(n) if n > 1 else None


def print_table(table: dict[str, Any]) -> None:
    """80 columns, black and white."""
    print(f"\n{table['size']}, {table['minutes']:g} minutes each on {table['machine']['processor']}\n")
    print(f"{'':<24}{'bits per byte':>14}{'±':>8}{'M tokens':>10}{'s':>6}{'puna minus':>12}{'±':>7}")
    for name, row in table["summary"].items():
        line = f"{name:<24}{row['mean']:>14.4f}{row['half_width'] or float('nan'):>8.4f}{row['tokens'] / 1e6:>10.2f}{row['seconds']:>6.0f}"
        if "puna_minus_this" in row:
            difference = row["puna_minus_this"]
            line += f"{difference['mean']:>+12.4f}{difference['half_width'] or float('nan'):>7.4f}"
        print(line)


if __name__ == "__main__":
    main()
