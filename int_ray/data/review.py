"""Looks at all problems together: leaves out repeats, what an evaluation set asks, and answers that none can match."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from int_ray.data.answers import distinct_to_check, read_answers
from int_ray.data.overlap import question_key, repeats
from int_ray.data.reading import Reading
from int_ray.data.rows import DataError, QuarantinedRow
from int_ray.data.stored import Part, StoredProblems, StoredRows
from int_ray.data_config import source_names
from int_ray.types import Problem


class Review:
    """What is left of the problems of some sources."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.problems = reading.problems.finish()
        self.is_kept = np.ones(len(self.problems), bool)

    def drop_repeated_ids(self) -> None:
        """Of problems with the same id the first one stays."""
        for position, _ in repeats(np.asarray(self.reading.ids, np.uint64)):
            self._drop(position, f"the id {self.problems[position].id!r} occurs before")

    def drop_repeated_questions(self) -> None:
        """Of problems that ask the same the first one stays."""
        kept = np.flatnonzero(self.is_kept)
        again = repeats(np.asarray(self.reading.questions, np.uint64)[kept])
        for position, first in ((int(kept[later]), self.problems[int(kept[earlier])]) for later, earlier in again):
            differs = "" if self.problems[position].answer == first.answer else ", with another answer"
            self._drop(position, f"the same question as {first.id!r} before it{differs}")
        self._note(len(again), "ask what a problem before them asks")

    def drop_asked_by(self, name: str, held_out: Sequence[Problem]) -> None:
        """No problem stays that the evaluation set of this name asks."""
        asked = {question_key(problem.question): problem.id for problem in held_out}
        questions = np.asarray(self.reading.questions, np.uint64)
        leaks = np.flatnonzero(np.isin(questions, np.fromiter(asked, np.uint64, len(asked))) & self.is_kept)
        for position in leaks.tolist():
            self._drop(position, f"the same question as {asked[int(questions[position])]!r} of {name}")
        self._note(len(leaks), f"are asked by {name}, too (problems.decontaminate)")

    def drop_unreadable_answers(self) -> None:
        """With reward: math every answer that stays has been read, as far as there was time."""
        config = self.reading.config
        if config.reward != "math":
            return
        answers, are_all = distinct_to_check(problem.answer for problem in self._kept())
        readings = read_answers(answers, config.grader_workers, config.grader_timeout_s)
        if readings.unchecked or not are_all:
            checked = len(answers) - readings.unchecked
            self.reading.notes.append(f"math-verify has tried the first {checked} different answers, not the others")
        if readings.reasons:
            for position, problem in zip(np.flatnonzero(self.is_kept).tolist(), self._kept(), strict=True):
                if problem.answer in readings.reasons:
                    self._drop(position, readings.reasons[problem.answer])

    def finish(self) -> tuple[StoredProblems, StoredRows[QuarantinedRow]]:
        """The problems that are left, and all rows that were left out, by source and row. Raises DataError."""
        quarantined = self.reading.quarantined.finish()
        problems = StoredProblems(self._kept(), self._parts(quarantined))
        sources, rows = (np.asarray(values, np.int64) for values in self.reading.quarantined_at)
        return problems, quarantined.pick(np.lexsort((rows, sources)))

    def _parts(self, quarantined: StoredRows[QuarantinedRow]) -> list[Part]:
        """What is left of every source; `quarantined` in the order in which the rows were left out."""
        reading, parts = self.reading, []
        for source, start, end in zip(reading.sources, [0, *reading.ends], reading.ends, strict=False):
            part = Part(int(self.is_kept[start:end].sum()), source.weight)
            if not part.size:
                reason = next(row.reason for row in reversed(quarantined) if row.source in ("", source.label))
                raise DataError(f"{source.label}: none of {end - start} problems is left; the last of them: {reason}")
            if reading.is_mixture:
                reading.notes.append(f"{source.label}: {part.size} problems, weight {source.weight or part.size:g}")
            parts.append(part)
        return parts

    def _kept(self) -> StoredRows[Problem]:
        return self.problems.pick(np.flatnonzero(self.is_kept))

    def _drop(self, position: int, reason: str) -> None:
        if not self.is_kept[position]:
            return
        self.is_kept[position] = False
        source = int(np.searchsorted(self.reading.ends, position, side="right"))
        self.reading.quarantine(source, self.reading.rows[position], reason)

    def _note(self, count: int, what: str) -> None:
        if count:
            self.reading.notes.append(f"{count} problems of {source_names(self.reading.sources)} {what}: left out")
