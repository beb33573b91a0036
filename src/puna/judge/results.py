"""The form of a score, and all that stands beside it so that it can be made again.

Comes in: measured numbers. Goes out: plain dicts for results.json. Must never happen: a time or a machine path in them,
so that the same inputs give the same bytes.
"""

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import puna
from puna.files import digest_of, file_sha256
from puna.judge.stats import Interval

Score = dict[str, Any]
BITS_PER_BYTE = "bits_per_byte"
PLACES = 6  # decimals kept: far below every interval, above float noise


def make_score(
    task: str, metric: str, value: float, n: int, interval: Interval | None, *, model: str | None = None, name: str | None = None,
    chance: float | None = None, p_value: float | None = None, higher_is_better: bool, detail: Mapping[str, Any],
) -> Score:  # fmt: skip
    """One measured number. `n` counts what `detail["n_is"]` says; a baseline has a `name`, a model's score a `model`."""
    result: Score = {
        "task": task, "metric": metric, "value": _round(value), "n": n,
        "interval": None if interval is None else [_round(interval[0]), _round(interval[1])],
        "chance": chance, "p_value": p_value, "higher_is_better": higher_is_better, "detail": dict(detail),
    }  # fmt: skip
    if name is not None:
        result["name"] = name
    if model is not None:
        result["model"] = model
    return result


def _round(value: float) -> float:
    return round(float(value), PLACES)


def weights_digest(folder: object) -> str | None:
    """SHA-256 over the names and digests of a model folder's weights, config and tokenizer; None for a model in memory."""
    if not isinstance(folder, Path):
        return None
    names = [*folder.glob("*.safetensors"), *folder.glob("config.json"), *folder.glob("tokenizer.json")]
    return digest_of({path.name: file_sha256(path) for path in sorted(names)})


def harness() -> dict[str, str]:
    """Versions of what measures: another version may give other numbers."""
    packages = ("numpy", "torch", "tokenizers", "pyarrow")
    return {
        "puna": puna.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
