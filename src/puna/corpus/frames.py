"""The bulk work over tables of documents, in Daft: measured columns, exact duplicates, near-duplicates.

Comes in: a Parquet file of `WORK_SCHEMA`. Goes out: narrow Arrow tables in reading order; the texts themselves stay where they
are. Must never happen: an answer that depends on the order in which threads or workers finished, so every answer is sorted.

One definition runs on this machine's cores, or on the Ray cluster that PUNA_RAY_ADDRESS names (which must see the file).
"""

import os
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from puna.corpus import near

RAY_ADDRESS = "PUNA_RAY_ADDRESS"


@cache
def _daft() -> ModuleType:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DAFT_SHOW_QUERY_ID", "0")
    import daft  # here, so that importing the corpus stays light and telemetry is off before the first byte of it

    if address := os.environ.get(RAY_ADDRESS):
        daft.set_runner_ray(address=address)
    return daft


def _place(path: Path) -> str:
    """A file for Daft, which reads [ ] { } * ? in a path as patterns: as seen from here, where few folders stand in it."""
    return str(path) if os.environ.get(RAY_ADDRESS) else os.path.relpath(path)


def measure(path: Path) -> pa.Table:
    """order, bytes, chars, symbol_share, first of each row, sorted by order.

    chars counts characters (code points); symbol_share is the share of the characters other than spaces that are neither
    letters nor marks of letters (Unicode L and M); first is the order of the first row with the same text and kind.
    """
    daft = _daft()
    text = daft.col("text")
    frame = daft.read_parquet(_place(path)).select("order", "text", "kind")
    solid = text.regexp_replace(r"\s+", "").length().cast(daft.DataType.float64())
    letters = text.regexp_replace(r"[^\p{L}\p{M}]+", "").length().cast(daft.DataType.float64())
    measured = frame.select(
        daft.col("order"),
        text.length_bytes().cast(daft.DataType.int64()).alias("bytes"),
        text.length().cast(daft.DataType.int64()).alias("chars"),
        daft.functions.when(solid > 0, 1.0 - letters / solid).otherwise(1.0).alias("symbol_share"),
        daft.functions.concat(daft.col("kind"), text).hash().alias("hash"),
    ).collect()
    firsts = measured.groupby("hash").agg(daft.col("order").min().alias("first"))
    joined = measured.join(firsts, on="hash").sort("order")
    return joined.select("order", "bytes", "chars", "symbol_share", "first").to_arrow()


def take_out(path: Path, index: near.Shingles, threshold: float) -> pa.Table:
    """Rows of `path` of which something stands in `index` (see near.take_out): order, text, passages, bytes, sample, whole.

    Sorted by order; rows that stay as they are do not appear.
    """
    daft = _daft()
    fields = {
        "text": daft.DataType.string(),
        "passages": daft.DataType.int64(),
        "bytes": daft.DataType.int64(),
        "sample": daft.DataType.string(),
        "whole": daft.DataType.bool(),
    }

    @daft.func.batch(return_dtype=daft.DataType.struct(fields))
    def compare(text, kind):  # type: ignore[no-untyped-def]  # Daft reads annotations as its own types
        kept = [
            near.take_out(index, value, threshold, kind_of == "source")
            for value, kind_of in zip(text.to_pylist(), kind.to_pylist(), strict=True)
        ]
        rows = [
            {
                "text": k.text if k.passages else "",
                "passages": k.passages,
                "bytes": k.bytes,
                "sample": k.sample,
                "whole": k.whole,
            }
            for k in kept
        ]
        return daft.Series.from_pylist(rows, dtype=daft.DataType.struct(fields))

    frame = daft.read_parquet(_place(path)).select("order", compare(daft.col("text"), daft.col("kind")).alias("kept"))
    frame = frame.select("order", *[daft.col("kept").get(name).alias(name) for name in fields])
    changed = frame.where(daft.col("whole") | (daft.col("passages") > 0)).sort("order")
    return changed.select("order", *fields).to_arrow()


def as_array(table: pa.Table, column: str) -> np.ndarray:
    """One column as a numpy array of shape (rows,)."""
    return table.column(column).combine_chunks().to_numpy(zero_copy_only=False)
