"""One training step: a batch in, gradients, an update.

Comes in: a model, the plan, a batch. Goes out: loss and gradient norm, then new weights. Must never happen: an update
that the caller did not ask for, or a number that depends on anything but weights, batch, seed and step.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.model.decoder import Decoder
from puna.model.device import Device
from puna.recipe.scaling import Plan
from puna.tokens.loader import Batch
from puna.train.choice import Choice
from puna.train.loss import IGNORED, linear_cross_entropy
from puna.train.optim import Optimizer
from puna.train.schedule import rate_share


class Stepper:
    """Holds the model, its optimiser and the compiled loss. Weights stay fp32; products run in the choice's precision."""

    def __init__(self, model: Decoder, plan: Plan, choice: Choice, device: Device, seed: int) -> None:
        self.model, self.plan, self.choice, self.device, self.seed = model, plan, choice, device, seed
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = Optimizer(model.named_parameters(), plan, width=model.config.hidden_size,
                                   head_dim=model.config.head_dim, dtype=choice.dtype)  # fmt: skip
        self._loss: Callable[..., Tensor] = (
            torch.compile(self._plain_loss, dynamic=False) if choice.compile else self._plain_loss
        )

    def gradients(self, batch: Batch, step: int) -> tuple[float, float]:
        """Loss (nats a valid token, mean over the whole batch) and gradient norm before clipping; gradients are clipped."""
        self.optimizer.zero_grad()
        count = (batch.targets != IGNORED).sum().clamp_min(1).to(self.device.device, torch.float32)
        total = torch.zeros((), device=self.device.device)
        size = self.choice.micro_rows
        for first in range(0, batch.inputs.shape[0], size):
            total += self.backward(batch, slice(first, first + size), step, count)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        return total.item(), norm.item()

    def backward(self, batch: Batch, rows: slice, step: int, count: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Add the gradients of some rows; returns their part of the loss."""
        place = self.device.device
        ids, targets = batch.inputs[rows].to(place, non_blocking=True), batch.targets[rows].to(place, non_blocking=True)
        segments = batch.segments[rows].to(place, non_blocking=True) if self.plan.isolate else None
        noise = self._noise(rows, ids.shape, step).to(place) if self.plan.neftune else None
        with self.device.autocast():
            loss = self._loss(ids, targets, segments, noise, count)
        loss.backward()
        return loss.detach()

    def update(self, step: int) -> None:
        """Change the weights by the gradients at hand, at step `step`'s rates."""
        self.optimizer.step(rate_share(self.plan, step))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps, under names: live weights and optimiser state. What is frozen is not kept."""
        weights = {f"model.{name}": p.data for name, p in self.model.named_parameters() if p.requires_grad}
        return weights | {f"optimizer.{name}": value for name, value in self.optimizer.tensors().items()}

    def _plain_loss(
        self, ids: Int[Tensor, "b t"], targets: Int[Tensor, "b t"], segments: Int[Tensor, "b t"] | None,
        noise: Float[Tensor, "b t d"] | None, count: Float[Tensor, ""],
    ) -> Float[Tensor, ""]:  # fmt: skip
        embeds = None if noise is None else self.model.embed(ids) + noise
        hidden = self.model(ids, segments=segments, embeds=embeds)
        return linear_cross_entropy(hidden, self.model.head_weight(), targets, count, dtype=self.choice.dtype)

    def _noise(self, rows: slice, shape: torch.Size, step: int) -> Float[Tensor, "b t d"]:
        """NEFTune: uniform noise in ±alpha/sqrt(t·d) on the embeddings (Jain et al. 2023, arXiv:2310.05914).

        A pure function of (seed, step, row): the size of micro-batches does not matter.
        """
        length, width = shape[1], self.model.config.hidden_size
        noise = torch.empty(shape[0], length, width)
        for index in range(shape[0]):
            key = hashlib.sha256(f"neftune/{self.seed}/{step}/{rows.start + index}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "little"))
            noise[index].uniform_(-1.0, 1.0, generator=generator)
        return noise * (self.plan.neftune / (length * width) ** 0.5)


@contextmanager
def settled(device: Device, choice: Choice) -> Iterator[None]:
    """The process's settings for a run: the choice's threads and deterministic kernels; put back after.

    Compiled code otherwise adds the embedding's gradients atomically, in the order in which threads happen to come.
    """
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    memory = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(choice.threads)
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it finds reads of garbage, at a pass for each array
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        memory.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
