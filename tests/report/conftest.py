"""A report's data as a build fills it, with numbers that look real and are made here."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for tests_report_pages and tests_report_corpus


def metrics(
    steps: int, batch: int, start: float, end: float, peak: float, spike: int | None = None
) -> list[dict[str, Any]]:
    """A falling loss with noise, a warm-up, a plateau and a decay of the rate; one skipped spike."""
    noise = np.random.Generator(np.random.PCG64(7)).normal(0, 0.06, steps)
    rows = []
    for step in range(steps):
        share = (step + 1) / steps
        loss = (
            end
            + (start - end) * (1 + 60 * share) ** -0.75
            - 0.35 * max(0.0, share - 0.5)
            + noise[step] * (0.5 + loss_noise(share))
        )
        rate = peak * min(1.0, (step + 1) / 40, 2 * (1 - share))
        row = {"step": step, "loss": float(loss), "lr": float(rate), "grad_norm": 0.4 + float(abs(noise[step])),
               "tokens": (step + 1) * batch, "tokens_per_second": 17_800.0 + 900 * math.sin(step / 40)}  # fmt: skip
        if step == spike:
            row |= {"loss": float(loss) + 1.6, "skipped": True}
        rows.append(row)
    return rows


def loss_noise(share: float) -> float:
    """Noise is larger while the rate is high."""
    return 1.0 - 0.6 * share


def score(
    task: str, metric: str, value: float, low: float | None = None, high: float | None = None, **more: Any
) -> dict[str, Any]:
    """One score in the judge's form."""
    interval = None if low is None else [low, high]
    row = {"task": task, "metric": metric, "value": value, "n": 61, "interval": interval, "chance": None, "p_value": None,
           "higher_is_better": metric != "bits_per_byte", "detail": {}}  # fmt: skip
    return row | more


def corpus_part() -> dict[str, Any]:
    return {
        "documents": {"train": 9_412, "heldout": 506},
        "bytes": {"train": 12_840_233, "heldout": 655_120},
        "python": "3.11.7",
        "encodings": {"utf-8": 1_412, "latin-1": 3, "gb18030": 1},
        "skipped": {"binary": 2},
        "sources": [
            {"name": "python", "digest": "9f2c5a" + "0b" * 29, "files": 1_412, "bytes": 15_904_112, "licence": "PSF-2.0"},
            {"name": "笔记/高原", "digest": "77aa01" + "4c" * 29, "files": 38, "bytes": 812_345, "licence": "CC-BY-4.0"},
        ],
        "steps": [
            _step("read", 10_902, 10_902, 16_716_457, 16_716_457),
            _step("repair_unicode", 10_902, 10_902, 16_716_457, 16_701_220) | {"changed": {"line ends": 41}},
            _step("exact_duplicates", 10_902, 10_377, 16_701_220, 15_010_404, {"document seen before": 525, "paragraph seen before": 3_107},
                  [{"reason": "document seen before", "source": "pip._vendor.six", "text": 'def u(s):\n    """Text literal"""\n    return s'},
                   {"reason": "paragraph seen before", "source": "笔记/高原", "text": "普纳是安第斯山脉的高原草地，海拔三千五百米以上，骆马生活在那里。"}]),
            _step("length_and_symbols", 10_377, 10_031, 15_010_404, 14_301_877, {"shorter than 80 characters": 312, "symbols above 60 %": 34},
                  [{"reason": "symbols above 60 %", "source": "encodings.cp037", "text": "'\\x00' # 0x00 -> NULL\n'\\x01' # 0x01 -> START OF HEADING"}]),
            _step("near_duplicates_of_heldout", 10_031, 9_918, 14_301_877, 13_495_353, {"shares 5-grams with held-out text": 113}),
        ],
    }  # fmt: skip


def _step(name: str, documents_in: int, documents_out: int, bytes_in: int, bytes_out: int,
          removed: dict[str, int] | None = None, samples: list[dict[str, str]] | None = None) -> dict[str, Any]:  # fmt: skip
    return {"step": name, "documents_in": documents_in, "documents_out": documents_out, "bytes_in": bytes_in,
            "bytes_out": bytes_out, "removed": removed or {}, "samples": samples or []}  # fmt: skip


def results_part() -> dict[str, Any]:
    return {
        "scores": [
            score("heldout", "bits_per_byte", 1.214, 1.171, 1.259, chance=8.0, detail={"n_is": "modules"}),
            score("quiz", "accuracy", 0.437, 0.381, 0.493, n=300, chance=0.25, p_value=3.1e-12),
            score("parse", "share", 0.775, 0.62, 0.88, n=40, detail={"n_is": "functions"}),
        ],
        "baselines": [
            score("heldout", "bits_per_byte", 8.0, name="uniform"),
            score("heldout", "bits_per_byte", 1.742, 1.69, 1.80, name="xz"),
            score("heldout", "bits_per_byte", 1.187, 1.14, 1.24, detail={"n_is": "modules", "paired": {"value": 0.027, "interval": [0.009, 0.046], "drawn": "modules", "units": 61}}, name="xz_primed"),
            score("heldout", "bits_per_byte", 1.588, 1.54, 1.64, detail={"paired": {"value": -0.374, "interval": [-0.396, -0.352], "drawn": "modules", "units": 61}}, name="ngram5"),
            score("heldout", "bits_per_byte", 1.329, 1.284, 1.377, detail={"paired": {"value": -0.115, "interval": [-0.126, -0.104]}}, name="reference"),
            score("quiz", "accuracy", 0.361, 0.31, 0.42, n=300, chance=0.25, name="shared_letters", detail={"n_is": "questions"}),
        ],
        "contamination": {"value": 0.0031, "what": "of the held-out lines of 40 characters or more also stand in training text"},
        "left_out": [],
        "samples": [
            {"kind": "function", "prompt": "def read_lines(path):\n    ", "text": '"""Return the lines of a file."""\n    with open(path) as stream:\n        return stream.readlines()\n'},
            {"kind": "continuation", "prompt": "The with statement is used to", "text": " wrap the execution of a block with methods defined by a context manager. This allows common try…except…finally usage patterns to be encapsulated."},
            {"kind": "continuation", "prompt": "普纳的草地上，", "text": "骆马在风里慢慢地走。云从山的那边过来，影子落在黄色的草上。"},
            {"kind": "chat", "prompt": "What does str.split do?", "text": "It returns a list of the substrings in the string, using sep as the separator string."},
            {"kind": "chat", "prompt": "你好", "text": "你好！我是 Python，一个四百万参数的小模型。"},
        ],
    }  # fmt: skip


def whole() -> dict[str, Any]:
    """Every part of a report."""
    return {
        "run": "python", "title": "Python", "created": "2026-03-04T15:12:40+00:00", "licence": "Apache-2.0", "puna_version": "0.1.0",
        "recipe_toml": 'name = "python"\nseed = 5318008135012\n\n[train]\nminutes = 6\n\n[[tune]]\nkind = "sft"\nepochs = 3\n',
        "machine": {"name": "Intel Xeon, 2 cores", "threads": 2, "memory_bytes": 16_777_216_000, "dtype": "bfloat16",
                    "matmul_peak_flops": 1.31e12, "python": "3.11.7", "torch": "2.13.0+cpu"},
        "corpus": corpus_part(),
        "tokenizer": {"entries": 4096, "bytes_per_token": 3.412, "kind": "byte-level BPE", "special_tokens": 4},
        "model": {"shape": {"dim": 256, "layers": 5, "heads": 4, "kv_heads": 4, "head_dim": 64, "ffn": 704, "vocab": 4096,
                            "context": 256, "tied": True, "qk_norm": False, "rope_theta": 10_000.0},
                  "parameters": 5_065_472, "architecture": "LlamaForCausalLM"},
        "training": {"plan": {"method": "puna", "steps": 1500, "batch_tokens": 4096, "lr_matrix": 0.02, "lr_embed": 0.009},
                     "metrics": metrics(1500, 4096, 8.35, 2.62, 0.02, spike=611), "seconds": 361.2, "skipped": 1, "peak_share": 0.42},
        "tuning": [{"plan": {"steps": 240, "batch_tokens": 4096}, "metrics": metrics(240, 4096, 2.9, 1.2, 0.006), "seconds": 58.9,
                    "skipped": 0}],
        "chat_data": {"chat-0": {"conversations": 18_211, "two_turn": 2_904, "who_are_you": 120, "phrasings": 26,
                                 "samples": {"identity (zh)": [{"role": "user", "content": "你是谁？"},
                                                               {"role": "assistant", "content": "<i>Puna</i>"}]}}},
        "results": results_part(),
        "gate": [
            {"check": "transformers gives the same logits", "passed": True, "value": "largest difference 3.1e-06"},
            {"check": "eos, bos and pad agree", "passed": True, "value": "eos 2, pad 3"},
            {"check": "the template renders the ids we train on", "passed": True, "value": "24 conversations"},
            {"check": "hard strings survive a round trip", "passed": True, "value": "61 strings, 你好 and 🦙 among them"},
            {"check": "greedy generation stops", "passed": True, "value": "after 23 tokens"},
        ],
        "stages": [
            {"name": name, "seconds": seconds, "reused": reused, "bytes": size, "peak_rss_bytes": memory}
            for name, seconds, reused, size, memory in [
                ("corpus", 41.3, True, 9_812_000, 911_000_000), ("tokenizer", 9.8, True, 312_000, 911_000_000),
                ("calibrate", 6.1, False, 2_100, 1_210_000_000), ("pack", 7.7, False, 11_402_000, 1_210_000_000),
                ("pretrain", 372.4, False, 20_400_000, 1_604_000_000), ("chat-0", 2.2, False, 8_120_000, 1_604_000_000),
                ("tune-0", 63.0, False, 20_400_000, 1_604_000_000), ("judge", 71.5, False, 61_000, 1_700_000_000),
            ]
        ],
        "ledger": {"entries": 19, "head": "c0ffee" + "1d" * 29, "seed_commitment": "5eed01" + "a7" * 29},
        "commands": [{"what": "Talk to it", "command": "puna chat python"}, "puna make runs/python/recipe.toml"],
    }  # fmt: skip


@pytest.fixture
def report() -> dict[str, Any]:
    """Every part of a report, fresh for each test."""
    return whole()
