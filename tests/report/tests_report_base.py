"""What the judge says of a model that was made from another one, in the judge's form, with numbers made here."""

from typing import Any


def _score(value: float, n: int = 31) -> dict[str, Any]:
    return {"task": "heldout", "metric": "bits_per_byte", "value": value, "n": n, "interval": [value - 0.05, value + 0.05],
            "chance": 8.0, "p_value": None, "higher_is_better": False, "detail": {"n_is": "sources"}}  # fmt: skip


def _gap(domain: str, before: str, after: str, value: float, holds: bool | None, words: str) -> dict[str, Any]:
    return {"domain": domain, "before": before, "after": after, "holds": holds, "words": words,
            "difference": {"value": value, "interval": [value - 0.01, value + 0.01], "drawn": "sources", "units": 31}}  # fmt: skip


def inheritance_part() -> dict[str, Any]:
    rows = {"inherited": (2.31, 1.62), "init": (2.35, 1.66), "own": (1.98, 1.71)}
    gaps = [
        _gap(
            "new",
            "inherited",
            "own",
            -0.33,
            True,
            "All that was done to the base gained 0.330 bits per byte on the new text.",
        ),
        _gap("new", "inherited", "init", 0.004, None, "The new form alone brought no change that the data can show."),
        _gap(
            "old",
            "inherited",
            "own",
            0.09,
            False,
            "All that was done to the base forgot 0.090 bits per byte on the old text.",
        ),
    ]
    zh = {"documents": 9, "bytes": 81_234, "difference": {"value": -1.5, "interval": None},
          "rows": {"inherited": {"bits_per_byte": 3.5, "interval": None, "bytes_per_token": 1.07},
                   "own": {"bits_per_byte": 2.0, "interval": [1.9, 2.1], "bytes_per_token": 3.21}}}  # fmt: skip
    return {
        "format": 1, "models": list(rows), "differences": gaps, "words": [gap["words"] for gap in gaps],
        "rows": [{"model": name, "scores": {"new": _score(new), "old": _score(old)}} for name, (new, old) in rows.items()],
        "languages": {"new": {"zh": zh}},
    }  # fmt: skip


def _needles(share: float) -> dict[str, Any]:
    told = {"n": 20, "recalled": 3, "recall": 0.15, "chosen": int(20 * share), "share": share, "interval": [share - 0.1, share + 0.1],
            "chance": 0.125, "lift_bits": 4 * share}  # fmt: skip
    cells = [{"length": length, "depth": depth, **told} for length in (128, 512) for depth in (0, 0.5, 1)]
    return {"choices": 8, "cells": cells, "by_length": [{"length": length, **told, "p_value": 1e-9} for length in (128, 512)],
            "left_out": []}  # fmt: skip


def long_context_part() -> dict[str, Any]:
    models = {}
    for name, trained, values in (("inherited", 128, (2.41, 5.2, 9.1)), ("own", 512, (2.38, 2.16, 2.05))):
        ranges = [{"from": low, "to": high, "bits_per_byte": value, "interval": [value * 0.97, value * 1.03], "bytes": 9_000}
                  for low, high, value in zip((0, 128, 256), (128, 256, 512), values, strict=True)]  # fmt: skip
        models[name] = {"context": 512, "trained_context": trained, "n": 31, "n_is": "sources", "ranges": ranges}
    return {
        "format": 1, "context": 512, "models": list(models), "positions": {"models": models, "differences": []},
        "needle": {"inherited": _needles(0.15), "own": _needles(0.8)},
        "words": ["Beyond the 128 tokens that inherited was made for it needs 9.100 bits per byte and own 2.050."],
    }  # fmt: skip


def with_base(report: dict[str, Any]) -> dict[str, Any]:
    """The same report of a model that was made from another one."""
    results = {**report["results"], "inheritance": inheritance_part(), "long_context": long_context_part()}
    base = {"names": ["stories260K"], "parameters": 260_032, "layers": 5, "context": 128, "entries": 512, "replay_share": 0.25,
            "start": {"rope": {"theta": 500_000.0, "how": "abf", "context": 512}, "parameters": 290_000}}  # fmt: skip
    script = {"bytes": 81_234, "tokens_before": 62_010, "tokens_after": 26_899, "bytes_per_token_before": 1.31,
              "bytes_per_token_after": 3.02, "kept": 0.21}  # fmt: skip
    return {**report, "results": results, "base": base, "extension": {"Han": script}}
