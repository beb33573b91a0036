"""Longer: how a model that was trained on short text is made ready to be trained on long text.

Comes in: `Weights`, the new length. Goes out: the same tensors under another config. Must never happen: two stretchings of the
positions on top of each other.
"""

from typing import Literal

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.rope import RopeScaling
from puna.model.weights import Weights

MOST_CONTEXT, MOST_THETA = 2**26, 1e12  # as the config allows


def lengthen(
    weights: Weights, context: int, how: Literal["abf", "yarn", "linear"] = "abf", theta: float | None = None
) -> Weights:
    """The model with `max_position_embeddings` = `context`; only the config changes.

    | how    | what changes                                   | source                                                          |
    |--------|------------------------------------------------|-----------------------------------------------------------------|
    | abf    | the RoPE base: `theta`, else `raised_theta`    | Xiong et al. 2023, arXiv:2309.16039 (10 k to 500 k for 4 k to 32 k); Yi: 5 M to 10 M |
    | yarn   | seldom-turning pairs slower, attention sharper | Peng et al. 2023, arXiv:2309.00071                               |
    | linear | positions divided by the factor                | Chen et al. 2023, arXiv:2306.15595                               |

    All three want training on long text; YaRN wants the least. Raises `PunaError` where the context does not grow, the model is
    stretched already, or `theta` comes with another way or does not grow.
    """
    config = weights.config
    old = config.max_position_embeddings
    if not old < context <= MOST_CONTEXT:
        raise PunaError(
            f"the model reads {old:,} tokens; {context:,} is not between that and {MOST_CONTEXT:,}", where="context"
        )
    if config.rope_scaling is not None:
        raise PunaError(f"its positions are stretched already ({config.rope_scaling.rope_type})", where="context",
                        mend="start from the model before that, or leave the context as it is")  # fmt: skip
    if theta is not None and how != "abf":
        raise PunaError(f"{how} keeps the RoPE base; a theta is for abf", where="context")
    return Weights(_lengthened(config, context, how, theta), weights.read, weights.types, weights.where)


def raised_theta(theta: float, head_dim: int, factor: float) -> float:
    """theta · factor^(d/(d-2)): the slowest pair then turns `factor` times slower, the fastest as before.

    The "NTK-aware" rule (bloc97 2023; Peng et al. 2023, equation 6). It is the least that covers the new length; training that
    goes on long may take more, as Xiong et al. did (50 times for 8 times the length, where this rule says 8.3).
    """
    return theta * factor ** (head_dim / (head_dim - 2))


def _lengthened(config: ModelConfig, context: int, how: str, theta: float | None) -> ModelConfig:
    old = config.max_position_embeddings
    factor, changes = context / old, {"max_position_embeddings": context}
    if how != "abf":
        length = {"original_max_position_embeddings": old} if how == "yarn" else {}
        scaling = RopeScaling.model_validate({"rope_type": how, "factor": factor, **length})
        return config.model_copy(update={**changes, "rope_scaling": scaling})
    if theta is None and config.head_dim == 2:
        raise PunaError(
            "heads of width 2 turn at one speed: no base stretches them", where="context", mend="use linear"
        )
    raised = raised_theta(config.rope_theta, config.head_dim, factor) if theta is None else theta
    if not config.rope_theta < raised <= MOST_THETA:
        raise PunaError(
            f"a RoPE base of {raised:g} is not between the model's {config.rope_theta:g} and {MOST_THETA:g}",
            where="context",
        )
    return config.model_copy(update={**changes, "rope_theta": float(raised)})
