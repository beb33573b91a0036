"""The decoder's config: every number that decides its shape and its arithmetic, under Hugging Face's names.

Comes in: a recipe's `Shape`, or the `config.json` of a stranger. Goes out: a `ModelConfig` whose numbers are bounded
and fit together. Must never happen: a key that changes the arithmetic passed over in silence.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from puna.errors import PunaError
from puna.model.rope import RopeScaling
from puna.recipe.scaling import Shape

TokenId = Annotated[int, Field(ge=0, lt=2**24)]
# The architectures that are read, and `model_type` as their configs state it. All but the last are written too.
_TYPES = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
    "YiForCausalLM": "Yi",
}  # fmt: skip
_ARCHITECTURES = {model_type: name for name, model_type in _TYPES.items()}
_SUPPORTED = (
    "LlamaForCausalLM (LLaMA 1, 2, 3; Yi; TinyLlama; SmolLM 1, 2), MistralForCausalLM, Qwen2ForCausalLM (also 2.5), "
    "Qwen3ForCausalLM, YiForCausalLM (Yi's first release)"
)
# What a `config.json` may leave out, as the classes of transformers fill it (Yi: its own configuration_yi.py, November 2023).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {"max_position_embeddings": 131_072, "bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 8,
                "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32_768},
    "qwen3": {"max_position_embeddings": 32_768, "head_dim": 128},
    "Yi": {"max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_key_value_heads": 4,
           "rope_theta": 5_000_000.0, "rms_norm_eps": 1e-5},
}  # fmt: skip

# Keys that other programs write beside ours and that leave the logits of a forward pass as they are.
_NO_EFFECT = frozenset({
    "architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "use_cache", "initializer_range",
    "attention_dropout", "hidden_dropout_prob", "resid_pdrop", "embd_pdrop", "pretraining_tp", "attn_implementation",
    "max_window_layers", "max_sequence_length", "unk_token_id", "sep_token_id", "output_attentions",
    "output_hidden_states", "return_dict", "use_return_dict", "torchscript", "chunk_size_feed_forward", "problem_type",
    "id2label", "label2id", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix", "is_llama_config",
    "unsloth_version", "unsloth_fixed", "transformers.js_config", "model_name", "model_max_length", "tokenizer_model_max_length",
    "do_sample", "temperature", "top_p", "top_k", "typical_p", "repetition_penalty", "length_penalty", "num_beams",
    "num_beam_groups", "diversity_penalty", "num_return_sequences", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "max_length", "min_length", "early_stopping", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "output_scores",
    "return_dict_in_generate", "pruned_heads", "tie_encoder_decoder", "decoder_start_token_id", "tf_legacy_loss",
    "use_bfloat16", "use_flash_attn",
})  # fmt: skip
# Keys that would change the arithmetic: only the value that leaves LLaMA's as it is may stand.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",), "mlp_bias": (False,), "partial_rotary_factor": (1, None), "rope_interleaved": (False,),
    "is_decoder": (True, False), "is_encoder_decoder": (False,), "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,), "quantization_config": (None,), "use_mrope": (False, None),
}  # fmt: skip


class ModelConfig(BaseModel):
    """A LLaMA-shaped decoder. Read it with `from_shape` or `from_hf`, write it with `to_hf`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    vocab_size: int = Field(ge=2, le=2**24)
    hidden_size: int = Field(ge=8, le=2**16)
    intermediate_size: int = Field(ge=8, le=2**18)
    num_hidden_layers: int = Field(ge=1, le=1000)
    num_attention_heads: int = Field(ge=1, le=1024)
    num_key_value_heads: int = Field(ge=1, le=1024)
    head_dim: int = Field(ge=2, le=1024, multiple_of=2)
    max_position_embeddings: int = Field(2048, ge=1, le=2**26)
    rms_norm_eps: float = Field(1e-5, gt=0, le=1e-1)
    rope_theta: float = Field(10_000.0, gt=1, le=1e12)
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = Field(False, description="bias of the query, key and value projections, as Qwen2 has it")
    qk_norm: bool = Field(False, description="RMSNorm over each head of query and key, as Qwen3 has it")
    sliding_window: int | None = Field(None, ge=1, le=2**26, description="a query sees this many positions, itself too")
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: TokenId | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} heads cannot share {self.num_key_value_heads} key-value heads"
            )
        if sum([self.qk_norm, self.attention_bias, self.sliding_window is not None]) > 1:
            raise ValueError("no published architecture joins two of qk_norm, attention_bias and sliding_window")
        if self.architecture == "LlamaForCausalLM" and self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads")
        ends = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        for token in (*ends, self.bos_token_id, self.pad_token_id):
            if token is not None and token >= self.vocab_size:
                raise ValueError(f"token id {token} lies outside a vocabulary of {self.vocab_size}")
        return self

    @classmethod
    def from_shape(cls, shape: Shape, **tokens: Any) -> "ModelConfig":
        """The config of a recipe's shape; `tokens` may set bos_token_id, eos_token_id and pad_token_id."""
        return _checked(cls, {
            "vocab_size": shape.vocab, "hidden_size": shape.dim, "intermediate_size": shape.ffn,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim, "max_position_embeddings": shape.context, "rope_theta": shape.rope_theta,
            "tie_word_embeddings": shape.tied, "qk_norm": shape.qk_norm, **tokens,
        })  # fmt: skip

    @classmethod
    def from_hf(cls, values: Any) -> "ModelConfig":
        """The config that a `config.json` states; raises `PunaError` on anything that is not understood in full."""
        if not isinstance(values, dict):
            raise PunaError("is not a JSON object", where="config.json")
        model_type = _model_type(values)
        ours = set(cls.model_fields) - {"qk_norm"}
        known = ours | _NO_EFFECT | set(_FIXED) | {"rope_parameters", "use_sliding_window", "layer_types", "auto_map"}
        unknown = sorted(str(key)[:80] for key in values if key not in known and not str(key).startswith("_"))
        if unknown:
            raise PunaError(f"has keys of no known meaning: {', '.join(map(repr, unknown[:40]))}", where="config.json",
                            mend="take out those that do not change the model's arithmetic")  # fmt: skip
        for key, allowed in _FIXED.items():
            if key in values and values[key] not in allowed:
                raise PunaError(f"{key} = {str(values[key])[:80]!r} is not supported", where="config.json")
        # Code that a model brings along is never run. Only Yi's is known to us: LLaMA's arithmetic under other names.
        if values.get("auto_map") is not None and model_type != "Yi":
            raise PunaError("auto_map names code of the model's own, which is never run", where="config.json",
                            mend="take it out if the model is plain " + _ARCHITECTURES[model_type])  # fmt: skip
        fields = {key: values[key] for key in ours if values.get(key) is not None}
        fields |= _rope(values)
        _fill_defaults(fields, values, model_type)
        return _checked(cls, fields)

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The `config.json` that transformers, vLLM and llama.cpp load; `dtype` is that of the weights beside it."""
        values = self.model_dump(exclude={"qk_norm", "rope_scaling", "sliding_window", "attention_bias"})
        scaling = self.rope_scaling.to_hf() if self.rope_scaling else None
        model_type = _TYPES[self.architecture]
        values |= {
            "architectures": [self.architecture], "model_type": model_type, "hidden_act": "silu", "dtype": dtype,
            "torch_dtype": dtype, "use_cache": True, "attention_dropout": 0.0, "initializer_range": 0.02,
            # Both spellings: transformers 5 writes rope_parameters, everything older reads rope_theta and rope_scaling.
            "rope_scaling": scaling,
            "rope_parameters": {"rope_theta": self.rope_theta, **(scaling or {"rope_type": "default"})},
        }  # fmt: skip
        if model_type in ("llama", "qwen3"):
            values["attention_bias"] = False
        if model_type == "llama":
            values["mlp_bias"] = False
        if model_type == "mistral":
            values["sliding_window"] = self.sliding_window
        if model_type in ("qwen2", "qwen3"):
            values |= {"use_sliding_window": False, "sliding_window": None,
                       "layer_types": ["full_attention"] * self.num_hidden_layers}  # fmt: skip
        return values

    @property
    def architecture(self) -> str:
        """The class of transformers that computes this model."""
        if self.qk_norm:
            return "Qwen3ForCausalLM"
        if self.attention_bias:
            return "Qwen2ForCausalLM"
        return "LlamaForCausalLM" if self.sliding_window is None else "MistralForCausalLM"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and shape, in the decoder's order; `lm_head.weight` only where it is its own."""
        dim, ffn, head = self.hidden_size, self.intermediate_size, self.head_dim
        q, kv = self.num_attention_heads * head, self.num_key_value_heads * head
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, dim)}
        for index in range(self.num_hidden_layers):
            layer: dict[str, tuple[int, ...]] = {}
            for name, width in (("q", q), ("k", kv), ("v", kv)):
                layer[f"self_attn.{name}_proj.weight"] = (width, dim)
                if self.attention_bias:
                    layer[f"self_attn.{name}_proj.bias"] = (width,)
            layer["self_attn.o_proj.weight"] = (dim, q)
            if self.qk_norm:
                layer |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
            layer |= {
                "mlp.gate_proj.weight": (ffn, dim),
                "mlp.up_proj.weight": (ffn, dim),
                "mlp.down_proj.weight": (dim, ffn),
            }
            layer |= {"input_layernorm.weight": (dim,), "post_attention_layernorm.weight": (dim,)}
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (dim,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, dim)
        return shapes

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        dim, head = self.hidden_size, self.head_dim
        gains = dim * (2 * self.num_hidden_layers + 1) + (2 * head * self.num_hidden_layers if self.qk_norm else 0)
        widths = (self.num_attention_heads + 2 * self.num_key_value_heads) * head
        biases = widths * self.num_hidden_layers if self.attention_bias else 0
        return self.matrix_parameters + self.vocab_size * dim * (1 if self.tie_word_embeddings else 2) + gains + biases

    @property
    def matrix_parameters(self) -> int:
        """Parameters inside the layers' matrices."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs per token of a row of `context` tokens: three times the forward pass's.

        6 per matrix and head parameter, and the two products of causal attention: 6·L·H·Q·T (PaLM, appendix B, halved
        for the mask; a sliding window caps T).
        """
        seen = min(context, 2 * self.sliding_window) if self.sliding_window else context
        attention = 6 * self.num_hidden_layers * self.num_attention_heads * self.head_dim * seen
        return 6.0 * (self.matrix_parameters + self.vocab_size * self.hidden_size) + attention

    def kv_cache_bytes(self, tokens: int, bytes_per_value: int = 2) -> int:
        """Bytes that keys and values of `tokens` tokens take."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * tokens * bytes_per_value


def _checked(cls: type[ModelConfig], fields: dict[str, Any]) -> ModelConfig:
    """A valid config, or one `PunaError` that names every mistake."""
    try:
        return cls(**fields)
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, item['loc'])) or 'config'}: {item['msg']}" for item in error.errors()]
        raise PunaError("; ".join(mistakes[:8]), where="config.json") from error


def _model_type(values: dict[str, Any]) -> str:
    """One of the supported types, from `architectures` or, where that is missing, `model_type`; both must agree."""
    named, stated = values.get("architectures"), values.get("model_type")
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    if name is None and not named and isinstance(stated, str):
        name = _ARCHITECTURES.get(stated, stated)
    if not isinstance(name, str) or name not in _TYPES:
        raise PunaError(f"architecture {str(name or named)[:80]!r} is not supported", where="config.json",
                        mend=f"supported are {_SUPPORTED}")  # fmt: skip
    if stated is not None and stated != _TYPES[name]:
        raise PunaError(f"states the architecture {name} and the model_type {str(stated)[:80]!r}, which do not belong together",
                        where="config.json")  # fmt: skip
    return _TYPES[name]


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` from either spelling; two spellings that disagree are refused."""
    modern, scaling = values.get("rope_parameters"), values.get("rope_scaling")
    for key, part in (("rope_parameters", modern), ("rope_scaling", scaling)):
        if part is not None and not isinstance(part, dict):
            raise PunaError(f"{key} is not an object", where="config.json")
    found: dict[str, Any] = {}
    for part in (modern, scaling):
        if not part:
            continue
        part = dict(part)
        part["rope_type"] = part.pop("type", None) or part.get("rope_type") or "default"
        theta = part.pop("rope_theta", None)
        if part.pop("partial_rotary_factor", None) not in (None, 1):
            raise PunaError("a partial rotary factor is not supported", where="config.json")
        if part["rope_type"] in ("llama3", "yarn"):
            part.setdefault("original_max_position_embeddings", values.get("max_position_embeddings"))
        kept = (
            None if part["rope_type"] == "default" else {key: value for key, value in part.items() if value is not None}
        )
        for key, value in (("rope_theta", theta), ("rope_scaling", kept)):
            if key in found and value is not None and found[key] != value:
                raise PunaError(f"{key} is stated twice, differently", where="config.json")
            if value is not None or key == "rope_scaling":
                found.setdefault(key, value)
    theta = values.get("rope_theta")
    if theta is not None and found.setdefault("rope_theta", theta) != theta:
        raise PunaError("rope_theta is stated twice, differently", where="config.json")
    return {"rope_scaling": None, **found}


def _fill_defaults(fields: dict[str, Any], values: dict[str, Any], model_type: str) -> None:
    """What a `config.json` may leave out, filled as transformers does for this type of model."""
    if fields.get("pad_token_id") == -1:  # the first LLaMA conversions wrote -1 for "none"
        del fields["pad_token_id"]
    for key, default in _DEFAULTS[model_type].items():
        if key not in values:  # where it is there and null, "none" is meant
            fields.setdefault(key, default)
    heads, dim = fields.get("num_attention_heads"), fields.get("hidden_size")
    fields.setdefault("num_key_value_heads", heads)
    if isinstance(heads, int) and isinstance(dim, int) and heads > 0:
        fields.setdefault("head_dim", dim // heads)
    fields.setdefault("rms_norm_eps", 1e-6)
    fields["qk_norm"] = model_type == "qwen3"
    if values.get("attention_bias") and model_type != "qwen2":
        raise PunaError("attention_bias also puts a bias on the output projection here, which is not supported",
                        where="config.json")  # fmt: skip
    fields["attention_bias"] = model_type == "qwen2"
    if values.get("use_sliding_window") and values.get("sliding_window") and model_type != "mistral":
        raise PunaError(
            "use_sliding_window: a sliding window on some layers only is not supported", where="config.json"
        )
    kinds = values.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise PunaError("layer_types: layers of different kinds are not supported", where="config.json")
    if model_type != "mistral":
        fields.pop("sliding_window", None)
