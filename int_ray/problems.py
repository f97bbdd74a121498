"""Problems from files and datasets; seeded batches that a resumed run finds again by the iteration's number alone."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from int_ray.config import Columns, ProblemsConfig
from int_ray.types import Problem

Row = Mapping[str, Any]

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # legal in JSON, but no tokenizer takes it
FILE_ENDINGS = (".jsonl", ".parquet", ".json", ".csv")  # a missing file, not a name to ask a hub for


class DataError(ValueError):
    """A source of problems cannot be used. One line: what is wrong, and what to do."""


class BadRow(ValueError):
    """One row is no problem; the message is the reason."""


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that was left out: its number, from 1 (in JSONL the line), and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class LoadedProblems:
    """The usable problems of one source, in its order, and the rows that are none."""

    problems: tuple[Problem, ...]
    quarantined: tuple[QuarantinedRow, ...] = ()


def write_quarantine(path: Path, rows: Sequence[QuarantinedRow]) -> None:
    """One JSON object per row that was left out."""
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")


def load_problems(
    source: str, config: ProblemsConfig, *, too_long: Callable[[Problem], bool] = lambda _: False
) -> LoadedProblems:
    """Read a .jsonl or .parquet file, a dataset folder, or a dataset from the hub. Raises DataError.

    Rows that are no problem are quarantined, as are problems that are `too_long` for the model.
    """
    rows = list(numbered_rows(source, config.split))
    if not rows:
        raise DataError(f"{source} has no rows; name a file or dataset with problems in it")
    _check_columns(source, [row for _, row in rows if isinstance(row, Mapping)], config.columns)
    problems: dict[str, Problem] = {}
    quarantined: list[QuarantinedRow] = []
    for number, row in rows:
        try:
            problem = _problem_of(number, row, config.columns)
            if problem.id in problems:
                raise BadRow(f"the id {problem.id!r} occurs before")
            if too_long(problem):
                raise BadRow("the prompt is too long for the model")
            problems[problem.id] = problem
        except BadRow as reason:
            quarantined.append(QuarantinedRow(number, str(reason)))
    if not problems:
        reason, count = Counter(row.reason for row in quarantined).most_common(1)[0]
        raise DataError(f"{source}: none of {len(rows)} rows is usable; {count} of them: {reason}")
    return LoadedProblems(tuple(problems.values()), tuple(quarantined))


class ProblemBatches:
    """Endless seeded epochs over the problems, each problem once per epoch, cut into batches.

    A batch that reaches beyond the end of an epoch goes on with the next one, so that nothing is left out.
    """

    def __init__(self, problems: Sequence[Problem], batch_size: int, seed: int) -> None:
        if batch_size and not problems:
            raise ValueError(f"batches of {batch_size} problems need problems, and there are none")
        self.problems = tuple(problems)
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, iteration: int) -> tuple[Problem, ...]:
        """The problems of one iteration, counted from 0."""
        total = len(self.problems)
        positions = range(iteration * self.batch_size, (iteration + 1) * self.batch_size)
        orders = {epoch: self._order(epoch) for epoch in {position // total for position in positions}}
        return tuple(self.problems[orders[position // total][position % total]] for position in positions)

    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.problems)).tolist()


def numbered_rows(source: str, split: str) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of a file or dataset with their numbers from 1; what is no row is a BadRow. Raises DataError."""
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".jsonl":
        yield from _jsonl_rows(path)
    elif path.is_file() and path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
    elif path.is_file():
        raise DataError(f"{source} is neither .jsonl nor .parquet; convert it, or rename it if it is one of them")
    elif path.is_dir() or may_be_hub_name(source):
        yield from enumerate(_dataset_rows(source, path, split), start=1)
    else:
        raise DataError(f"{source} does not exist; check the path (relative to {Path.cwd()})")


def may_be_hub_name(source: str) -> bool:
    """Whether a source that is no path may be the name of a dataset or model on the hub."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not source.endswith(FILE_ENDINGS)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    with path.open("rb") as lines:  # bytes, so that a line in a wrong encoding is one bad row
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse_line(line)


def _parse_line(line: bytes) -> Row | BadRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not JSON: {error}")
    return row if isinstance(row, dict) else BadRow("not a JSON object")


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is no readable Parquet file ({_first_line(error)}); write it again") from None


def _dataset_rows(source: str, path: Path, split: str) -> list[Row]:
    """Rows of a Hugging Face dataset. `datasets` 5 runs no code that comes with one."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        if path.is_dir() and ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
            saved = datasets.load_from_disk(path)
            found = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        else:
            found = datasets.load_dataset(str(path) if path.is_dir() else source, split=split)
        return found.to_list()
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise DataError(
            f"{source}: no dataset with a split {split!r} could be loaded ({_first_line(error)}); "
            "check the name, problems.split and the network"
        ) from None


def _check_columns(source: str, rows: Sequence[Row], columns: Columns) -> None:
    present = {name for row in rows for name in row}
    for key in ("id", "question", "answer"):
        name = getattr(columns, key)
        if rows and name is not None and name not in present:
            found = ", ".join(sorted(present))
            raise DataError(f"{source} has no column {name!r} but {found}; set problems.columns.{key}")


def _problem_of(number: int, row: Row | BadRow, columns: Columns) -> Problem:
    if isinstance(row, BadRow):
        raise row
    solution = row.get(columns.solution) if columns.solution else None
    return Problem(
        id=str(number) if columns.id is None else text_of(row, columns.id),
        question=text_of(row, columns.question, numbers=False),
        answer=text_of(row, columns.answer),
        solution="" if solution is None or solution == "" else text_of(row, columns.solution or "", numbers=False),
    )


def text_of(row: Row, column: str, *, numbers: bool = True) -> str:
    """A text that is not empty; numbers count as text where they are answers or ids. Raises BadRow."""
    value = row.get(column)
    if numbers and not isinstance(value, bool) and (isinstance(value, int) or _is_finite_float(value)):
        return str(value)
    if value is None:
        raise BadRow(f"{column!r} is missing")
    if not isinstance(value, str):
        raise BadRow(f"{column!r} is {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"{column!r} is empty")
    if not value.isascii() and LONE_SURROGATE.search(value):
        raise BadRow(f"{column!r} holds half a character")
    return value


def _is_finite_float(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__
