"""Which columns a source has, which of its rows are wanted, and what problem a row is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from int_ray.data.rows import BadRow, DataError, Row, text_of
from int_ray.data_config import Columns, Condition, SourceConfig
from int_ray.types import Problem

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, allowed: value in allowed,
    "not in": lambda value, refused: value not in refused,
}


@dataclass(frozen=True)
class ChosenColumns:
    """The column for every part of a problem; None: the row number, or no solution."""

    id: str | None
    question: str
    answer: str
    solution: str | None
    note: str  # what was chosen where there was a choice; empty if there was none

    def problem_of(self, row: Row, unnamed: str) -> Problem:
        """The problem that a row is, with the id `unnamed` if there is no column for ids. Raises BadRow."""
        solution = row.get(self.solution) if self.solution else None
        return Problem(
            id=unnamed if self.id is None else text_of(row, self.id),
            question=text_of(row, self.question, numbers=False),
            answer=text_of(row, self.answer),
            solution="" if solution is None or solution == "" else text_of(row, self.solution or "", numbers=False),
        )


def choose_columns(source: SourceConfig, columns: Columns, present: Collection[str]) -> ChosenColumns:
    """The first name that is `present`, for each part. Raises DataError where there is none.

    Nothing is present where no row could be read; then nothing can be missing either.
    """
    if not present:
        return ChosenColumns(columns.id, columns.question[0], columns.answer[0], None, "")
    chosen: dict[str, str | None] = {}
    notes = []
    for part in ("id", "question", "answer", "solution"):
        given: str | Sequence[str] = getattr(columns, part) or ()
        names = (given,) if isinstance(given, str) else tuple(given)
        found = [name for name in names if name in present]
        if names and not found and part != "solution":
            raise _missing(source, names, present, f"problems.columns.{part}")
        chosen[part] = found[0] if found else None
        if found[1:]:
            notes.append(f"{part} is {found[0]!r} (there is {', '.join(map(repr, found[1:]))} too)")
        elif found and found[0] != names[0]:
            notes.append(f"{part} is {found[0]!r}")
    for column, _, _ in source.filter:
        if column not in present:
            raise _missing(source, (column,), present, "the filter")
    note = f"{source.label}: {', '.join(notes)}; problems.columns can say otherwise" if notes else ""
    return ChosenColumns(chosen["id"], chosen["question"] or "", chosen["answer"] or "", chosen["solution"], note)


def fulfils(row: Row, conditions: Sequence[Condition]) -> bool:
    """Whether a row fulfils every condition. Raises BadRow where a value cannot be compared.

    A missing value fulfils `!=` and `not in` alone. Where a condition names a number, a text that reads as one counts
    as it (all fields of CSV files are text).
    """
    return all(_fulfils(row, *condition) for condition in conditions)


def _fulfils(row: Row, column: str, name: str, wanted: Any) -> bool:
    value = row.get(column)
    if value is None:
        return name in ("!=", "not in")
    example = wanted[0] if isinstance(wanted, tuple) and wanted else wanted
    if isinstance(example, int | float) and not isinstance(example, bool) and isinstance(value, str):
        value = _number(column, value)
    try:
        return COMPARE[name](value, wanted)
    except TypeError:
        kinds = f"{type(value).__name__}, which {name!r} cannot compare with {type(wanted).__name__}"
        raise BadRow(f"{column!r} is {kinds}") from None


def _number(column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRow(f"{column!r} is {text[:40]!r}, no number as the filter wants") from None


def _missing(source: SourceConfig, names: Sequence[str], present: Collection[str], setting: str) -> DataError:
    others = f" (looked for {', '.join(map(repr, names[1:]))} too)" if names[1:] else ""
    return DataError(
        f"{source.label} has no column {names[0]!r} but {', '.join(sorted(map(str, present)))}; set {setting}{others}"
    )
