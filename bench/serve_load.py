"""Many clients at once, some rude: what `puna serve` answers, what it holds afterwards, and how it ends.

    python bench/serve_load.py                      # 64 clients, ten minutes, a model of 15M random weights made on the spot
    python bench/serve_load.py --minutes 0.5        # whether it runs; writes no file
    python bench/serve_load.py --model runs/python/release
    python bench/serve_load.py --url http://127.0.0.1:8000 --pid 4242

Streams and whole replies, short and long prompts with shared beginnings in English and Chinese, JSON schemas, three replies to a
prompt, log-probabilities, bad requests of many kinds, and clients that close their socket at a random time. Checked: every request
is answered, with its own reply (the same as the same prompt got alone before the load), no 500, each bad one refused with the right
status; memory flat over the last two thirds; afterwards all blocks free and nothing running; after SIGTERM what runs ends whole,
who comes then is refused, the exit code is 0. Prints one table, writes bench/results/serve_load.json; exits with 1 where a check
fails. Without --pid, a server that is not ours has neither its memory nor its end looked at, and the table says so.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

from _serve_client import Answer, Served, address_of, ask, memory
from _serve_mix import CHAT, LEAVERS, Case, Prompt, draw, judge, pool
from _serve_models import SHAPES, make

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "serve_load.json"
MOST_DRIFTED = 0.005  # of the compared replies: near ties of the likeliest token
BLOCKS = 20  # means that the slope of the memory is fitted to; two neighbours are nearly independent then
T_18 = 2.10  # Student's t for 95 % and BLOCKS - 2 degrees of freedom
FLAT_BYTES, FLAT_SHARE = 4e6, 0.01  # growth that is certain beyond both over the window is a leak
OVERSIZED = 1 << 20  # bytes of a body that a server may cut off
LEAST_WINDOW = 100.0  # seconds: in a shorter one the cache's pages are still being touched for the first time
KEPT_FRESH, MOST_FRESH = (
    0.2,
    60,
)  # of the prompts asked once: share that is remembered, and how many are asked again alone
LONGEST = 120.0  # seconds without an answer: lost


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    fresh: list[tuple[Case, str]] = field(default_factory=list)
    left: int = 0
    compared: int = 0
    drifted: int = 0
    busy: int = 0

    def fault(self, case: Case, what: str) -> None:
        """One wrong answer; the first hundred are kept."""
        self.kinds["faults"] += 1
        if len(self.faults) < 100:
            self.faults.append(f"{case.kind} {case.path}: {what}")


async def client(number: int, address: tuple[str, int], setting: "Setting", tally: Tally, until: float) -> None:
    """One client: a request, a short breath, the next."""
    draws = random.Random(number)
    while time.monotonic() < until:
        case = draw(draws, setting.model, setting.prompts, setting.context, setting.chats)
        leave = draws.expovariate(3.0) if case.prompt is not None and draws.random() < LEAVERS else None
        try:
            answer = await ask(address, case.method, case.path, case.body, leave_after=leave or LONGEST)
        except OSError as error:
            if isinstance(case.body, bytes) and len(case.body) > OVERSIZED:
                tally.statuses["reset"] += 1  # refused while it was still sending: its 413 can be lost on the way
                continue
            tally.fault(case, f"no answer: {type(error).__name__}: {error}")
            await asyncio.sleep(0.2)
            continue
        left = leave is not None and not answer.whole
        if not answer.whole and not left and answer.seconds >= LONGEST:
            tally.fault(case, f"no answer within {LONGEST:.0f} s")
            continue
        seen = judge(case, answer, setting.alone, left)
        tally.kinds[case.kind] += 1
        tally.left += left
        tally.statuses["left" if left else str(answer.status)] += 1
        for what in seen.faults:
            tally.fault(case, what)
        if answer.status == 200 and answer.whole:
            tally.whole.append(answer.seconds)
            tally.compared += case.kind not in ("schema", "fresh")
            tally.drifted += seen.drifted
            if case.kind == "fresh" and seen.text is not None and draws.random() < KEPT_FRESH:
                tally.fresh.append((case, seen.text))
            if seen.first is not None:
                tally.first.append(seen.first)
            if seen.id is not None:
                tally.ids[seen.id] += 1
        if answer.status == 503:
            tally.busy += 1
            await asyncio.sleep(1.0)
        await asyncio.sleep(draws.uniform(0.0, 0.05))


@dataclass
class Setting:
    """What is asked, and what each prompt got alone."""

    model: str
    context: int
    chats: bool
    prompts: list[Prompt]
    alone: dict[str, str] = field(default_factory=dict)


async def learn(address: tuple[str, int]) -> Setting:
    """The model that the server has, and the reply of every prompt of the pool, asked one after the other."""
    told = (await ask(address, "GET", "/v1/models")).json()["data"][0]
    probe = {"model": told["id"], "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    chats = (await ask(address, "POST", CHAT, probe)).status == 200
    context = await context_of(address, told)
    setting = Setting(told["id"], context, chats, pool(context, chats))
    for prompt in setting.prompts:
        case = Case("whole", prompt.path, prompt.body(setting.model), prompt)
        answer = await ask(address, "POST", prompt.path, case.body)
        seen = judge(case, answer, {}, left=False)
        if seen.faults or seen.text is None:
            raise SystemExit(f"alone, before the load: {seen.faults or 'no text'}")
        setting.alone[prompt.marker] = seen.text
    return setting


async def context_of(address: tuple[str, int], told: dict[str, Any]) -> int:
    """The model's context: as told, or as the refusal of a prompt that is too long says it (the smaller of its two numbers)."""
    for key in ("context", "max_model_len", "context_length"):
        if isinstance(told.get(key), int):
            return int(told[key])
    body = {"model": told["id"], "prompt": "grass and stone " * 20_000, "max_tokens": 1}
    message = (await ask(address, "POST", "/v1/completions", body)).json()["error"]["message"]
    numbers = [int(one.replace(",", "")) for one in re.findall(r"\d[\d,]*", message)]
    if len(numbers) < 2:
        raise SystemExit(f"the server does not say its context: {message}")
    return min(numbers)


async def metrics(address: tuple[str, int]) -> dict[str, float]:
    """The sums over all models of Puna's figures."""
    found: Counter[str] = Counter()
    for line in (await ask(address, "GET", "/metrics")).body.decode().splitlines():
        if match := re.fullmatch(r"(puna_\w+)(?:\{.*\})? ([-+.\deE]+)", line):
            found[match[1]] += float(match[2])
    return dict(found)


async def watch(pid: int | None, samples: list[tuple[float, int]], until: float, every: float) -> None:
    """The server's memory, every so many seconds."""
    while pid is not None and time.monotonic() < until:
        samples.append((time.monotonic(), memory(pid)))
        await asyncio.sleep(every)


def slope(samples: list[tuple[float, int]]) -> dict[str, float] | None:
    """Bytes a second over the last two thirds, by least squares through the means of equal blocks, with its 95 % interval."""
    late = samples[len(samples) // 3 :]
    if len(late) < 2 * BLOCKS:
        return None
    size = len(late) // BLOCKS
    late = late[-size * BLOCKS :]
    groups = [late[at : at + size] for at in range(0, len(late), size)]
    x, y = [mean(when for when, _ in one) for one in groups], [mean(held for _, held in one) for one in groups]
    middle, spread = mean(x), sum((one - mean(x)) ** 2 for one in x)
    rise = sum((a - middle) * b for a, b in zip(x, y, strict=True)) / spread
    start = mean(y) - rise * middle
    rest = sum((b - start - rise * a) ** 2 for a, b in zip(x, y, strict=True))
    error = T_18 * (rest / (BLOCKS - 2) / spread) ** 0.5
    return {"slope": rise, "low": rise - error, "high": rise + error, "seconds": x[-1] - x[0], "mean": mean(y)}


async def settled(address: tuple[str, int]) -> dict[str, float]:
    """The figures once nothing runs any more, at the latest after ten seconds."""
    for _ in range(100):
        now = await metrics(address)
        if not now.get("puna_replies_running") and not now.get("puna_replies_waiting"):
            break
        await asyncio.sleep(0.1)
    return now


async def drain(server: Served, setting: Setting) -> dict[str, Any]:
    """SIGTERM while streams run: {"ended": how many ended whole, "of", "refused": what a new one got, "code", "seconds"}."""
    prompt = min(setting.prompts, key=lambda one: len(one.text))
    body = prompt.body(setting.model) | {"stream": True, "max_tokens": setting.context // 4}
    running = [asyncio.create_task(ask(server.address, "POST", prompt.path, body)) for _ in range(16)]
    await asyncio.sleep(0.3)
    before = await metrics(server.address)
    server.tell_to_end()
    began = time.perf_counter()
    await asyncio.sleep(0.1)
    try:
        late = await ask(server.address, "POST", prompt.path, prompt.body(setting.model))
        refused = f"HTTP {late.status}" if late.whole else "closed"
    except OSError as error:
        refused = type(error).__name__
    answers: list[Answer] = await asyncio.gather(*running)
    ended = sum(one.status == 200 and one.whole and one.events[-1][1] == "[DONE]" for one in answers)
    code = await asyncio.to_thread(server.stop)
    return {"running": before.get("puna_replies_running"), "ended": ended, "of": len(answers), "refused": refused,
            "code": code, "seconds": time.perf_counter() - began}  # fmt: skip


async def load(
    address: tuple[str, int], pid: int | None, server: Served | None, options: argparse.Namespace
) -> dict[str, Any]:
    """All of it; the record."""
    setting = await learn(address)
    print(f"{setting.model}: context {setting.context}, {'chat' if setting.chats else 'text only'}; "
          f"{len(setting.prompts)} prompts asked alone", file=sys.stderr)  # fmt: skip
    tally, samples = Tally(), []
    before = await metrics(address)
    began = time.monotonic()
    until = began + 60 * options.minutes
    watching = asyncio.create_task(watch(pid, samples, until, min(1.0, options.minutes / 2)))
    own = time.process_time()
    await asyncio.gather(*(client(number, address, setting, tally, until) for number in range(options.clients)))
    own, seconds = time.process_time() - own, time.monotonic() - began
    await watching
    after = await settled(address)
    last = Case("whole", setting.prompts[0].path, setting.prompts[0].body(setting.model), setting.prompts[0])
    for case, text in [(last, setting.alone[setting.prompts[0].marker]), *tally.fresh[-MOST_FRESH:]]:
        if case.prompt is None:
            raise RuntimeError("a case without a prompt was kept")
        again = await ask(address, "POST", case.path, case.body)
        seen = judge(case, again, {case.prompt.marker: text}, left=False)
        tally.compared, tally.drifted = tally.compared + 1, tally.drifted + seen.drifted
        for what in seen.faults:
            tally.fault(case, f"after the load: {what}")
    after = await settled(address)
    record: dict[str, Any] = {
        "model": setting.model, "context": setting.context, "clients": options.clients, "seconds": seconds,
        "requests": sum(tally.statuses.values()), "statuses": dict(tally.statuses), "kinds": dict(tally.kinds),
        "requests_per_second": sum(tally.statuses.values()) / seconds,
        "tokens_per_second": (after.get("puna_generated_tokens_total", 0) - before.get("puna_generated_tokens_total", 0)) / seconds,
        "cached_prompt_share": share_cached(before, after),
        "preemptions": after.get("puna_preemptions_total", 0) - before.get("puna_preemptions_total", 0),
        "left": tally.left, "compared": tally.compared, "drifted": tally.drifted, "first_token": spread_of(tally.first),
        "whole": spread_of(tally.whole), "memory": slope(samples), "faults": tally.faults, "fault_count": tally.kinds["faults"],
        "repeated_ids": sum(count > 1 for count in tally.ids.values()), "client_cpu_share": own / seconds,
        "memory_samples": [[round(when - began, 2), held] for when, held in samples][:: max(1, len(samples) // 600)],
        "after": {key: after.get(key) for key in ("puna_replies_running", "puna_replies_waiting", "puna_cache_blocks",
                                                  "puna_cache_blocks_free")},
    }  # fmt: skip
    record["drain"] = await drain(server, setting) if server is not None else None
    record["stderr_tracebacks"] = server.said().count("Traceback") if server is not None else None
    return record


def share_cached(before: dict[str, float], after: dict[str, float]) -> float:
    """What part of the prompts' tokens was found in the cache."""
    cached, asked = (
        after.get(key, 0) - before.get(key, 0) for key in ("puna_cached_tokens_total", "puna_prompt_tokens_total")
    )
    return cached / (cached + asked) if cached + asked else 0.0


def spread_of(values: list[float]) -> dict[str, float]:
    """Seconds: p50, p95, p99, most."""
    if len(values) < 2:
        return {}
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "most": max(values)}


def failures(record: dict[str, Any]) -> list[str]:
    """The checks that did not hold."""
    found = (
        [f"{record['fault_count']} wrong answers, the first: {record['faults'][0]}"] if record["fault_count"] else []
    )
    if any(status.startswith("5") and status != "503" for status in record["statuses"]):
        found.append(f"server errors: {record['statuses']}")
    if record["drifted"] > max(1, MOST_DRIFTED * record["compared"]):
        found.append(f"{record['drifted']} of {record['compared']} replies went another way than alone")
    if record["repeated_ids"]:
        found.append(f"{record['repeated_ids']} ids were given to more than one reply")
    after = record["after"]
    if after["puna_replies_running"] != 0 or after["puna_replies_waiting"] != 0:
        found.append(f"something runs or waits after the load: {after}")
    if not after["puna_cache_blocks"] or after["puna_cache_blocks"] != after["puna_cache_blocks_free"]:
        found.append(f"not all blocks are free after the load: {after}")
    if grown := record["memory"]:
        certain = grown["low"] * grown["seconds"]
        if grown["seconds"] >= LEAST_WINDOW and certain > max(FLAT_BYTES, FLAT_SHARE * grown["mean"]):
            found.append(f"memory grows: at least {certain / 1e6:.1f} MB in {grown['seconds']:.0f} s")
    if ending := record["drain"]:
        if ending["ended"] != ending["of"] or ending["code"] != 0:
            found.append(
                f"after SIGTERM {ending['ended']} of {ending['of']} streams ended whole, exit code {ending['code']}"
            )
        if ending["refused"] not in ("HTTP 503", "ConnectionRefusedError", "ConnectionResetError"):
            found.append(f"after SIGTERM a new request got: {ending['refused']}")
    if record["stderr_tracebacks"]:
        found.append(f"{record['stderr_tracebacks']} tracebacks in the server's log")
    return found


def print_table(record: dict[str, Any], wrong: list[str]) -> None:
    """What was seen."""
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(record["statuses"].items()))
    after, grown, ending = record["after"], record["memory"], record["drain"]
    lines = [
        ("clients, seconds", f"{record['clients']}, {record['seconds']:.0f}"),
        ("answers by status", statuses),
        ("requests/s, tokens/s", f"{record['requests_per_second']:.1f}, {record['tokens_per_second']:,.0f}"),
        *((f"{name}, s: p50 / p95 / p99 / most", " / ".join(f"{record[key][at]:.3f}" for at in ("p50", "p95", "p99", "most")))
          for name, key in (("first token", "first_token"), ("whole reply", "whole")) if record[key]),
        ("prompt tokens found in the cache", f"{record['cached_prompt_share']:.0%}"),
        ("replies preempted, clients gone", f"{record['preemptions']:,.0f}, {record['left']:,}"),
        ("replies compared, drifted", f"{record['compared']:,}, {record['drifted']:,}"),
        ("wrong, lost or mixed answers", f"{record['fault_count']:,}"),
        ("blocks free of all; running", f"{after['puna_cache_blocks_free']:.0f} of {after['puna_cache_blocks']:.0f}; "
                                        f"{after['puna_replies_running']:.0f}"),
        ("memory, MB; slope in MB/h [95 %]", "too few samples, or not looked at" if grown is None else
         f"{grown['mean'] / 1e6:,.0f}; {grown['slope'] * 3.6e-3:+.1f} [{grown['low'] * 3.6e-3:+.1f}, {grown['high'] * 3.6e-3:+.1f}]"),
        ("SIGTERM", "not tried: not our server" if ending is None else
         f"{ending['ended']} of {ending['of']} streams ended whole in {ending['seconds']:.1f} s; a new request: {ending['refused']}; "
         f"exit code {ending['code']}"),
        ("the clients' share of one core", f"{record['client_cpu_share']:.0%}"),
    ]  # fmt: skip
    for name, value in lines:
        print(f"{name:42}{value}")
    for what in record["faults"][:10]:
        print(f"  wrong: {what}")
    print("all checks hold" if not wrong else "\n".join(f"FAILED: {one}" for one in wrong))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load (default: 10)")
    parser.add_argument("--clients", type=int, default=64, help="at once (default: 64)")
    parser.add_argument(
        "--size", default="15M", choices=list(SHAPES), help="random weights of this size (default: 15M)"
    )
    parser.add_argument("--model", type=Path, help="a model instead")
    parser.add_argument("--serve", default="--cache-tokens 2048",
                        help="further arguments of puna serve, as one text (default: a cache too small for all, so that replies are "
                             "preempted and prefixes pushed out: '--cache-tokens 2048')")  # fmt: skip
    parser.add_argument("--url", help="a server that runs already: http://HOST:PORT")
    parser.add_argument("--pid", type=int, help="its process, for its memory")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: bench/results, from one minute on)")
    options = parser.parse_args()
    server: Served | None = None
    with tempfile.TemporaryDirectory() as name:
        if options.url:
            address, pid = address_of(options.url), options.pid
        else:
            model = options.model
            if model is None:
                make(options.size, Path(name), 512, gguf=False, chat=True)
                model = Path(name) / "hf"
            server = Served(model, *options.serve.split())
            address, pid = server.address, server.pid
            print(f"puna serve answers after {server.start_seconds:.1f} s", file=sys.stderr)
        try:
            record = asyncio.run(load(address, pid, server, options))
        finally:
            if server is not None:
                server.stop()
    record |= {"python": platform.python_version(), "cores": os.cpu_count(), "serve": options.serve}
    record["failures"] = failures(record)
    print_table(record, record["failures"])
    out = options.out or (RESULTS if options.minutes >= 1 else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if record["failures"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
