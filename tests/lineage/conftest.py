"""A small family whose truth is known, made once: two models from scratch, and what was trained on from the first."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from puna.lineage.opened import Opened, open_for_comparison
from puna.lineage.zoo import training
from puna.lineage.zoo.changes import Changed
from puna.lineage.zoo.family import write_member
from puna.lineage.zoo.training import Ground, State

STEPS = 40


@dataclass
class Family:
    """`states` by name; `folder` writes a member (once) and gives its folder, `opened` opens one for a comparison."""

    home: Path
    ground: Ground
    states: dict[str, State]
    made: dict[str, Path] = field(default_factory=dict)

    def __getitem__(self, name: str) -> State:
        return self.states[name]

    def folder(self, name: str, changed: Changed | State | None = None, *, other_tokenizer: bool = False) -> Path:
        if name not in self.made:
            changed = self.states[name] if changed is None else changed
            whole = changed if isinstance(changed, Changed) else Changed(changed)
            write_member(
                self.home / name, whole, self.ground.other_tokenizer if other_tokenizer else self.ground.tokenizer
            )
            self.made[name] = self.home / name
        return self.made[name]

    def opened(self, name: str, changed: Changed | State | None = None, like: Opened | None = None) -> Opened:
        return open_for_comparison(self.folder(name, changed), like=None if like is None else like.checkpoint)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """first and second from scratch; tuned, longer, adapter from first; sibling: first's random start, other batches; student of first."""
    home = tmp_path_factory.mktemp("family")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ground = training.prepare(home / "ground")
        prose, code = ground.prose, ground.code
        first = training.from_scratch(prose, init=1, order=2, steps=STEPS)
        states = {
            "first": first, "second": training.from_scratch(prose, init=3, order=4, steps=STEPS),
            "sibling": training.from_scratch(prose, init=1, order=5, steps=STEPS),
            "tuned": training.further(first, code, order=6, steps=12, rate=training.FINE_RATE),
            "longer": training.further(first, code, order=7, steps=24, rate=training.RATE),
            "adapter": training.by_adapter(first, code, order=8, steps=12),
            "student": training.distilled(first, prose, init=9, order=10, steps=12),
        }  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return Family(home, ground, states)


@pytest.fixture
def checkpoint_of() -> Callable[..., "object"]:
    """A checkpoint in memory from tensors under any names: `assembled` over a state dict."""
    from puna.lineage.weights.files import Stored
    from puna.lineage.weights.reading import Checkpoint, assembled

    def make(state: State, config: dict[str, object] | None = None, like: Checkpoint | None = None) -> Checkpoint:
        stored = {
            name: Stored(tuple(tensor.shape), "F32", lambda tensor=tensor: tensor) for name, tensor in state.items()
        }  # type: ignore[misc]
        return assembled("in memory", {} if config is None else config, stored, like=like)

    return make
