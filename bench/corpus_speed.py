"""Text filters and MinHash signatures, beside datatrove's own, in one run on the same real text.

    python bench/corpus_speed.py [--turns 6] [--data ../shared/data] [--peers FOLDER]

Prints one table and writes bench/results/corpus_speed.json. Two processes work at the same time, each on half of the
documents; the tools take turns of a second, so that a busy machine is as busy for each; starting, reading and a first turn
are not counted, for anybody. Documents are real text cut at paragraphs to some 4,000 characters, about a web page's size.

Ours: every measure of Gopher, C4, FineWeb and repetition and the verdict; signatures of 14 x 8 hashes and their band keys.
datatrove: GopherRepetition, FineWebQuality and GopherQuality filters at the same thresholds, a removed document going no
further; signatures of 14 x 8 hashes over 5-grams, not written anywhere. Each with its default tokenizer (spaCy; with jieba
for Chinese) where that can be imported, and with the fastest there is: one regular expression. `--peers`: a folder with
packages of the peers (pip install --target FOLDER spacy), looked in last.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import zstandard

CORES = 2
DOCUMENT = 4000  # characters
BATCH = 512  # documents handed to our functions together
TEXTS = {
    "en": ("train/en_open.jsonl.zst", "train/en_classics.jsonl.zst", "dirty/c4_demo.jsonl.zst"),
    "zh": ("train/zh_modern.jsonl.zst", "train/zh_laws.jsonl.zst"),
}
PEERS = {"en": "eng", "zh": "zho"}
TASKS = ("filters", "signatures")
TOOLS = ("puna", "datatrove, regex words", "datatrove, its default words")
RESULTS = Path(__file__).parent / "results" / "corpus_speed.json"
Work = Callable[[Sequence[str]], None]


def documents(data: Path, lang: str) -> list[str]:
    """Real text in documents of at least DOCUMENT characters, cut where a paragraph ends."""
    cut: list[str] = []
    for name in TEXTS[lang]:
        with zstandard.open(data / name, "rt", encoding="utf-8") as opened:
            for row in opened:
                text = json.loads(row)["text"].replace("\r\n", "\n")
                start = 0
                for match in re.finditer(r"\n+", text):
                    if match.end() - start >= DOCUMENT:
                        cut.append(text[start : match.start()])
                        start = match.end()
                if text[start:].strip():
                    cut.append(text[start:])
    return cut


def ours(task: str, lang: str) -> Work:
    """Puna's way to do `task`."""
    if task == "signatures":
        from puna.corpus.signatures import bands, signatures

        def sign(texts: Sequence[str]) -> None:
            bands(signatures(texts))

        return sign
    from puna.corpus.filters import judge
    from puna.corpus.metrics import measure
    from puna.corpus.thresholds import load_thresholds

    thresholds = load_thresholds()

    def work(texts: Sequence[str]) -> None:
        langs = [lang] * len(texts)
        judge(measure(texts, langs, thresholds), langs, thresholds)

    return work


def theirs(task: str, lang: str, fast: bool) -> Work:
    """datatrove's way to do `task`, with one regular expression for a tokenizer where `fast`."""
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Regex(WordTokenizer):
        pattern = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+")

        def word_tokenize(self, text: str) -> list[str]:
            return self.pattern.findall(text)

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError

    language: Any = Regex() if fast else PEERS[lang]
    if task == "signatures":
        step = MinhashDedupSignature(
            "/tmp/unused", MinhashConfig(num_buckets=14, hashes_per_bucket=8, n_grams=5), language
        )
        # datatrove 0.10.1 hands text to xxhash, which from its version 4 on takes bytes alone.
        step._hash_func = lambda gram: xxhash.xxh64_intdigest(gram.encode())

        def sign(texts: Sequence[str]) -> None:
            for text in texts:
                shingles = step.get_shingles(text)
                if shingles.size:
                    step.get_signature(shingles)

        return sign
    from puna.corpus.thresholds import load_thresholds

    table = load_thresholds().of(lang)
    low = {name: one.min for name, one in table.limits.items()}
    high = {name: one.max for name, one in table.limits.items()}
    filters = [
        GopherRepetitionFilter(
            dup_line_frac=high.get("duplicate_lines"),
            dup_para_frac=high.get("duplicate_paragraphs"),
            dup_line_char_frac=high.get("duplicate_line_characters"),
            dup_para_char_frac=high.get("duplicate_paragraph_characters"),
            top_n_grams=tuple((n, high[f"top_{n}_gram"]) for n in (2, 3, 4)),
            dup_n_grams=tuple((n, high[f"duplicate_{n}_grams"]) for n in (5, 6, 7, 8, 9, 10)),
            language=language,
        ),
        FineWebQualityFilter(
            line_punct_thr=low["punctuated_lines"],
            short_line_thr=high.get("short_lines", 999),
            char_duplicates_ratio=high["repeated_text"],
            new_line_ratio=high["newlines"],
            language=language,
        ),
        GopherQualityFilter(
            min_avg_word_length=low["mean_word_length"],
            max_avg_word_length=high["mean_word_length"],
            max_non_alpha_words_ratio=low["alphabetic_words"],
            stop_words=list(table.stop_words),
            language=language,
        ),
    ]

    def sift(texts: Sequence[str]) -> None:
        for text in texts:
            document = Document(text=text, id="")
            all(one.filter(document) is True for one in filters)

    return sift


def worker(
    number: int,
    cores: int,
    task: str,
    lang: str,
    tools: list[str],
    options: argparse.Namespace,
    start: Barrier,
    queue: Any,
) -> None:
    """Do `task` on every CORES-th document, the tools in turns of a second; report bytes and seconds of each tool."""
    if options.peers:
        sys.path.append(str(options.peers))
    texts = documents(options.data, lang)
    np.random.default_rng(0).shuffle(texts)
    texts = texts[number::CORES]
    sizes = [len(text.encode()) for text in texts]
    works = {tool: ours(task, lang) if tool == "puna" else theirs(task, lang, "regex" in tool) for tool in tools}
    batches = {tool: BATCH if tool == "puna" else 4 for tool in tools}
    places = dict.fromkeys(tools, 0)
    found = {tool: [0.0, 0.0] for tool in tools}
    for turn in range(options.turns + 1):  # the first is to get warm
        for tool in tools:
            start.wait()
            begin, seconds, done, size = time.perf_counter(), 0.0, 0, batches[tool]
            while seconds < 1:
                place = places[tool]
                works[tool](texts[place : place + size])
                done += sum(sizes[place : place + size])
                places[tool] = place + size if place + size < len(texts) else 0
                seconds = time.perf_counter() - begin
            if turn:
                found[tool][0] += done
                found[tool][1] += seconds
    queue.put(found)


def measured(task: str, lang: str, tools: list[str], options: argparse.Namespace, cores: int) -> dict[str, float]:
    """MB/s of `cores` processes together, for each tool."""
    context = multiprocessing.get_context("spawn")
    start, queue = context.Barrier(cores), context.Queue()
    processes = [
        context.Process(target=worker, args=(number, cores, task, lang, tools, options, start, queue))
        for number in range(cores)
    ]
    for process in processes:
        process.start()
    found = []
    while len(found) < cores:
        try:
            found.append(queue.get(timeout=1))
        except Empty:
            failed = [process.exitcode for process in processes if process.exitcode]
            if failed:
                for process in processes:
                    process.terminate()
                raise SystemExit(f"{task}, {lang}: a worker ended with {failed[0]}") from None
    for process in processes:
        process.join()
    return {tool: sum(one[tool][0] / one[tool][1] for one in found) / 1e6 for tool in tools}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=6, help="turns of a second for each tool (default: 6)")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data", help="the shared data")
    parser.add_argument("--peers", type=Path, help="a folder with packages of the peers")
    options = parser.parse_args()
    if options.peers:
        sys.path.append(str(options.peers))
    if importlib.util.find_spec("datatrove") is None:
        raise SystemExit("datatrove is not installed: pip install datatrove")
    default = importlib.util.find_spec("spacy") is not None
    tools = list(TOOLS if default else TOOLS[:2])
    rows: dict[str, dict[str, float]] = {}
    print(f"{'MB/s':46}{'1 core':>9}{f'{CORES} cores':>9}{'puna is':>12}", flush=True)
    for lang in TEXTS:
        for task in TASKS:
            one, all_cores = (measured(task, lang, tools, options, cores) for cores in (1, CORES))
            for tool in tools:
                times = all_cores["puna"] / all_cores[tool]
                rows[f"{lang}, {task}, {tool}"] = {
                    "one_core": one[tool],
                    "all_cores": all_cores[tool],
                    "puna_is": times,
                }
                told = f"{times:10.1f} x" if tool != "puna" else ""
                print(f"{f'{lang}, {task}, {tool}':46}{one[tool]:9.2f}{all_cores[tool]:9.2f}{told}", flush=True)
    if not default:
        print("spaCy is not installed: datatrove's default tokenizer was not measured")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count()}
    RESULTS.write_text(json.dumps({**machine, "turns": options.turns, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
