"""What a longer context is worth: bits per byte by position and the needle test, of a base as it came and of what was made.

Comes in: the models in the order of their making, the corpus folder, the context to look at. Goes out: the dict kept as
results["long_context"]. Must never happen: the base left out because it was trained for less (that it breaks there is the
finding), or a sentence that the intervals do not bear.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.engine import Engine
from puna.files import file_sha256
from puna.judge.columns import WIDTH, cell, fit, wrap
from puna.judge.documents import HELDOUT_BYTES, load
from puna.judge.needle import DEPTHS, needle_test
from puna.judge.positions import compare_positions
from puna.judge.results import harness
from puna.progress import QUIET, Progress

LONG_BYTES = 64_000_000  # of held-out text looked through for long documents; at most 64 windows of it are read
TRIALS = 10  # needles for each length and depth
_SURE = 0.01  # the level below which needles count as found better than by chance
_FORMAT = 1


def stretched(engine: Engine, context: int) -> Engine:
    """The same weights, read up to `context` tokens with their positions as they are: nothing else is changed."""
    if engine.context >= context:
        return engine
    return Engine(engine.model, engine.tokenizer, engine.config.model_copy(update={"max_position_embeddings": context}))


def judge_long_context(
    models: Sequence[tuple[str, Engine | Path]], corpus: Path, *, context: int, draws: int, seed: int, trials: int = TRIALS,
    depths: Sequence[float] = DEPTHS, progress: Progress = QUIET,
) -> dict[str, Any]:  # fmt: skip
    """Measure every model on the corpus's longest held-out documents, up to `context` tokens; one model in memory at a time.

    Raises `PunaError` for a damaged model or corpus; too few long documents are a "reason" in the result.
    """
    long = load(corpus, "heldout", LONG_BYTES, seed)
    order = sorted(range(len(long.texts)), key=lambda place: (-len(long.texts[place]), place))
    haystack = load(corpus, "heldout", HELDOUT_BYTES, seed).texts
    lengths = sorted({length for part in (8, 4, 2, 1) if (length := context // part) >= 64} | {context})
    needles: dict[str, Any] = {}
    trained: dict[str, int] = {}

    def one_by_one() -> Iterator[tuple[str, Engine]]:
        for name, model in models:
            engine = model if isinstance(model, Engine) else Engine.load(model)
            trained[name] = engine.context
            needles[name] = needle_test(stretched(engine, context), haystack, lengths=lengths, depths=depths, trials=trials,
                                        seed=seed, progress=progress, title=f"looking for needles ({name})")  # fmt: skip
            yield name, engine
            del engine
            gc.collect()

    positions = compare_positions(
        one_by_one(), [long.texts[place] for place in order], context=context, draws=draws, seed=seed,
        sources=[long.sources[place] for place in order], progress=progress,
    )  # fmt: skip
    result: dict[str, Any] = {
        "format": _FORMAT, "context": context, "draws": draws, "seed": seed, "harness": harness(),
        "inputs": {"heldout.parquet": file_sha256(corpus / "heldout.parquet")},
        "models": [name for name, _ in models], "trained_context": trained, "positions": positions, "needle": needles,
    }  # fmt: skip
    result["words"] = _words(result)
    return result


def _words(result: Mapping[str, Any]) -> list[str]:
    """What the numbers say of each model, the last one first in importance and so last in order."""
    said = []
    for name in result["models"]:
        found = result["positions"]["models"][name]
        if "reason" in found:
            said.append(f"Bits per byte by position of {name} were left out: {found['reason']}.")
            continue
        said += _along(name, found)
    for gap in result["positions"]["differences"]:
        said += _beyond(result["positions"], gap)
    for name in result["models"]:
        said += _needles(name, result["needle"][name])
    return said


def _along(name: str, found: Mapping[str, Any]) -> list[str]:
    change = found.get("last_minus_first")
    if change is None:
        return []
    first, last = found["ranges"][0], found["ranges"][-1]
    low, high = change["interval"]
    start = f"From the first {first['to']:,} tokens to those from {last['from']:,} on"
    if change["falls"] is None:
        return [f"{start}, {name} shows no change that the data can tell: {change['value']:+.3f} bits per byte (95 % interval {low:+.3f} to {high:+.3f})."]  # fmt: skip
    nearer, farther = sorted((abs(low), abs(high)))
    way = "falls" if change["falls"] else "rises"
    return [f"{start}, {name} {way} by {abs(change['value']):.3f} bits per byte (95 % interval {nearer:.3f} to {farther:.3f})."]  # fmt: skip


def _beyond(positions: Mapping[str, Any], gap: Mapping[str, Any]) -> list[str]:
    """The last range of two models beside each other, where the first was trained for less."""
    before, after = positions["models"][gap["before"]], positions["models"][gap["after"]]
    last, told = before["ranges"][-1], gap["ranges"][-1]
    if last["from"] < before["trained_context"] or told["interval"] is None:
        return []
    low, high = told["interval"]
    so = "fewer" if high < 0 else "more" if low > 0 else None
    where = f"Beyond the {before['trained_context']:,} tokens that {gap['before']} was made for, at {last['from']:,} to {last['to']:,}"
    numbers = f"{gap['before']} as it is needs {last['bits_per_byte']:.3f} bits per byte and {gap['after']} {after['ranges'][-1]['bits_per_byte']:.3f}"
    within = f"95 % interval of the difference {low:+.3f} to {high:+.3f}"
    return [f"{where}, {numbers}{'' if so else '; the data cannot tell them apart'} ({within})."]


def _needles(name: str, found: Mapping[str, Any]) -> list[str]:
    if not found["by_length"]:
        return [f"Needles of {name} were left out: {found['left_out'][0]['reason']}."] if found["left_out"] else []
    told = found["by_length"][-1]
    out_of = f"{told['chosen']} of {told['n']} needles at {told['length']:,} tokens (chance {100 * told['chance']:.3g} %, p {_p(told['p_value'])})"
    recall = f"greedy decoding writes {told['recalled']} of them out"
    if told["p_value"] < _SURE:
        return [f"{name[:1].upper()}{name[1:]} tells {out_of}; {recall}."]
    return [f"{name[:1].upper()}{name[1:]} cannot be told from guessing: it picks {out_of}; {recall}."]


def _p(value: float) -> str:
    return "below 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def format_long_context(result: Mapping[str, Any]) -> str:
    """Bits per byte by position, the needles by length and depth, and the sentences: 80 columns, no colour."""
    lines: list[str] = []
    positions = result["positions"]
    columns = [
        (name, found["ranges"], "bits_per_byte", "") for name, found in positions["models"].items() if "ranges" in found
    ]
    columns += [(f"{gap['after']} - {gap['before']}", gap["ranges"], "value", "+") for gap in positions["differences"]]
    for first in range(0, len(columns), 2):
        part = columns[first : first + 2]
        lines += [fit("bits per byte at", 20) + "".join(fit(name, 30, right=True) for name, *_ in part), "-" * WIDTH]
        for at, (low, high) in enumerate(zip(positions["edges"], positions["edges"][1:], strict=False)):
            cells = [cell(ranges[at][key], ranges[at]["interval"], sign) for _, ranges, key, sign in part]
            lines.append(fit(f"{low:,} to {high:,}", 20) + "".join(cells))
        lines.append("")
    for name in result["models"]:
        lines += _needle_block(name, result["needle"][name])
    for sentence in result["words"]:
        lines += wrap(sentence)
    return "\n".join(lines)


def _needle_block(name: str, found: Mapping[str, Any]) -> list[str]:
    """Rows are lengths, columns depths: per cent chosen rightly; then all depths together."""
    if not found["cells"]:
        return []
    depths = sorted({told["depth"] for told in found["cells"]})[:6]
    title = f"needle, {name}: % told from {found['choices'] - 1} others"
    lines = [
        title,
        fit("tokens", 9) + "".join(f"{100 * depth:.0f} %".rjust(6) for depth in depths) + fit(" " * 6 * (6 - len(depths)), 6 * (6 - len(depths)))
        + "all".rjust(6) + "95 %".rjust(11) + "n".rjust(6) + "recall".rjust(8),
        "-" * WIDTH,
    ]  # fmt: skip
    for told in found["by_length"]:
        cells = {one["depth"]: one["share"] for one in found["cells"] if one["length"] == told["length"]}
        row = "".join((f"{100 * cells[depth]:.0f}" if depth in cells else "-").rjust(6) for depth in depths)
        low, high = told["interval"]
        lines.append(fit(f"{told['length']:,}", 9) + fit(row, 36) + f"{100 * told['share']:.0f}".rjust(6) + f"{100 * low:.0f} to {100 * high:.0f}".rjust(11)
                     + f"{told['n']}".rjust(6) + f"{100 * told['recall']:.0f} %".rjust(8))  # fmt: skip
    return [*lines, ""]
