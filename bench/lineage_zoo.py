"""The zoo at any size: false positives with their interval, power, relations named rightly; and the rates that `puna lineage` prints.

    PYTHONPATH=src python bench/lineage_zoo.py [--size large] [--seed N] [--calibrate]

Prints the table of `puna lineage zoo` with power curves and writes bench/results/lineage_zoo.json. With --calibrate it also writes
src/puna/lineage/calibration.json: each test's rates, which stand beside every p-value. There is no peer: the one shipped tool of this kind
does not read weights of models of one architecture (docs/lineage.md).
"""

import argparse
import json
import platform
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

from puna.lineage.weights import relation as named
from puna.lineage.zoo.family import DISGUISED_NOISED, SIZES, build_family
from puna.lineage.zoo.trial import ZooResult, judge_family, zoo_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "lineage_zoo.json"
CALIBRATION = ROOT / "src" / "puna" / "lineage" / "calibration.json"


class Lines:
    """Progress as lines."""

    def start(self, title: str, total: float | None = None, unit: str = "") -> None:
        self.began = time.monotonic()
        print(f"  {title}: {total:.0f} {unit}", flush=True)

    def update(self, done: float, **facts: str) -> None: ...
    def note(self, line: str) -> None:
        print(line, flush=True)

    def finish(self) -> None:
        print(f"  {time.monotonic() - self.began:.0f} s", flush=True)


def curves(result: ZooResult) -> dict[str, list[dict[str, Any]]]:
    """For each kind with an amount: the share found, and the median p of each test."""
    made: dict[str, list[dict[str, Any]]] = {}
    for kind in (named.NOISED, DISGUISED_NOISED, named.MERGED, named.CONTINUED):
        rows = [row for row in result.rows if row.kind == kind and row.amount is not None]
        for amount in sorted({row.amount for row in rows if row.amount is not None}):
            own = [row for row in rows if row.amount == amount]
            if kind == named.MERGED:  # the parent with the share that is named
                own = own[::2]
            tests = {name: sorted(row.tests.get(name, 0.0) for row in own)[len(own) // 2] for name in own[0].tests}
            made.setdefault(kind, []).append(
                {
                    "amount": amount,
                    "found": sum(row.verdict in ("derived", "same") for row in own),
                    "n": len(own),
                    "log10_p": tests,
                }
            )
    return made


def _lines(value: dict[str, Any]) -> str:
    """JSON with a pair of models a line: a thousand of them are read by programs, and a change of one shows as one line."""
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in value["rows"])
    rest = json.dumps({**value, "rows": []}, indent=1, ensure_ascii=False)
    return rest.replace('"rows": []', f'"rows": [\n{rows}\n]', 1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--calibrate", action="store_true")
    args = parser.parse_args()
    seed = secrets.randbits(48) if args.seed is None else args.seed
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        zoo = build_family(SIZES[args.size], Path(folder), seed, Lines())
        trained = time.monotonic() - began
        result = judge_family(zoo, seed, Lines())
    seconds = {"training and changing": round(trained, 1), "comparing": round(time.monotonic() - began - trained, 1)}
    print(zoo_text(result))
    found = curves(result)
    for kind, points in found.items():
        print(f"\n{kind}: found, and the median p of each test")
        for point in points:
            tests = "  ".join(f"{name} 1e{round(p)}" for name, p in point["log10_p"].items())
            print(f"  {point['amount']:>8g}  {point['found']}/{point['n']}  {tests}")
    print(f"\n{seconds}")
    value = {
        "size": args.size,
        "seed": seed,
        "seconds": seconds,
        "machine": platform.machine(),
        "curves": found,
        **result.model_dump(mode="json"),
    }
    RESULTS.write_text(_lines(value), encoding="utf-8")
    if args.calibrate:
        tests = {
            name: {key: rate.model_dump(mode="json") for key, rate in rates.items()}
            for name, rates in result.by_test.items()
        }
        CALIBRATION.write_text(
            json.dumps({"size": args.size, "seed": seed, "tests": tests}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
