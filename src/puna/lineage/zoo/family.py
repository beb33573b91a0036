"""The zoo's members, their folders and their truth.

Comes in: a size, a seed, a folder. Goes out: model folders and the list of cases to judge. Must never happen: a truth that was read off the
model, and not off what was done to it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from puna.lineage.tokenizer import shared_tokens
from puna.lineage.weights import relation as named
from puna.lineage.zoo import changes, training
from puna.lineage.zoo.changes import Changed
from puna.lineage.zoo.training import Ground, State
from puna.progress import QUIET, Progress
from puna.tokens import Tokenizer, write_tokenizer

STRANGERS, SIBLING, STUDENT, SAME_TEXT = "from scratch", "same random start", "distilled", "same text"
DISGUISED_NOISED = "disguised, noised"
FOREIGN = 3  # models from scratch on the other text: whose talk the others' is held against


@dataclass(frozen=True)
class ZooSize:
    """`strangers`: models from scratch; `parents`: how many of them everything is done to; `steps` of pretraining."""

    strangers: int
    parents: int
    steps: int
    noise: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)


TINY = ZooSize(strangers=4, parents=1, steps=40, noise=(0.3,), shares=(0.3,))
DEFAULT = ZooSize(strangers=33, parents=4, steps=150)
LARGE = ZooSize(
    strangers=65,
    parents=8,
    steps=200,
    noise=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    shares=(0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9),
)
SIZES = {"tiny": TINY, "default": DEFAULT, "large": LARGE}


@dataclass(frozen=True)
class Case:
    """A member beside references, and what is true of them. `relations`: the names that are right; `amount`: noise, share, steps."""

    kind: str
    member: str
    references: tuple[str, ...]
    derived: bool
    relations: tuple[str, ...] = ()
    sources: tuple[int, ...] | None = None  # the block map
    coefficients: tuple[float, ...] | None = None
    amount: float | None = None


@dataclass(frozen=True)
class Zoo:
    """`folder` holds a model folder a member; `cases` what is to be judged; `strangers` their names."""

    folder: Path
    ground: Ground
    strangers: tuple[str, ...]
    cases: tuple[Case, ...]
    speakers: tuple[tuple[str, str, str], ...]  # (kind, model, reference): who should speak alike
    foreign: tuple[str, ...]  # from scratch on the other text
    bits_per_token: float


def build_family(size: ZooSize, folder: Path, seed: int, progress: Progress = QUIET) -> Zoo:
    """Train and transform every member. A pure function of (size, seed, this Python's text, this machine's arithmetic)."""
    folder.mkdir(parents=True, exist_ok=True)
    ground = training.prepare(folder / "ground")
    strangers = [f"scratch-{number}" for number in range(size.strangers)]
    parents = strangers[: size.parents]
    foreign = [f"foreign-{number}" for number in range(FOREIGN)]
    with pool() as workers:
        first = {
            name: workers.submit(_scratch, ground, folder / name, seed, name, size.steps)
            for name in [*strangers, *foreign]
        }
        _wait(first, "training from scratch", progress)
        second: dict[str, Future[None]] = {}
        for parent in parents:
            for kind in ("fine-tuned", "short", "long", "adapter", "sibling", "student"):
                name = f"{parent}-{kind}"
                second[name] = workers.submit(
                    _second, kind, ground, folder / parent, folder / name, seed, name, parent, size.steps
                )
        _wait(second, "training on from them", progress)
    cases: list[Case] = []
    progress.start("transforming", len(parents), "parents")
    for number, parent in enumerate(parents):
        other = strangers[size.parents + number % (size.strangers - size.parents)]
        for case, made in _changes(size, folder, parent, other, ground, _seed(seed, parent)):
            if made is not None:
                write_member(
                    folder / case.member,
                    made,
                    ground.other_tokenizer if case.kind == named.VOCABULARY else ground.tokenizer,
                )
            cases.append(case)
        progress.update(number + 1)
    progress.finish()
    bits = sum(training.bits_per_token(read_state(folder / name), ground.prose) for name in parents) / len(parents)
    speakers = [(STUDENT, f"{parent}-student", parent) for parent in parents]
    speakers += [(SAME_TEXT, strangers[-1 - number], parent) for number, parent in enumerate(parents)]
    return Zoo(folder, ground, tuple(strangers), tuple(cases), tuple(speakers), tuple(foreign), bits)


def _changes(
    size: ZooSize, folder: Path, parent: str, other: str, ground: Ground, seed: int
) -> Iterator[tuple[Case, Changed | None]]:
    """Every case of one parent; None where the member was trained already."""
    state, stranger = read_state(folder / parent), read_state(folder / other)
    tuned, longer = read_state(folder / f"{parent}-fine-tuned"), read_state(folder / f"{parent}-short")

    def case(kind: str, name: str, *relations: str, **truth: Any) -> Case:
        return Case(
            kind,
            f"{parent}-{name}",
            truth.pop("references", (parent,)),
            truth.pop("derived", True),
            relations or (kind,),
            **truth,
        )

    plain: Callable[[State], Changed] = Changed
    yield case(named.FINE_TUNED, "fine-tuned"), None
    yield case(named.CONTINUED, "short", amount=0.4 * size.steps), None
    yield case(named.CONTINUED, "long", amount=2.0 * size.steps), None
    yield case(named.ADAPTER, "adapter"), None
    yield case(SIBLING, "sibling", named.CONTINUED), None
    yield case(STUDENT, "student", derived=False), None
    yield case(named.COPY, "copy"), plain(state)
    yield case(named.ROUNDED, "bf16"), plain(changes.rounded(state))
    for bits in (8, 4):
        yield case(named.QUANTISED, f"int{bits}"), plain(changes.coarse(state, bits))
    for amount in size.noise:
        yield case(named.NOISED, f"noise-{amount:g}", amount=amount), plain(changes.noised(state, amount, seed))
    for amount in size.noise:  # no number is kept, so this is the curve of the tests and not of the identities
        hidden = changes.noised(changes.disguised(state, seed), amount, seed)
        yield (
            case(
                DISGUISED_NOISED,
                f"disguised-noise-{amount:g}",
                named.NOISED,
                named.CONTINUED,
                named.FINE_TUNED,
                amount=amount,
            ),
            plain(hidden),
        )
    yield case(named.RENAMED, "renamed"), plain(changes.renamed(state))
    for kind, made in (
        ("units permuted", changes.units_permuted(state, seed)), ("heads permuted", changes.heads_permuted(state, seed)),
        ("stream permuted", changes.stream_permuted(state, seed)), ("stream rotated", changes.stream_rotated(state, seed)),
        ("disguised", changes.disguised(state, seed)),
        ("gains folded, rescaled", changes.rescaled(state, seed)), ("transposed", changes.transposed(state)),
    ):  # fmt: skip
        yield case(kind, kind.replace(" ", "-").replace(",", ""), named.COPY), plain(made)
    for how, order in (
        ("duplicate", (0, 1, 2, 1, 2, 3)),
        ("solar", (0, 1, 2, 1, 2, 3)),
        ("silent", (0, 1, 1, 2, 2, 3)),
    ):
        yield case(named.GROWN, how, sources=order), changes.grown(state, how)
    yield case(named.PRUNED_DEPTH, "shallow", sources=(0, 1, 3)), changes.shallower(state, [0, 1, 3])
    for what, sizes in (("neurons", {"intermediate": 112}), ("heads", {"heads": 2}), ("channels", {"hidden": 48})):
        yield case(named.PRUNED_WIDTH, f"fewer-{what}"), changes.narrower(state, ground.prose, **sizes)
    for share in size.shares:
        yield (
            case(
                named.MERGED,
                f"merged-{share:g}",
                references=(parent, other),
                coefficients=(share, 1 - share),
                amount=share,
            ),
            plain(changes.sum_of(state, stranger, share)),
        )
    yield case(named.VOCABULARY, "vocabulary"), plain(changes.new_vocabulary(state, _pieces(ground)))
    yield case(named.UPCYCLED, "experts"), changes.upcycled(state, 4, seed)
    chain = changes.shallower(tuned, [0, 1, 3])
    last = Changed(changes.units_permuted(chain.state, seed, chain.config), chain.config)
    yield case("chain of three", "chain", named.PRUNED_DEPTH, sources=(0, 1, 3)), last
    yield case("chain, its last parent", "chain", named.PRUNED_DEPTH, references=(f"{parent}-fine-tuned",)), None
    thief = changes.noised(changes.units_permuted(longer, seed), 0.05, seed)
    yield case("trained, permuted, noised", "thief", named.CONTINUED, named.NOISED, named.FINE_TUNED), plain(thief)
    turned = changes.stream_rotated(changes.units_permuted(longer, seed), seed)
    yield case("trained, permuted, rotated", "turned", named.CONTINUED), plain(turned)


def _pieces(ground: Ground) -> list[list[int]]:
    """For each entry of the other vocabulary, the old ids that it stands for: itself where both have it."""
    old, new = Tokenizer.load(ground.tokenizer), Tokenizer.load(ground.other_tokenizer)
    known = {theirs: own for own, theirs in shared_tokens(old, new).tolist()}
    special = new.special_ids
    return [[known[i]] if i in known else [] if i in special else old.encode(new.token_bytes(i).decode("utf-8", "replace"))
            for i in range(training.VOCAB)]  # fmt: skip


# Work of a process of its own


def pool() -> ProcessPoolExecutor:
    """As many single-threaded processes as the machine has cores, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ProcessPoolExecutor(
        min(8, cores), mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )


def _wait(jobs: dict[str, Future[None]], title: str, progress: Progress) -> None:
    progress.start(title, len(jobs), "models")
    for done, job in enumerate(jobs.values(), start=1):
        job.result()
        progress.update(done)
    progress.finish()


def _scratch(ground: Ground, folder: Path, seed: int, name: str, steps: int) -> None:
    text = ground.code if name.startswith("foreign") else ground.prose
    made = training.from_scratch(text, init=_seed(seed, name, "init"), order=_seed(seed, name, "order"), steps=steps)
    write_member(folder, Changed(made), ground.tokenizer)


def _second(
    kind: str, ground: Ground, source: Path, folder: Path, seed: int, name: str, parent: str, steps: int
) -> None:
    state, order = read_state(source), _seed(seed, name, "order")
    if kind == "fine-tuned":
        made = training.further(state, ground.code, order=order, steps=steps // 3, rate=training.FINE_RATE)
    elif kind in ("short", "long"):
        count = steps * 2 if kind == "long" else int(0.4 * steps)
        made = training.further(state, ground.code, order=order, steps=count, rate=training.RATE)
    elif kind == "adapter":
        made = training.by_adapter(state, ground.code, order=order, steps=steps // 3)
    elif kind == "sibling":
        made = training.from_scratch(ground.prose, init=_seed(seed, parent, "init"), order=order, steps=steps)
    else:
        made = training.distilled(state, ground.prose, init=_seed(seed, name, "init"), order=order, steps=steps)
    write_member(folder, Changed(made), ground.tokenizer)


def _seed(seed: int, *names: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join([str(seed), *names]).encode()).digest()[:6], "little")


def write_member(folder: Path, made: Changed, tokenizer: Path) -> None:
    """A model folder, under whatever names its tensors have."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in made.state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(made.config.to_hf() | made.hf, indent=2), encoding="utf-8")
    write_tokenizer(tokenizer, folder, chat=False, context=made.config.max_position_embeddings)


def read_state(folder: Path) -> State:
    """The tensors of a member, in fp32."""
    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


def strangers_of(zoo: Zoo) -> Sequence[Case]:
    """Pairs that share nothing but shape, text and tokenizer: all from scratch, each with all after it."""
    names = zoo.strangers
    return [Case(STRANGERS, name, tuple(names[number + 1 :]), False) for number, name in enumerate(names[:-1])]
