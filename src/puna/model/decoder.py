"""The decoder: token ids to hidden states to logits, in plain PyTorch, in the order one reads it.

Comes in: ids [b, t]. Goes out: hidden states [b, t, d]. Must never happen: a parameter whose name or shape differs from
Hugging Face's, or a row whose result depends on the other rows of its batch.
"""

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from puna.model.attention import attention, attention_mask
from puna.model.cache import KVCache
from puna.model.config import ModelConfig
from puna.model.rope import Rope, rotate

Angles = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """x / √(mean(x²) + ε) · gain (Zhang & Sennrich 2019); the mean in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Normed over the last axis, in the type of `x` (or the gain's, where that is wider)."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        dim, head = config.hidden_size, config.head_dim
        q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
        self.index, self.head_dim, self.widths = index, head, (q, kv, kv)
        self.q_proj = nn.Linear(dim, q, bias=config.attention_bias)
        self.k_proj = nn.Linear(dim, kv, bias=config.attention_bias)
        self.v_proj = nn.Linear(dim, kv, bias=config.attention_bias)
        self.o_proj = nn.Linear(q, dim, bias=False)
        self.q_norm = RMSNorm(head, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(head, config.rms_norm_eps) if config.qk_norm else None

    def forward(
        self, x: Float[Tensor, "b t d"], angles: Angles, mask: Bool[Tensor, "*b 1 t s"] | None, causal: bool,
        cache: KVCache | None, positions: Int[Tensor, "b t"] | None, extent: int,
    ) -> Float[Tensor, "b t d"]:  # fmt: skip
        """Mixture of what each token may see; `extent`: how many cache positions are looked at."""
        batch, length, _ = x.shape
        q, k, v = (
            projection(x).view(batch, length, -1, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        # Under autocast the norms' fp32 gains widen q and k; the products take all three in one precision.
        q, k = rotate(q, *angles).to(v.dtype), rotate(k, *angles).to(v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None and positions is not None:
            cache.write(self.index, positions, k, v)
            if not causal:
                k, v = cache.k[self.index][:, :, :extent].to(q.dtype), cache.v[self.index][:, :, :extent].to(q.dtype)
        out = attention(q, k, v, causal=causal, mask=mask)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """What the layer adds for each token by itself."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-normed attention and MLP, each added to the stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, index)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Float[Tensor, "b t d"], angles: Angles, mask: Bool[Tensor, "*b 1 t s"] | None, causal: bool,
        cache: KVCache | None, positions: Int[Tensor, "b t"] | None, extent: int,
    ) -> Float[Tensor, "b t d"]:  # fmt: skip
        """The stream after this layer; arguments as in `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), angles, mask, causal, cache, positions, extent)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """The modules under Hugging Face's prefix `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # Given a table, it draws none of its own: on the meta device that draw alone would load torch's compiler (seconds).
        table = torch.zeros(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """A LLaMA-shaped decoder. A new one holds no meaningful numbers: call `init_weights` or load weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.rope = Rope(config.rope_theta, config.head_dim, config.rope_scaling)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )

    def embed(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """Embeddings of ids; pass them back as `embeds`, changed, to train with noise on them."""
        return self.model.embed_tokens(ids)

    def forward(
        self,
        ids: Int[Tensor, "b t"],
        *,
        segments: Int[Tensor, "b t"] | None = None,
        positions: Int[Tensor, "b t"] | None = None,
        cache: KVCache | None = None,
        embeds: Float[Tensor, "b t d"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Hidden states after the final norm.

        `segments`: a number per token; tokens attend only to their own. `positions`: 0..t-1 when unset, or with a cache
        the next free ones of each row. `cache`: new keys and values are written there at `positions`; the caller calls
        `cache.advance` afterwards. `embeds` stands in for the ids' embeddings. Raises `ValueError` for segments with a cache.
        """
        if cache is not None and segments is not None:
            raise ValueError("documents are isolated in training only: segments and a cache exclude each other")
        length, window = ids.shape[1], self.config.sliding_window
        x = self.embed(ids) if embeds is None else embeds
        mask, causal, extent = None, True, length
        if cache is not None:
            # An empty cache and whole rows: the new keys are all there are, and no mask is needed.
            causal = positions is None and cache.longest == 0 and window is None
            extent = length + cache.longest if positions is None else int(positions.max()) + 1
            if extent > cache.max_len:
                raise ValueError(f"position {extent - 1} does not fit into a cache of {cache.max_len}")
            positions = cache.next_positions(length) if positions is None else positions
            if not causal:
                mask = attention_mask(positions, torch.arange(extent, device=ids.device), window=window)
        elif segments is not None or (window is not None and window < length):
            steps = torch.arange(length, device=ids.device)
            mask = attention_mask(steps, steps, segments=segments, window=window)
        angles = self.rope(torch.arange(length, device=ids.device) if positions is None else positions)
        for layer in self.model.layers:
            x = layer(x, angles, mask, causal, cache, positions, extent)
        return self.model.norm(x)

    def head_weight(self) -> Float[Tensor, "v d"]:
        """The matrix that turns hidden states into logits: the embedding where the head is tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        """Unnormalised log-probabilities of the next token."""
        return F.linear(hidden, self.head_weight())

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill every parameter; a pure function of (config, seed), the same on every machine and for every dtype of it.

        | tensor                       | values                    | reason                                              |
        |------------------------------|---------------------------|-----------------------------------------------------|
        | embed_tokens, lm_head        | N(0, 0.02²)               | GPT-2; first logits near 0, first loss near ln V    |
        | q, k, v, gate, up            | N(0, 1/fan_in)            | unit variance in, unit variance out (LeCun 1998)    |
        | o, down                      | N(0, 1/(2·L·fan_in))      | 2·L sums leave the stream's variance (GPT-2)        |
        | norm gains (q_norm, k_norm)  | 1                         | no effect at the start                              |
        | biases                       | 0                         | no effect at the start                              |

        Each tensor draws from its own stream, PCG64 seeded by SHA-256 of "seed/name": neither order nor sharding matters.
        """
        residual = (2 * self.config.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
                continue
            if name.endswith("bias"):
                parameter.zero_()
                continue
            if "embed_tokens" in name or "lm_head" in name:
                deviation = 0.02
            else:
                deviation = parameter.shape[1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    deviation *= residual
            key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
            stream = np.random.Generator(np.random.PCG64(key))
            draws = stream.standard_normal(math.prod(parameter.shape), dtype=np.float32)
            parameter.copy_(torch.from_numpy(draws).view(parameter.shape).mul_(deviation))
