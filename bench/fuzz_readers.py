"""Every reader of strangers' files, fuzzed: nearly valid files by the hundred thousand, and nothing but `PunaError` may come out.

    PYTHONPATH=src python bench/fuzz_readers.py [--minutes 60] [--only NAME,NAME] [--engine atheris|plain] [--findings FOLDER]
    PYTHONPATH=src python bench/fuzz_readers.py --replay FOLDER    # what was found before, each once more

Prints one table and writes bench/results/fuzz_readers.json. The stated bound, held for every input: reading it, every tensor of
it, and making a decoder or encoding an English and a Chinese text takes at most BASE + FACTOR x the files' bytes of memory beyond
what the process held before (VmHWM, reset for each input), and at most CPU_SECONDS. The process may not even ask for more than
ADDRESSES of memory: a claim of a header that is believed ends in a failure although no page of it is touched.

Each reader runs in a process of its own, one after the other. With `atheris` (libFuzzer for Python) the reader modules are
instrumented and inputs that reach new code are kept and changed further; without it ("plain") valid files are changed at
random. Both use the changes of fuzz_mutators.py, which know the formats. A failure is: another exception than `PunaError`, a crash, a
hang, memory above the bound, a tensor of a wrong shape or not finite, an id outside the vocabulary, a message that is not one printable
line. Failures are counted once for each place they come from; the first input of each is kept.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
RESULTS = Path(__file__).parent / "results" / "fuzz_readers.json"
BASE, FACTOR, CPU_SECONDS = 64 << 20, 64, 5
ADDRESSES = 1 << 30
MAX_INPUT = 1_200_000
STALLED, STARTING = 120, 600  # seconds without a sign of life, on a machine that others use too
INSTRUMENTED = ["puna.model.formats", "puna.model.config", "puna.model.rope", "puna.model.manifest", "puna.model.adapter_files",
                "puna.model.adapters", "puna.tokens.formats", "puna.tokens.tokenizer", "puna.gguf_header", "puna.reading"]  # fmt: skip


def import_targets(engine: str) -> Any:
    """The targets, their modules instrumented where atheris drives."""
    import numpy  # noqa: F401  before the hook: not instrumented
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=INSTRUMENTED):
            import fuzz_targets
    else:
        import fuzz_targets
    return fuzz_targets


def memory(key: str) -> int:
    """Bytes under a key of /proc/self/status; 0 where there is none."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as stream:
        for line in stream:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0


class Worker:
    """One reader in this process: tries inputs until the time is over, and writes down what it saw every second."""

    def __init__(self, name: str, engine: str, work: Path, end: float) -> None:
        self.targets = import_targets(engine)
        self.target, self.work, self.end = self.targets.TARGETS[name], work, end
        self.names, self.kinds = list(self.target.files), list(self.target.files.values())
        self.stats: dict[str, Any] = {"inputs": 0, "opened": 0, "slowest_s": 0.0, "most_bytes": 0, "failures": {}}
        self.written = 0.0
        self.folder = work / "input"
        self.folder.mkdir(exist_ok=True)

    def seeds(self) -> list[bytes]:
        """Valid inputs, each opened once: what loads late loads now, and a seed that is refused is a mistake of this bench."""
        from fuzz_mutators import join_parts

        with tempfile.TemporaryDirectory() as folder:
            found = [join_parts(parts) for parts in self.target.seeds(Path(folder))]
        refused = 0
        for data in found:
            self.write(data)
            refused += self.targets.outcome(self.target, self.folder) is not None
        if found and refused == len(found):
            raise SystemExit(f"no seed of {self.names} can be opened")
        return found

    def limit(self) -> None:
        """From here on: no more addresses than the bound, and death by SIGPROF where an input takes too long."""
        if size := memory("VmSize"):
            resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES, resource.RLIM_INFINITY))
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # libFuzzer's clock
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        faulthandler.register(signal.SIGPROF, all_threads=False, chain=True)

    def write(self, data: bytes) -> int:
        from fuzz_mutators import split_parts

        total = 0
        for name, part in zip(self.names, split_parts(data, len(self.names)), strict=True):
            path = self.folder / name
            if part:
                path.write_bytes(part)
                total += len(part)
            else:
                path.unlink(missing_ok=True)
        return total

    def one(self, data: bytes) -> None:
        size = self.write(data)
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")  # forget the highest memory
        before, start = memory("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        error = self.targets.outcome(self.target, self.folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        seconds, grown = time.process_time() - start, memory("VmHWM") - before
        stats = self.stats
        stats["inputs"] += 1
        stats["opened"] += error is None
        stats["slowest_s"], stats["most_bytes"] = max(stats["slowest_s"], seconds), max(stats["most_bytes"], grown)
        if error is not None and type(error).__name__ != "PunaError":
            self.failure(error)
        if grown > BASE + FACTOR * size:
            self.keep(f"memory: {grown >> 20} MiB for {size:,} bytes", "memory")
        if time.monotonic() - self.written > 1:
            self.save()
            if time.time() > self.end:
                os._exit(0)

    def failure(self, error: BaseException) -> None:
        frames = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
                  if "puna" in frame.filename]  # fmt: skip
        place = frames[-1] if frames else str(error)[:20]
        self.keep(f"{type(error).__name__}: {str(error)[:200]} ({place})", f"{type(error).__name__} {place}")

    def keep(self, what: str, place: str) -> None:
        if place in self.stats["failures"]:
            self.stats["failures"][place]["count"] += 1
            return
        home = self.work / "found" / hashlib.sha256(place.encode()).hexdigest()[:10]
        shutil.copytree(self.folder, home, dirs_exist_ok=True)
        self.stats["failures"][place] = {"what": what, "input": home.name, "count": 1}
        self.save()

    def save(self) -> None:
        self.written = time.monotonic()
        part = self.work / "stats.part"
        part.write_text(json.dumps(self.stats), encoding="utf-8")
        part.replace(self.work / "stats.json")

    def plain(self, seeds: list[bytes], seed: int) -> None:
        from fuzz_mutators import mutate_parts

        rng = random.Random(seed)
        while True:
            data = rng.choice(seeds)
            for _ in range(rng.choice((1, 1, 2, 4))):
                data = mutate_parts(rng, data, self.kinds)
            if len(data) <= MAX_INPUT:
                self.one(data)

    def atheris(self, seeds: list[bytes], seed: int) -> None:
        import atheris

        from fuzz_mutators import mutate_parts

        corpus = self.work / "corpus"
        if not corpus.exists():
            corpus.mkdir()
            for number, data in enumerate(seeds):
                (corpus / f"seed{number}").write_bytes(data)

        def mutate(data: bytes, most: int, number: int) -> bytes:
            rng = random.Random(number)
            try:
                changed = (
                    atheris.Mutate(data, most) if data and rng.random() < 0.3 else mutate_parts(rng, data, self.kinds)
                )
            except Exception:  # a mistake of this bench's; libFuzzer would wait for its clock
                traceback.print_exc()
                os._exit(3)
            return changed if len(changed) <= most else data

        options = {"max_len": MAX_INPUT, "timeout": 3600, "handle_alrm": 0, "rss_limit_mb": 0, "malloc_limit_mb": 0, "seed": seed,
                   "artifact_prefix": f"{self.work}/", "verbosity": 0, "detect_leaks": 0, "len_control": 0}  # fmt: skip
        atheris.Setup(
            ["fuzz", *(f"-{key}={value}" for key, value in options.items()), str(corpus)],
            self.one,
            custom_mutator=mutate,
        )
        atheris.Fuzz()


def work_on(name: str, engine: str, work: Path, end: float, seed: int) -> None:
    """The worker's process."""
    worker = Worker(name, engine, work, end)
    seeds = worker.seeds()
    if not seeds:
        return
    worker.limit()
    worker.save()
    (worker.atheris if engine == "atheris" else worker.plain)(seeds, seed)


def fuzz(name: str, engine: str, seconds: float, findings: Path) -> dict[str, Any]:
    """One reader for `seconds`; a process that died is started again with another seed. Its figures are the sum of all."""
    work = findings / name.replace(" ", "_")
    (work / "found").mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {
        "target": name,
        "inputs": 0,
        "opened": 0,
        "seconds": 0.0,
        "slowest_s": 0.0,
        "most_bytes": 0,
        "failures": {},
    }
    start = time.time()
    end, seed = start + seconds, 0
    while time.time() < end and seed < 200:
        seed += 1
        (work / "stats.json").unlink(missing_ok=True)
        with open(work / f"log{seed}.txt", "wb") as log:
            process = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), "--worker", name, "--engine", engine, "--work",
                                        str(work), "--end", str(end), "--seed", str(seed)], stdout=log, stderr=log)  # fmt: skip
            stalled = _wait(process, work / "stats.json")
        if not (work / "stats.json").exists():
            if process.returncode:
                raise SystemExit(f"{name} did not start: see {work}/log{seed}.txt")
            break  # no seeds: the data are not here
        stats = json.loads((work / "stats.json").read_text("utf-8"))
        for key in ("inputs", "opened"):
            row[key] += stats[key]
        for key in ("slowest_s", "most_bytes"):
            row[key] = max(row[key], stats[key])
        for place, failure in stats["failures"].items():
            row["failures"].setdefault(place, failure)
        if process.returncode:
            code = -process.returncode
            kind = "hang" if stalled or code == signal.SIGPROF else f"crash ({process.returncode})"
            home = work / "found" / f"{kind.split()[0]}{seed}"
            shutil.copytree(work / "input", home, dirs_exist_ok=True)
            tail = (work / f"log{seed}.txt").read_text("utf-8", "replace")[-1500:]
            row["failures"][f"{kind} {seed}"] = {"what": f"{kind}: {_innermost(tail)}", "input": home.name, "count": 1}
            if kind == "hang":
                row["slowest_s"] = max(row["slowest_s"], float(CPU_SECONDS))
    row["seconds"] = round(time.time() - start, 1)
    return row


def _wait(process: "subprocess.Popen[bytes]", sign: Path) -> bool:
    """Wait for the worker; kill it where it shows no sign of life. True where it was killed."""
    begun = time.time()
    while True:
        try:
            process.wait(5)
            return False
        except subprocess.TimeoutExpired:
            seen = sign.stat().st_mtime if sign.exists() else begun
            if time.time() - seen > (STALLED if sign.exists() else STARTING):
                process.kill()
                process.wait()
                return True


def _innermost(log: str) -> str:
    lines = [line.strip() for line in log.split("\n") if line.strip()]
    frames = [line for line in lines if line.startswith("File")]
    return " < ".join(frames[:4])[:400] if frames else " | ".join(lines[-3:])[:400]


def digest(modules: list[str]) -> str:
    """A digest of the readers' source, to say which state was tried."""
    import puna

    home = Path(puna.__file__).parent
    total = hashlib.sha256()
    for module in modules:
        path = home.joinpath(*module.split(".")[1:])
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


def replay(findings: Path) -> int:
    """Every kept input once more, each in a process of its own; prints those that still fail and gives their number."""
    if findings.parent.name == "found":  # one input, in this process
        targets = import_targets("plain")
        name = next(name for name in targets.TARGETS if name.replace(" ", "_") == findings.parent.parent.name)
        list(targets.TARGETS[name].seeds(Path(tempfile.mkdtemp())) if name == "tiktoken" else ())
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        before = memory("VmRSS")
        error = targets.outcome(targets.TARGETS[name], findings)
        grown = memory("VmHWM") - before
        print(f"{type(error).__name__}: {str(error)[:150]} ({grown >> 20} MiB)")
        if error is not None and type(error).__name__ != "PunaError":
            traceback.print_exception(error)
            return 1
        return 0
    failed = 0
    for home in sorted(findings.glob("*/found/*")):
        done = subprocess.run(
            [sys.executable, __file__, "--replay", str(home)], capture_output=True, text=True, check=False
        )
        failed += done.returncode != 0
        last = (done.stdout.strip() or done.stderr.strip() or "killed").split("\n")[0]
        print(f"{'FAILS' if done.returncode else 'fine '} {home.relative_to(findings)}: {last[:200]}", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz every reader of strangers' files.")
    parser.add_argument("--minutes", type=float, default=60.0, help="for all readers together")
    parser.add_argument("--only", default="", help="names of readers, with commas")
    parser.add_argument("--engine", choices=("atheris", "plain"), help="default: atheris where it is installed")
    parser.add_argument("--findings", type=Path, help="where to keep failing inputs; default: a new temporary folder")
    parser.add_argument("--replay", type=Path, help="a folder of --findings: try what it holds once more")
    for name in ("--worker", "--work", "--end", "--seed"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work_on(args.worker, args.engine, Path(args.work), float(args.end), int(args.seed))
    if args.replay:
        raise SystemExit(1 if replay(args.replay.resolve()) else 0)
    engine = args.engine
    if engine is None:
        import importlib.util

        engine = "atheris" if importlib.util.find_spec("atheris") else "plain"
    findings = args.findings or Path(tempfile.mkdtemp(prefix="puna-fuzz-"))
    names = [name for name in args.only.split(",") if name] or list(import_targets("plain").TARGETS)
    source = digest(INSTRUMENTED)
    print(f"engine {engine}; readers' source {source}; findings in {findings}\n")
    print(
        f"{'target':<18} {'inputs':>9} {'opened':>9} {'seconds':>8} {'slowest s':>9} {'most MiB':>8} {'failures':>8}",
        flush=True,
    )
    rows = []
    for name in names:
        row = fuzz(name, engine, args.minutes * 60 / len(names), findings)
        rows.append(row)
        print(f"{name:<18} {row['inputs']:>9,} {row['opened']:>9,} {row['seconds']:>8.0f} {row['slowest_s']:>9.2f} "
              f"{row['most_bytes'] / 2**20:>8.1f} {len(row['failures']):>8}", flush=True)  # fmt: skip
        for failure in row["failures"].values():
            print(f"    {failure['what'][:300]} [{failure['input']}]", flush=True)
    RESULTS.write_text(json.dumps({
        "engine": engine, "source": source, "minutes": args.minutes, "python": platform.python_version(), "machine": platform.machine(),
        "bound": {"base_bytes": BASE, "bytes_per_input_byte": FACTOR, "cpu_seconds": CPU_SECONDS, "address_bytes": ADDRESSES}, "rows": rows,
    }, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")  # fmt: skip
    raise SystemExit(1 if any(row["failures"] for row in rows) else 0)


if __name__ == "__main__":
    main()
