"""The maker's own exact test: real runs with real ledgers, a thief, a stranger, and what is refused."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from puna.errors import PunaError
from puna.lineage.claim import ByText, LocalSuspect, claim, local_suspect, permuted_p, rank_correlation
from puna.lineage.order import FADING, read_order, traces
from puna.tokens import Tokenizer
from puna.tokens.loader import Batches
from puna.train.schedule import rate_share

ROOT = Path(__file__).resolve().parents[2]
ROWS = 1000


@dataclass(frozen=True)
class Run:
    """A small run with its order, its model, and the texts of the bench."""

    folder: Path
    model: Path
    texts: Any
    bench: ModuleType


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = importlib.util.spec_from_file_location("lineage_claim", ROOT / "bench" / "lineage_claim.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)

    sys.modules["lineage_claim"] = bench
    spec.loader.exec_module(bench)
    folder = tmp_path_factory.mktemp("claim")
    texts = bench.prepare(folder, ROWS)
    model = bench.committed_run(texts, folder / "runs" / "mine", ROWS * bench.CONTEXT, seed=20251122)
    return Run(folder / "runs" / "mine", model, texts, bench)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """The run, to be spoilt."""
    return Path(shutil.copytree(run.folder, tmp_path / "mine"))


@dataclass(frozen=True)
class Made:
    """Likelihoods by a rule."""

    name: str
    rule: Callable[[np.ndarray], np.ndarray]

    def loglikelihoods(self, rows: Sequence[Sequence[int]]) -> list[float]:
        return list(self.rule(np.array(rows)))


def test_a_fine_tuned_model_is_recognised_and_a_stranger_on_the_same_text_is_not(run: Run, tmp_path: Path) -> None:
    order = read_order(run.folder)
    tokens = ROWS * run.bench.CONTEXT
    thief = run.bench.trained(run.texts, run.texts.other, tokens // 4, 5, tmp_path / "thief", init=run.model)
    stranger = run.bench.trained(run.texts, run.texts.mine, tokens, 11, tmp_path / "stranger")
    own = local_suspect(run.model, "own", order)
    found = claim(local_suspect(thief, "thief", order), order, own=own)
    assert found.verdict == "derived" and found.log10_p < -4 and found.p_permuted <= 0.001
    assert found.own is not None and found.own[1] < found.log10_p
    assert found.profile[-1] > found.profile[0]  # what was read last is remembered
    assert "it comes from mine" in found.sentence and len(found.ledger_head) == 64
    other = claim(local_suspect(stranger, "stranger", order), order)
    assert other.verdict == "cannot tell" and other.p_value > 0.001 and other.rows == order.rows - order.padded().sum()
    # A stranger serves as control: what it knows of the rows sharpens the test and does not change the null.
    helped = claim(own, order, controls=[local_suspect(stranger, "stranger", order)])
    assert helped.log10_p < claim(own, order).log10_p and helped.controls[-1] == "stranger"


def test_p_values_of_a_stranger_are_uniform_over_orders(run: Run) -> None:
    order = read_order(run.folder)
    plan, _ = run.bench.plan_of(run.texts, ROWS * run.bench.CONTEXT)
    draw = np.random.default_rng(0)
    # Rows differ in ways that bigrams do not explain, with heavy tails; none of it knows the order.
    odd = {
        tuple(row): value
        for row, value in zip(order.tokens_of(np.arange(order.rows)).tolist(), draw.standard_cauchy(ROWS), strict=True)
    }
    stranger = Made("stranger", lambda rows: np.array([odd[tuple(row)] for row in rows.tolist()]) - 0.1 * rows.std(1))
    found = []
    for seed in range(60):
        trace, place = traces(plan, Batches(order.batches.folder, plan.rows, seed))
        found.append(claim(stranger, replace(order, trace=trace, place=place), most_rows=400).p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert min(found) > 1e-4


def test_selected_rows_have_more_power_than_as_many_drawn_ones(run: Run) -> None:
    order = read_order(run.folder)
    tokens = order.tokens_of(np.arange(order.rows)).tolist()
    says = dict(
        zip(map(tuple, tokens), order.trace + 0.3 * np.random.default_rng(1).normal(size=order.rows), strict=True)
    )
    suspect = Made("made", lambda rows: np.array([says[tuple(row)] for row in rows.tolist()]))
    found = claim(suspect, order, most_rows=200)
    some = np.arange(200)  # the order is a draw, so these are too
    drawn = rank_correlation(np.array([says[tuple(tokens[row])] for row in some]), order.trace[some])
    assert found.rows == 200 and found.log10_p < drawn[1] - 2


def test_the_trace_adds_visits_and_fades_with_what_was_learnt_later(run: Run) -> None:
    plan, _ = run.bench.plan_of(run.texts, 2 * ROWS * run.bench.CONTEXT)  # two epochs
    batches = read_order(run.folder).batches
    trace, place = traces(plan, batches)
    rates = [rate_share(plan, step) for step in range(plan.steps)]
    row, expected = int(batches.row_numbers(17, 1)[0]), 0.0
    order = batches.row_numbers(0, plan.steps * plan.rows)
    for cursor in np.flatnonzero(order == row):
        step = cursor // plan.rows
        expected += rates[step] * np.exp(-FADING * sum(rates[step + 1 :]) / sum(rates))
    assert trace[row] == pytest.approx(expected)
    assert sorted(place.tolist()) == list(range(batches.total_rows))


def test_rows_never_trained_on_have_no_trace(run: Run) -> None:
    plan, _ = run.bench.plan_of(run.texts, ROWS * run.bench.CONTEXT // 2)
    trace, _ = traces(plan, read_order(run.folder).batches)
    assert (trace > 0).sum() == plan.steps * plan.rows


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_agrees_with_scipy_and_with_permutations(ties: bool) -> None:
    draw = np.random.default_rng(2)
    trace = draw.integers(0, 9, 300).astype(float) if ties else draw.normal(size=300)
    values = draw.normal(size=300) + 0.1 * trace
    rho, log10_p = rank_correlation(values, trace)
    theirs = stats.spearmanr(values, trace, alternative="greater")
    assert rho == pytest.approx(theirs.statistic) and 10**log10_p == pytest.approx(theirs.pvalue)
    assert permuted_p(values, trace, 4000) == pytest.approx(theirs.pvalue, abs=0.02)


def test_rank_correlation_never_claims_less_than_one_order() -> None:
    rho, log10_p = rank_correlation(np.arange(5.0), np.arange(5.0))
    assert rho == 1.0 and 10**log10_p == pytest.approx(1 / 120)
    assert rank_correlation(np.ones(50), np.arange(50.0)) == (0.0, 0.0)


def test_other_tokenizers_are_asked_by_text(run: Run, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    order = read_order(run.folder)
    foreign = tiny_model(
        tmp_path / "foreign", ["another vocabulary, of other words " * 20], 280, max_position_embeddings=32
    )
    suspect = local_suspect(foreign, "foreign", order)
    assert suspect.by_text and not local_suspect(run.model, "own", order).by_text
    rows = order.tokens_of(np.arange(3)).tolist()
    assert len(suspect.loglikelihoods(rows)) == 3  # longer in its tokens than its context: cut
    reader = Tokenizer.load(run.texts.folder / "tokenizer")
    seen: list[str] = []
    by_text = ByText("api", lambda texts: [seen.append(t) or -1.0 for t in texts], reader)  # type: ignore[func-returns-value]
    assert by_text.loglikelihoods(rows) == [-1.0] * 3 and seen[0] == reader.decode(rows[0])
    with pytest.raises(PunaError, match="another vocabulary"):
        LocalSuspect(foreign, "foreign", None, order.batches.vocab_size).loglikelihoods(rows)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_an_answer_that_is_no_number_is_refused(run: Run, value: float) -> None:
    with pytest.raises(PunaError, match="row 0 is not a number"):
        claim(Made("broken", lambda rows: np.full(len(rows), value)), read_order(run.folder))


def test_too_few_answers_are_refused(run: Run) -> None:
    with pytest.raises(PunaError, match="likelihoods for"):
        claim(Made("lazy", lambda rows: np.zeros(len(rows) - 1)), read_order(run.folder))


def test_where_a_ledger_is_found(run: Run, copy: Path) -> None:
    release = copy / "release" / "puna"
    release.mkdir(parents=True)
    shutil.copyfile(copy / "ledger.jsonl", release / "ledger.jsonl")
    heads = {
        read_order(place).head for place in (copy, copy / "ledger.jsonl", copy / "release", release / "ledger.jsonl")
    }
    assert heads == {read_order(run.folder).head}
    (copy / "ledger.jsonl").unlink()
    assert read_order(copy).ledger == release / "ledger.jsonl"


def _rewrite(run: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """The ledger with other entries, its chain made whole again: a maker who holds the file can do that."""
    from puna.ledger import Ledger

    path = run / "ledger.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    change(entries)
    path.unlink()
    for entry in entries:
        Ledger(path).append(entry["kind"], entry["body"])


def _other_seed(entries: list[dict[str, Any]]) -> None:
    next(e for e in entries if e["kind"] == "seed-revealed")["body"]["seed"] += 1


def _late_commitment(entries: list[dict[str, Any]]) -> None:
    entries.append(entries.pop(0))


def _other_pack(entries: list[dict[str, Any]]) -> None:
    next(e for e in entries if e["body"].get("stage") == "pretrain")["body"]["inputs"]["pack"] = "0" * 64


def _other_order(entries: list[dict[str, Any]]) -> None:
    training = next(i for i, e in enumerate(entries) if e["body"].get("stage") == "pretrain")
    artefact = "pretrain-" + entries[training]["body"]["digest"][:12]
    entries.insert(training, {"kind": "order", "body": {"artefact": artefact, "rows": 1}})


def _no_training(entries: list[dict[str, Any]]) -> None:
    del entries[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [(_other_seed, "not revealed"), (_late_commitment, "no commitment"), (_other_pack, "others than the ledger's"),
     (_other_order, "order committed to before the training is another"), (_no_training, "no finished pretraining")],
)  # fmt: skip
def test_a_ledger_that_does_not_bind_the_order_is_refused(copy: Path, change: Any, message: str) -> None:
    read_order(copy)
    _rewrite(copy, change)
    with pytest.raises(PunaError, match=message):
        read_order(copy)


def test_what_lies_beside_the_ledger_must_be_what_it_names(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="there is no ledger"):
        read_order(tmp_path / "nowhere")
    tokens = next(copy.glob("pack-*")) / "tokens.bin"
    data = tokens.read_bytes()
    tokens.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(PunaError, match="changed since the training"):
        read_order(copy)
    tokens.write_bytes(data)
    manifest = next(copy.glob("pretrain-*")) / "MANIFEST.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"steps": ', '"steps": 1'))
    with pytest.raises(PunaError, match="not those that the ledger is bound to"):
        read_order(copy)
    manifest.write_text(text)
    line = (copy / "ledger.jsonl").read_text()
    (copy / "ledger.jsonl").write_text(line.replace('"stage":"pack"', '"stage":"back"', 1))
    with pytest.raises(PunaError, match="the entry was changed"):
        read_order(copy)
    (copy / "ledger.jsonl").write_text(line)
    shutil.rmtree(next(copy.glob("pretrain-*")))
    with pytest.raises(PunaError, match="not beside the ledger"):
        read_order(copy / "ledger.jsonl")


def test_too_few_rows_and_rows_all_alike(run: Run) -> None:
    order = read_order(run.folder)
    alike = replace(order, trace=np.zeros(order.rows))
    with pytest.raises(PunaError, match="trained on alike"):
        claim(Made("made", lambda rows: np.zeros(len(rows))), alike)
