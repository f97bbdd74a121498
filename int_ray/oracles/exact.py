"""The oracle of the laptop world: compares an attempt with the reference solution, step by step, as text."""

from __future__ import annotations

from int_ray.chains.worked_out import worked_out
from int_ray.types import Attempt, OracleReply, Problem, Proposal


class ExactOracle:
    """Corrects the first wrong step that is not recovered from (paper, section 4.1).

    A step is right if the reference solution has it next, or had it before. Needs solutions in which every step can be
    written in one way only.
    """

    def propose(self, attempt: Attempt) -> OracleReply:
        """One corrected step, never the boxed answer; or a failure that names why there is none.

        Failures: no_reference, no_error, unfinished (right as far as it goes), error_in_answer (all else is right).
        """
        reference = [step.strip() for step in attempt.problem.solution.split("\n\n") if step.strip()]
        if not reference:
            return OracleReply(failure="no_reference")
        reached, error = _compare(reference, [step.text for step in attempt.steps])
        if reached == len(reference):
            return OracleReply(failure="no_error")
        if error is None:
            return OracleReply(failure="unfinished")
        if "\\boxed" in reference[reached]:
            return OracleReply(failure="error_in_answer")
        return OracleReply((Proposal(error, reference[reached]),))

    def solve(self, problem: Problem) -> str | None:
        """A whole solution in a style of its own; None if the question is not a chain."""
        return worked_out(problem.question)


def _compare(reference: list[str], steps: list[str]) -> tuple[int, int | None]:
    """How many reference steps the attempt reaches, and the location of the first wrong step after those."""
    known = [_without_spaces(step) for step in reference]
    reached = 0
    wrong: list[int] = []  # locations, none recovered from so far
    for location, step in enumerate(map(_without_spaces, steps), start=1):
        # Right steps may leave some out. After an error only two places are a recovery: the missed step itself, or
        # the one that is due by now. Elsewhere a wrong path meets the reference by chance.
        places = [reached, reached + len(wrong)] if wrong else range(reached, len(known))
        place = next((place for place in places if known[place : place + 1] == [step]), None)
        if place is not None:
            reached, wrong = place + 1, []
        elif step not in known[:reached]:
            wrong.append(location)
    return reached, wrong[0] if wrong else None


def _without_spaces(step: str) -> str:
    return "".join(step.split())
