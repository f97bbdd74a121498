"""Where problems come from. A source is a path or a mapping, and in its place may stand a list of sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from int_ray.benchmark_catalogue import look_up
from int_ray.config_section import Section

GENERATED = "reasoning_gym:"  # what the path of a generated source begins with; the name of the task follows


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _single(items: Any, serialize: SerializerFunctionWrapHandler) -> Any:
    """One item stands for itself, as it may be written."""
    written = serialize(items)
    return written[0] if len(written) == 1 else written


Names = Annotated[tuple[str, ...], Len(1), BeforeValidator(_as_list), WrapSerializer(_single)]


class Columns(Section):
    """Which column of the data holds what. Of several names the first that the data has counts."""

    id: str | None = Field(default=None, description="Row id; default: the row number.")
    question: Names = ("problem", "question", "prompt")
    answer: Names = ("answer", "final_answer")
    solution: Names | None = Field(
        default=("solution", "reference_solution"), description="Reference solution for the oracle; may be absent."
    )


Scalar = bool | int | float | str
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]


def _checked_condition(condition: Condition) -> Condition:
    _, operator, value = condition
    if operator in ("in", "not in") and not isinstance(value, tuple):
        raise PydanticCustomError("condition", "give a list of values after 'in' and 'not in'")
    if operator not in ("in", "not in") and isinstance(value, tuple):
        raise PydanticCustomError("condition", "give one value, or use 'in' with a list")
    return condition


Condition = tuple[str, Operator, Scalar | tuple[Scalar, ...]]  # column, operator, value


class SourceConfig(Section):
    """One source of problems. A text in its place is its path."""

    path: str = Field(
        description="JSONL, Parquet or CSV file, dataset folder, name of a Hugging Face dataset, "
        "reasoning_gym:TASK for generated problems, or benchmark:NAME for a ready-made set."
    )
    subset: str | None = Field(default=None, description="Configuration of a Hugging Face dataset that has several.")
    split: str | None = Field(default=None, description="Split of a dataset; default: problems.split.")
    columns: Columns | None = Field(default=None, description="Default: problems.columns.")
    filter: tuple[Annotated[Condition, AfterValidator(_checked_condition)], ...] = Field(
        default=(), description="Conditions [column, operator, value]; a row must fulfil all of them."
    )
    weight: PositiveFloat | None = Field(
        default=None, description="Share of the draws, relative to the other sources; default: as many as it has."
    )
    limit: PositiveInt | None = Field(default=None, description="Read no more than so many usable problems.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Of a reasoning_gym task: size, seed and its own, such as max_terms."
    )

    @property
    def is_generated(self) -> bool:
        """Whether reasoning-gym makes the problems."""
        return self.path.startswith(GENERATED)

    @property
    def label(self) -> str:
        """How messages name it."""
        details = ", ".join(item for item in (self.subset, self.split) if item)
        return f"{self.path} ({details})" if details else self.path

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        source = {"path": value} if isinstance(value, str) else value
        return look_up(source) if isinstance(source, Mapping) else source

    @model_validator(mode="after")
    def _check_options(self) -> SourceConfig:
        if self.options and not self.is_generated:
            raise PydanticCustomError("options", "options are for reasoning_gym:TASK alone")
        if self.is_generated and (self.subset or self.split or self.columns):
            raise PydanticCustomError("options", "a generated source has neither subset nor split nor columns")
        return self

    @model_serializer(mode="wrap")
    def _short(self, serialize: SerializerFunctionWrapHandler) -> Any:
        """Only what is set; the path alone if nothing else is."""
        written = {name: value for name, value in serialize(self).items() if value not in (None, {}, (), [])}
        return self.path if len(written) == 1 else written


def _weights_fit(sources: Sequence[SourceConfig]) -> Sequence[SourceConfig]:
    if len({source.weight is None for source in sources}) > 1:
        raise PydanticCustomError("weights", "give every source a weight, or none")
    return sources


def _no_weights(sources: Sequence[SourceConfig]) -> Sequence[SourceConfig]:
    if any(source.weight is not None for source in sources):
        raise PydanticCustomError("weights", "an evaluation set is evaluated whole; leave out weight")
    return sources


Sources = Annotated[
    tuple[SourceConfig, ...],
    BeforeValidator(_as_list),
    AfterValidator(_weights_fit),
    Len(1),  # after the others: a mistake in the only source is one mistake, not an empty list too
    WrapSerializer(_single),
]
EvaluationSources = Annotated[Sources, AfterValidator(_no_weights)]


class ProblemsConfig(Section):
    """Training problems and how their answers are judged."""

    train: Sources = Field(description="A source or a list of them: a path, or a mapping with path, filter and so on.")
    mixed: Sources | None = Field(
        default=None,
        description="Problems that the policy can solve, read like train: rollout.mixed of them join every RL batch, "
        "so that they stay solved. They never feed the trigger, the oracle or the stall figures.",
    )
    split: str = Field(default="train", description="Split of a Hugging Face dataset.")
    columns: Columns = Columns()
    decontaminate: bool = Field(
        default=True,
        description="Leave out problems of train and mixed that an evaluation set asks too, by normalised text. "
        "A set read from the very same path and split as training data is meant to be the training data.",
    )
    reward: Literal["exact", "math", "reasoning_gym"] = Field(
        default="math",
        description="exact: same text in the box; math: math-verify; reasoning_gym: the task's own scorer.",
    )
    grader_workers: PositiveInt = Field(default=2, description="Killable grading processes (all but reward: exact).")
    grader_timeout_s: PositiveFloat = 10.0


def source_names(sources: Sequence[SourceConfig]) -> str:
    """Of one or several sources, in a message or a record."""
    return ", ".join(source.label for source in sources)
