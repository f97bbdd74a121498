"""Problems as the rows that they were read from, with every column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from int_ray.data.reading import Reading
from int_ray.data.rows import DataError, Row
from int_ray.data_config import ProblemsConfig, source_names
from int_ray.types import Problem


def original_rows(config: ProblemsConfig, problems: Sequence[Problem]) -> dict[str, dict[str, Any]]:
    """Problem id -> its row in the training sources, which are read once more. Raises DataError.

    The sources must still hold every one of the problems.
    """
    wanted = {problem.id: problem for problem in problems}
    rows: dict[str, dict[str, Any]] = {}
    reading = Reading(config, lambda _: False, is_mixture=len(config.train) > 1)
    for source in config.train if wanted else ():
        for problem, row in reading.pairs(source):
            if wanted.get(problem.id) == problem and problem.id not in rows:
                rows[problem.id] = with_usual_names(problem, row)
    if gone := wanted.keys() - rows.keys():
        raise DataError(
            f"{source_names(config.train)} changed since the problems were read: {min(gone)!r} is not in it as it was"
        )
    return rows


def with_usual_names(problem: Problem, row: Row) -> dict[str, Any]:
    """The row, to be read again with `columns: {id: id}`: what a problem consists of is also under its usual name.

    Another column of such a name is kept as `source_NAME`; so is a solution that was not to be used.
    """
    parts = {"id": problem.id, "problem": problem.question, "answer": problem.answer, "solution": problem.solution}
    names = parts if problem.solution else parts | {"reference_solution": ""}
    clashes = {name for name, text in names.items() if row.get(name) is not None and str(row[name]) != text}
    kept = {f"source_{name}" if name in clashes else name: value for name, value in row.items()}
    missing = {name: text for name, text in parts.items() if text and kept.get(name) is None}
    return {"id": problem.id, **kept, **missing}
