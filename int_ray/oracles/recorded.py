r"""An oracle that replays a file of interventions (oracle.kind: recorded): collected ones, or written by a person.

A person writes one line of JSON per correction, such as

    {"problem": "5-9-9+8=?", "replaced": "5-9=99", "content": "5-9=96"}
    {"problem_id": "17", "replaced": "5-9=99", "content": "5-9=96"}
    {"problem": "5-9-9+8=?", "incorrect_attempt": "5-9=99\n\n99-9=90",
     "intervention": {"location": 2, "content": "Wait, 5-9=96."}}

The first two fit every attempt at the problem that has the step `replaced`, and replace it where it occurs first. One
with the attempt, as `int-ray collect` and the public InT datasets have it, fits the attempts that begin with its first
`location` steps. White space never matters, nor how an attempt is cut into steps elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from int_ray.config_file import ConfigError
from int_ray.data.rows import BadRow, DataError
from int_ray.intervention_rows import WrittenIntervention, read_intervention_row, read_rows, squeezed
from int_ray.types import Attempt, OracleReply, Proposal, Source

NAMED_ROWS = 5  # bad rows that an error names


class RecordedOracle:
    """Proposes what was written about an attempt, in the order of the file. Failure: no_recorded_intervention."""

    def __init__(self, written: Sequence[WrittenIntervention], name: str) -> None:
        """`name` of the file, for the record."""
        self.source = Source("recorded", model=name)
        self._by_question: defaultdict[str, list[WrittenIntervention]] = defaultdict(list)
        self._by_id: defaultdict[str, list[WrittenIntervention]] = defaultdict(list)
        for item in written:  # ids may be row numbers, so they count only where there is no question
            if item.question is not None:
                self._by_question[squeezed(item.question)].append(item)
            elif item.problem_id is not None:
                self._by_id[item.problem_id].append(item)

    def propose(self, attempt: Attempt) -> OracleReply:
        """All interventions of the file that fit the attempt."""
        problem, steps = attempt.problem, [squeezed(step.text) for step in attempt.steps]
        beginnings = ["", *accumulate(steps)]  # the attempt up to each step boundary
        known = [*self._by_question.get(squeezed(problem.question), ()), *self._by_id.get(problem.id, ())]
        located = ((_location(item, steps, beginnings), item) for item in known)
        proposals = tuple(
            Proposal(location, item.content, _first_error(item, beginnings), self.source)
            for location, item in located
            if location is not None
        )
        failure = None if proposals else "no_recorded_intervention"
        return OracleReply(proposals, failure, source=self.source)


def load_recorded(path: Path) -> RecordedOracle:
    """The oracle that replays a JSONL or Parquet file. Raises ConfigError, in one line, if any row is bad."""
    written: list[WrittenIntervention] = []
    bad: list[str] = []
    try:
        for number, row in read_rows(path):
            try:
                if isinstance(row, BadRow):
                    raise row
                written.append(read_intervention_row(row))
            except BadRow as reason:
                bad.append(f"row {number}: {reason}")
    except DataError as error:
        raise ConfigError([f"oracle.recorded: {error}"]) from None
    if bad:
        named = "; ".join(bad[:NAMED_ROWS]) + (f"; and {len(bad) - NAMED_ROWS} more" if len(bad) > NAMED_ROWS else "")
        raise ConfigError([f"oracle.recorded: {path} has {len(bad)} unusable rows; correct or delete them ({named})"])
    return RecordedOracle(written, str(path))


def _location(item: WrittenIntervention, steps: Sequence[str], beginnings: Sequence[str]) -> int | None:
    """The step of an attempt that a line is about, from 1; None if the line does not fit."""
    if not item.steps:
        replaced = squeezed(item.replaced)
        return steps.index(replaced) + 1 if replaced in steps else None
    after = squeezed("".join(item.steps[: item.location]))
    return _step_after(item.steps[: item.location - 1], beginnings) if after in beginnings else None


def _first_error(item: WrittenIntervention, beginnings: Sequence[str]) -> int | None:
    """The step of the attempt that the line calls the first error; None if it names none, or the attempt has none."""
    return None if item.first_error is None else _step_after(item.steps[: item.first_error - 1], beginnings)


def _step_after(steps: Sequence[str], beginnings: Sequence[str]) -> int | None:
    """The step of an attempt, from 1, before which it has said just these steps."""
    before, starts = squeezed("".join(steps)), beginnings[:-1]
    return starts.index(before) + 1 if before in starts else None
