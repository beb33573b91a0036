"""Whether cleaning pays: one shape, one number of tokens, trained on a dirty mix as it is and on what the pipeline makes of it.

    python bench/data_quality.py [--tokens 5e5] [--size 2M] [--seeds 3]

The mix is real (../shared/data/dirty): web pages in ten languages, two Common Crawl pieces, C4 and CC pages; with --books also
encyclopedia articles and twelve novels in two editions each, clean English that a quality filter may well throw out. `raw` reads the pages as a crawler's text dump has them (markup stripped,
nothing taken away); `cleaned` is the same files through every stage, English kept. Good examples for the classifier and the
reference of the perplexity are one half of ../shared/data/train/en_open; the other half, clean text that neither has read, is
what both are judged by: bits per byte, so that each may have its own tokenizer. The interval of the difference is Student's over
seeds. Writes bench/results/data_quality.json.
"""

import argparse
import json
import os
import re
import tarfile
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

import zstandard

from recipe_gain import half_width

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "data_quality.json"
TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
PLAIN = ("c4_demo.jsonl.zst", "cc_en_head-0091.jsonl.zst", "cc_en_head-0174.jsonl.zst")
BOOKS = ("dup_editions_novels.jsonl.zst",)


def unpacked(path: Path) -> bytes:
    """A .zst file's bytes."""
    with open(path, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        return bytes(stream.read())


def write_mix(folder: Path, books: bool) -> tuple[Path, Path, Path, list[str]]:
    """The mix for both arms, the good examples, and the texts to judge by."""
    raw, web = folder / "raw", folder / "web"
    for made in (raw, web):
        made.mkdir()
    (folder / "pages.tar").write_bytes(unpacked(DATA / "dirty/web_html.tar.zst"))
    rows = []
    with tarfile.open(folder / "pages.tar") as pages:
        for member in pages:
            if (file := pages.extractfile(member)) is not None:
                markup = file.read()
                (web / Path(member.name).name).write_bytes(markup)
                text = unescape(TAGS.sub(" ", markup.decode("utf-8", "replace")))
                rows.append("\n".join(line.strip() for line in text.splitlines() if line.strip()))
    articles = unpacked(DATA / "dirty/wiki_demo.txt.zst").decode().split("\n") if books else []
    rows += articles
    if books:
        (web / "wiki.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in articles if text.strip()))
    for name in ("sample-0000.warc.gz", "sample-0001.warc.gz"):
        (web / name).write_bytes((DATA / "dirty" / name).read_bytes())
    for name in (*PLAIN, *BOOKS) if books else PLAIN:
        texts = [json.loads(line)["text"] for line in unpacked(DATA / "dirty" / name).decode().splitlines()]
        rows += texts
        (web / name.removesuffix(".zst")).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (raw / "mix.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows if text.strip()))
    clean = [json.loads(line)["text"] for line in unpacked(DATA / "train/en_open.jsonl.zst").decode().splitlines()]
    good = folder / "good.jsonl"
    good.write_text("".join(json.dumps({"text": text}) + "\n" for text in clean[::2]))
    return raw, web, good, [text[:2000] for text in clean[1::2]][:200]


def off() -> dict[str, Any]:
    """Every stage off."""
    from puna.recipe.corpus import Corpus

    return {
        name: {"apply": "off"}
        for name, field in Corpus.model_fields.items()
        if "apply" in getattr(field.annotation, "model_fields", {})
    }


def arms(raw: Path, web: Path, good: Path) -> dict[str, dict[str, Any]]:
    """`[corpus]` of each arm."""
    pages = [{"path": str(web), "profile": "web"}]
    learned = {"perplexity": {"reference": [str(good)]}, "quality": {"good": [str(good)]}}
    english = {"language": {"keep": ["en"]}}
    return {
        "raw": {"sources": [str(raw)], "deduplicate": False, "min_chars": 1, "max_symbol_share": 1.0, **off()},
        "cleaned": {"sources": pages, **english, **learned},
    }


def bits(run: Path, texts: list[str]) -> float:
    """Bits per byte over all texts."""
    from puna.engine import Engine
    from puna.judge.bits_per_byte import document_bits

    found, _ = document_bits(Engine.load(run), texts)
    return float(sum(found)) / sum(len(text.encode()) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=5e5, help="that each model reads (default: 5e5)")
    parser.add_argument("--size", default="2M", help="as model.size of a recipe (default: 2M)")
    parser.add_argument("--seeds", type=int, default=3, help="models of each arm (default: 3)")
    parser.add_argument("--books", action="store_true", help="encyclopedia and novels in the mix too")
    options = parser.parse_args()
    from puna.build.graph import environment
    from puna.build.make import make
    from puna.build.store import read_manifest
    from puna.recipe.load import parse_recipe

    table: dict[str, Any] = {
        "tokens": int(options.tokens),
        "size": options.size,
        "books": options.books,
        "versions": environment(),
        "arms": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, web, good, texts = write_mix(folder, options.books)
        table["heldout_bytes"] = sum(len(text.encode()) for text in texts)
        scores: dict[str, list[float]] = {}
        for seed in range(1, options.seeds + 1):
            for arm, corpus in arms(raw, web, good).items():
                recipe = parse_recipe({"name": re.sub(r"\W+", "-", arm), "seed": seed, "corpus": corpus, "model": {"size": options.size},
                                       "train": {"tokens": int(options.tokens)}}, where="bench")  # fmt: skip
                made = make(recipe, folder / "runs", until="pretrain")
                done = {row["name"]: made.run / row["folder"] for row in made.stages}
                scores.setdefault(arm, []).append(bits(done["pretrain"], texts))
                packed = read_manifest(done["pack"])["facts"]["tokens"]
                report = json.loads((done["corpus"] / "corpus.json").read_text())
                table["arms"][arm] = {"corpus_tokens": packed, "corpus_bytes": report["bytes"]["train"],
                                      "passes": options.tokens / packed, "removed": report["accounts"]["removed"]}  # fmt: skip
                print(f"{arm:<22} seed {seed}: {scores[arm][-1]:.4f} bits per byte", flush=True)
    print(
        f"\n{options.size}, {options.tokens / 1e6:g} M tokens each; held-out clean text of {table['heldout_bytes'] / 1e3:,.0f} kB\n"
    )
    print(f"{'':<22}{'bits per byte':>14}{'±':>8}{'MB':>7}{'passes':>8}{'minus raw':>11}{'±':>8}")
    for arm, values in scores.items():
        differences = [a - b for a, b in zip(values, scores["raw"], strict=True)]
        row = table["arms"][arm]
        row |= {"bits_per_byte": values, "mean": sum(values) / len(values), "half_width": half_width(values),
                "minus_raw": sum(differences) / len(differences), "minus_raw_half_width": half_width(differences)}  # fmt: skip
        line = f"{arm:<22}{row['mean']:>14.4f}{row['half_width'] or 0:>8.4f}{row['corpus_bytes'] / 1e6:>7.2f}{row['passes']:>8.2f}"
        print(line + ("" if arm == "raw" else f"{row['minus_raw']:>+11.4f}{row['minus_raw_half_width'] or 0:>8.4f}"))
    RESULTS.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
