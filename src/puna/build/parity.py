"""The parity check: is this still the same model?

Comes in: a model before and after (in the engine, or as other programs read it). Goes out: the largest logit difference and its
place, how many greedy texts are identical, bits per byte of each language, and a verdict. Must never happen: a check that passes
because it looked at nothing, or both models in memory because they are compared.

Both models read the same prompts and go on from them greedily. Logits are compared over the prompt and as much of the greedy text
as the two have in common. Where nothing was rounded they must agree within 1e-4 (of the largest logit, where that is above 1) and
the texts must be the same; where something was, the texts may differ, and only a loss of more than a quarter of the bits per byte,
or a number that is not finite, is a failure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from puna.build.parity_text import PROMPTS, TEXTS
from puna.engine import Engine, Sampling
from puna.errors import PunaError
from puna.judge.bits_per_byte import document_bits, start_id
from puna.model.weights import Weights
from puna.progress import QUIET, Progress

TOLERANCE = 1e-4
GROSS = 0.25  # share of bits by which a rounded model may be worse before that is a failure
GREEDY_TOKENS = 40
_AT_ONCE = 1 << 22  # weights compared at once


@dataclass(frozen=True)
class Reading:
    """What one program made of a model. `logits`: of each prompt and its greedy text, [tokens, vocabulary]; `ended`: by itself."""

    prompts: list[list[int]]
    whole: list[list[int]]  # the prompts' ids where the context did not cut them
    greedy: list[list[int]]
    logits: list[Float[Tensor, "t v"]]
    ended: list[bool]
    bits: dict[str, tuple[float, int]] = field(default_factory=dict)  # language -> bits, bytes; empty: no start token
    banned: list[int] = field(default_factory=list)
    stop_ids: frozenset[int] = frozenset()
    decode: Callable[[int], str] = str

    @property
    def sequences(self) -> list[list[int]]:
        """Prompt and greedy text, together."""
        return [[*prompt, *greedy] for prompt, greedy in zip(self.prompts, self.greedy, strict=True)]


def check_parity(
    before: Engine, after: Engine, *, exact: bool = True, text: str | None = None, progress: Progress = QUIET
) -> dict[str, Any]:
    """Compare two models that are both in memory. `exact`: nothing was rounded between them. See `compare` for what comes out.

    `text`: a text of the caller's own, measured in bits per byte beside the fixed ones.
    """
    return compare(read(before, text, progress, "before"), read(after, text, progress, "after"), exact=exact)


@torch.inference_mode()
def read(engine: Engine, text: str | None = None, progress: Progress = QUIET, name: str = "model") -> Reading:
    """Let a model read the prompts, go on from them, and read the texts. Raises `PunaError` where it gives no finite number."""
    whole = [engine.begin(prompt) for _, prompt in PROMPTS]
    room = max(1, engine.context // 2)
    prompts = [ids[:room] for ids in whole]
    progress.start(f"parity check: {name}", len(prompts) + 1, "texts")
    sampling = Sampling(max_tokens=min(GREEDY_TOKENS, engine.context - room) or 1, temperature=0.0)
    replies = engine.complete(prompts, sampling)
    logits = []
    for number, (ids, reply) in enumerate(zip(prompts, replies, strict=True), start=1):
        row = torch.tensor([[*ids, *reply.ids]], device=engine.model.head_weight().device)
        logits.append(engine.model.logits(engine.model(row))[0].float().cpu())
        if not torch.isfinite(logits[-1]).all():
            raise ParityError(f"the {name} gives logits that are not finite after {PROMPTS[number - 1][1]!r}")
        progress.update(number)
    tokens = engine.tokenizer
    bits = _bits(engine, TEXTS if text is None else {**TEXTS, "own": (text,)})
    progress.update(len(prompts) + 1)
    progress.finish()
    return Reading(prompts, whole, [list(reply.ids) for reply in replies], logits,
                   [reply.finish_reason == "stop" for reply in replies], bits, engine.banned_ids, engine.stop_ids,
                   # Of the engine only the tokenizer is kept: the model must be able to leave the memory.
                   lambda token: tokens.decode([token], skip_special=False) if token < tokens.vocab_size else "")  # fmt: skip


class ParityError(PunaError):
    """A model that is not what it was made from: a fault of the conversion, not of the user's. `report`: all figures."""

    def __init__(self, what: str, *, where: str | None = None, report: dict[str, Any] | None = None) -> None:
        super().__init__(what, where=where)
        self.report = report


def compare(before: Reading, after: Reading, *, exact: bool) -> dict[str, Any]:
    """Figures and verdict: {"exact", "tokens_identical", "logits", "greedy", "bits_per_byte", "failures", "passed"}.

    "logits": {"largest_difference", "allowed", "language", "prompt", "position", "token"}; "greedy": {"texts", "identical",
    "tokens"}; "bits_per_byte": per language and for all {"before", "after", "change"} ("change": share of before).
    """
    logits = largest_difference(before.sequences, before.logits, after.sequences, after.logits, after.decode)
    identical = sum(a == b for a, b in zip(before.greedy, after.greedy, strict=True))
    report: dict[str, Any] = {
        "exact": exact,
        "tokens_identical": before.whole == after.whole,
        "logits": logits,
        "greedy": {"texts": len(before.greedy), "identical": identical, "tokens": sum(map(len, before.greedy)),
                   "languages": _languages(before, after)},
        "bits_per_byte": _bits_table(before.bits, after.bits),
    }  # fmt: skip
    failures = [] if report["tokens_identical"] else [_other_tokens(before.whole, after.whole)]
    if exact and logits["largest_difference"] > logits["allowed"]:
        failures.append(f"logits differ by {logits['largest_difference']:.2g} (allowed {logits['allowed']:.2g}) "
                        f"after {logits['prompt']!r}")  # fmt: skip
    if exact and identical < len(before.greedy):
        failures.append(f"{len(before.greedy) - identical} of {len(before.greedy)} greedy texts differ")
    for name, row in report["bits_per_byte"].items():
        if row["change"] > GROSS:
            failures.append(f"bits per byte ({name}) rise from {row['before']:.3f} to {row['after']:.3f}")
    if before.bits and not after.bits:
        failures.append("it has no token any more that a document begins with")
    worse = surprise(after.prompts, after.logits) / max(surprise(before.prompts, before.logits), 1e-9) - 1
    if not before.bits and worse > GROSS:
        failures.append(f"the prompts' tokens cost {worse:.0%} more bits")
    return report | {"failures": failures, "passed": not failures}


def compare_reader(after: Reading, logits: list[Tensor], whole: list[list[int]], *, close: bool) -> dict[str, Any]:
    """What another program makes of the same files, beside Puna's reading of them.

    `logits`: its own, of `after.sequences`; `whole`: its tokenizer's ids of the prompts; `close`: it computes in fp32 with the
    same weights, so its logits must agree within the tolerance and its likeliest tokens must be Puna's.
    """
    difference = largest_difference(after.sequences, after.logits, after.sequences, logits, after.decode)
    same = sum(_same_text(after, number, found) for number, found in enumerate(logits))
    failures = [] if whole == after.whole else [_other_tokens(after.whole, whole)]
    if not all(bool(torch.isfinite(found).all()) for found in logits):
        failures.append("it gives logits that are not finite")
    elif close and (difference["largest_difference"] > difference["allowed"] or same < len(logits)):
        failures.append(f"its logits differ by {difference['largest_difference']:.2g} (allowed {difference['allowed']:.2g}), "
                        f"{same} of {len(logits)} greedy texts are the same")  # fmt: skip
    else:
        worse = surprise(after.prompts, logits) / max(surprise(after.prompts, after.logits), 1e-9) - 1
        if worse > GROSS:
            failures.append(f"the prompts' tokens cost {worse:.0%} more bits than in Puna")
    return {"tokens_identical": whole == after.whole, "logits": difference,
            "greedy": {"texts": len(logits), "identical": same}, "failures": failures}  # fmt: skip


def largest_difference(
    ids: list[list[int]], logits: list[Tensor], others: list[list[int]], other_logits: list[Tensor], decode: Callable[[int], str],
) -> dict[str, Any]:  # fmt: skip
    """The largest difference of two logits after the same tokens, where it is, and what would be allowed between equal weights."""
    worst: dict[str, Any] = {"largest_difference": -1.0}
    top = 1.0
    for number, (one, other) in enumerate(zip(ids, others, strict=True)):
        length = next(
            (i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other))
        )
        width = min(
            logits[number].shape[1], other_logits[number].shape[1]
        )  # rows past a tokenizer's end may be left out
        a, b = logits[number][:length, :width], other_logits[number][:length, :width]
        if not length:
            continue
        top = max(top, float(a.abs().max()))
        difference = (a - b).abs().nan_to_num(math.inf)
        place = int(difference.argmax())
        if float(difference.max()) > worst["largest_difference"]:
            language, prompt = PROMPTS[number]
            worst = {"largest_difference": float(difference.max()), "language": language, "prompt": prompt,
                     "position": place // width, "token": place % width, "token_text": decode(place % width)}  # fmt: skip
    return worst | {"allowed": TOLERANCE * top}


def surprise(prompts: Sequence[Sequence[int]], logits: list[Tensor]) -> float:
    """Mean of -log2 P(token | tokens before it) over the prompts' tokens but the first."""
    total, count = 0.0, 0
    for ids, found in zip(prompts, logits, strict=True):
        targets = torch.tensor(ids[1:], dtype=torch.long)
        likely = found[: len(targets)].double().log_softmax(-1).gather(-1, targets[:, None])
        total, count = total - float(likely.sum()), count + len(targets)
    return total / max(count, 1) / math.log(2)


def _same_text(after: Reading, number: int, logits: Tensor) -> bool:
    """True where greedy choice from these logits gives the same text, token by token, to the same end."""
    prompt, greedy = after.prompts[number], after.greedy[number]
    allowed = logits[len(prompt) - 1 :].clone()
    allowed[:, [id_ for id_ in after.banned if id_ < allowed.shape[1]]] = -math.inf
    chosen = allowed.argmax(-1).tolist()
    return chosen[: len(greedy)] == greedy and (not after.ended[number] or chosen[len(greedy)] in after.stop_ids)


def _other_tokens(ours: list[list[int]], theirs: list[list[int]]) -> str:
    prompt = next(text for (_, text), a, b in zip(PROMPTS, ours, theirs, strict=True) if a != b)
    return f"the tokenizer reads {prompt!r} as other ids"


def _languages(before: Reading, after: Reading) -> dict[str, dict[str, int]]:
    table = {language: {"texts": 0, "identical": 0} for language, _ in PROMPTS}
    for (language, _), a, b in zip(PROMPTS, before.greedy, after.greedy, strict=True):
        table[language]["texts"] += 1
        table[language]["identical"] += a == b
    return table


def _bits(engine: Engine, texts: dict[str, tuple[str, ...]]) -> dict[str, tuple[float, int]]:
    """Bits and bytes of each language's texts; nothing where the model has no token that a document begins with."""
    try:
        start_id(engine)
    except PunaError:
        return {}
    flat = [text for group in texts.values() for text in group]
    bits, _ = document_bits(engine, flat)
    found, at = {}, 0
    for language, group in texts.items():
        size = sum(len(text.encode()) for text in group)
        found[language] = (float(bits[at : at + len(group)].sum()), size)
        at += len(group)
    return found


def _bits_table(
    before: dict[str, tuple[float, int]], after: dict[str, tuple[float, int]]
) -> dict[str, dict[str, float]]:
    rows = {}
    for name in before.keys() & after.keys():
        (old, size), (new, _) = before[name], after[name]
        rows[name] = {"before": old / size, "after": new / size, "change": new / max(old, 1e-9) - 1}
    return {name: rows[name] for name in before if name in rows}


def compare_weights(before: Weights, after: Weights, dtype: torch.dtype | None, progress: Progress) -> dict[str, Any]:
    """Every tensor beside what it was made from: {"tensors", "equal", "as_rounded", "largest_difference", "tensor"}.

    `as_rounded`: how many are what rounding to `dtype` gives, to the bit (for plain kinds all must be).
    """
    if before.names != after.names:
        raise ParityError(f"the new model has {len(after.names)} tensors, the source {len(before.names)}")
    equal = rounded = 0
    largest, where = 0.0, ""
    for name, written in counted(after, progress, "comparing the weights").items():
        source = before.read(name)
        if source.shape != written.shape:
            raise ParityError(f"{name} has shape {list(written.shape)}, the source's {list(source.shape)}")
        step = max(1, _AT_ONCE // max(1, math.prod(source.shape[1:])))
        same = as_rounded = True
        for a, b in zip(source.split(step), written.split(step), strict=True):
            a, b = a.float(), b.float()
            if not torch.equal(a, b):
                same = False
                as_rounded = as_rounded and dtype is not None and torch.equal(a.to(dtype).float(), b)
                difference = float((a - b).abs().max())
                if difference > largest:
                    largest, where = difference, name
        equal, rounded = equal + same, rounded + as_rounded
    progress.finish()
    return {"tensors": len(after.names), "equal": equal, "as_rounded": rounded,
            "largest_difference": largest, "tensor": where}  # fmt: skip


def counted(weights: Weights, progress: Progress, title: str) -> Weights:
    """The same weights; progress counts each tensor when it is first read."""
    seen: set[str] = set()
    shapes = weights.config.shapes
    progress.start(title, sum(map(math.prod, shapes.values())), "values")

    def read(name: str) -> Tensor:
        tensor = weights.read(name)
        seen.add(name)
        progress.update(sum(math.prod(shapes[one]) for one in seen))
        return tensor

    return Weights(weights.config, read, weights.types, weights.where)
