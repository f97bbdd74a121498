"""Reads sources of problems one after the other and writes to disk what they hold."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice

from int_ray.data.columns import ChosenColumns, choose_columns, fulfils
from int_ray.data.generated import COLUMNS, generated_rows, is_generated_id
from int_ray.data.overlap import key_of, question_key
from int_ray.data.rows import BadRow, DataError, QuarantinedRow, Row, numbered_rows
from int_ray.data.stored import RowWriter
from int_ray.data_config import ProblemsConfig, SourceConfig
from int_ray.types import Problem

HEAD = 1000  # rows in which the columns of a source are looked up


class Reading:
    """What several sources hold: problems and bad rows on disk, and about 40 bytes for each in memory."""

    def __init__(self, config: ProblemsConfig, too_long: Callable[[Problem], bool], *, is_mixture: bool) -> None:
        self.config = config
        self.too_long = too_long
        self.is_mixture = is_mixture
        self.sources: list[SourceConfig] = []
        self.ends: list[int] = []  # of every source: how many problems there are up to its last one
        self.notes: list[str] = []
        self.problems = RowWriter(Problem)
        self.rows = array("q")  # of every problem: its row in the source,
        self.ids = array("Q")  # what stands for its id,
        self.questions = array("Q")  # and for its question
        self.quarantined = RowWriter(QuarantinedRow)
        self.quarantined_at: tuple[array[int], array[int]] = (array("q"), array("q"))  # sources and rows

    def read(self, source: SourceConfig) -> None:
        """All rows of a source. Raises DataError if none of them can be used."""
        self.sources.append(source)
        first, first_bad, total, passed = self.problems.count, self.quarantined.count, 0, 0
        rows, columns = self._open(source)
        for number, row in rows:
            total += 1
            try:
                if isinstance(row, BadRow):
                    raise row
                if fulfils(row, source.filter):
                    passed += 1
                    self._add(number, self._problem(columns, number, row))
            except BadRow as reason:
                self.quarantine(len(self.sources) - 1, number, str(reason))
            if self.problems.count - first == source.limit:
                break
        self.ends.append(self.problems.count)
        if source.filter:
            self.notes.append(f"{source.label}: {passed} of {total} rows pass the filter")
        if self.problems.count == first:
            raise self._unusable(total, first_bad)

    def pairs(self, source: SourceConfig) -> Iterator[tuple[Problem, Row]]:
        """Every problem of a source with the row that it is read from; nothing is kept. Raises DataError."""
        self.sources.append(source)
        rows, columns = self._open(source)
        for number, row in rows:
            with suppress(BadRow):
                if not isinstance(row, BadRow) and fulfils(row, source.filter):
                    yield self._problem(columns, number, row), row

    def quarantine(self, source: int, row: int, reason: str) -> None:
        """Leave out a row of the source with this number, from 0."""
        self.quarantined.add(QuarantinedRow(row, reason, self.sources[source].label if self.is_mixture else ""))
        for values, value in zip(self.quarantined_at, (source, row), strict=True):
            values.append(value)

    def _open(self, source: SourceConfig) -> tuple[Iterator[tuple[int, Row | BadRow]], ChosenColumns]:
        rows = self._rows(source)
        head = list(islice(rows, HEAD))
        if not head:
            raise DataError(f"{source.label} has no rows; name a file or dataset with problems in it")
        present = {name for _, row in head if isinstance(row, Mapping) for name in row}
        wanted = COLUMNS if source.is_generated else source.columns or self.config.columns
        columns = choose_columns(source, wanted, present)
        if columns.note:
            self.notes.append(columns.note)
        return chain(head, rows), columns

    def _rows(self, source: SourceConfig) -> Iterator[tuple[int, Row | BadRow]]:
        if source.is_generated:
            return generated_rows(source.path, source.options)
        return numbered_rows(source.path, source.split, source.subset, usual_split=self.config.split)

    def _problem(self, columns: ChosenColumns, number: int, row: Row) -> Problem:
        problem = columns.problem_of(row, f"{self.sources[-1].label}:{number}" if self.is_mixture else str(number))
        if self.config.reward == "reasoning_gym" and not is_generated_id(problem.id):
            raise BadRow("reward: reasoning_gym judges generated problems alone, and this id is not of one")
        if self.too_long(problem):
            raise BadRow("the prompt is too long for the model")
        return problem

    def _add(self, number: int, problem: Problem) -> None:
        self.problems.add(problem)
        self.rows.append(number)
        self.ids.append(key_of(problem.id))
        self.questions.append(question_key(problem.question))

    def _unusable(self, total: int, first_bad: int) -> DataError:
        label = self.sources[-1].label
        reasons = Counter(row.reason for row in self.quarantined.finish()[first_bad:])
        if not reasons:
            return DataError(f"{label}: none of {total} rows passes the filter; change problems.train or its filter")
        reason, count = reasons.most_common(1)[0]
        return DataError(f"{label}: none of {total} rows is usable; {count} of them: {reason}")
