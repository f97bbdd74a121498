"""Problems as the rows that they were read from, with every column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from int_ray.data.reading import Reading
from int_ray.data.rows import Row
from int_ray.data_config import ProblemsConfig
from int_ray.types import Problem


def original_rows(config: ProblemsConfig, problems: Sequence[Problem]) -> dict[str, dict[str, Any]]:
    """Problem id -> its row in the training sources, which are read once more. Raises DataError."""
    wanted = {problem.id: problem for problem in problems}
    rows: dict[str, dict[str, Any]] = {}
    reading = Reading(config, lambda _: False, is_mixture=len(config.train) > 1)
    for source in config.train if wanted else ():
        for problem, row in reading.pairs(source):
            if wanted.get(problem.id) == problem and problem.id not in rows:
                rows[problem.id] = with_usual_names(problem, row)
    return rows


def with_usual_names(problem: Problem, row: Row) -> dict[str, Any]:
    """The row, to be read again without a column map: what a problem consists of is also under its usual name.

    Another column of such a name is kept as `source_NAME`.
    """
    parts = {"problem": problem.question, "answer": problem.answer}
    parts |= {"solution": problem.solution} if problem.solution else {}
    clashes = {f"source_{name}": row[name] for name, text in parts.items() if name in row and str(row[name]) != text}
    missing = {name: text for name, text in parts.items() if name not in row or f"source_{name}" in clashes}
    return {"id": problem.id, **row, **missing, **clashes}
