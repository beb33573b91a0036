"""Every Eval Ever 0.3.0 as typed models of our own: the record of a result, and one row of its samples.

Comes in: values of a JSON file. Goes out: typed records, and JSON that the public schema accepts. Must never happen: a record
accepted here that the schema refuses for a reason that it states. Source of every field, enum and rule: the schema of the project
Every Eval Ever (evaleval, MIT, arXiv 2606.14516), version 0.3.0. Where the schema closes an object, `extra` is forbidden; where
it leaves an object open, further fields are kept.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

VERSION = "0.3.0"
SAMPLES_PATTERN = r"^data/[^/]+/[^/]+/[^/]+/[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-4[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}_samples\.jsonl$"

Details = dict[str, str]  # "additional_details": all values are strings
Bound = float | Literal["Infinity", "-Infinity"] | None


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


class SourceMetadata(_Open):
    """Who says so."""

    source_name: str | None = None
    source_type: Literal["documentation", "evaluation_run"]
    source_organization_name: str
    source_organization_url: str | None = None
    source_organization_logo_url: str | None = None
    evaluator_relationship: Literal["first_party", "third_party", "collaborative", "other"]
    additional_details: Details | None = None


class EvalLibrary(_Open):
    """What measured."""

    name: str
    version: str  # "unknown" where it is not known
    additional_details: Details | None = None


class InferenceEngine(_Open):
    """What ran the model."""

    name: str | None = None
    version: str | None = None


_DEPLOYMENT = ("self_deployed", "externally_managed", "unknown")
_AVAILABILITY = ("open_weights", "closed_weights", "unknown")


class ModelInfo(_Open):
    """Which model. `additional_details` must say how it was run and whether its weights are open."""

    name: str
    id: str
    developer: str | None = None
    inference_platform: str | None = None
    inference_engine: InferenceEngine | None = None
    additional_details: Details

    @model_validator(mode="after")
    def _required_details(self) -> Self:
        for key, allowed in (("deployment_type", _DEPLOYMENT), ("model_availability", _AVAILABILITY)):
            if self.additional_details.get(key) not in allowed:
                raise ValueError(f"additional_details.{key} must be one of {', '.join(allowed)}")
        return self


class SourceUrl(_Open):
    """Data from an address."""

    dataset_name: str
    source_type: Literal["url"]
    url: Annotated[list[str], Field(min_length=1)]
    additional_details: Details | None = None


class SourceHub(_Open):
    """Data from the Hugging Face hub."""

    dataset_name: str
    source_type: Literal["hf_dataset"]
    hf_repo: str | None = None
    hf_split: str | None = None
    samples_number: int | None = None
    sample_ids: list[str] | None = None
    additional_details: Details | None = None


class SourceOther(_Open):
    """Data of any other kind: local files, private sets."""

    dataset_name: str
    source_type: Literal["other"]
    additional_details: Details | None = None


SourceData = Annotated[SourceUrl | SourceHub | SourceOther, Field(discriminator="source_type")]


class JudgeConfig(_Open):
    """A model that scores answers."""

    model_info: ModelInfo
    temperature: float | None = None
    weight: float | None = None
    additional_details: Details | None = None


class LlmScoring(_Open):
    """How models scored the answers."""

    judges: Annotated[list[JudgeConfig], Field(min_length=1)]
    input_prompt: str
    aggregation_method: Literal["majority_vote", "average", "weighted_average", "median"] | None = None
    expert_baseline: float | None = None
    additional_details: Details | None = None


class MetricConfig(_Open):
    """What the score is."""

    evaluation_description: str | None = None
    metric_id: str | None = None
    metric_name: str | None = None
    metric_kind: str | None = None
    metric_unit: str | None = None
    metric_parameters: dict[str, str | float | bool | None] | None = None
    lower_is_better: bool
    score_type: Literal["binary", "continuous", "levels"] | None = None
    level_names: list[str] | None = None
    level_metadata: list[str] | None = None
    has_unknown_level: bool | None = None
    min_score: Bound = None
    max_score: Bound = None
    llm_scoring: LlmScoring | None = None
    additional_details: Details | None = None

    @model_validator(mode="after")
    def _needed_by_type(self) -> Self:
        given = self.model_fields_set
        if self.score_type == "levels" and not {"level_names", "has_unknown_level"} <= given:
            raise ValueError("a score of type levels needs level_names and has_unknown_level")
        if self.score_type == "continuous" and not {"min_score", "max_score"} <= given:
            raise ValueError("a continuous score needs min_score and max_score")
        return self


class StandardError(_Open):
    """Of the score."""

    value: float
    method: str | None = None


class ConfidenceInterval(_Open):
    """Of the score."""

    lower: float
    upper: float
    confidence_level: Annotated[float, Field(ge=0, le=1)] | None = None
    method: str | None = None


class Uncertainty(_Open):
    """How sure the score is."""

    standard_error: StandardError | None = None
    confidence_interval: ConfidenceInterval | None = None
    standard_deviation: float | None = None
    num_samples: int | None = None
    num_bootstrap_samples: int | None = None


class ScoreDetails(_Open):
    """The score."""

    score: float
    details: Details | None = None
    uncertainty: Uncertainty | None = None


class GenerationArgs(_Closed):
    """How answers were made. What we never write (agents, sandboxes) is kept as it is."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    execution_command: str | None = None
    reasoning: bool | None = None
    prompt_template: str | None = None
    agentic_eval_config: dict[str, Any] | None = None
    eval_plan: dict[str, Any] | None = None
    eval_limits: dict[str, Any] | None = None
    sandbox: dict[str, Any] | None = None
    max_attempts: int | None = None
    incorrect_attempt_feedback: str | None = None


class GenerationConfig(_Open):
    """How answers were made."""

    generation_args: GenerationArgs | None = None
    additional_details: Details | None = None


class EvaluationResult(_Open):
    """One metric of one task or subtask."""

    evaluation_result_id: str | None = None
    evaluation_name: str
    source_data: SourceData
    evaluation_timestamp: str | None = None
    metric_config: MetricConfig
    score_details: ScoreDetails
    generation_config: GenerationConfig | None = None


class DetailedResults(_Open):
    """Where the samples are."""

    format: Literal["jsonl"]
    file_path: Annotated[str, Field(pattern=SAMPLES_PATTERN)]
    hash_algorithm: Literal["sha256", "md5"] | None = None
    checksum: str | None = None
    total_rows: int | None = None
    additional_details: Details | None = None


class Record(_Closed):
    """The JSON file of one result."""

    schema_version: str
    evaluation_id: str
    evaluation_timestamp: str | None = None
    retrieved_timestamp: str  # Unix time
    source_metadata: SourceMetadata
    eval_library: EvalLibrary
    model_info: ModelInfo
    evaluation_results: list[EvaluationResult]
    detailed_evaluation_results: DetailedResults | None = None


class SampleInput(_Open):
    """The question."""

    raw: str
    formatted: str | None = None
    reference: list[str]
    choices: list[str] | None = None


class SampleOutput(_Open):
    """The answer."""

    raw: list[str]
    reasoning_trace: list[str] | None = None


class Attribution(_Open):
    """How the answer was read out of the output."""

    turn_idx: Annotated[int, Field(ge=0)]
    source: str
    extracted_value: str
    extraction_method: str
    is_terminal: bool


class SampleEvaluation(_Open):
    """The score of one item."""

    score: float
    is_correct: bool
    num_turns: Annotated[int, Field(ge=1)] | None = None
    tool_calls_count: Annotated[int, Field(ge=0)] | None = None


class Sample(_Closed):
    """One row of the samples."""

    schema_version: str
    evaluation_id: str
    model_id: str
    evaluation_name: str
    evaluation_result_id: str | None = None
    sample_id: str
    sample_hash: str | None = None
    interaction_type: Literal["single_turn", "multi_turn", "agentic"]
    input: SampleInput
    output: SampleOutput | None = None
    messages: list[dict[str, Any]] | None = None
    answer_attribution: list[Attribution]
    evaluation: SampleEvaluation
    token_usage: dict[str, Any] | None = None
    performance: dict[str, Any] | None = None
    error: str | None = None
    metadata: Details | None = None

    @model_validator(mode="after")
    def _by_interaction(self) -> Self:
        if self.interaction_type == "single_turn" and (self.output is None or self.messages is not None):
            raise ValueError("a single_turn sample needs output and no messages")
        if self.interaction_type != "single_turn" and (self.messages is None or self.output is not None):
            raise ValueError(f"a sample of type {self.interaction_type} needs messages and no output")
        return self


def as_json(record: BaseModel) -> dict[str, Any]:
    """The JSON object of a record: fields that are not set are absent, as the schema wants it."""
    return record.model_dump(mode="json", exclude_none=True)
