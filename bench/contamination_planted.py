"""A model that has read 300 items of a task and one that has not: what the flags, the split and the likelihoods say of each.

    python bench/contamination_planted.py [--copies 16] [--tokens 800000] [--data ../shared/data]

Two models of about 1 M parameters by the ordinary `puna make`, from the same 3 MB of English text (reviews and speeches). To the
corpus of one, twelve pages with 300 items of ARC-Easy are added, as question and right answer in the form in which the task asks them,
each page read `--copies` times in a pass; the recipe names no evaluation items, so decontamination leaves them. Both releases answer those
300 items and 300 others through the judge's own task; their text is found through their ledgers. Prints a table and writes
bench/results/contamination_planted.json. Ends with an error where an item is flagged wrongly or missed, or where the difference
between dirty and clean items does not show.
"""

import argparse
import io
import json
import os
import random
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import zstandard

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
RESULTS = Path(__file__).parent / "results" / "contamination_planted.json"
PLANTED, PAGES, TEXT_CHARS = 300, 12, 3_000_000
_TAIL = 0.2  # of a page: ordinary text behind its items, as the end of each lone file is held out
_PARAGRAPH = 200  # characters of what counts as one


def read_texts(path: Path, seed: int) -> list[str]:
    """The texts of a .jsonl.zst file, shuffled."""
    with open(path, "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"] for line in lines if line.strip()]
    random.Random(seed).shuffle(texts)
    return texts


def pick(task: Any, seed: int, count: int) -> tuple[list[Any], list[Any]]:
    """Items to plant, and others that share no passage with them; all of them can be looked for."""
    from puna.corpus.evalitems import EvalItem
    from puna.corpus.itemindex import ItemIndex

    docs = list(task.docs)
    random.Random(seed).shuffle(docs)
    index = ItemIndex.build([EvalItem(task.facts.name, doc.id, doc.question, doc.choices[doc.gold[0]]) for doc in docs])
    known = [n for n, lost in enumerate(index.undecidable.tolist()) if not lost]
    planted = known[:count]
    kin = set(index.scan([written(docs[n]) for n in planted]).item.tolist())
    others = [n for n in known[count:] if n not in kin][:count]
    return [docs[n] for n in planted], [docs[n] for n in others]


def written(doc: Any) -> str:
    """An item as a page has it: the task's prompt and the right answer."""
    return f"{doc.query} {doc.choices[doc.gold[0]]}"


def write_sources(folder: Path, texts: list[str], planted: list[Any], chars: int) -> None:
    """text.jsonl, and the pages of planted items."""
    size, rows, rest = 0, list[str](), list(texts)
    while rest and size < chars:
        rows.append(rest.pop())
        size += len(rows[-1])
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    paragraphs = (part for text in rest for part in text.split("\n") if len(part) > _PARAGRAPH)
    each = -(-len(planted) // PAGES)
    for page in range(-(-len(planted) // each)):
        body = "\n\n".join(written(doc) for doc in planted[page * each : (page + 1) * each])
        tail = ""
        while len(tail) < _TAIL * len(body):
            tail += "\n\n" + next(paragraphs)
        (folder / f"page-{page:02}.txt").write_text(f"{body}{tail}\n", encoding="utf-8")


def build(folder: Path, name: str, copies: float, options: argparse.Namespace) -> dict[str, Any]:
    """One model: where its release is, and how often it has read the planted pages."""
    from puna.build.make import make
    from puna.files import read_json
    from puna.recipe.load import parse_recipe

    pages = [{"path": str(path), "weight": copies} for path in sorted(folder.glob("page-*.txt"))] if copies else []
    recipe = parse_recipe({
        "name": name, "seed": options.seed, "corpus": {"sources": [str(folder / "text.jsonl"), *pages]},
        "tokenizer": {"vocab_size": 1024}, "model": {"size": options.size, "context": 128},
        "train": {"tokens": options.tokens, "compile": "off", **({"threads": options.threads} if options.threads else {})},
        "judge": {"compressors": False, "bootstrap": 100, "samples": 0},
    }, where="bench")  # fmt: skip
    made = make(recipe, folder / "runs")
    place = {row["name"]: made.run / row["folder"] for row in made.stages}
    seconds = {row["name"]: row["seconds"] for row in made.stages}
    tokens, in_a_pass = (read_json(place[stage] / "MANIFEST.json")["facts"]["tokens"] for stage in ("pretrain", "pack"))
    return {"release": made.release, "copies": copies, "passes": tokens / in_a_pass, "times_read": copies * tokens / in_a_pass,
            "tokens": tokens, "train_seconds": seconds["pretrain"], "seconds": sum(seconds.values())}  # fmt: skip


def judge(release: Path, task: Any, cache: Path) -> tuple[list[Any], dict[str, Any], Any]:
    """A release's items, marked by its own corpus, the report, and Min-K%++ of each item."""
    from puna.engine import Engine
    from puna.judge.asking.local import PunaLM
    from puna.judge.contamination import exact, likelihood
    from puna.judge.contamination.origin import corpus_of
    from puna.judge.tasks.harness import evaluate

    engine = Engine.load(release, device="cpu")
    items, report = exact.mark(evaluate(PunaLM(engine), task), task.facts, corpus_of(release), cache=cache)
    return items, report, likelihood.scores(engine, [exact.as_asked(item, task.facts) for item in items])


def compare(planted: set[str], judged: dict[str, Any], draws: int) -> dict[str, Any]:
    """The figures of both models."""
    from puna.judge.contamination.difference import clean_and_dirty, difference_in_differences
    from puna.judge.contamination.membership import beside_controls, membership

    (dirty, report, own), (clean, other_report, theirs) = judged["planted"], judged["without"]
    mine = [n for n, item in enumerate(dirty) if item.id in planted]
    rest = [n for n, item in enumerate(dirty) if item.id not in planted]
    flags = {name: {key: told[key] for key in ("items", "clean", "touched", "contaminated", "undecidable", "suspected")}
             for name, told in (("planted", report), ("without", other_report))}  # fmt: skip
    # Of the model without them the planted items are no dirty ones: it is split by what was planted in the other.
    marks = {item.id: item.dirty for item in dirty}
    as_marked = [item.model_copy(update={"dirty": marks[item.id]}) for item in clean]
    return {
        "flags": flags,
        "flagged_of_planted": sum((dirty[n].dirty or 0) >= report["dirty_from"] for n in mine),
        "flagged_of_others": sum((dirty[n].dirty or 0) >= report["dirty_from"] for n in rest),
        "flagged_without": other_report["contaminated"] + other_report["touched"],
        "split": {"planted": asdict(clean_and_dirty(dirty, draws=draws)), "without": asdict(clean_and_dirty(as_marked, draws=draws))},
        "difference_in_differences": asdict(difference_in_differences(dirty, clean, draws=draws)),
        "minkpp": {name: asdict(membership(s.minkpp[mine], s.minkpp[rest])) for name, s in (("planted", own), ("without", theirs))},
        "mink": {name: asdict(membership(s.mink[mine], s.mink[rest])) for name, s in (("planted", own), ("without", theirs))},
        "minkpp_beside_control": asdict(beside_controls(own.minkpp[mine], own.minkpp[rest],
                                                        {"without": (theirs.minkpp[mine], theirs.minkpp[rest])})[0]),
    }  # fmt: skip


def show(models: dict[str, Any], found: dict[str, Any]) -> None:
    """The table."""

    def span(row: dict[str, Any], what: str = "difference") -> str:
        low, high = row["interval"] or (float("nan"), float("nan"))
        return f"{row[what]:+.3f} [{low:+.3f}, {high:+.3f}] p {row['p']:.4f}"

    print(f"\n{'':<34}{'planted':>40}{'without':>40}")
    rows = [("flagged, of the planted items", str(found["flagged_of_planted"]), str(found["flagged_without"])),
            ("flagged, of as many others", str(found["flagged_of_others"]), "0")]  # fmt: skip
    rows += [("times an item was read", *(f"{models[name]['times_read']:.1f}" for name in ("planted", "without")))]
    split, auc = found["split"], found["minkpp"]
    for title, key in (("acc_norm on the planted items", "dirty"), ("acc_norm on the others", "clean")):
        rows.append((title, *(f"{split[name][key]:.3f}" for name in ("planted", "without"))))
    rows.append(("planted - others", *(span(split[name]) for name in ("planted", "without"))))
    rows.append(("Min-K%++: AUC", *(span(auc[name], "auc").replace("+", "") for name in ("planted", "without"))))
    for title, left, right in rows:
        print(f"{title:<34}{left:>40}{right:>40}")
    print(f"difference in differences: {span(found['difference_in_differences'])}")
    print(f"Min-K%++ beside the control: {span(found['minkpp_beside_control'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--copies", type=float, default=16, help="times a planted page is read in a pass (default: 16)")
    parser.add_argument("--tokens", type=int, default=800_000, help="of training, each model (default: 0.8 M)")
    parser.add_argument("--size", default="1M", help="parameters (default: 1M)")
    parser.add_argument("--seed", type=int, default=7, help="of the items and of training (default: 7)")
    parser.add_argument("--threads", type=int, help="of a CPU, for training (default: all)")
    parser.add_argument("--items", type=int, default=PLANTED, help="to plant, and as many others (default: 300)")
    parser.add_argument("--chars", type=int, default=TEXT_CHARS, help="of ordinary text (default: 3 M)")
    parser.add_argument("--draws", type=int, default=10_000, help="of each bootstrap and permutation")
    parser.add_argument("--keep", type=Path, help="leave sources and runs in this folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    from puna.build.graph import environment
    from puna.judge.tasks.catalog import find_tasks
    from puna.judge.tasks.harness import lm_eval_here
    from puna.judge.tasks.reading import read_task

    begin = time.monotonic()
    lm_eval_here()
    task = read_task(find_tasks(["arc_easy"], options.data / "evals")[0], options.data / "evals")
    planted, others = pick(task, options.seed, options.items)
    task = replace(task, docs=(*planted, *others))
    folder = options.keep or Path(tempfile.mkdtemp(prefix="planted-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_sources(
            folder, read_texts(options.data / "train" / "en_open.jsonl.zst", options.seed), planted, options.chars
        )
        models = {}
        for name, copies in (("planted", options.copies), ("without", 0.0)):
            models[name] = build(folder, name, copies, options)
            print(f"{name}: built in {models[name]['seconds']:.0f} s", flush=True)
        judged = {name: judge(model.pop("release"), task, folder / "scans") for name, model in models.items()}
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    found = compare({doc.id for doc in planted}, judged, options.draws)
    show(models, found)
    first = judged["planted"][1]["found"][:2]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({
        "versions": environment(), "task": "arc_easy", "planted": len(planted), "others": len(others), "seed": options.seed,
        "models": models, **found, "examples": first, "seconds": round(time.monotonic() - begin, 1),
    }, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")  # fmt: skip
    wrong = [f"{found['flagged_of_planted']} of {len(planted)} planted items are flagged"] * (
        found["flagged_of_planted"] != len(planted)
    )
    wrong += [f"{found['flagged_of_others']} items that were not planted are flagged"] * (
        found["flagged_of_others"] > 0
    )
    wrong += [f"{found['flagged_without']} items are flagged in the model without them"] * (
        found["flagged_without"] > 0
    )
    wrong += ["clean and dirty do not differ"] * (
        found["split"]["planted"]["p"] > 0.01 or found["split"]["planted"]["difference"] <= 0
    )
    if wrong:
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
