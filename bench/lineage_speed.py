"""Two checkpoints of LLaMA-7B's shapes compared: time a block, peak memory, and what a sampled test still sees.

    python bench/lineage_speed.py [--layers 32] [--folder DIR] [--full-blocks 1] [--noise 0.3]
    python bench/lineage_speed.py --layers 2 --full-blocks 0 --no-whole        # a trial

Prints one table and writes bench/results/lineage_speed.json. The checkpoints are made on the spot, random normal numbers in bf16, sharded:
one, and one that is the first with noise added (`--noise` times its spread). 32 blocks take 27 GB of disk, removed at the end. The comparison
runs in a process of its own; its peak memory is VmHWM. A third, independent one is not written: blocks of the first beside other blocks of the
second are as independent; phi_U's full assignment is timed on a descendant's block, where each unit's nearest decides, and on a stranger's,
where SciPy does.

The power of the sampled tests is measured on blocks of the same shape in memory: the share of noise sizes and draws at which p < 1e-8.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RESULTS = Path(__file__).parent / "results" / "lineage_speed.json"
HIDDEN, FFN, HEADS, VOCAB, SPREAD = 4096, 11008, 32, 32000, 0.02
NOISES, DRAWS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0), 4


def shapes(layer: int) -> dict[str, tuple[int, ...]]:
    p = f"model.layers.{layer}."
    return {
        **{f"{p}self_attn.{kind}_proj.weight": (HIDDEN, HIDDEN) for kind in "qkvo"},
        f"{p}mlp.gate_proj.weight": (FFN, HIDDEN), f"{p}mlp.up_proj.weight": (FFN, HIDDEN), f"{p}mlp.down_proj.weight": (HIDDEN, FFN),
        f"{p}input_layernorm.weight": (HIDDEN,), f"{p}post_attention_layernorm.weight": (HIDDEN,),
    }  # fmt: skip


def write_pair(folder: Path, layers: int, noise: float) -> None:
    """`folder`/first and `folder`/second, a shard a block."""
    ends = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "lm_head.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    shards = [ends, *(shapes(layer) for layer in range(layers))]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "max_position_embeddings": 4096, "tie_word_embeddings": False, "rope_theta": 10000.0,
    }  # fmt: skip
    for name in ("first", "second"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
    where: dict[str, str] = {}
    for number, shard in enumerate(shards):
        file = f"model-{number:05d}.safetensors"
        torch.manual_seed(number)
        first = {
            name: (1 + SPREAD * torch.randn(shape) if len(shape) == 1 else SPREAD * torch.randn(shape))
            for name, shape in shard.items()
        }
        second = {
            name: (tensor + noise * SPREAD * torch.randn_like(tensor)).bfloat16() for name, tensor in first.items()
        }
        save_file({name: tensor.bfloat16() for name, tensor in first.items()}, folder / "first" / file)
        save_file(second, folder / "second" / file)
        where |= dict.fromkeys(shard, file)
    for name in ("first", "second"):
        (folder / name / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def compare(folder: Path, full_blocks: int, whole_too: bool) -> dict[str, Any]:
    """The parts of a comparison one after the other, each timed; for a process of its own."""
    from puna.lineage.opened import Opened
    from puna.lineage.weights import compare as whole
    from puna.lineage.weights.blocks import map_blocks
    from puna.lineage.weights.identity import find_identities, fingerprints
    from puna.lineage.weights.matching import FULL, Effort
    from puna.lineage.weights.places import units_in_place
    from puna.lineage.weights.reading import open_checkpoint
    from puna.lineage.weights.stream import find_stream
    from puna.lineage.weights.units import phi_u
    from puna.lineage.weights.view import View

    first, second = open_checkpoint(folder / "first"), open_checkpoint(folder / "second")
    layers = first.sizes.layers
    ours, theirs = View(second), View(first)
    effort = Effort.for_sizes(HIDDEN, FFN)
    times: dict[str, float] = {}
    found: dict[str, Any] = {}

    def timed(name: str, work: Any, blocks: int) -> Any:
        began = time.monotonic()
        result = work()
        times[name] = (time.monotonic() - began) / blocks
        print(f"  {name}: {times[name]:.2f} s a block", file=sys.stderr, flush=True)
        return result

    timed("fingerprints, both", lambda: (fingerprints(first), fingerprints(second)), layers)
    found["identities"] = len(find_identities(second, first))
    found["stream"] = timed(
        "stream in place", lambda: find_stream(ours, theirs, torch.arange(VOCAB)[:, None].expand(-1, 2)), 1
    ).test.log10_p
    found["in_place"] = timed("hidden units in place (all)", lambda: units_in_place(ours, theirs), layers).log10_p
    beside = [(i, i) for i in range(layers)]
    found["phi_U sampled"] = timed("phi_U, sampled", lambda: phi_u(ours, theirs, beside, effort), layers).log10_p
    if full_blocks:
        found["phi_U full"] = timed(
            "phi_U, full", lambda: phi_u(ours, theirs, beside[:full_blocks], FULL), full_blocks
        ).log10_p
    if full_blocks and layers > 1:
        found["phi_U full, stranger"] = timed(
            "phi_U, full, a stranger", lambda: phi_u(ours, theirs, [(0, 1)], FULL), 1
        ).log10_p
    blocks = timed("block map, sampled, all pairs", lambda: map_blocks(ours, theirs, effort), layers)
    found["block map right"] = list(blocks.sources) == list(range(layers))
    found["block map's pairs"] = layers**2
    if whole_too:
        pair = Opened("second", second), [Opened("first", first)]
        verdict = timed("whole comparison, prints known", lambda: whole.compare_weights(*pair), layers)[0]
        found |= {"verdict": verdict.verdict, "relation": verdict.relation}
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {
        "seconds_a_block": times,
        "found": found,
        "peak_bytes": int(peak[1]) * 1024 if peak else None,
        "layers": layers,
    }


def power() -> list[dict[str, Any]]:
    """Sampled and full forms of the tests on one block of the real shape, by noise."""
    from puna.lineage.weights.blocks import agreement
    from puna.lineage.weights.matching import Effort, nearest_rows
    from puna.lineage.weights.places import in_place
    from puna.lineage.weights.statistics import spearman

    effort, rows = Effort.for_sizes(HIDDEN, FFN), []
    columns = torch.randperm(HIDDEN)[: effort.columns]
    for noise in NOISES:
        hits = {"phi_U sampled": 0, "phi_MATCH sampled": 0, "in place, a third of the columns": 0}
        for draw in range(DRAWS):
            torch.manual_seed(draw)
            gate, up = torch.randn(FFN, len(columns)), torch.randn(FFN, len(columns))
            gate_after, up_after = (part + noise * torch.randn_like(part) for part in (gate, up))
            some = torch.randperm(FFN)[: effort.units].sort().values
            hits["phi_U sampled"] += spearman(nearest_rows(up_after[some], up))[1] < -8
            third = len(columns) // 3  # as the block map takes for each of gate, up and down
            order = torch.randperm(FFN)
            units = gate_after[order, :third], up_after[order, :third]
            hits["phi_MATCH sampled"] += agreement(*units, gate[:, :third], up[:, :third], effort) < -8
            hits["in place, a third of the columns"] += in_place(up_after[:, :third], up[:, :third]).log10_p < -8
        rows.append({"noise": noise, **{name: count / DRAWS for name, count in hits.items()}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument(
        "--full-blocks", type=int, default=1, help="blocks for phi_U's full assignment, a minute each (default: 1)"
    )
    parser.add_argument("--no-whole", action="store_true", help="leave out the whole comparison")
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--folder", type=Path, default=None, help="where the checkpoints are made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--compare", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compare:
        print(json.dumps(compare(args.compare, args.full_blocks, not args.no_whole)))
        return
    folder = Path(tempfile.mkdtemp(dir=args.folder, prefix="lineage_speed-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a killed bench does not leave 27 GB
    try:
        began = time.monotonic()
        write_pair(folder, args.layers, args.noise)
        print(f"written in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--compare", str(folder), "--full-blocks", str(args.full_blocks)]
        command += ["--no-whole"] * args.no_whole
        made = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
    finally:
        shutil.rmtree(folder)
    made |= {"power": power(), "noise": args.noise, "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
             "cores": os.cpu_count()}  # fmt: skip
    print(f"{'part':<34}{'seconds a block':>18}")
    for name, seconds in made["seconds_a_block"].items():
        print(f"{name:<34}{seconds:>18.2f}")
    print(f"peak memory {made['peak_bytes'] / 1e9:.2f} GB")
    print(f"found: {made['found']}")
    print(f"\n{'noise':>6}" + "".join(f"{name:>36}" for name in list(made["power"][0])[1:]))
    for row in made["power"]:
        print(f"{row['noise']:>6}" + "".join(f"{row[name]:>36.2f}" for name in list(row)[1:]))
    args.out.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
