"""The next token of rows that come and go: continuous batching's way of drawing.

In: one `RowState` per reply, which lives as long as it does, and each step's logits of the rows that are read in that step.
Out: one id per row. Must never happen: a row's draw depends on what stands beside it, a banned id is drawn, or a row
without any number to choose by (NaN, or a shape that allows nothing) passes for one that has chosen.

The order is that of Hugging Face's generate(): bias, repetition penalty (then presence and frequency, as in vLLM), masks,
temperature, top-k, top-p, min-p. A draw is one uniform number of the row's own generator against the CDF in the order of ids.

On the CPU each row is worked on alone, in numpy: an argmax of 16 rows of 32,000 logits takes 0.08 ms that way and 1.9 ms in
torch, a nucleus 2 ms and 9 ms (one thread). Elsewhere the rows are worked on together, by the functions of `sampling`.
"""

import secrets
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.engine.sampling import SEEDS, Sampling, draw, keep_min_p, keep_top_k, keep_top_p
from puna.errors import PunaError

NOTHING = -1  # in the place of an id: the row's logits hold no number, or its shape allows no token
_NEVER = float("-inf")
_UNIFORMS = 32  # drawn from a row's generator at once: the same numbers as one by one, without a torch call for each
_TAIL = 1e-4  # of the likeliest token's probability; what lies below is looked at only where a filter reaches so far

Row = npt.NDArray[np.float32]  # [v]
Ids = npt.NDArray[np.int64]


class Allows(Protocol):
    """What a row needs of a constraint (`constrain.Constraint`)."""

    @property
    def error(self) -> str | None:
        """Why nothing is allowed any more, where that is so."""

    def mask(self) -> npt.NDArray[np.bool_]:
        """[v]: which ids may come next."""

    def take(self, id_: int) -> None:
        """State that `id_` came next."""


def check_bias(sampling: Sampling, vocabulary: int) -> None:
    """Raise `PunaError` where the settings name a token that the vocabulary has not."""
    most = max((id_ for id_, _ in sampling.logit_bias), default=-1)
    if most >= vocabulary:
        raise PunaError(f"names token {most}, and the model has {vocabulary}", where="logit_bias")


class RowState:
    """What drawing knows of one reply: settings, generator, the tokens that have occurred, the shape it must have.

    Raises `PunaError` where the settings name a token that the vocabulary of `v` ids has not.
    """

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], vocabulary: int, constraint: Allows | None = None
    ) -> None:
        self.sampling, self.constraint, self._vocabulary = sampling, constraint, vocabulary
        self._bias_ids = np.array([id_ for id_, _ in sampling.logit_bias], dtype=np.int64)
        self._bias = np.array([by for _, by in sampling.logit_bias], dtype=np.float32)
        check_bias(sampling, vocabulary)
        self._seen = _Counts(prompt) if sampling.repetition_penalty != 1.0 else None
        counts = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self._made = _Counts(()) if counts else None
        self.changes_logits = bool(self._bias_ids.size or self._seen or self._made or constraint)
        """True where what the model says is changed before the choice: each token depends on the ones before, or on a bias."""
        self._generator = torch.Generator()  # on the CPU on every device: the same seed draws the same numbers
        seed = secrets.randbelow(SEEDS) if sampling.seed is None else sampling.seed
        self._generator.manual_seed(seed)
        self._uniforms: list[float] = []

    def push(self, id_: int) -> None:
        """State that `id_` is the reply's next token: penalties and shape go on from there."""
        if self._seen is not None:
            self._seen.add(id_)
        if self._made is not None:
            self._made.add(id_)
        if self.constraint is not None:
            self.constraint.take(id_)

    def uniform(self) -> float:
        """The next number in [0, 1) of the row's own generator."""
        if not self._uniforms:
            drawn = torch.rand(_UNIFORMS, dtype=torch.float64, generator=self._generator)
            self._uniforms = drawn.flip(0).tolist()
        return self._uniforms.pop()

    def change(self, logits: Row) -> None:
        """Bias, penalties and the shape's mask, on the row's logits themselves."""
        setting = self.sampling
        if self._bias_ids.size:
            logits[self._bias_ids] += self._bias
        if self._seen is not None:
            # l / penalty where l > 0, l * penalty elsewhere: CTRL, Keskar et al. 2019 (arXiv:1909.05858), section 4.1.
            ids, penalty = self._seen.ids, np.float32(setting.repetition_penalty)
            values = logits[ids]
            logits[ids] = np.where(values > 0, values / penalty, values * penalty)
        if self._made is not None:
            # https://platform.openai.com/docs/api-reference/chat/create: count * frequency + (count > 0) * presence
            by = self._made.counts * np.float32(setting.frequency_penalty) + np.float32(setting.presence_penalty)
            logits[self._made.ids] -= by
        if self.constraint is not None:
            np.copyto(logits, _NEVER, where=~self.constraint.mask())

    def why_nothing(self) -> str:
        """Why the row could not choose: what `Failed` says of it."""
        broken = None if self.constraint is None else self.constraint.error
        return broken or "the model's logits hold no finite number for this reply"


class _Counts:
    """Ids and how often each has occurred, as two arrays that grow."""

    def __init__(self, ids: Sequence[int]) -> None:
        there = np.array(ids, dtype=np.int64)
        self._ids, self._counts = (one.astype(kind) for one, kind in zip(
            np.unique(there, return_counts=True), (np.int64, np.float32), strict=True))  # fmt: skip
        self._used = len(self._ids)
        self._place = {id_: number for number, id_ in enumerate(self._ids.tolist())}

    def __bool__(self) -> bool:
        return True

    @property
    def ids(self) -> Ids:
        return self._ids[: self._used]

    @property
    def counts(self) -> Row:
        return self._counts[: self._used]

    def add(self, id_: int) -> None:
        place = self._place.get(id_)
        if place is None:
            if self._used == len(self._ids):
                room = max(16, self._used)
                self._ids = np.concatenate([self._ids, np.zeros(room, np.int64)])
                self._counts = np.concatenate([self._counts, np.zeros(room, np.float32)])
            place = self._place[id_] = self._used
            self._ids[place] = id_
            self._used += 1
        self._counts[place] += 1


class Chooser:
    """Chooses for any rows of one model. `banned` ids are never drawn (padding, the chat format's own markers)."""

    def __init__(self, vocabulary: int, banned: Sequence[int] = ()) -> None:
        self._vocabulary = vocabulary
        self._banned = np.array(sorted(set(banned)), dtype=np.int64)
        self._is_banned = frozenset(banned)
        self._columns: _Columns | None = None

    def choose(self, rows: Sequence[RowState], logits: Float[Tensor, "b v"]) -> Int[Tensor, " b"]:
        """Each row's next id, on the CPU; `NOTHING` (-1) where there is none to choose. `logits` is not changed.

        Nothing but the rows' generators goes on: `RowState.push` states which id was taken. One row may stand in several places,
        if it is greedy and changes no logits (the check of a draft); else see `check`.
        """
        if logits.shape != (len(rows), self._vocabulary):
            raise ValueError(f"{len(rows)} rows over {self._vocabulary} ids and logits {tuple(logits.shape)}")
        if logits.device.type != "cpu":
            return self._together(rows, logits.float())
        values = logits.detach().float().numpy()
        chosen = [self._alone(row, one) for row, one in zip(rows, values, strict=True)]
        return torch.tensor(chosen, dtype=torch.long)

    def check(self, row: RowState, logits: Float[Tensor, "n v"], draft: Sequence[int]) -> list[int]:
        """The ids that the row takes, read together with a draft of n - 1 ids: as many of it as are its own choice, and one more.

        They are the ids that reading one at a time would have chosen, by draws too: each is chosen from its own logits and pushed, and
        the first that differs from the draft is the last. Ends after `NOTHING`, which is not pushed.
        """
        if len(logits) != len(draft) + 1:
            raise ValueError(f"a draft of {len(draft)} ids has {len(logits)} logits and not one more")
        taken: list[int] = []
        host = logits.float().cpu()
        for number in range(len(host)):
            id_ = int(self.choose([row], host[number : number + 1]))
            taken.append(id_)
            if id_ != NOTHING:
                row.push(id_)
            if number == len(draft) or id_ != draft[number]:
                break
        return taken

    def _alone(self, row: RowState, logits: Row) -> int:
        """One row's choice, in numpy."""
        if row.changes_logits:
            logits = logits.copy()
            row.change(logits)
        best = int(logits.argmax())
        if best in self._is_banned:
            logits = logits.copy()
            logits[self._banned] = _NEVER
            best = int(logits.argmax())
        top = logits[best]
        if not np.isfinite(top):
            return NOTHING
        if row.sampling.greedy:
            return best
        ids, weights = _kept(logits, top, row.sampling, self._banned)
        # In fp64: over a large vocabulary the sums of fp32 would lose the unlikely tokens.
        total = weights.cumsum(dtype=np.float64)
        place = int(total.searchsorted(row.uniform() * total[-1], side="right"))
        if place == len(
            total
        ):  # the product was rounded up to the total: the first id that reaches it is the last possible one
            place = int(total.searchsorted(total[-1]))
        return place if ids is None else int(ids[place])

    def _together(self, rows: Sequence[RowState], logits: Float[Tensor, "b v"]) -> Int[Tensor, " b"]:
        """All rows' choices, in torch on the logits' device; the rows that change logits are changed one by one."""
        columns = self._columns
        if columns is None or not columns.serve(rows, logits.device):
            columns = self._columns = _Columns(rows, self._banned, logits.device)
        logits = logits.index_fill(-1, columns.banned, _NEVER)
        for number in columns.changing:
            changed = logits[number].cpu().numpy()
            rows[number].change(changed)
            logits[number] = torch.from_numpy(changed).to(logits.device)
        top, chosen = logits.max(dim=-1)
        if columns.drawing:
            there = columns.drawing_rows
            uniform = torch.tensor([rows[number].uniform() for number in columns.drawing], dtype=torch.float64)
            chosen[there] = draw(columns.filtered(logits[there]), uniform.to(logits.device))
        return torch.where(top.isfinite(), chosen, NOTHING).cpu()


class _Columns:
    """The settings of one set of rows laid out as columns [b, 1]; good until another set comes."""

    def __init__(self, rows: Sequence[RowState], banned: Ids, device: torch.device) -> None:
        self._rows, self._device = list(rows), device
        self.banned = torch.from_numpy(banned).to(device)
        self.changing = [number for number, row in enumerate(rows) if row.changes_logits]
        self.drawing = [number for number, row in enumerate(rows) if not row.sampling.greedy]
        settings = [rows[number].sampling for number in self.drawing]
        self.drawing_rows = torch.tensor(self.drawing, dtype=torch.long, device=device)
        self._temperature = self._column([one.temperature for one in settings])
        self._top_k = self._column([min(one.top_k, SEEDS - 1) for one in settings])
        self._top_p = self._column([one.top_p for one in settings])
        self._min_p = self._column([one.min_p for one in settings])
        self._by_k = any(one.top_k for one in settings)
        self._by_p = any(one.top_p < 1.0 for one in settings)
        self._by_min = any(one.min_p > 0.0 for one in settings)

    def serve(self, rows: Sequence[RowState], device: torch.device) -> bool:
        """True where these are the columns of `rows`."""
        mine = self._rows
        return device == self._device and len(mine) == len(rows) and all(map(_is, mine, rows))

    def filtered(self, logits: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Temperature, top-k, top-p, min-p."""
        logits = logits / self._temperature
        if self._by_k:
            logits = keep_top_k(logits, self._top_k)
        if self._by_p:
            logits = keep_top_p(logits, self._top_p)
        return keep_min_p(logits, self._min_p) if self._by_min else logits

    def _column(self, values: list[float] | list[int]) -> Tensor:
        return torch.tensor(values, device=self._device)[:, None]


def _is(one: RowState, other: RowState) -> bool:
    return one is other


def _kept(logits: Row, top: np.float32, setting: Sampling, banned: Ids) -> tuple[Ids | None, Row]:
    """The ids that temperature, top-k, top-p and min-p leave a row, in order (None: all), and their probabilities but for a factor.

    As `sampling.keep_top_k`, `keep_top_p` and `keep_min_p` (ties with the last one stay); `top` is the largest logit.
    """
    # exp((l - top) / T): the likeliest token has 1, and what is too unlikely for fp32 has 0.
    relative = np.subtract(logits, top)
    relative /= np.float32(setting.temperature)
    np.exp(relative, out=relative)
    relative[banned] = 0.0
    by_k, by_p, by_min = 0 < setting.top_k < len(logits), setting.top_p < 1.0, setting.min_p > 0.0
    if not (by_k or by_p or by_min):
        return None, relative
    ids = np.flatnonzero(relative >= _TAIL)  # the head: what the filters keep lies nearly always in it
    if by_k:
        if len(ids) < setting.top_k:
            ids = np.flatnonzero(relative)
        if len(ids) > setting.top_k:
            values = logits[ids]
            ids = ids[values >= np.partition(values, -setting.top_k)[-setting.top_k]]
    if by_p:
        wanted = setting.top_p * float((relative[ids] if by_k else relative).sum(dtype=np.float64))
        least, count = _nucleus(relative[ids], wanted)
        if count == len(ids) and not by_k:
            ids = np.flatnonzero(relative)
            least, count = _nucleus(relative[ids], wanted)
        ids = ids[relative[ids] >= least]
    if by_min:
        if not (by_k or by_p) and setting.min_p < _TAIL:
            ids = np.flatnonzero(relative)
        ids = ids[relative[ids] >= np.float32(setting.min_p)]
    return ids, relative[ids]


def _nucleus(weights: Row, wanted: float) -> tuple[np.float32, int]:
    """The least of the fewest largest weights whose sum reaches `wanted`, and how many those are."""
    falling = np.sort(weights)[::-1]
    total = falling.cumsum(dtype=np.float64)
    count = min(len(falling), int(total.searchsorted(wanted, side="left")) + 1)
    return falling[count - 1], count
