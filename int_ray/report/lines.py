"""Reads interventions for people: those of a run, of `int-ray collect`, or of any file with the public InT columns.

A line has to say which problem it is about. All the rest that is not known is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from int_ray import intervention_records
from int_ray.config_file import ConfigError
from int_ray.report.page import counted
from int_ray.types import Category, Outcome, Source

Status = Literal[intervention_records.Status, "untested"]
LABELS: dict[str, tuple[str, ...]] = {"status": get_args(Status), "category": get_args(Category)}


class _Continuation(BaseModel):
    """What tells whether a continuation is worth reading."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    outcome: str | None = None
    text: str | None = None


_CONTINUATIONS = TypeAdapter(list[_Continuation])


def _shortest_right(value: Any) -> str | None:
    """Of all tests of an intervention, what a person wants to read; raises ValidationError where they are none."""
    continuations = _CONTINUATIONS.validate_python(value)
    right = [item.text for item in continuations if item.outcome == Outcome.CORRECT and item.text]
    return min(right, key=len, default=None)


def _length(value: Any) -> int:
    if not isinstance(value, list):
        raise ValueError("not a list of tokens")
    return len(value)


# Long lists and texts are not kept: a page is about thousands of lines.
Length = Annotated[int, BeforeValidator(_length)]
Count = Annotated[int, Field(ge=0, lt=10**9)]
RightContinuation = Annotated[str | None, BeforeValidator(_shortest_right)]


class Line(BaseModel):
    """What is shown of a record (int_ray/intervention_records.py)."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    status: Status = "untested"
    reason: str | None = None
    problem_id: str = ""
    question: str = ""
    answer: str = ""
    solution: str = ""
    policy_version: int | None = None
    attempt_seed: int | None = None
    attempt_outcome: str = ""
    attempt_tokens: Length | None = Field(default=None, alias="attempt_ids")
    steps: list[str] = []
    log: str = ""
    category: Category | None = None
    faults: list[str] = []
    first_error: int | None = None  # 1-based
    location: int | None = None  # 1-based; a refused one may be out of range
    content: str | None = None
    source: Source | None = None
    intervention_tokens: Length | None = Field(default=None, alias="intervention_ids")
    num_correct: Count | None = None
    num_graded: Count | None = None
    continuation: RightContinuation = Field(default=None, alias="continuations")

    @model_validator(mode="before")
    @classmethod
    def _public_names(cls, row: Any) -> Any:
        """Columns of the public InT datasets stand in for ours; empty fields and foreign labels are left out."""
        if not isinstance(row, Mapping):
            return row
        ours = {name: value for name, value in row.items() if value is not None}
        for label, known in LABELS.items():  # others have columns of these names too
            if ours.get(label) not in known:
                ours.pop(label, None)
        if not isinstance(ours.get("source"), Mapping):  # in a file for others: the dataset that the problem comes from
            ours["source"] = ours.pop("proposed_by", None)
        public = {"question": ours.get("problem"), "solution": ours.get("reference_solution")}
        if isinstance(ours.get("incorrect_attempt"), str):
            public["steps"] = ours["incorrect_attempt"].split("\n\n")
        if isinstance(ours.get("intervention"), Mapping):
            public |= {name: ours["intervention"].get(name) for name in ("location", "content")}
        return {name: value for name, value in public.items() if value is not None} | ours

    @model_validator(mode="after")
    def _names_a_problem(self) -> Line:
        if not self.problem:
            raise ValueError("neither problem_id nor question")
        return self

    @property
    def problem(self) -> str:
        """What tells problems apart."""
        return self.problem_id or self.question

    @property
    def attempt(self) -> int:
        """What tells attempts apart."""
        return hash((self.problem, self.policy_version, self.attempt_seed, *self.steps))

    @property
    def is_tested(self) -> bool:
        """Whether continuations were sampled and judged."""
        return bool(self.num_graded)

    @property
    def replaces_a_step(self) -> bool:
        """Whether the attempt has a step at the proposed location."""
        return self.location is not None and 1 <= self.location <= len(self.steps)


@dataclass
class Interventions:
    """The lines of a run folder or a file, one at a time; afterwards `notes` says what could not be read."""

    path: Path
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, Line]]:
        """Each line, and before it its round, such as `iteration 3`. Raises ConfigError if there is no file."""
        for path in self._files():
            round_ = _round(path) if path != self.path else ""
            unreadable = 0
            for row in _rows(path):
                try:
                    line = Line.model_validate_json(row) if isinstance(row, bytes) else Line.model_validate(row)
                except ValidationError:
                    unreadable += 1
                else:
                    yield round_, line
            if unreadable:
                self.notes.append(f"{counted(unreadable, 'line')} of {path.name} cannot be read")

    def _files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.exists():
            raise ConfigError([f"{self.path} does not exist"])
        names = ("interventions/*.jsonl", "interventions.jsonl", "interventions.parquet")
        for name in names:
            if files := sorted(self.path.glob(name)):
                return files
        raise ConfigError([f"{self.path} holds no interventions: looked for {', '.join(names)}"])


def _round(path: Path) -> str:
    """`iteration_000003.jsonl` -> `iteration 3`."""
    name, _, number = path.stem.rpartition("_")
    return f"{name} {int(number)}" if number.isdecimal() else path.stem


def _rows(path: Path) -> Iterator[bytes | dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise ConfigError([f"{path} is no Parquet file: {error}"]) from None
