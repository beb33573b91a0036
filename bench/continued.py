"""Going on from open weights: what is learnt of new text and forgotten of the old, by rate, replay and optimiser.

    python bench/continued.py [--minutes 2] [--seeds 1] [--grid]

The base is stories260K (../shared/data/weights), the new text English speeches and reviews (../shared/data/train/en_open), the
old text drawn from the base itself. One build for each setting by the ordinary `puna make`; the table has bits per byte of the base as
it came (inherited) and of the trained model (own) on held-out text of both domains. --grid tries rates, replay and both
optimisers; without it the recipe's defaults run, with and without replay. Writes bench/results/continued.json.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import zstandard

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "continued.json"


def write_text(path: Path) -> None:
    """The new domain, a document a line."""
    with (
        open(DATA / "train" / "en_open.jsonl.zst", "rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
    ):
        path.write_bytes(stream.read())


def settings(grid: bool) -> list[dict[str, Any]]:
    """(lr_share, replay, method) of each build; None: the recipe's default."""
    if not grid:
        return [{"replay": 0.0}, {"replay": 0.25}]
    return [{"lr_share": share, "replay": replay, "method": method}
            for method in ("puna", "reference") for share in (0.1, 0.3, 1.0) for replay in (0.0, 0.25)]  # fmt: skip


def build(folder: Path, minutes: float, seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    """One build's table: inherited and own, new and old."""
    from puna.build.make import make
    from puna.files import read_json
    from puna.recipe.load import parse_recipe

    base = {"from": str(DATA / "weights/stories260K/stories260K.bin"), "old": ["self"], "replay": setting["replay"]}
    if "lr_share" in setting:
        base["lr_share"] = setting["lr_share"]
    train = {"minutes": minutes, **({"method": setting["method"]} if "method" in setting else {})}
    recipe = parse_recipe({"name": "continued", "seed": seed, "base": base, "corpus": {"sources": [str(folder / "new.jsonl")]},
                           "train": train, "judge": {"compressors": False}}, where="bench")  # fmt: skip
    made = make(recipe, folder / "runs", until="judge")
    place = {row["name"]: made.run / row["folder"] for row in made.stages}
    seconds = sum(row["seconds"] for row in made.stages if not row["reused"])
    return {"inheritance": read_json(place["judge"] / "results.json")["inheritance"], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="of training in each build (default: 2)")
    parser.add_argument("--seeds", type=int, default=1, help="builds of each setting (default: 1)")
    parser.add_argument("--grid", action="store_true", help="rates, replay and both optimisers")
    options = parser.parse_args()
    from puna.build.graph import environment
    from puna.judge.inheritance import format_inheritance

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "new.jsonl")
        for setting in settings(options.grid):
            for seed in range(1, options.seeds + 1):
                row = build(folder, options.minutes, seed, setting)
                rows.append({**setting, "seed": seed, **row})
                print(f"\n{setting} seed {seed}, {row['seconds']:.0f} s in all\n", flush=True)
                print(format_inheritance(row["inheritance"]), flush=True)
    table = {"minutes": options.minutes, "versions": environment(), "rows": rows}
    RESULTS.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
