"""GGUF kinds beside llama.cpp: size, what a kind costs in bits per byte, and how near llama.cpp's logits are to ours.

    python bench/gguf_llamacpp.py [--rows 16]

Models: the two real ones of ../shared/data/weights. Text: drawn from each model itself (its own domain, at temperature 1), half to
measure the inputs' importance on, half to judge on. Needs llama-cpp-python (compiled from its registry source). Writes
bench/results/gguf_llamacpp.json.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puna.model.cache import KVCache
from puna.model.decoder import Decoder
from puna.model.formats import open_model
from puna.model.formats.gguf import open_gguf
from puna.model.formats.gguf_write import write_gguf
from puna.model.importance import input_importance
from puna.tokens.formats import open_tokenizer
from puna.tokens.formats.gguf import gguf_tokenizer_fields

WEIGHTS = Path(__file__).resolve().parents[2] / "shared/data/weights"
RESULTS = Path(__file__).parent / "results" / "gguf_llamacpp.json"
FORMS = (("F32", False), ("F16", False), ("BF16", False), ("Q8_0", False), ("Q4_0", False), ("Q4_0", True))


@torch.no_grad()
def drawn(model: Decoder, begin: int, rows: int, length: int) -> torch.Tensor:
    """Texts of the model's own [rows, length], the same each time."""
    cache, draws = KVCache(model.config, rows, length), torch.Generator().manual_seed(0)
    ids = torch.full((rows, 1), begin)
    while ids.shape[1] < length:
        logits = model.logits(model(ids[:, -1:], cache=cache)[:, -1])
        cache.advance(1)
        ids = torch.cat([ids, torch.multinomial(torch.softmax(logits, -1), 1, generator=draws)], 1)
    return ids


@torch.no_grad()
def log_shares(model: Decoder, ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.log_softmax(model.logits(model(part)).double(), -1) for part in ids.split(4)])


def llama_cpp_logits(path: Path, ids: list[int]) -> np.ndarray:
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=len(ids), n_batch=len(ids), n_threads=1, logits_all=True, verbose=False,
                            type_k=0, type_v=0)  # fmt: skip
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


def one_model(name: str, rows: int, folder: Path) -> list[dict[str, Any]]:
    weights, tokenizer = open_model(WEIGHTS / name / f"{name}.bin"), open_tokenizer(WEIGHTS / name / "tok512.bin")
    model, fields = weights.decoder(), gguf_tokenizer_fields(tokenizer)
    assert tokenizer.bos_id is not None
    ids = drawn(model, tokenizer.bos_id, 2 * rows, min(256, weights.config.max_position_embeddings))
    calibration, judged = ids[:rows], ids[rows:]
    importance = input_importance(model, list(calibration))
    size = sum(len(tokenizer.text_bytes(row[1:].tolist())) for row in judged)
    exact = log_shares(model, judged)

    def bits(shares: torch.Tensor) -> float:
        return float(-shares[:, :-1].gather(2, judged[:, 1:, None]).sum() / math.log(2) / size)

    found = []
    for kind, weighted in FORMS:
        path = folder / "model.gguf"
        start = time.perf_counter()
        report = write_gguf(weights, path, kind=kind, tokenizer=fields, importance=importance if weighted else None)
        seconds = time.perf_counter() - start
        narrow = open_gguf(path).decoder()
        shares, row = log_shares(narrow, judged), judged[0].tolist()
        with torch.no_grad():
            mine = narrow.logits(narrow(judged[:1]))[0].numpy()
        found.append({
            "model": name, "kind": kind + (" with importance" if weighted else ""), "bytes": report["bytes"], "seconds": seconds,
            "bits_per_byte": bits(shares), "change": bits(shares) - bits(exact),
            "kl_nats_per_token": float((exact.exp() * (exact - shares)).sum(-1).mean()),
            "same_choice": float((exact.argmax(-1) == shares.argmax(-1)).double().mean()),
            "llama_cpp_logit_difference": float(np.abs(mine - llama_cpp_logits(path, row)).max()),
            "largest_logit": float(np.abs(mine).max()),
        })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="texts to calibrate on, and as many to judge on")
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = [line for name in ("stories260K", "aidreams260K") for line in one_model(name, rows, Path(folder))]
    print(
        f"{'model':13}{'kind':22}{'bytes':>10}{'bits/byte':>11}{'change':>10}{'KL nats':>10}{'same':>8}{'llama.cpp':>11}"
    )
    for line in table:
        print(f"{line['model']:13}{line['kind']:22}{line['bytes']:>10,}{line['bits_per_byte']:>11.4f}{line['change']:>+10.4f}"
              f"{line['kl_nats_per_token']:>10.5f}{line['same_choice']:>8.2%}{line['llama_cpp_logit_difference']:>11.1e}")  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
