"""Rotary position embedding: from a config to angles, with the published ways of stretching the context.

Comes in: theta, head width, a `RopeScaling`. Goes out: inverse frequencies and one factor for cosine and sine, in fp32.
Must never happen: a table rounded to half precision, which moves far positions by whole radians.
"""

import math
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

Factor = Annotated[float, Field(gt=0, le=1e6)]


class RopeScaling(BaseModel):
    """How a model was taught to read beyond its first context; the keys are those of transformers' `rope_scaling`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rope_type: Literal["linear", "llama3", "yarn"]
    factor: float = Field(ge=1, le=1e6)
    original_max_position_embeddings: int | None = Field(None, ge=1, le=2**26)
    low_freq_factor: Factor | None = None
    high_freq_factor: Factor | None = None
    beta_fast: Factor | None = None
    beta_slow: Factor | None = None
    attention_factor: Factor | None = None
    mscale: Factor | None = None
    mscale_all_dim: Factor | None = None
    truncate: bool | None = None

    @model_validator(mode="after")
    def _keys_of_its_type(self) -> "RopeScaling":
        yarn_only = {"beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"}
        llama3_only = {"low_freq_factor", "high_freq_factor"}
        length = {"original_max_position_embeddings"}
        allowed = {"linear": set(), "llama3": llama3_only | length, "yarn": yarn_only | length}[self.rope_type]
        needed = {"linear": set(), "llama3": llama3_only | length, "yarn": length}[self.rope_type]
        given = {key for key, value in self.model_dump().items() if value is not None} - {"rope_type", "factor"}
        if given - allowed:
            raise ValueError(f"{self.rope_type} scaling has no {', '.join(sorted(given - allowed))}")
        if needed - given:
            raise ValueError(f"{self.rope_type} scaling needs {', '.join(sorted(needed - given))}")
        if self.rope_type == "llama3" and self.low_freq_factor >= self.high_freq_factor:  # type: ignore[operator]
            raise ValueError("low_freq_factor must be below high_freq_factor")
        return self

    def to_hf(self) -> dict[str, Any]:
        """The keys that are set, as transformers writes them."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


def inverse_frequencies(
    theta: float, head_dim: int, scaling: RopeScaling | None
) -> tuple[Float[Tensor, "half"], float]:
    """Angles per position for each pair of dimensions, and the factor that cosine and sine are multiplied by.

    Plain: f_i = theta^(-2i/d) (Su et al. 2021). Every operation and its order are those of transformers 5
    (`modeling_rope_utils.py`), in fp32: at position 100,000 one rounding more would show in the logits.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    plain = 1.0 / (theta**exponents)
    if scaling is None:
        return plain, 1.0
    if scaling.rope_type == "linear":  # positions divided by the factor (Chen et al. 2023)
        return plain / scaling.factor, 1.0
    if scaling.rope_type == "llama3":
        return _llama3(plain, scaling), 1.0
    return _yarn(theta**exponents, theta, head_dim, scaling), _yarn_attention_factor(scaling)


def _llama3(plain: Float[Tensor, "half"], scaling: RopeScaling) -> Float[Tensor, "half"]:
    """Long waves are divided by the factor, short ones stay, those between are blended (Llama 3.1's `apply_scaling`)."""
    low, high, length = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings
    assert low is not None and high is not None and length is not None  # the validator has seen to it
    wave = 2 * math.pi / plain
    scaled = torch.where(wave > length / low, plain / scaling.factor, plain)
    smooth = (length / wave - low) / (high - low)
    blended = (1 - smooth) * scaled / scaling.factor + smooth * scaled
    between = ~(wave < length / high) & ~(wave > length / low)
    return torch.where(between, blended, scaled)


def _yarn(powers: Float[Tensor, "half"], theta: float, head_dim: int, scaling: RopeScaling) -> Float[Tensor, "half"]:
    """Dimensions that turn often keep their frequency, those that turn seldom are interpolated (Peng et al. 2023, 3.2)."""
    length = scaling.original_max_position_embeddings
    assert length is not None

    def dimension(rotations: float) -> float:
        return (head_dim * math.log(length / (rotations * 2 * math.pi))) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast or 32), dimension(scaling.beta_slow or 1)
    if scaling.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    high += 0.001 if low == high else 0  # as the original does: no division by zero
    ramp = torch.clamp((torch.arange(head_dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low), 0, 1)
    keep = 1 - ramp
    return 1.0 / (scaling.factor * powers) * (1 - keep) + 1.0 / powers * keep


def _yarn_attention_factor(scaling: RopeScaling) -> float:
    """Softmax temperature folded into cosine and sine: 0.1·ln(factor) + 1 (Peng et al. 2023, 3.4)."""

    def scale(weight: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * weight * math.log(scaling.factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return scale(scaling.mscale) / scale(scaling.mscale_all_dim)
    return scale(1.0)


class Rope(nn.Module):
    """Cosine and sine of every position's angles."""

    inv_freq: Tensor

    def __init__(self, theta: float, head_dim: int, scaling: RopeScaling | None) -> None:
        super().__init__()
        self.table, self.factor = inverse_frequencies(theta, head_dim, scaling)
        # Not in the state dict: Hugging Face's names hold no such tensor.
        self.register_buffer("inv_freq", self.table.clone(), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> "Rope":
        """Moves with the module to another device, but stays fp32 and exact, also when it comes from "meta"."""
        super()._apply(fn, recurse)
        self.inv_freq = self.table.to(self.inv_freq.device)
        return self

    def forward(self, positions: Int[Tensor, "*b t"]) -> tuple[Float[Tensor, "*b t half"], Float[Tensor, "*b t half"]]:
        """Cosine and sine [..., t, head_dim / 2], fp32."""
        angles = positions[..., None].float() * self.inv_freq
        return angles.cos() * self.factor, angles.sin() * self.factor


def rotate(
    x: Float[Tensor, "b t h d"], cos: Float[Tensor, "*b t half"], sin: Float[Tensor, "*b t half"]
) -> Float[Tensor, "b t h d"]:
    """Turn each pair (x_i, x_{i+d/2}) by its angle (the half-split order of Hugging Face's checkpoints); dtype of `x`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
