"""Training speed beside transformers: tokens/s, same shape, batch, text and threads, rounds interleaved in one run.

    python bench/train_speed.py                        # 5M, 15M, 60M on a CPU; 124M, 1B on a GPU
    python bench/train_speed.py --sizes 5M --seconds 5

Each contender is a process of its own, so that the allocator settings of ours do not help the peer. Only one works at a
time; on a GPU only one is loaded at a time, as its memory holds no two. The peer is `LlamaForCausalLM` with
`torch.optim.AdamW` (compiled: in its fused form, as `transformers.Trainer` takes it) and gradient clipping.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"})
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"

#             dim  layers heads kv   ffn  vocab context rows tied
SHAPES = {
    "5M": (256, 5, 4, 4, 704, 4096, 256, 32, True),
    "15M": (288, 6, 6, 6, 768, 32000, 256, 16, True),
    "60M": (640, 11, 10, 5, 1728, 16384, 512, 16, True),
    "124M": (768, 12, 12, 12, 2048, 50304, 1024, 32, True),
    "1B": (2048, 16, 32, 8, 8192, 32768, 2048, 8, False),
}
CONTENDERS = {
    "transformers fp32": {"who": "peer", "bf16": False, "compiled": False},
    "transformers fp32 compiled": {"who": "peer", "bf16": False, "compiled": True},
    "transformers bf16 compiled": {"who": "peer", "bf16": True, "compiled": True},
    "puna": {"who": "puna"},
}
DEFAULT = "transformers fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", help="comma-separated, of " + ", ".join(SHAPES))
    parser.add_argument("--seconds", type=float, default=4.0, help="for each contender in each round")
    parser.add_argument("--rounds", type=int, default=8, help="in turns (default: 8)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each contender (default: all)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(**json.loads(options.worker))
        return
    import torch

    cuda = torch.cuda.is_available()
    torch.set_num_threads(options.threads)
    sizes = (options.sizes or ("124M,1B" if cuda else "5M,15M,60M")).split(",")
    if unknown := [size for size in sizes if size not in SHAPES]:
        parser.error(f"unknown size {unknown[0]}: choose from {', '.join(SHAPES)}")
    machine = hardware(options.threads)
    results = [measure(size, options, machine) for size in sizes]
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"train_speed-{'gpu' if cuda else 'cpu'}.json"
    out.write_text(json.dumps({"hardware": machine, "sizes": results}, indent=2) + "\n")
    print_table(machine, results)
    print(f"written: bench/results/{out.name}")


def hardware(threads: int) -> dict[str, Any]:
    """What this runs on, named by itself, and its matmul peaks in FLOP/s."""
    import torch

    from puna.model.device import matmul_peak, pick_device

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    flags: set[str] = set()
    with contextlib.suppress(OSError):  # not Linux: nothing known about the units
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                flags = set(line.split(":", 1)[1].split())
                break
    device = pick_device("auto")
    return {
        "device": device.name, "precision_of_puna": str(device.dtype).removeprefix("torch."), "why": device.reason,
        "units": sorted(flags & {"amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx512_vnni"}), "threads": threads,
        "torch": torch.__version__, "python": platform.python_version(), "load_before": round(os.getloadavg()[0], 2),
        "peaks": {"float32": matmul_peak(torch.float32, kind), "bfloat16": matmul_peak(torch.bfloat16, kind)},
    }  # fmt: skip


def measure(size: str, options: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """Start every contender, warm it up, then let each work in turn, round after round; on a GPU one after the other."""
    import torch

    tokens, text = token_file(size)
    workers: dict[str, subprocess.Popen[str]] = {}
    ready: dict[str, dict[str, Any]] = {}
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    updates: list[float] = []

    def turn(name: str) -> None:
        print(json.dumps({"seconds": options.seconds}), file=workers[name].stdin, flush=True)
        told = answer(workers[name], name)
        speeds[name].append(told["speed"])
        if name == "puna":
            updates.append(told["update_share"])

    try:
        for name in CONTENDERS:
            workers[name] = start(name, size, tokens, options.threads)
            ready[name] = answer(workers[name], name)
            print(f"{size} {name}: ready, first step {ready[name]['first_step_seconds']:.0f} s", file=sys.stderr)
            if torch.cuda.is_available():
                for _ in range(options.rounds):
                    turn(name)
                stop(workers.pop(name))
        for number in range(options.rounds if workers else 0):
            for name in workers:
                turn(name)
            now = ", ".join(f"{name} {median(values):,.0f}" for name, values in speeds.items())
            print(f"{size} round {number + 1}/{options.rounds}: {now}", file=sys.stderr)
    finally:
        for worker in workers.values():
            stop(worker)
    return summary(size, speeds, updates, ready, text, machine)


def start(name: str, size: str, tokens: Path, threads: int) -> subprocess.Popen[str]:
    """A contender's process; it answers once it has done its first steps."""
    call = {"size": size, "tokens": str(tokens), "threads": threads, **CONTENDERS[name]}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", json.dumps(call)], text=True, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def stop(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.wait()


def answer(worker: subprocess.Popen[str], name: str) -> dict[str, Any]:
    line = worker.stdout.readline() if worker.stdout else ""
    if not line:
        raise SystemExit(f"{name} ended without an answer (its error is above)")
    return json.loads(line)  # type: ignore[no-any-return]


def summary(
    size: str,
    speeds: dict[str, list[float]],
    updates: list[float],
    ready: dict[str, Any],
    text: str,
    machine: dict[str, Any],
) -> dict[str, Any]:
    middle = {name: median(values) for name, values in speeds.items()}
    best_peer = max((name for name in middle if name != "puna"), key=middle.__getitem__)
    flops = middle["puna"] * ready["puna"]["flops_per_token"]
    return {
        "size": size, "parameters": ready["puna"]["parameters"], "text": text, "tokens_per_second": middle,
        "all_rounds": speeds, "first_step_seconds": {name: value["first_step_seconds"] for name, value in ready.items()},
        "batch_tokens": SHAPES[size][6] * SHAPES[size][7], "puna": {k: ready["puna"][k] for k in ("precision", "compiled")},
        "best_peer": best_peer, "ratio_to_default": paired_ratio(speeds, DEFAULT),
        "ratio_to_best": paired_ratio(speeds, best_peer),
        "share_of_peak": flops / machine["peaks"][machine["precision_of_puna"]],
        "share_of_bf16_peak": flops / machine["peaks"]["bfloat16"], "update_share": median(updates),
    }  # fmt: skip


def paired_ratio(speeds: dict[str, list[float]], other: str) -> float:
    """Median of the rounds' own ratios: on a shared machine a round's contenders meet the same neighbours."""
    return median(ours / theirs for ours, theirs in zip(speeds["puna"], speeds[other], strict=True))


def print_table(machine: dict[str, Any], results: list[dict[str, Any]]) -> None:
    peaks = machine["peaks"]
    print(f"\n{machine['device']}; units: {', '.join(machine['units']) or 'unknown'}")
    print(f"matmul peak: fp32 {peaks['float32'] / 1e9:,.0f}, bf16 {peaks['bfloat16'] / 1e9:,.0f} GFLOP/s; "
          f"puna uses {machine['precision_of_puna']}")  # fmt: skip
    heads = ["tokens/s", *(result["size"] for result in results)]
    lines = [[name, *(f"{r['tokens_per_second'][name]:,.0f}" for r in results)] for name in CONTENDERS]
    lines += [
        ["puna / transformers fp32", *(f"{r['ratio_to_default']:.2f}" for r in results)],
        ["puna / transformers' best", *(f"{r['ratio_to_best']:.2f}" for r in results)],
        [f"puna's share of the {machine['precision_of_puna']} peak", *(f"{r['share_of_peak']:.0%}" for r in results)],
        ["puna's share of the bf16 peak", *(f"{r['share_of_bf16_peak']:.0%}" for r in results)],
        ["optimiser's share of a step (Muon)", *(f"{r['update_share']:.0%}" for r in results)],
    ]
    for number, (name, *cells) in enumerate([heads, *lines]):
        print(f"{name:<38}" + "".join(f"{cell:>14}" for cell in cells))
        if number in (0, len(CONTENDERS)):
            print("-" * (38 + 14 * len(results)))


def token_file(size: str) -> tuple[Path, str]:
    """Ids of the standard library's source, by a tokenizer of our own with the shape's vocabulary; kept between runs."""
    import numpy as np

    from puna.tokens import Tokenizer, train_tokenizer

    vocab = SHAPES[size][5]
    text = f"4 MB of the standard library of Python {platform.python_version()}, byte-level BPE"
    folder = ROOT / ".puna-cache" / f"bench-tokens-{vocab}-{platform.python_version()}"
    if not (folder / "ids.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        texts: list[str] = []
        for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
            if sum(map(len, texts)) < 4_000_000:
                texts.append(path.read_text(encoding="utf-8", errors="replace"))
        train_tokenizer(iter(texts), vocab, folder)
        tokenizer = Tokenizer.load(folder)
        np.save(
            folder / "ids.npy", np.concatenate([np.array(ids, dtype=np.int32) for ids in tokenizer.encode_batch(texts)])
        )
    return folder / "ids.npy", text


# ---------------------------------------------------------------------------------------------------- one contender


def work(size: str, who: str, tokens: str, threads: int, **options: bool) -> None:
    """A contender's process: a line when it is ready, then a line for every line asked."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    context, rows = SHAPES[size][6], SHAPES[size][7]
    ids = torch.from_numpy(np.load(tokens, allow_pickle=False).astype(np.int64))
    step, facts = peer(size, **options) if who == "peer" else puna(size)
    number, wide = 0, rows * (context + 1)

    def one() -> tuple[float, float]:
        nonlocal number
        start = number * wide % (len(ids) - wide)
        number += 1
        return step(ids[start : start + wide].view(rows, context + 1))

    begin = time.perf_counter()
    one()
    facts["first_step_seconds"] = time.perf_counter() - begin
    one()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        seconds = json.loads(line)["seconds"]
        count, updating, begin = 0, 0.0, time.perf_counter()
        while count == 0 or time.perf_counter() - begin < seconds:
            updating += one()[1]
            count += 1
        spent = time.perf_counter() - begin
        print(json.dumps({"speed": count * rows * context / spent, "update_share": updating / spent}), flush=True)


def peer(size: str, bf16: bool, compiled: bool) -> tuple[Any, dict[str, Any]]:
    """transformers' model, torch's AdamW."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    dim, layers, heads, kv, ffn, vocab, context, _, tied = SHAPES[size]
    config = LlamaConfig(vocab_size=vocab, hidden_size=dim, intermediate_size=ffn, num_hidden_layers=layers,
                         num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=context,
                         tie_word_embeddings=tied, use_cache=False)  # fmt: skip
    torch.manual_seed(0)
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlamaForCausalLM(config).to(kind).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=compiled)
    forward = torch.compile(model) if compiled else model

    def step(ids: torch.Tensor) -> tuple[float, float]:
        ids = ids[:, :-1].contiguous().to(kind)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), 0.0

    return step, {"parameters": sum(p.numel() for p in model.parameters())}


def puna(size: str) -> tuple[Any, dict[str, Any]]:
    """Our loop's own step: the precision measured for this machine, compiled, Muon."""
    import torch

    from puna.model.config import ModelConfig
    from puna.model.decoder import Decoder
    from puna.model.device import pick_device, tune_allocator
    from puna.recipe.scaling import Plan
    from puna.tokens.loader import Batch
    from puna.train.choice import choose
    from puna.train.stepper import Stepper, settled

    dim, layers, heads, kv, ffn, vocab, context, rows, tied = SHAPES[size]
    config = ModelConfig(vocab_size=vocab, hidden_size=dim, intermediate_size=ffn, num_hidden_layers=layers,
                         num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim // heads,
                         max_position_embeddings=context, tie_word_embeddings=tied)  # fmt: skip
    plan = Plan(method="puna", steps=100_000, batch_tokens=rows * context, context=context, lr_matrix=0.02, lr_embed=0.005,
                lr_vector=0.002, weight_decay=0.1, momentum=0.95, beta1=0.9, beta2=0.95, eps=1e-8, warmup_steps=10,
                decay_share=0.5, final_share=0.0, clip=1.0, isolate=False, neftune=0.0, precision="auto", compile="on",
                checkpoint_seconds=1e9)  # fmt: skip
    device = pick_device("auto")
    if device.device.type == "cpu":
        tune_allocator()
    choice = choose(plan, config, device)
    settled(device, choice).__enter__()  # for the life of this process
    model = Decoder(config)
    model.init_weights(0)
    stepper = Stepper(model.to(device.device).train(), plan, choice, device, seed=0)
    segments = torch.zeros(rows, context, dtype=torch.int32)
    number = 0

    def step(ids: torch.Tensor) -> tuple[float, float]:
        nonlocal number
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), segments, "bench")
        loss, _ = stepper.gradients(batch, number)
        start = time.perf_counter()
        stepper.update(number)
        device.synchronize()
        number += 1
        return loss, time.perf_counter() - start

    return step, {"parameters": config.parameters, "flops_per_token": config.flops_per_token(context),
                  "precision": choice.precision, "compiled": choice.compile}  # fmt: skip


if __name__ == "__main__":
    main()
