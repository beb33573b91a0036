"""Share of functions that Python accepts, when the base model goes on from a held-out name, signature and summary.

Comes in: held-out functions, the base model. Goes out: a share with its interval, and each function written. Must never
happen: generated code that is run (it is only parsed), or an empty body that counts.

A function ends before the first line at its left margin. One that the token limit cut is kept up to its last whole
line. A body that says nothing (empty, `pass`, `...`, a lone constant) is a failure: parsing it takes no skill.
"""

import ast
import string
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puna.engine import Engine, Sampling
from puna.judge.bits_per_byte import start_id
from puna.judge.functions import Function
from puna.judge.results import Score, make_score
from puna.judge.stats import wilson
from puna.progress import QUIET, Progress

MAX_TOKENS = 128
_BATCH = 20  # functions between two reports of progress
_STOPS = tuple("\n" + char for char in string.ascii_letters + "_@#\"'")  # a line at the left margin begins


@dataclass(frozen=True)
class Written:
    """One function as the model wrote it. `outcome`: "parses", "syntax error", "empty" or "says nothing"."""

    prompt: str
    body: str
    outcome: str


def prompts_of(functions: Sequence[Function], most: int, seed: int) -> list[str]:
    """The openings of at most `most` held-out functions whose own name and signature Python accepts, drawn by `seed`."""
    heldout = [f for f in functions if f.split == "heldout" and f.kind in ("function", "method")]
    openings = dict.fromkeys(_opening(heldout[i]) for i in np.random.default_rng([seed, 3]).permutation(len(heldout)))
    return [text for text in openings if _tree(text + "    pass\n") is not None][:most]


def _opening(function: Function) -> str:
    summary = function.summary.replace("\\", "\\\\").replace('"', '\\"')
    return f'def {function.name}{function.signature}:\n    """{summary}"""\n'


def trim(text: str, *, cut_short: bool) -> str:
    """The body: lines up to the first one at the left margin; without the last line where the limit cut it."""
    lines = text.split("\n")
    if cut_short:
        lines = lines[:-1]
    for number, line in enumerate(lines):
        if line.strip() and line[0] not in " \t":
            lines = lines[:number]
            break
    return "\n".join(lines).rstrip()


def outcome(prompt: str, body: str) -> str:
    """What became of a body: see `Written`."""
    if not body.strip():
        return "empty"
    tree = _tree(f"{prompt}{body}\n")
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        return "syntax error"
    said = [node for node in tree.body[0].body[1:] if not _says_nothing(node)]
    return "parses" if said else "says nothing"


def _says_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _tree(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" in generated text is not ours to print
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def write_functions(engine: Engine, prompts: Sequence[str], seed: int, progress: Progress = QUIET) -> list[Written]:
    """Let the base model go on from each prompt, taking the likeliest token always. Prompts over half the context are left out."""
    start = start_id(engine)
    read = [(text, [start, *engine.tokenizer.encode(text)]) for text in prompts]
    read = [(text, ids) for text, ids in read if len(ids) <= engine.context // 2]
    sampling = Sampling(max_tokens=MAX_TOKENS, temperature=0.0, seed=seed, stop=_STOPS)
    result: list[Written] = []
    progress.start("writing functions", len(read), "functions")
    for first in range(0, len(read), _BATCH):
        part = read[first : first + _BATCH]
        for (text, _), reply in zip(part, engine.complete([ids for _, ids in part], sampling), strict=True):
            body = trim(reply.text, cut_short=reply.finish_reason == "length")
            result.append(Written(text, body, outcome(text, body)))
        progress.update(len(result))
    progress.finish()
    return result


def parse_score(written: Sequence[Written]) -> Score:
    """The share of `written` (at least one) that parses."""
    counts = Counter(function.outcome for function in written)
    detail: dict[str, Any] = {
        "n_is": "functions", "outcomes": dict(sorted(counts.items())), "max_tokens": MAX_TOKENS,
        "decoding": "the likeliest token always",
        "rule": "body up to the first line at the left margin; a body cut by the limit keeps its whole lines; "
                "empty, `pass`, `...` and lone constants fail",
    }  # fmt: skip
    n, hits = len(written), counts["parses"]
    return make_score(
        "parse", "share", hits / n, n, wilson(hits, n), model="base", higher_is_better=True, detail=detail
    )
