"""What a comparison of two models found: six layers, each with its own verdict. No torch here; the board and the reports read these.

Comes in: from the rooms that compare. Goes out: JSON, and back. Must never happen: one score made of the six.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Verdict = Literal["same", "derived", "independent", "cannot tell", "not decidable from outside"]
LAYERS = ("names", "architecture", "tokenizer", "weights", "data", "licence")

# A p-value below which MODEL is called derived, and above which a test is said to have found nothing. Between them: cannot tell.
# The first is far below 1 / (pairs that anybody will ever compare), as every test here runs over many pairs.
DERIVED_BELOW, NOTHING_ABOVE = 1e-8, 1e-3


class Part(BaseModel):
    """Immutable; unknown keys are refused; NaN and infinity are no JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rate(Part):
    """A share that was measured: `hits` of `n` cases and its 95 % interval (Clopper and Pearson); `of`: on what it was measured."""

    hits: int
    n: int
    low: float
    high: float
    of: str = ""


class Test(Part):
    """One statistical test of the weights. What did not run says why and has no p-value."""

    name: str  # "phi_U"
    title: str  # for people: "hidden units in the same order"
    null: str = ""  # the null hypothesis, in words
    exact: bool = False  # whether the p-value holds by construction under the null, or is only measured to
    p_value: float | None = None  # 0.0 where it is below 1e-300: read `log10_p`
    log10_p: float | None = None
    statistic: float | None = None
    statistic_name: str = ""  # "mean Spearman correlation over 4 layers"
    why_not: str = ""  # "the widths differ: 64 and 128"; "" where it ran
    false_positives: Rate | None = None  # measured in the zoo on independent models at this test's threshold
    power: Rate | None = None  # the same on descendants
    sampled: str = ""  # "512 of 11,008 units of each layer"; "" where all was used
    details: dict[str, JsonValue] = Field(default_factory=dict)  # per layer and the like

    @property
    def ran(self) -> bool:
        """Whether there is a p-value."""
        return not self.why_not


class TensorDifference(Part):
    """One tensor of MODEL beside the one of REFERENCE that it is matched with, after everything that was undone (`undone`)."""

    name: str  # as MODEL's file calls it
    reference: str | None  # as REFERENCE's file calls it; None where nothing there is matched
    kind: str  # the role: "embed", "head", "norm", "attn_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down", "router"
    layer: int | None = None
    parameters: int = 0
    identity: str = ""  # "equal", "rounded", "scaled", "transposed", "permuted", ""
    undone: tuple[str, ...] = ()  # "units permuted", "stream rotated", "gains folded", "times 1.25"
    difference: float | None = None  # ||W - W'|| / ||W'||, of what was undone; None: not measured
    cosine: float | None = None  # between W and W'


class Block(Part):
    """Where a block (decoder layer) of MODEL comes from."""

    block: int  # of MODEL, from 0
    source: int | None  # of REFERENCE; None: from none of them, as far as these tests see
    log10_p: float | None = None  # of phi_MATCH for this pair, before Holm
    holm_log10_p: float | None = None  # over all pairs of blocks
    difference: float | None = None  # size of what changed, relative to the source
    runner_up: int | None = None  # the second most alike block of REFERENCE, where it is significant too


class Coefficient(Part):
    """How much of a parent a merged model holds: W = sum of coefficient * parent."""

    reference: str
    value: float
    low: float  # 95 %
    high: float


class Renamed(Part):
    """One entry of the map between two sets of tensor names: every `model` reads `reference`."""

    model: str  # "model.layers.{}.ln1.weight"
    reference: str  # "model.layers.{}.input_layernorm.weight"
    tensors: int  # how many tensors it covers


class FieldPair(Part):
    """One field of two configs. None: not stated."""

    name: str
    model: JsonValue = None
    reference: JsonValue = None
    equal: bool = False
    note: str = ""


class Layer(Part):
    """A verdict, one plain sentence, and the evidence in lines that a person can check."""

    verdict: Verdict
    sentence: str
    evidence: tuple[str, ...] = ()


class Names(Layer):
    """Layer 1: the smallest map between the names of the tensors."""

    renames: tuple[Renamed, ...] = ()
    only_model: tuple[str, ...] = ()  # patterns of names with no partner
    only_reference: tuple[str, ...] = ()


class Architecture(Layer):
    """Layer 2: field by field. Never counts for the weights."""

    fields: tuple[FieldPair, ...] = ()
    family: str = ""  # the family that both belong to: "LLaMA decoder"
    shared_with: tuple[str, ...] = ()  # known models of the same family: "Mistral-7B (2023)", ...


class TokenizerLayer(Layer):
    """Layer 3: vocabulary, merges and their order, ids, special tokens, normaliser."""

    shared_entries: float | None = None  # share of MODEL's entries that REFERENCE has too
    expected: float | None = None  # what two independent tokenizers of like text share (measured; `expected_source`)
    expected_source: str = ""
    same_ids: float | None = None  # of the shared entries, those with the same id
    merges_order: float | None = None  # rank correlation of the shared merges' places
    neighbours_in_order: float | None = (
        None  # of shared entries learnt next to each other, those in the same order: 0.5 in strangers, 1 in a copy
    )
    parts: tuple[FieldPair, ...] = ()  # normaliser, pre-tokenizer, special tokens, ...


class Behaviour(Part):
    """How alike the two speak, beside models that are known to be strangers."""

    agreement: float  # share of contexts with the same likeliest next token
    contexts: int
    controls: dict[str, float] = Field(default_factory=dict)  # agreement of REFERENCE with each control model
    p_value: float | None = None  # against the most alike control, Holm over the controls
    alike: bool | None = None  # None: no control, or nearer than the only one
    spread_p_value: float | None = None  # against the controls as a sample of strangers; None: fewer than two
    divergence: float | None = None  # mean Jensen-Shannon, bits; None: not of one vocabulary on one machine
    control_divergences: dict[str, float] = Field(default_factory=dict)
    sentence: str = ""


class Direction(Part):
    """Who stems from whom, where that can be known."""

    known: bool = False
    sentence: str = "These tests are symmetric: they say that two models are related, not which of them came first."
    evidence: tuple[str, ...] = ()


class Weights(Layer):
    """Layer 4: tensors, tests, blocks."""

    p_value: float | None = None  # of the test that decides, Holm over all tests that ran
    log10_p: float | None = None
    null: str = ""
    decided_by: str = ""  # name of the deciding test, or "identity"
    relation: str | None = None  # "copy", "fine-tuned", ...; None where there is none
    also: tuple[str, ...] = ()  # what else was done: "units permuted", "names changed"
    share: float | None = None  # of MODEL's parameters, those in tensors that stem from REFERENCE
    blocks: tuple[Block, ...] = ()
    block_map: tuple[
        tuple[float | None, ...], ...
    ] = ()  # log10 p of every pair: rows are MODEL's blocks, columns REFERENCE's
    tests: tuple[Test, ...] = ()
    tensors: tuple[TensorDifference, ...] = ()
    coefficients: tuple[Coefficient, ...] = ()
    behaviour: Behaviour | None = None
    direction: Direction = Direction()
    missing: tuple[str, ...] = ()  # what could not be read: shards that are not there, tensors with NaN


class DataLayer(Layer):
    """Layer 5: data and recipe, from ledgers; `claim` is the maker's own test where one was made."""

    claim: dict[str, JsonValue] | None = None


class Obligation(Part):
    """One thing that a licence asks of who passes the model on."""

    licence: str  # "llama-3"
    clause: str  # "1.b.i"
    asks: str  # plain words
    kept: bool | None = None  # None: cannot be seen from the files
    how: str = ""  # what was looked at, or what is missing


class LicenceLink(Part):
    """One model of the chain and its licence."""

    model: str
    licence: str | None  # identifier in the data; None: not stated
    title: str = ""
    source: str = ""  # where the licence's terms were read
    stated_by: str = ""  # "its model card", "its LICENSE file", "its ledger"


class Licence(Layer):
    """Layer 6: the chain of parents and what each asks."""

    chain: tuple[LicenceLink, ...] = ()
    obligations: tuple[Obligation, ...] = ()


class Layers(Part):
    """All six, side by side."""

    names: Names
    architecture: Architecture
    tokenizer: TokenizerLayer
    weights: Weights
    data: DataLayer
    licence: Licence


class Subject(Part):
    """A model that was compared: as it was called, and its digest where its weights could be read."""

    name: str
    digest: str | None = None  # of its weights: `judge.measured.ModelFacts.digest`
    parameters: int | None = None


class Lineage(Part):
    """What `model` inherits from `reference`."""

    model: str
    reference: str
    layers: Layers
    model_facts: Subject | None = None
    reference_facts: Subject | None = None
    seconds: float = 0.0
    puna: str = ""  # version

    def as_json(self) -> dict[str, Any]:
        """The form of `--json` and of the store."""
        return self.model_dump(mode="json")
