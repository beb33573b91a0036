"""The zoo judged: every member beside its parents and beside strangers, and how often the tests are right.

Comes in: a family. Goes out: a `ZooResult`. Must never happen: a failure that is not in the table.
"""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from puna.lineage.behaviour import ALIKE_BELOW, sign_test
from puna.lineage.opened import open_for_comparison
from puna.lineage.verdict import DERIVED_BELOW, Block, Part, Rate, Verdict
from puna.lineage.weights.compare import DECIDING, compare_weights
from puna.lineage.weights.statistics import rate
from puna.lineage.zoo import training
from puna.lineage.zoo.family import (
    DISGUISED_NOISED,
    SIBLING,
    STRANGERS,
    STUDENT,
    Case,
    Zoo,
    pool,
    read_state,
    strangers_of,
)
from puna.progress import QUIET, Progress

OTHER_FAMILY = "descendant of another"
_COEFFICIENT_ERROR = 0.05


class Row(Part):
    """One member beside one reference."""

    kind: str
    member: str
    reference: str
    derived: bool  # the truth
    verdict: Verdict
    relation: str | None
    also: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    log10_p: float | None = None
    share: float | None = None
    tests: dict[str, float] = {}  # log10 p of each test that ran  # noqa: RUF012
    verdict_right: bool
    relation_right: bool | None = None  # None: no relation to name
    map_right: bool | None = None
    coefficient_error: float | None = None
    amount: float | None = None
    seconds: float = 0.0


class Spoken(Part):
    """How often two models name the same next token, beside models of another text that are asked the same. `p_value`: of an exact sign test
    against the nearest of them; `alike`: it is under 0.001."""

    kind: str  # "distilled", "same text"
    model: str
    reference: str
    agreement: float
    controls: tuple[float, ...]
    p_value: float
    alike: bool


class ZooResult(Part):
    """Everything that was found. `false_positives`: over strangers; `by_test`: the same for each test alone, and its power."""

    rows: tuple[Row, ...]
    pairs: int
    false_positives: Rate
    undecided: Rate
    other_family: Rate
    relations: dict[str, Rate]
    detected: dict[str, Rate]
    maps: Rate | None = None
    coefficients: Rate | None = None
    by_test: dict[str, dict[str, Rate]]
    spoken: tuple[Spoken, ...] = ()
    bits_per_token: float = 0.0
    seed: int = 0
    seconds: dict[str, float] = {}  # noqa: RUF012


def judge_family(zoo: Zoo, seed: int, progress: Progress = QUIET) -> ZooResult:
    """Compare every case in processes of their own, and count."""
    began = time.monotonic()
    cases = [*strangers_of(zoo), *zoo.cases, *_other_families(zoo)]
    with pool() as workers:
        jobs: list[Future[list[Row]]] = [workers.submit(_judge, zoo.folder, case) for case in cases]
        rows: list[Row] = []
        progress.start("comparing", sum(len(case.references) for case in cases), "pairs")
        for job in jobs:
            rows += job.result()
            progress.update(len(rows))
        progress.finish()
    spoken = tuple(_spoken(zoo, *speaker) for speaker in zoo.speakers)
    return counted(rows, spoken, zoo.bits_per_token, seed, {"comparing": round(time.monotonic() - began, 1)})


def counted(
    rows: Sequence[Row], spoken: tuple[Spoken, ...], bits: float, seed: int, seconds: dict[str, float]
) -> ZooResult:
    """Rates from rows."""
    strangers = [row for row in rows if row.kind == STRANGERS]
    others = [row for row in rows if row.kind in (OTHER_FAMILY, STUDENT)]
    related = [row for row in rows if row.derived]
    kinds = list(dict.fromkeys(row.kind for row in related))
    mapped = [row.map_right for row in rows if row.map_right is not None]
    errors = [row.coefficient_error for row in rows if row.coefficient_error is not None]
    limit = _log10(DERIVED_BELOW)
    by_test = {}
    for name in dict.fromkeys(name for row in rows for name in row.tests):
        null = [row.tests[name] < limit for row in strangers if name in row.tests]
        seen = [row.tests[name] < limit for row in related if name in row.tests]
        by_test[name] = {
            **({"false_positives": rate(sum(null), len(null), "pairs from scratch")} if null else {}),
            **({"power": rate(sum(seen), len(seen), "descendants of all kinds")} if seen else {}),
        }
    named = [row for row in related if row.relation_right is not None and row.kind not in (SIBLING, DISGUISED_NOISED)]
    return ZooResult(
        rows=tuple(rows), pairs=len(strangers), false_positives=rate(sum(row.verdict == "derived" for row in strangers), len(strangers)),
        undecided=rate(sum(row.verdict == "cannot tell" for row in strangers), len(strangers)),
        other_family=rate(sum(row.verdict in ("derived", "same") for row in others), len(others)),
        relations={kind: rate(sum(bool(row.relation_right) for row in named if row.kind == kind), sum(row.kind == kind for row in named))
                   for kind in kinds if any(row.kind == kind for row in named)},
        detected={kind: rate(sum(row.verdict_right for row in related if row.kind == kind), sum(row.kind == kind for row in related)) for kind in kinds},
        maps=rate(sum(mapped), len(mapped)) if mapped else None,
        coefficients=rate(sum(error <= _COEFFICIENT_ERROR for error in errors), len(errors)) if errors else None,
        by_test=by_test, spoken=spoken, bits_per_token=bits, seed=seed, seconds=seconds,
    )  # fmt: skip


def _other_families(zoo: Zoo) -> list[Case]:
    """Every descendant beside a model that it does not stem from."""
    used = {name for case in zoo.cases for name in case.references}
    free = [name for name in zoo.strangers if name not in used] or [zoo.strangers[-1]]
    members = list(dict.fromkeys(case.member for case in zoo.cases if case.derived))
    return [Case(OTHER_FAMILY, member, (free[number % len(free)],), False) for number, member in enumerate(members)
            if free[number % len(free)] not in _parents(zoo, member)]  # fmt: skip


def _parents(zoo: Zoo, member: str) -> set[str]:
    return {name for case in zoo.cases if case.member == member for name in case.references}


def _judge(folder: Path, case: Case) -> list[Row]:
    began = time.monotonic()
    model = open_for_comparison(folder / case.member)
    references = [open_for_comparison(folder / name) for name in case.references]
    if model.checkpoint.unknown:  # other names: the roles are found by the reference's
        model = open_for_comparison(folder / case.member, like=references[0].checkpoint)
    rows = []
    found_all = compare_weights(model, references)
    seconds = (time.monotonic() - began) / len(references)
    for name, found in zip(case.references, found_all, strict=True):
        is_derived = found.verdict in ("same", "derived")
        right = is_derived if case.derived else found.verdict == "independent"
        values = {one.reference: one.value for one in found.coefficients}
        error = None
        if case.coefficients is not None:
            error = max(
                abs(values.get(ref, 0.0) - true) for ref, true in zip(case.references, case.coefficients, strict=True)
            )
        rows.append(Row(
            kind=case.kind, member=case.member, reference=name, derived=case.derived, verdict=found.verdict, relation=found.relation,
            also=found.also, expected=case.relations, log10_p=found.log10_p, share=found.share, verdict_right=right,
            tests={test.name: test.log10_p for test in found.tests if test.ran and test.log10_p is not None},
            relation_right=found.relation in case.relations if case.derived and case.relations else None,
            map_right=None if case.sources is None else _right_map(case.sources, found.blocks), coefficient_error=error, amount=case.amount,
            seconds=round(seconds, 3),
        ))  # fmt: skip
    return rows


def _right_map(truth: Sequence[int], blocks: Sequence[Block]) -> bool:
    return len(blocks) == len(truth) and all(
        block.source == source for block, source in zip(blocks, truth, strict=True)
    )


def _spoken(zoo: Zoo, kind: str, model: str, reference: str) -> Spoken:
    known, ids = read_state(zoo.folder / reference), zoo.ground.prose
    own = training.agrees(read_state(zoo.folder / model), known, ids)
    others = [training.agrees(read_state(zoo.folder / name), known, ids) for name in zoo.foreign]
    p_value = max(sign_test(own.numpy(), other.numpy()) for other in others)
    return Spoken(
        kind=kind, model=model, reference=reference, agreement=float(own.float().mean()), p_value=p_value, alike=p_value < ALIKE_BELOW,
        controls=tuple(float(other.float().mean()) for other in others),
    )  # fmt: skip


def _log10(value: float) -> float:
    import math

    return math.log10(value)


def zoo_text(result: ZooResult) -> str:
    """The table, 80 columns."""
    lines = [f"{'what was done':<27}{'found':>8}{'named rightly':>15}{'median p':>12}  called", "-" * 80]
    for kind, seen in result.detected.items():
        rows = [row for row in result.rows if row.kind == kind]
        named = result.relations.get(kind)
        called = ", ".join(dict.fromkeys(row.relation or row.verdict for row in rows))
        middle = statistics.median(row.log10_p or 0.0 for row in rows)
        lines.append(
            f"{kind[:26]:<27}{f'{seen.hits}/{seen.n}':>8}{f'{named.hits}/{named.n}' if named else '-':>15}{_power(middle):>12}  {called[:16]}"
        )
    lines.append("-" * 80)
    false, undecided, other = result.false_positives, result.undecided, result.other_family
    lines += [
        f"independent pairs of one shape, text and tokenizer, other seeds: {result.pairs}",
        "  (one model stands in many pairs; the intervals count them as if it did not)",
        f"  called derived     {false.hits:>5}   95 % interval {false.low:.2%} to {false.high:.2%}",
        f"  called cannot tell {undecided.hits:>5}   95 % interval {undecided.low:.2%} to {undecided.high:.2%}",
        f"descendants and students beside models they do not stem from: {other.n}",
        f"  called derived     {other.hits:>5}   95 % interval {other.low:.2%} to {other.high:.2%}",
    ]
    named_all = [value for kind, value in result.relations.items()]
    right, n = sum(value.hits for value in named_all), sum(value.n for value in named_all)
    if n:
        lines.append(f"relations named rightly: {right} of {n} ({right / n:.1%})")
    if result.maps:
        lines.append(f"block maps right: {result.maps.hits} of {result.maps.n}")
    if result.coefficients:
        lines.append(
            f"merge coefficients within {_COEFFICIENT_ERROR}: {result.coefficients.hits} of {result.coefficients.n}"
        )
    lines += ["", f"{'test':<14}{'false positives':>18}{'found':>14}   at p < {DERIVED_BELOW:g}"]
    for name, found in result.by_test.items():
        false_, power = found.get("false_positives"), found.get("power")
        mark = "" if name in DECIDING else "  second opinion"
        lines.append(
            f"{name:<14}{f'{false_.hits}/{false_.n}' if false_ else '-':>18}{f'{power.hits}/{power.n}' if power else '-':>14}{mark}"
        )
    for kind in dict.fromkeys(one.kind for one in result.spoken):
        some = [one for one in result.spoken if one.kind == kind]
        apart = [
            row for one in some for row in result.rows if {row.member, row.reference} == {one.model, one.reference}
        ]
        words = "students beside their teachers" if kind == STUDENT else "models of the same text, other seeds"
        lines += [
            "", f"{words}: {sum(one.alike for one in some)} of {len(some)} speak alike (same next token "
            f"{min(one.agreement for one in some):.0%} to", f"  {max(one.agreement for one in some):.0%}; models of another text "
            f"{min(min(one.controls) for one in some):.0%} to {max(max(one.controls) for one in some):.0%}); weights called independent: "
            f"{sum(row.verdict == 'independent' for row in apart)} of {len(apart)}",
        ]  # fmt: skip
    wrong = [row for row in result.rows if not row.verdict_right or row.relation_right is False]
    if wrong:
        lines += ["", f"wrong or undecided ({len(wrong)}):"]
        lines += [f"  {row.member} / {row.reference}: {row.verdict}, {row.relation}"[:80] for row in wrong]
    return "\n".join(lines)


def _power(log10_p: float) -> str:
    return f"{10**log10_p:.2g}" if log10_p > -4 else f"1e{round(log10_p)}"
