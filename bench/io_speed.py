"""Reading and writing a checkpoint of 1 GB, beside `safetensors` and `transformers`, time and peak memory.

    PYTHONPATH=src python bench/io_speed.py [--megabytes 1000] [--rounds 3]

Prints one table and writes bench/results/io_speed.json. The checkpoints are made on the spot: a Llama of transformers' own
class, in bf16 as one file and as shards, and in fp32. Every task runs in a process of its own; its peak memory is VmHWM, reset
when the work begins, less what the process held then (so a writer's model in memory does not count). Each time is the median
of interleaved rounds, with the files in the page cache, which nobody but root can empty.

Reading ends when every value was looked at (safetensors only maps the file). Puna's figures include what the peers leave
out: a digest of every tensor and a look for NaN. "on disk" adds fsync, which Puna's writer has done already.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

RESULTS = Path(__file__).parent / "results" / "io_speed.json"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
VARIANTS = [("bf16", "one file"), ("bf16", "shards"), ("fp32", "one file")]
SHARDS = 5  # files of a sharded checkpoint


def make_checkpoint(folder: Path, dtype: torch.dtype, size: int, shard: int | None) -> None:
    """About `size` bytes of a LLaMA-shaped model by transformers' own class, at least one layer."""
    import transformers

    dim = 2048 if size >= 500_000_000 else 256
    layer = 2 * dim * dim + 2 * dim * dim // 8 + 3 * dim * (dim * 11 // 4)
    layers = max(1, (size // dtype.itemsize - 2 * 32_000 * dim) // layer)
    config = transformers.LlamaConfig(
        vocab_size=32_000, hidden_size=dim, intermediate_size=dim * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=dim // 64, num_key_value_heads=dim // 512 or 1, dtype=str(dtype).removeprefix("torch."),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard or 2 * size)


def look_at(tensors: Any) -> None:
    """Every page of every tensor, so that a mapped file is read in truth."""
    for tensor in tensors:
        torch.aminmax(tensor)


def task(name: str, source: Path, out: Path, dtype: torch.dtype, shard: int | None) -> Callable[[], Any]:
    """The work that is timed; what it needs in memory beforehand is made here."""
    if name == "read, safetensors":
        from safetensors.torch import load_file

        def read_file() -> Any:
            state = {
                key: tensor for file in sorted(source.glob("*.safetensors")) for key, tensor in load_file(file).items()
            }
            look_at(state.values())
            return state

        return read_file
    if name.endswith("transformers"):
        import transformers

        if name.startswith("read"):

            def from_pretrained() -> Any:
                model = transformers.LlamaForCausalLM.from_pretrained(source, dtype=dtype)
                look_at(model.parameters())
                return model

            return from_pretrained
        theirs = transformers.LlamaForCausalLM.from_pretrained(source, dtype=dtype)
        look_at(theirs.parameters())
        return lambda: theirs.save_pretrained(out, max_shard_size=shard or "100GB")
    if name == "write, safetensors":
        from safetensors.torch import save_file

        from puna.model.formats import load_model

        state = load_model(source, dtype).state_dict()
        out.mkdir()
        return lambda: save_file(state, out / "model.safetensors", {"format": "pt"})
    from puna.model.formats import load_model, open_model, write_huggingface
    from puna.model.weights import Weights

    if name == "read, puna":
        return lambda: load_model(source, dtype)
    if name == "convert, puna":
        return lambda: write_huggingface(open_model(source), out, shard_bytes=shard)
    weights = Weights.of(load_model(source, dtype))
    return lambda: write_huggingface(weights, out, shard_bytes=shard)


def peak() -> int:
    """The most bytes that this process ever held since the mark was last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def run_task(options: argparse.Namespace) -> None:
    """One task in this process; prints what it measured."""
    out = Path(options.out)
    dtype = DTYPES[options.dtype]
    work = task(options.task, Path(options.source), out, dtype, options.shard or None)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
    before, begin = peak(), time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - begin
    for path in out.glob("*") if out.is_dir() else ():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    print(json.dumps({"seconds": seconds, "on_disk": time.perf_counter() - begin, "peak": peak() - before}))
    del kept


def same_tensors(one: Path, other: Path) -> bool:
    """True where two folders hold the same tensors, bit for bit."""
    from safetensors.torch import load_file

    states = [{key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}
              for folder in (one, other)]  # fmt: skip
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def measure(dtype: str, layout: str, options: argparse.Namespace, here: Path) -> dict[str, Any]:
    """All tasks on one checkpoint, in turns."""
    size = options.megabytes * 1_000_000
    shard = size // SHARDS if layout == "shards" else None
    by_theirs, by_ours = here / "theirs", here / "ours"
    make_checkpoint(by_theirs, DTYPES[dtype], size, shard)
    from puna.model.formats import open_model, write_huggingface

    write_huggingface(open_model(by_theirs), by_ours, shard_bytes=shard)
    bytes_ = sum(path.stat().st_size for path in by_theirs.glob("*.safetensors"))
    tasks = {"read, puna": by_theirs, "read its own, puna": by_ours, "read, safetensors": by_theirs,
             "read, transformers": by_theirs, "write, puna": by_theirs, "write, safetensors": by_theirs,
             "write, transformers": by_theirs, "convert, puna": by_theirs}  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in tasks}
    for turn in range(options.rounds):
        for name, source in tasks.items():
            out = here / "out"
            command = [sys.executable, __file__, "--task", name.replace(" its own", ""), "--source", str(source), "--out", str(out),
                       "--dtype", dtype, "--shard", str(shard or 0)]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            if out.is_dir():
                if turn == 0 and not same_tensors(out, by_theirs):
                    raise SystemExit(f"{name} wrote other tensors than it was given")
                subprocess.run(["rm", "-r", str(out)], check=True)
    subprocess.run(["rm", "-r", str(by_theirs), str(by_ours)], check=True)
    rows = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    print(f"\n{dtype}, {layout}: {bytes_ / 1e6:,.0f} MB")
    print(f"{'':22}{'seconds':>9}{'on disk':>9}{'GB/s':>7}{'peak MB':>9}{'peak/size':>11}")
    for name, row in rows.items():
        print(f"{name:22}{row['seconds']:9.2f}{row['on_disk']:9.2f}{bytes_ / row['seconds'] / 1e9:7.2f}"
              f"{row['peak'] / 1e6:9.0f}{row['peak'] / bytes_:11.2f}")  # fmt: skip
    ratios = {
        f"{verb}, {peer} / puna": rows[f"{verb}, {peer}"][key] / rows[f"{verb}, puna"][key]
        for verb, key in (("read", "seconds"), ("write", "on_disk"))
        for peer in ("safetensors", "transformers")
    }
    print("  ".join(f"{name}: {ratio:.2f}" for name, ratio in ratios.items()))
    return {"bytes": bytes_, "rows": rows, "ratios_of_seconds": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of a checkpoint (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="in turns (default: 3)")
    parser.add_argument(
        "--folder", type=Path, help="where the checkpoints are made (default: the system's temporary folder)"
    )
    for name in ("--task", "--source", "--out", "--dtype"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--shard", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        run_task(options)
        return
    record: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count(),
                              "rounds": options.rounds, "cache": "warm", "variants": {}}  # fmt: skip
    for dtype, layout in VARIANTS:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            record["variants"][f"{dtype}, {layout}"] = measure(dtype, layout, options, Path(name))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
