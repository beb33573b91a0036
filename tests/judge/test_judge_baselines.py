"""xz's costs add up to xz's file, and the documents are what they are said to be."""

import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puna.errors import PunaError
from puna.judge.baselines import start_xz
from puna.judge.documents import Documents, load, verbatim_share
from puna.judge.stats import Units


def xz(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def test_costs_add_up_to_the_files_of_xz(corpus: Path) -> None:
    heldout, train = load(corpus, "heldout", 10**6, 1), load(corpus, "train", 10**6, 1)
    units = Units.of(heldout.sources)
    with start_xz(heldout.texts, units, [[], train.texts]) as runs:
        alone, primed = [run.bits() for run in runs]
    text, before = "".join(heldout.texts).encode(), "".join(train.texts).encode()
    assert len(alone) == units.count
    assert alone.sum() == 8 * (xz(text) - xz(b""))
    assert primed.sum() == 8 * (xz(before + text) - xz(before))
    assert primed.sum() < alone.sum()
    assert (alone > 0).all()


def test_a_block_left_early_ends_its_processes() -> None:
    with pytest.raises(KeyError), start_xz(["text"] * 3, Units.of("abc"), [["x" * 3_000_000]]) as runs:
        raise KeyError("stop")
    assert runs[0].process.returncode is not None


def test_scattered_units_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"), start_xz(["a", "b", "c"], Units.of(["x", "y", "x"]), [[]]):
        pass


def write(folder: Path, texts: list[str | None], sources: list[str]) -> Path:
    pq.write_table(pa.table({"text": texts, "source": sources}), folder / "heldout.parquet")
    return folder


def test_sources_stand_together_and_empty_texts_go(tmp_path: Path) -> None:
    found = load(write(tmp_path, ["一", "two", "", None, "three"], ["a", "b", "a", "b", "a"]), "heldout", 1000, 0)
    assert (found.texts, found.sources) == (["一", "three", "two"], ["a", "a", "b"])
    assert found.sizes.tolist() == [3, 5, 3]
    assert found.note == {"documents": 5, "bytes": 11, "documents_used": 3, "bytes_used": 11, "sampled": False}


def test_too_much_text_is_sampled_by_seed_to_the_limit(tmp_path: Path) -> None:
    write(tmp_path, [f"{i:03} " + "羊驼" * 50 for i in range(100)], [f"s{i}" for i in range(100)])

    def take(seed: int) -> Documents:
        return load(tmp_path, "heldout", 5_000, seed)

    assert 4_997 <= take(1).sizes.sum() <= 5_000
    assert take(1).note["sampled"]
    assert take(1).texts == take(1).texts
    assert take(1).texts != take(2).texts
    assert all(text.endswith(("羊", "驼")) or text.strip().isdigit() for text in take(1).texts)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match=r"heldout\.parquet: there is no such file"):
        load(tmp_path, "heldout", 10, 0)
    (tmp_path / "heldout.parquet").write_bytes(b"PAR1 not a table PAR1")
    with pytest.raises(PunaError, match="not a table"):
        load(tmp_path, "heldout", 10, 0)
    with pytest.raises(PunaError, match="no text"):
        load(write(tmp_path, ["", None], ["a", "b"]), "heldout", 10, 0)


def test_verbatim_share_counts_long_lines() -> None:
    long, other = (
        "x = compute_the_answer_of_everything(42, verbose=True)",
        "y = something_else_entirely(1, 2, 3, 4, 5, 6, 7, 8)",
    )
    assert verbatim_share([long], [f"  {long}\n"]) == 1.0
    assert verbatim_share([other], [long, "pass"]) == 0.0
    assert verbatim_share([], ["short"]) == 0.0
    assert np.isclose(verbatim_share([long], [f"{long}\n{other}"]), len(long) / len(long + other))
