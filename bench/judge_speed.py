"""Judging, beside lm_eval's own Hugging Face backend on the same models and requests, in one run.

    PYTHONPATH=src python bench/judge_speed.py [--models stories260K 15M 60M] [--tasks arc_challenge ...] [--rounds 3] [--scale 1]

Prints one table and writes bench/results/judge_speed.json. Requests are those of the bundled tasks over ../shared/data/evals. The
peer runs with several batch sizes and its best one counts; the sides take turns; seconds are the median of the rounds. Within the
run both sides' answers are compared: log-likelihoods, and which choice is the likeliest. "cpu" is the same ratio of processor time. The weights of 15M and 60M are random:
speed does not depend on their values, and their answers differ from each other as a trained model's do.
"""

import argparse
import json
import logging
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}

import torch
import transformers
from lm_eval.models import huggingface

from puna.build.convert import convert
from puna.engine import Engine
from puna.judge.asking.local import PunaLM
from puna.judge.tasks.catalog import find_tasks
from puna.judge.tasks.harness import build, quiet
from puna.judge.tasks.reading import read_task
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import save_model
from puna.tokens import Tokenizer, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "judge_speed.json"
SUBJECTS = 3  # of a task with subtasks: as many items of each as `ITEMS` says
ITEMS = {"arc_challenge": 12, "hellaswag": 12, "mmlu": 24, "blimp": 100, "winogrande": 16, "truthfulqa_mc2": 16}
SLOWER = {"stories260K": 1.0, "15M": 1.0, "60M": 0.34}  # so that a round of each model takes about as long
BATCHES = (1, 16, 64)
SHAPES = {
    "15M": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 6,
            "num_key_value_heads": 6, "head_dim": 48, "max_position_embeddings": 4096},
    "60M": {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 12, "num_attention_heads": 10,
            "num_key_value_heads": 5, "head_dim": 64, "max_position_embeddings": 4096},
}  # fmt: skip
VOCAB = 8192
TOLERANCE = 1e-3  # nats


def make_model(name: str, folder: Path, texts: list[str]) -> None:
    """A model as a Hugging Face folder: a real one converted, or a random one with a tokenizer trained on the tasks' text."""
    if name == "stories260K":
        convert(DATA / "weights" / name / f"{name}.bin", folder)
        return
    train_tokenizer(iter(texts), VOCAB, folder)
    tokens = Tokenizer.load(folder)
    config = ModelConfig(
        vocab_size=tokens.vocab_size, eos_token_id=tokens.eos_id, pad_token_id=tokens.pad_id, **SHAPES[name]
    )
    model = Decoder(config)
    model.init_weights(seed=5)
    save_model(model, config, folder)


def requests_of(task: str, items: int) -> list[list[Any]]:
    """lm_eval's requests of a task, a list for each item."""
    found = read_task(find_tasks([task], DATA / "evals")[0], DATA / "evals", items, 1234)
    out: list[list[Any]] = []
    for one in list(build(found).values())[:SUBJECTS]:
        with quiet():
            one.build_all_requests(limit=None, rank=0, world_size=1)
        by_item: dict[int, list[Any]] = {}
        for instance in one.instances:
            by_item.setdefault(instance.doc_id, []).append(instance)
        out += by_item.values()
    return out


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds that `work` takes, seconds of all processors that it uses, and what it gives."""
    begin, used = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - begin, time.process_time() - used, found


def compare(items: list[list[Any]], ours: list[Any], theirs: list[Any]) -> dict[str, Any]:
    """The largest difference in nats, items whose likeliest choice differs, and those of them that are ties within rounding."""
    place, worst, other, ties = 0, 0.0, 0, 0
    for item in items:
        one, two = ours[place : place + len(item)], theirs[place : place + len(item)]
        place += len(item)
        worst = max([worst, *(abs(a[0] - b[0]) for a, b in zip(one, two, strict=True))])
        first, second = (max(range(len(item)), key=lambda choice: side[choice][0]) for side in (one, two))
        if first != second:
            other += 1
            ties += abs(two[first][0] - two[second][0]) < TOLERANCE
    return {"largest_difference_nats": worst, "other_choice": other, "of_them_ties": ties}


def measure(folder: Path, engine: Engine, peer: Any, items: list[list[Any]], rounds: int) -> dict[str, Any]:
    """One model on one task: both sides in turns."""
    requests = [one for item in items for one in item]
    sides: dict[str, Callable[[], Any]] = {"puna": lambda: PunaLM(engine).loglikelihood(requests)}

    def with_batch(size: int) -> Any:
        peer.batch_size_per_gpu = size
        return peer.loglikelihood(requests, disable_tqdm=True)

    sides |= {f"lm_eval, batch {size}": (lambda size=size: with_batch(size)) for size in BATCHES}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in sides.items():
            took, used, answers[name] = timed(work)
            seconds[name].append(took)
            cpu[name].append(used)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min((name for name in medians if name != "puna"), key=lambda name: medians[name])
    ratios = [theirs / ours for theirs, ours in zip(seconds[best], seconds["puna"], strict=True)]
    fresh = PunaLM(engine)
    fresh.loglikelihood(requests)
    return {
        "items": len(items), "requests": len(requests), "seconds": seconds, "cpu_seconds": cpu, "best_peer": best,
        "items_per_second": {name: len(items) / value for name, value in medians.items()},
        "ratio": medians[best] / medians["puna"], "ratio_by_round": ratios,
        "ratio_of_cpu": min(statistics.median(cpu[name]) for name in cpu if name != "puna") / statistics.median(cpu["puna"]),
        "cut_requests": len(fresh.truncated), **compare(items, answers["puna"], answers[best]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["stories260K", *SHAPES], choices=["stories260K", *SHAPES])
    parser.add_argument("--tasks", nargs="+", default=list(ITEMS), choices=list(ITEMS))
    parser.add_argument("--rounds", type=int, default=3, help="in turns (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="items, as a multiple of the default numbers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is absent: the requests are made of the tasks' data")
    for loud in (huggingface.eval_logger, logging.getLogger("lm_eval"), logging.getLogger("transformers")):
        loud.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    rows: list[dict[str, Any]] = []
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'model':12}{'task':16}{'items':>6}{'puna':>10}" + "".join(f"{f'hf {size}':>9}" for size in BATCHES)
          + f"{'ratio':>8}{'cpu':>7}{'cut':>6}{'nats':>10}{'other':>7}{'ties':>6}")  # fmt: skip
    for name in options.models:
        counts = {task: max(1, math.ceil(ITEMS[task] * options.scale * SLOWER[name])) for task in options.tasks}
        wanted = {task: requests_of(task, count) for task, count in counts.items()}
        texts = [" ".join(one.args) for items in wanted.values() for item in items for one in item[:1]]
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / name
            make_model(name, folder, texts)
            engine = Engine.load(folder, "cpu")
            peer = huggingface.HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
            for task, items in wanted.items():
                few = [one for item in items[:2] for one in item]
                PunaLM(engine).loglikelihood(few)  # so that neither side pays for what is made at first use
                peer.loglikelihood(few, disable_tqdm=True)
                row = {"model": name, "parameters": engine.config.parameters, "task": task}
                row |= measure(folder, engine, peer, items, options.rounds)
                rows.append(row)
                rate = row["items_per_second"]
                print(f"{name:12}{task:16}{row['items']:6}{rate['puna']:10.2f}"
                      + "".join(f"{rate[f'lm_eval, batch {size}']:9.2f}" for size in BATCHES)
                      + f"{row['ratio']:8.2f}{row['ratio_of_cpu']:7.2f}{row['cut_requests']:6}{row['largest_difference_nats']:10.1e}"
                      f"{row['other_choice']:7}{row['of_them_ties']:6}", flush=True)  # fmt: skip
    record = {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "rounds": options.rounds, "rows": rows,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
