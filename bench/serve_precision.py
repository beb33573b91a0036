"""What coarser weights cost: bits per byte of one text, in every precision and by both backends.

`puna bench serve_precision [--model MODEL] [--text FILE]`. The model's own numbers in fp32 by torch stand first; the others beside them, paired by
window of text. Lookups and batches change nothing here: each window is read by itself.
"""

import argparse
import json
import math
import random
import statistics
from pathlib import Path

from puna.engine import Engine, resolve_model

HERE = Path(__file__).parent


def bits(engine: Engine, windows: list[list[int]]) -> list[float]:
    """Bits of each window's ids after its first."""
    return [
        -sum(one.logprob for one in engine.prompt_logprobs(ids) if one is not None) / math.log(2) for ids in windows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="python", help="a run, folder or file")
    parser.add_argument("--text", type=Path, help="a text file; without it, the standard library's random.py")
    parser.add_argument("--windows", type=int, default=40, help="windows of the model's context to read at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    path = resolve_model(given.model)
    text = (given.text or Path(random.__file__)).read_text("utf-8")
    tokens = Engine.load(path).tokenizer
    first = Engine.load(path)
    ids = tokens.encode(text)
    size = first.context
    windows = [ids[start : start + size] for start in range(0, len(ids), size)][: given.windows]
    windows = [window for window in windows if len(window) > 1]
    chars = sum(len(tokens.text_bytes(window[1:])) for window in windows)
    base, rows = bits(first, windows), []
    for backend in ("torch", "openvino"):
        for precision in ("fp32", "bf16", "int8"):
            found = base
            if (backend, precision) != ("torch", "fp32"):
                found = bits(Engine.load(path, precision=precision, backend=backend), windows)
            deltas = [
                (one - other) / len(tokens.text_bytes(window[1:]))
                for one, other, window in zip(found, base, windows, strict=True)
            ]
            half = 1.96 * statistics.stdev(deltas) / math.sqrt(len(deltas)) if len(deltas) > 1 else math.nan
            rows.append({"backend": backend, "precision": precision, "bits_per_byte": sum(found) / chars,
                         "more": statistics.fmean(deltas), "half_width": half})  # fmt: skip
    record = {
        "model": given.model,
        "parameters": first.config.parameters,
        "windows": len(windows),
        "bytes": chars,
        "rows": rows,
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "serve_precision.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if given.json:
        print(json.dumps(record))
        return
    print(
        f"{given.model}: {first.config.parameters / 1e6:.1f} M parameters, {len(windows)} windows, {chars:,} bytes of text"
    )
    print(f"{'backend':10}{'precision':11}{'bits per byte':>14}{'more than fp32 by torch (95 %)':>34}")
    for row in rows:
        more = f"{row['more']:+.6f} ± {row['half_width']:.6f}"
        print(f"{row['backend']:10}{row['precision']:11}{row['bits_per_byte']:14.5f}{more:>34}")


if __name__ == "__main__":
    main()
