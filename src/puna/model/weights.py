"""A model's weights as a promise: its config, and each tensor when it is asked for.

Comes in: an opened file, a decoder, or other weights that are to be changed. Goes out: tensors under Hugging Face's LLaMA
names, one at a time. Must never happen: a whole model in memory because one tensor of it was wanted.

Every reader of a format makes `Weights`, every change of a model (`model/surgery/`) takes `Weights` and gives `Weights`, and
every writer takes them; so a model of any size is read, changed and written with the memory of its largest tensor.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder


@dataclass(frozen=True)
class Weights:
    """A config and the way to each of its tensors (`config.shapes`: a tied head is no tensor of its own).

    `read(name)` gives a CPU tensor of the shape that the config says, in the type it is stored in (fp32 where that is no type
    of torch, as for quantised ones); it may be a view of a file, so nobody writes into it. It raises `PunaError` where the
    values are not finite. `types`: what each tensor is stored as, in its format's own words. `where`: for error messages.
    `fresh`: each read gives memory of its own, which may be kept.
    """

    config: ModelConfig
    read: Callable[[str], Tensor]
    types: Mapping[str, str] = field(default_factory=dict)
    where: str = "memory"
    fresh: bool = False

    @classmethod
    def of(cls, model: Decoder) -> "Weights":
        """The weights of a decoder; they change as it is trained."""
        state = model.state_dict()
        return cls(model.config, lambda name: state[name].detach())

    @property
    def names(self) -> list[str]:
        """Every tensor, in the decoder's order."""
        return list(self.config.shapes)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) one after the other."""
        for name in self.names:
            yield name, self.read(name)

    def decoder(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Decoder:
        """A decoder with copies of these weights. Raises `PunaError` where a tensor's shape is not the config's."""
        shapes, state = self.config.shapes, {}
        for name, tensor in self.items():
            if tuple(tensor.shape) != shapes[name]:
                raise PunaError(
                    f"{name} has shape {list(tensor.shape)}, the config says {list(shapes[name])}", where=self.where
                )
            state[name] = tensor.to(device=device, dtype=dtype, copy=not self.fresh)
            del tensor  # else the largest one would stand in memory twice
        with torch.device("meta"):
            model = Decoder(self.config)
        model.load_state_dict(state, assign=True)
        model.rope.to(device)
        return model.requires_grad_(True)


def require_finite(name: str, tensor: Tensor, where: str) -> None:
    """Raise `PunaError` naming the tensor where a value is NaN or infinite."""
    # One pass and no copy: NaN and infinity both show in the extremes.
    low, high = torch.aminmax(tensor)
    if not (math.isfinite(low.item()) and math.isfinite(high.item())):
        raise PunaError(f"{name} holds values that are not finite", where=where)
