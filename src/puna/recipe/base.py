"""`[base]` of the recipe: the open weights to start from, and what is changed in them before they are trained on.

Comes in: TOML. Goes out: a `Base`, an `Adapter`. Must never happen: a key that only serves another one which is not set,
passed over in silence.
"""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from puna.recipe.section import Section

SELF = "self"  # old text that is drawn from the base


class Adapter(Section):
    """Low-rank training: the weights stay frozen, small matrices beside them learn."""

    kind: Literal["lora", "dora"] = Field("lora", description='"lora" (Hu et al. 2021) or "dora" (Liu et al. 2024)')
    rank: int = Field(16, ge=1, le=1024)
    alpha: float | None = Field(None, gt=0, description="what is added is scaled by alpha / rank; unset: 32")
    targets: list[str] = Field([], description='projections, like ["q_proj", "v_proj"]; empty: all seven of a layer')
    bits: Literal[8, 4] | None = Field(None, description="of the frozen weights in memory; unset: as they are")


class Base(Section):
    """Open weights to start from."""

    # A table writes `from`, which is a word of Python's own.
    model_config = ConfigDict(populate_by_name=True)

    origin: str | list[str] = Field(
        alias="from", description="a model folder, a .gguf or .bin file, or a run; several of one shape are merged"
    )
    tokenizer: str | None = Field(None, description="its tokenizer, where it does not lie beside the weights")
    merge: Literal["linear", "slerp", "task", "ties"] | None = Field(
        None, description="how several models become one; unset: linear"
    )
    merge_weights: list[float] = Field([], description="one a model; empty: all alike")
    merge_base: str | None = Field(None, description='the model that "task" and "ties" count differences from')
    old: list[str] = Field(
        [],
        description='text like the base\'s own, or ["self"], drawn from it: what it forgets is measured on a part kept aside',
    )
    replay: float = Field(0.0, ge=0, lt=1, description="share of the training tokens that is old text")
    lr_share: float = Field(0.3, gt=0, le=2, description="peak rates as a share of those from random weights")
    extend: int | None = Field(None, ge=1, le=262_144, description="entries that the text adds to the vocabulary")
    layers: int | None = Field(None, ge=1, le=1000, description="more than the base has: it grows; fewer: it is pruned")
    grow: Literal["duplicate", "solar", "silent"] | None = Field(
        None, description='how it grows; "silent": new layers that change nothing at first; unset: duplicate'
    )
    span: list[int] = Field([], max_length=2, description="first layer and the one after the last that are duplicated")
    intermediate: int | None = Field(
        None, ge=8, description="width of the MLPs: wider changes nothing at first, narrower prunes"
    )
    heads: int | None = Field(None, ge=1, le=1024, description="fewer query heads, in whole groups: pruned")
    hidden: int | None = Field(None, ge=8, le=2**16, description="a narrower stream: pruned")
    context: int | None = Field(
        None, ge=32, le=2**26, description="the longest text in tokens, raised above the base's"
    )
    rope: Literal["abf", "yarn", "linear"] | None = Field(None, description="how positions reach it; unset: abf")
    rope_theta: float | None = Field(None, gt=1, le=1e12, description="the RoPE base for abf; unset: by a rule")
    upsample: int = Field(
        4,
        ge=1,
        le=100,
        description="times more often that documents beyond the old context are read, where context is raised",
    )

    @model_validator(mode="after")
    def _keys_with_their_partners(self) -> "Base":
        needs = [
            ("merge", self.merge is not None, "a list under from", len(self.models) > 1),
            ("merge_weights", bool(self.merge_weights), "as many models under from", len(self.merge_weights) == len(self.models)),
            ("merge_base", self.merge_base is not None, 'merge = "task" or "ties"', self.merge in ("task", "ties")),
            ("merge", self.merge in ("task", "ties"), "merge_base", self.merge_base is not None),
            ("merge", self.merge == "slerp", "two models under from", len(self.models) == 2),
            ("replay", self.replay > 0, "old", bool(self.old)),
            ("old = [\"self\"]", SELF in self.old, "no other text beside it", self.old == [SELF]),
            ("grow", self.grow is not None, "layers", self.layers is not None),
            ("span", bool(self.span), 'grow = "duplicate"', self.grow in (None, "duplicate")),
            ("span", bool(self.span), "layers, and two numbers that rise",
             self.layers is not None and len(self.span) == 2 and 0 <= self.span[0] < self.span[1]),
            ("rope", self.rope is not None, "context", self.context is not None),
            ("rope_theta", self.rope_theta is not None, 'context, and rope = "abf"', self.context is not None and self.rope in (None, "abf")),
        ]  # fmt: skip
        for key, given, partner, there in needs:
            if given and not there:
                raise ValueError(f"{key} needs {partner}")
        return self

    @property
    def models(self) -> list[str]:
        """The models under `from`."""
        return [self.origin] if isinstance(self.origin, str) else self.origin

    @property
    def changes(self) -> bool:
        """Whether the weights are other ones at step 0 than the base's, a larger vocabulary not counted."""
        return self.resizes or self.context is not None

    @property
    def resizes(self) -> bool:
        """Whether layers or widths are others than the base's."""
        return (self.layers, self.intermediate, self.heads, self.hidden) != (None, None, None, None)
