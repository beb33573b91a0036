"""Answering beside transformers, llama.cpp, CTranslate2 and OpenVINO: same weights, prompts and threads, in turns in one run.

    python bench/serve_speed.py --python PEERS/bin/python        # 15M and 60M; some 20 minutes
    python bench/serve_speed.py --quick                          # a minute: whether it runs, not what it shows; writes no file
    python bench/serve_speed.py --sizes runs/python/release --prompt 64 --new 128

Prompts of 128 random tokens, another lot each round; 256 new ones, the likeliest each time, no reply ends before; once a single
stream, then 16 at once. Every engine is a process of its own and the others sleep meanwhile; the order of a round is drawn. An
engine that the interpreter of the peers does not have, or that fails, is a row that says so. Tokens a second are those of a whole
request, prompt included. `same` is how far a stream's ids are those of `transformers` in fp32, as a share of the reply (mean).

"puna serve" is asked through HTTP, streaming; "puna" within the process; "openvino" is its backend of that name, torch elsewhere. The widths of the numbers are those of the weights;
OpenVINO keeps its cache in 8 bits unless it is told fp32, and llama.cpp keeps it in f16.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from _serve_models import SHAPES, adopt, make

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "serve_speed.json"
REFERENCE = "transformers fp32"
PEERS = [
    REFERENCE, "transformers bf16", "llama.cpp f16", "llama.cpp q8_0", "CTranslate2 fp32", "CTranslate2 int8",
    "CTranslate2 int8_bfloat16", "OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8",
]  # fmt: skip
OURS = [
    "puna fp32", "puna bf16", "puna int8", "puna fp32 lookup", "puna fp32 openvino", "puna bf16 openvino",
    "puna int8 openvino", "puna bf16 openvino lookup", "puna serve fp32", "puna serve fp32 openvino", "puna serve bf16 openvino",
]  # fmt: skip
INSTEAD = {"llama.cpp q8_0": "llama.cpp q8_0 plain"}  # tried where the first dies: gcc 12 breaks its code for AMX
EXACT = ("puna fp32", "puna fp32 lookup", "puna fp32 openvino")  # must say what the reference says
LEAST_SAME = 0.95  # two logits of random weights can lie within rounding, once in some thousand tokens
PAUSE = 0.3  # seconds: thread pools spin for a while after their work


class Contender:
    """One engine's process."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name = name
        ours = name.startswith("puna")
        call = {"engine": name, "folder": str(folder), "threads": options.threads, "streams": options.streams,
                "context": options.prompt + options.new}  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        if ours:
            environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self.process = subprocess.Popen(
            [sys.executable if ours else str(options.python), str(ROOT / "bench" / "_serve_engines.py"), json.dumps(call)],
            text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        self.hello = self._answer()

    def ask(self, prompts: list[list[int]], new: int) -> dict[str, Any]:
        """One piece of work; {"absent": why} where the process dies of it. Raises SystemExit where it made another number of tokens."""
        if self.process.stdin is None:
            raise RuntimeError("no pipe to the engine")
        time.sleep(PAUSE)
        self.process.stdin.write(json.dumps({"prompts": prompts, "new": new}) + "\n")
        self.process.stdin.flush()
        told = self._answer()
        if told.get("counts", []) != [new] * len(prompts) and "absent" not in told:
            raise SystemExit(f"{self.name} made {told['counts']} tokens; {new} were asked of each stream")
        return told

    def stop(self) -> None:
        """End the process; it may have a server of its own, which it ends."""
        if self.process.stdin is not None and self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self.log.close()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if line:
            return json.loads(line)  # type: ignore[no-any-return]
        code = self.process.wait()
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        why = signal.strsignal(-code) if code < 0 else (said[-1] if said else f"exit code {code}")
        return {"absent": f"died: {str(why)[:150]}"}


def begin(name: str, folder: Path, prompts: list[list[int]], options: argparse.Namespace) -> Contender:
    """An engine that has worked once, or whose `hello` says why it is absent."""
    contender = Contender(name, folder, options)
    for streams in (1, options.streams):
        if "absent" not in contender.hello:
            contender.hello |= {
                key: value for key, value in contender.ask(prompts[:streams], 4).items() if key == "absent"
            }
    said = (
        contender.hello.get("absent")
        or f"{contender.hello['version']}, ready in {contender.hello['load_seconds']:.1f} s"
    )
    print(f"{folder.name} {name}: {said}", file=sys.stderr)
    return contender


def measure(size: str, folder: Path, facts: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """All engines on one model, in turns."""
    draws, shuffle = random.Random(1), random.Random(2)
    lots = [draw_prompts(draws, folder, facts, options, size in SHAPES) for _ in range(options.rounds + 1)]
    contenders: list[Contender] = []
    rows: dict[str, dict[str, Any]] = {}
    said: dict[str, list[list[list[int]]]] = {}
    try:
        for name in [*PEERS, *OURS]:
            if options.engines and not any(part in name for part in options.engines.split(",")) and name != REFERENCE:
                continue
            tried = begin(name, folder, lots[0], options)
            if name in INSTEAD and tried.hello.get("absent", "").startswith("died"):
                rows[name] = tried.hello
                tried.stop()
                tried = begin(INSTEAD[name], folder, lots[0], options)
            rows[tried.name] = {
                **tried.hello,
                "single": [],
                "many": [],
                "first_single": [],
                "first_many": [],
                "rate": [],
            }
            if "absent" in tried.hello:
                tried.stop()
                continue
            said[tried.name] = []
            contenders.append(tried)
        for number, prompts in enumerate(lots[1:]):
            for contender in shuffle.sample(contenders, len(contenders)):
                one, many = contender.ask(prompts[:1], options.new), contender.ask(prompts, options.new)
                if died := one.get("absent") or many.get("absent"):
                    raise SystemExit(f"{contender.name} {died}")
                row = rows[contender.name]
                row["single"].append(options.new / one["seconds"])
                row["many"].append(len(prompts) * options.new / many["seconds"])
                row["rate"].append((options.new - 1) / (one["seconds"] - one["first"][0]))
                row["first_single"].append(one["first"][0])
                row["first_many"].extend(many["first"])
                row["peak"] = many["peak"]
                if many["ids"] is not None:
                    said[contender.name].append(many["ids"])
            now = ", ".join(f"{name} {median(row['many']):,.0f}" for name, row in rows.items() if row.get("many"))
            print(f"{size} round {number + 1}/{options.rounds}, {options.streams} streams: {now}", file=sys.stderr)
    finally:
        for contender in contenders:
            contender.stop()
    for name, lot in said.items():
        if lot and REFERENCE in said:
            pairs = [
                pair
                for ours, theirs in zip(lot, said[REFERENCE], strict=True)
                for pair in zip(ours, theirs, strict=True)
            ]
            rows[name]["same"] = mean(shared(ours, theirs) / options.new for ours, theirs in pairs)
    return {"size": size, **facts, "engines": rows, "ratios": ratios(rows)}


def draw_prompts(
    draws: random.Random, folder: Path, facts: dict[str, Any], options: argparse.Namespace, made: bool
) -> list[list[int]]:
    """One lot of prompts: random ids for a model of random weights, places of Python's own documentation for a real one."""
    if made:
        return [[draws.randrange(4, facts["vocab"]) for _ in range(options.prompt)] for _ in range(options.streams)]
    from pydoc_data.topics import topics

    from puna.tokens.formats import open_tokenizer

    text = "\n\n".join(topics[name] for name in draws.sample(sorted(topics), len(topics)))
    ids = open_tokenizer(folder / "hf").encode(text[:400_000])
    starts = [draws.randrange(len(ids) - options.prompt) for _ in range(options.streams)]
    return [ids[start : start + options.prompt] for start in starts]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids are the same before the first that differs."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Medians of the rounds' own ratios: the best of ours, in the process, over the peers."""
    measured = {name: row for name, row in rows.items() if row.get("single")}
    ours = [name for name in measured if name.startswith("puna") and "serve" not in name]
    found: dict[str, float] = {}

    def paired(key: str, one: str, other: str) -> float:
        return median(a / b for a, b in zip(measured[one][key], measured[other][key], strict=True))

    def best(key: str, names: list[str]) -> str:
        return max(names, key=lambda name: median(measured[name][key]))

    if ours and REFERENCE in measured:
        for key in ("single", "many"):
            for name in ours:
                found[f"{name} / {REFERENCE}, {key}"] = paired(key, name, REFERENCE)
            for family in ("transformers", "llama.cpp", "CTranslate2", "OpenVINO"):
                if theirs := [name for name in measured if name.startswith(family)]:
                    us, them = best(key, ours), best(key, theirs)
                    found[f"best of ours ({us}) / best of {family} ({them}), {key}"] = paired(key, us, them)
    return found


def print_table(result: dict[str, Any], options: argparse.Namespace) -> None:
    """One size's table."""
    print(f"\n{result['size']}: {result['parameters'] / 1e6:.1f} M parameters, prompt {options.prompt}, {options.new} new, "
          f"{options.threads} threads, {options.rounds} rounds: median (lowest to highest)")  # fmt: skip
    many = f"{options.streams} streams"
    print(f"{'':26}{'tok/s, 1 stream':>22}{'tok/s, ' + many:>24}{'first token ms':>16}{'at ' + many + ' p50/p99':>24}"
          f"{'peak MB':>9}{'same':>7}")  # fmt: skip
    for name, row in result["engines"].items():
        if not row.get("single"):
            print(f"{name:26}  {row['absent']}")
            continue
        cells = [
            f"{median(row[key]):,.0f} ({min(row[key]):,.0f} to {max(row[key]):,.0f})" for key in ("single", "many")
        ]
        firsts = sorted(row["first_many"])
        p99 = quantiles(firsts, n=100, method="inclusive")[98] if len(firsts) > 1 else firsts[0]
        same = f"{row['same']:7.1%}" if "same" in row else f"{'':7}"
        print(f"{name:26}{cells[0]:>22}{cells[1]:>24}{median(row['first_single']) * 1e3:>16.0f}"
              f"{f'{median(firsts) * 1e3:,.0f} / {p99 * 1e3:,.0f}':>24}{row['peak'] / 1e6:>9,.0f}{same}")  # fmt: skip
    for what, ratio in result["ratios"].items():
        print(f"{what}: {ratio:.2f}")


def hardware(options: argparse.Namespace) -> dict[str, Any]:
    """What this runs on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    told = {key.strip(): value.strip() for key, value in lines.items()}
    units = {"amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2", "avx512_vnni"}
    return {"cpu": told.get("model name", platform.processor()), "units": sorted(units & set(told.get("flags", "").split())),
            "cores": os.cpu_count(), "threads": options.threads, "python": platform.python_version(),
            "load_before": round(os.getloadavg()[0], 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="15M,60M", help="of " + ", ".join(SHAPES) + ", or folders of releases")
    parser.add_argument("--rounds", type=int, default=3, help="in turns (default: 3)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each engine (default: 2)")
    parser.add_argument("--streams", type=int, default=16, help="asked at once (default: 16)")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt (default: 128)")
    parser.add_argument("--new", type=int, default=256, help="tokens of a reply (default: 256)")
    parser.add_argument("--engines", help="only those whose name holds one of these, separated by commas")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the interpreter that has the peers")
    parser.add_argument("--quick", action="store_true", help="a tiny model and a short reply; writes no file")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: bench/results, not with --quick)")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.rounds, options.streams, options.prompt, options.new = "test", 1, 4, 32, 16
    record: dict[str, Any] = {"hardware": hardware(options), **{
        key: getattr(options, key) for key in ("rounds", "streams", "prompt", "new")}, "sizes": []}  # fmt: skip
    print(f"{record['hardware']['cpu']}; units: {', '.join(record['hardware']['units']) or 'unknown'}; "
          f"load before: {record['hardware']['load_before']}")  # fmt: skip
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        for number, size in enumerate(options.sizes.split(",")):
            folder = Path(name) / (size if size in SHAPES else f"release-{number}")
            folder.mkdir()
            known = size in SHAPES
            facts = make(size, folder, options.prompt + options.new) if known else adopt(Path(size), folder)
            result = measure(size, folder, facts, options)
            record["sizes"].append(result)
            print_table(result, options)
            wrong += [f"{size}, {name}: {row['absent']}" for name, row in result["engines"].items()
                      if name.startswith("puna") and "not installed" not in row.get("absent", "not installed")]  # fmt: skip
            wrong += [f"{size}, {name}: same ids as {REFERENCE}: {result['engines'][name]['same']:.1%}" for name in EXACT
                      if result["engines"].get(name, {}).get("same", 1.0) < LEAST_SAME]  # fmt: skip
    out = options.out or (None if options.quick else RESULTS)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"written: {out}")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
