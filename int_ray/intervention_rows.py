r"""Rows that say in text which step of which attempt becomes what: from `int-ray collect`, the public InT datasets or a
person.

    {"problem": "5-9+2=?", "answer": "98", "incorrect_attempt": "5-9=99\n\n99+2=1\n\n\\boxed{1}",
     "intervention": {"location": 1, "content": "5-9=96"}}

`location` counts the parts of `incorrect_attempt` between blank lines, from 1. Files of `int-ray collect` also have the
exact steps of the attempt (`steps`), which come first where they are present, and `location` and `content` a second
time, beside `intervention`: the two must agree. An intervention is one step: blank lines inside of it are read as line
breaks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from int_ray.data.rows import BadRow, DataError, Row, numbered_rows, text_of
from int_ray.segmentation import BLANK_LINES
from int_ray.types import Category, Problem, Source

SOURCE = TypeAdapter(Source)


@dataclass(frozen=True, slots=True)
class WrittenIntervention:
    """One row: `content` takes the place of step `location` of an attempt.

    `steps` are the attempt's text with its separators. A person may leave the attempt out and give only the text of the
    wrong step, `replaced`; then `steps` is empty and `location` 0.
    """

    problem_id: str | None  # one of id and question may be missing
    question: str | None
    content: str
    steps: tuple[str, ...]
    location: int
    replaced: str
    first_error: int | None = None
    proposed_by: Source | None = None
    log: str = ""
    category: Category | None = None


def read_rows(path: Path) -> list[tuple[int, Row | BadRow]]:
    """Rows of a JSONL or Parquet file with their numbers from 1. Raises DataError."""
    if not path.expanduser().is_file():
        raise DataError(f"{path} is no file; check the path (relative to {Path.cwd()})")
    rows = list(numbered_rows(str(path)))
    if not rows:
        raise DataError(f"{path} is empty; name a file with interventions in it")
    return rows


def read_intervention_row(row: Row) -> WrittenIntervention:
    """What a row says. Raises BadRow, with what is wrong with it."""
    if row.get("status", "kept") != "kept":
        raise BadRow(f"its status is {row['status']!r}, not 'kept'")
    problem_id, question = _optional(row, "problem_id"), _optional(row, "question") or _optional(row, "problem")
    if problem_id is None and question is None:
        raise BadRow("neither 'problem' nor 'problem_id' says which problem it is about")
    proposal = _proposal(row)
    content, steps = BLANK_LINES.sub("\n", text_of(proposal, "content", numbers=False).strip()), _steps(row)
    if not steps:
        return WrittenIntervention(problem_id, question, content, (), 0, _replaced(row))
    location = _location(proposal, "location", steps)
    if location is None:
        raise BadRow("'location' is missing")
    first_error = _location(row, "first_error", steps)
    return WrittenIntervention(
        problem_id, question, content, steps, location, steps[location - 1], first_error, *_said_with_it(row)
    )


def read_problem(row: Row, written: WrittenIntervention) -> Problem:
    """The problem of a row, which must hold question and answer. Raises BadRow.

    Rows that have no id get the same one if they have the same question.
    """
    if written.question is None:
        raise BadRow("'problem' is missing")
    unnamed = f"question-{hashlib.sha256(written.question.encode()).hexdigest()[:12]}"
    solution = _optional(row, "solution") or _optional(row, "reference_solution") or ""
    return Problem(written.problem_id or unnamed, written.question, text_of(row, "answer"), solution)


def paragraphs(text: str) -> tuple[str, ...]:
    """The parts between blank lines, each with the blank line after it; together they are the text."""
    *others, last = text.split("\n\n")
    return (*(part + "\n\n" for part in others), last)


def squeezed(text: str) -> str:
    """Without white space."""
    return "".join(text.split())


def _proposal(row: Row) -> Row:
    """`location` and `content`, which a row has at its top, in `intervention` or in both. Raises BadRow."""
    inner = row.get("intervention") or {}
    if not isinstance(inner, Mapping):
        raise BadRow("'intervention' is not an object with 'location' and 'content'")
    for name in ("location", "content"):
        if row.get(name) is not None and inner.get(name) is not None and row[name] != inner[name]:
            raise BadRow(f"{name!r} is not the one in 'intervention'; change both")
    return {name: inner.get(name) if row.get(name) is None else row[name] for name in ("location", "content")}


def _said_with_it(row: Row) -> tuple[Source | None, str, Category | None]:
    """Who proposed it, the oracle's log and the kind of the error, as far as columns of other origin can be so read."""
    try:
        source = SOURCE.validate_python(row.get("proposed_by"))
    except ValidationError:
        source = None
    log, category = row.get("log"), row.get("category")
    return source, log if isinstance(log, str) else "", category if category in get_args(Category) else None


def _steps(row: Row) -> tuple[str, ...]:
    """The attempt's steps, the exact ones if they are known; none where the row has no attempt."""
    steps = row.get("steps")
    if steps is None:
        attempt = _optional(row, "incorrect_attempt")
        return () if attempt is None else paragraphs(attempt)
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise BadRow("'steps' is not a list of texts")
    text_of({"steps": "".join(steps)}, "steps")
    return tuple(steps)


def _replaced(row: Row) -> str:
    if row.get("replaced") is None:
        raise BadRow("neither 'incorrect_attempt' nor 'replaced' says what is replaced")
    return text_of(row, "replaced", numbers=False)


def _optional(row: Row, column: str) -> str | None:
    """A text; None where the column is absent, null (so Parquet writes it) or empty."""
    return None if row.get(column) in (None, "") else text_of(row, column)


def _location(row: Row, column: str, steps: tuple[str, ...]) -> int | None:
    """The number of a step, or None; also 3.0, which is what a column with gaps turns 3 into."""
    value: Any = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(1, len(steps) + 1):
        raise BadRow(f"{column!r} is {value!r}, but the attempt has the steps 1 to {len(steps)}")
    return int(value)
