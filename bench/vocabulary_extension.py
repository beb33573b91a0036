"""Whether a larger vocabulary pays: one base, the same bytes of Chinese, with and without new entries.

    python bench/vocabulary_extension.py [--bytes 1e6] [--seeds 3] [--entries 1500] [--base MODEL]
    python bench/vocabulary_extension.py --quick

The base is stories260K, which has read nothing but English children's stories, or any model that Puna opens. Its vocabulary is
extended on the training text (../shared/data/train: zh_modern, zh_laws); both models start from the base's weights and read every
document of that text once, by the same recipe: batch and steps follow from the tokens by its rule, so the extended model takes
fewer, cheaper steps. A row holds as many tokens for both, so the extended model also sees more text at once; that is part of what
a vocabulary gives. The score is bits per byte of documents that neither training nor vocabulary has seen. The seeds differ in the order of
the text. Two intervals: over documents (paired bootstrap of the means over seeds) and over seeds (Student).
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard

from recipe_gain import half_width

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "vocabulary_extension.json"
HELD_OUT = 20  # every so many documents one is only judged by
HELD_OUT_CHARS = 800
DRAWS = 2000


def documents(name: str) -> list[str]:
    """The texts of a shared file."""
    with (
        open(DATA / "train" / f"{name}.jsonl.zst", "rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
    ):
        return [json.loads(line)["text"] for line in stream.read().decode().splitlines()]


def split(limit: int) -> tuple[list[str], list[str]]:
    """Training documents of about `limit` bytes, drawn once, and the beginnings of held-out ones."""
    texts = [text for name in ("zh_modern", "zh_laws") for text in documents(name) if len(text) > 200]
    held = [text[:HELD_OUT_CHARS] for text in texts[::HELD_OUT]]
    rest = [text for number, text in enumerate(texts) if number % HELD_OUT]
    chosen, size = [], 0
    for number in np.random.default_rng(0).permutation(len(rest)):
        if size >= limit:
            break
        chosen.append(rest[number][:20_000])
        size += len(chosen[-1].encode())
    return chosen, held


@torch.no_grad()
def old_logits(base: Any, extended: Any, before: Any, after: Any, texts: list[str]) -> dict[str, Any]:
    """Texts without new entries, read by both models: how many logits differ by a bit."""
    old, new = base.decoder().eval(), extended.decoder().eval()
    found = {"texts": 0, "positions": 0, "logits": 0, "differ": 0}
    for text in texts:
        ids = after.encode(text)[: base.config.max_position_embeddings]
        if not ids or max(ids) >= before.vocab_size:
            continue
        if ids != before.encode(text)[: len(ids)]:
            raise RuntimeError("old text, other ids")
        rows = torch.tensor([ids])
        one, other = old.logits(old(rows)), new.logits(new(rows))[..., : base.config.vocab_size]
        found["texts"] += 1
        found["positions"] += len(ids)
        found["logits"] += one.numel()
        found["differ"] += int((one != other).sum())
    return found


class Arm:
    """One vocabulary: its model folder, its packed text, its plan."""

    def __init__(self, name: str, weights: Any, tokenizer: Any, texts: list[str], folder: Path, share: float) -> None:
        from puna.model.formats import write_huggingface
        from puna.recipe.scaling import Shape, plan_pretraining
        from puna.recipe.schema import Train
        from puna.tokens.pack import pack_documents
        from puna.tokens.stream import encode_documents, padding_id

        self.name, self.tokenizer, self.config, self.folder = name, tokenizer, weights.config, folder
        self.init = folder / "base"
        write_huggingface(weights, self.init)
        config = weights.config
        context = min(512, config.max_position_embeddings)
        shape = Shape(dim=config.hidden_size, layers=config.num_hidden_layers, heads=config.num_attention_heads,
                      kv_heads=config.num_key_value_heads, head_dim=config.head_dim, ffn=config.intermediate_size,
                      vocab=config.vocab_size, context=context, tied=config.tie_word_embeddings, qk_norm=config.qk_norm,
                      rope_theta=config.rope_theta)  # fmt: skip
        packed = pack_documents(encode_documents(tokenizer, texts), context, folder / "pack", vocab_size=config.vocab_size,
                                pad_id=padding_id(tokenizer))  # fmt: skip
        self.tokens = packed["tokens"]
        train = Train(tokens=self.tokens, compile="off", threads=1, checkpoint_seconds=3600)
        self.plan = plan_pretraining(train, shape, packed["rows"] * context, share)

    def trained(self, seed: int) -> tuple[Any, float]:
        """The model after one pass, and the seconds that it took."""
        from puna.model.device import pick_device
        from puna.tokens.loader import Batches
        from puna.train.loop import train

        batches = Batches(self.folder / "pack", self.plan.rows, seed)
        done = train(self.plan, self.config, batches, self.folder / f"seed-{seed}", seed=seed, device=pick_device(),
                     init=self.init)  # fmt: skip
        return done.model, done.seconds

    def bits(self, model: Any, texts: list[str]) -> Any:
        """Bits of each held-out document."""
        from puna.engine import Engine
        from puna.judge.bits_per_byte import document_bits

        found, _ = document_bits(Engine(model, self.tokenizer, self.config), texts)
        return found


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything, into one table."""
    from puna.build.graph import environment
    from puna.judge.compare import paired
    from puna.model.formats import open_model
    from puna.model.surgery.vocabulary import extend_rows
    from puna.tokens import Tokenizer
    from puna.tokens.extend import extend_tokenizer
    from puna.tokens.formats import open_tokenizer

    texts, held = split(int(options.bytes))
    sizes = np.array([len(text.encode()) for text in held], np.float64)
    base, before = open_model(options.base), open_tokenizer(options.base)
    began = time.monotonic()
    report = extend_tokenizer(before, texts, options.entries, folder / "tokenizer")
    seconds = time.monotonic() - began
    after = Tokenizer.load(folder / "tokenizer")
    rows = max(base.config.vocab_size, -(-after.vocab_size // 16) * 16)
    extended = extend_rows(base, report["pieces"], rows, first=before.vocab_size)
    english = [text[:1500] for text in documents("en_open")[::10]]
    tokens = [(len(before.encode(text)), [i for i in after.encode(text) if i < before.vocab_size]) for text in english]
    heldout = {name: sum(map(len, tok.encode_batch(held))) for name, tok in (("before", before), ("after", after))}
    table: dict[str, Any] = {
        "base": Path(options.base).name, "train_bytes": sum(len(text.encode()) for text in texts), "heldout_documents": len(held),
        "heldout_bytes": int(sizes.sum()), "entries": report["entries"], "extension_seconds": seconds,
        "bytes_per_token": {name: float(sizes.sum()) / count for name, count in heldout.items()},
        "languages": report["languages"], "english_tokens_kept": sum(len(kept) for _, kept in tokens) / sum(n for n, _ in tokens),
        "old_logits": old_logits(base, extended, before, after, english), "lr_share": options.lr_share, "versions": environment(),
        "arms": {},
    }  # fmt: skip
    arms = []
    for name, weights, tokenizer in (("unextended", base, before), ("extended", extended, after)):
        (folder / name).mkdir()
        arms.append(Arm(name, weights, tokenizer, texts, folder / name, options.lr_share))
    bits: dict[str, list[Any]] = {}
    for arm in arms:
        start = arm.bits((base if arm.name == "unextended" else extended).decoder(), held).sum() / sizes.sum()
        table["arms"][arm.name] = {"tokens": arm.tokens, "steps": arm.plan.steps, "batch_tokens": arm.plan.rows * arm.plan.context,
                                   "parameters": arm.config.parameters, "start": float(start), "seconds": [], "bits_per_byte": []}  # fmt: skip
    for seed in range(1, options.seeds + 1):
        for arm in arms:
            model, took = arm.trained(seed)
            found = arm.bits(model, held)
            bits.setdefault(arm.name, []).append(found)
            row = table["arms"][arm.name]
            row["seconds"].append(took)
            row["bits_per_byte"].append(float(found.sum() / sizes.sum()))
            print(
                f"{arm.name:<12} seed {seed}: {row['bits_per_byte'][-1]:.4f} bits per byte after {took:.0f} s",
                flush=True,
            )
    gaps = np.subtract(
        table["arms"]["extended"]["bits_per_byte"], table["arms"]["unextended"]["bits_per_byte"]
    ).tolist()
    table["extended_minus_unextended"] = {
        "over_documents": paired(np.mean(bits["extended"], 0), np.mean(bits["unextended"], 0), sizes, "documents", DRAWS, 0),
        "by_seed": gaps, "mean": float(np.mean(gaps)), "half_width_over_seeds": half_width(gaps),
    }  # fmt: skip
    return table


def print_table(table: dict[str, Any]) -> None:
    """80 columns, black and white."""
    rates, logits, gap = table["bytes_per_token"], table["old_logits"], table["extended_minus_unextended"]
    print(f"\n{table['base']}, {table['entries']:,} new entries from {table['train_bytes'] / 1e6:.1f} MB of Chinese in "
          f"{table['extension_seconds']:.0f} s")  # fmt: skip
    print(
        f"bytes per token of held-out Chinese: {rates['before']:.2f} -> {rates['after']:.2f} ({rates['after'] / rates['before']:.2f}x)"
    )
    print(f"English: {table['english_tokens_kept']:.1%} of the tokens as before; {logits['differ']} of {logits['logits']:,} old logits "
          f"differ by a bit ({logits['texts']} texts)\n")  # fmt: skip
    print(f"{'':<12}{'params':>9}{'k tokens':>10}{'steps':>7}{'s':>6}{'start':>8}{'bits/byte':>11}{'±':>8}")
    for name, row in table["arms"].items():
        scores = row["bits_per_byte"]
        print(f"{name:<12}{row['parameters']:>9,}{row['tokens'] / 1e3:>10,.0f}{row['steps']:>7}{np.mean(row['seconds']):>6.0f}"
              f"{row['start']:>8.3f}{np.mean(scores):>11.4f}{half_width(scores) or float('nan'):>8.4f}")  # fmt: skip
    interval = gap["over_documents"]["interval"]
    print(f"\nextended minus unextended: {gap['mean']:+.4f} bits per byte; 95 % over {gap['over_documents']['units']} documents "
          f"{interval[0]:+.4f} to {interval[1]:+.4f}, over seeds ± {gap['half_width_over_seeds'] or float('nan'):.4f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", type=Path, default=DATA / "weights/stories260K/stories260K.bin", help="a model to extend"
    )
    parser.add_argument("--bytes", type=float, default=1e6, help="of Chinese that each model reads (default: 1e6)")
    parser.add_argument("--seeds", type=int, default=3, help="models of each arm (default: 3)")
    parser.add_argument("--entries", type=int, default=1500, help="new entries of the vocabulary (default: 1500)")
    parser.add_argument(
        "--lr-share", type=float, default=1.0, help="peak rates as a share of pretraining's (default: 1)"
    )
    parser.add_argument("--quick", action="store_true", help="one seed, 0.5 MB; the result is printed and not kept")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose on two, and many times over beside other work
    if options.quick:
        options.bytes, options.seeds = min(options.bytes, 5e5), 1
    with tempfile.TemporaryDirectory() as name:
        table = measure(options, Path(name))
    print_table(table)
    if not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
