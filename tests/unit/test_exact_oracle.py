"""The exact oracle, on hand-made attempts at 12+5-3+4=? whose right steps are 12+5=17, 17-3=14, 14+4=18."""

from __future__ import annotations

import random

import numpy as np
import pytest

from int_ray.chains.world import draw_problem_chain, misadd, trace
from int_ray.oracles import CHECKERS
from int_ray.oracles.exact import ExactOracle
from int_ray.types import Attempt, Completion, OracleReply, Outcome, Problem, Proposal, Rollout, Step

PROBLEM = Problem("p", "12+5-3+4=?", "18", "12+5=17\n\n17-3=14\n\n14+4=18\n\n\\boxed{18}")


def attempt_at(problem: Problem, steps: list[str]) -> Attempt:
    """An attempt whose steps carry their blank lines; the oracle reads nothing but texts."""
    none = np.array([], np.int32)
    rollout = Rollout(Completion(none, np.array([], np.float32), "", True, 0), Outcome.WRONG, 0)
    return Attempt(problem, none, rollout, tuple(Step(0, 0, f"{text}\n\n") for text in steps))


def ask(*steps: str) -> OracleReply:
    return ExactOracle().propose(attempt_at(PROBLEM, list(steps)))


def fixed(location: int, content: str) -> OracleReply:
    return OracleReply((Proposal(location, content),))


@pytest.mark.parametrize(
    ("steps", "reply"),
    [
        (("12+5=18", "18-3=15", "15+4=19", "\\boxed{19}"), fixed(1, "12+5=17")),
        (("12+5=17", "17-3=15", "15+4=19", "\\boxed{19}"), fixed(2, "17-3=14")),
        (("12+5=17", "17-3=14", "14+4=19", "\\boxed{19}"), fixed(3, "14+4=18")),
        (("12+5=17", "17-4=14", "14+4=19"), fixed(2, "17-3=14")),  # wrong operand, then another error
        (("12+5=17", "perhaps", "17-3=15"), fixed(2, "17-3=14")),  # malformed
        (("12+5=17", "", "17-3=15"), fixed(2, "17-3=14")),  # empty
        (("12+5=17", "17-3=14", "\\boxed{14}"), fixed(3, "14+4=18")),  # stops too early
        (("\\boxed{18 }x",), fixed(1, "12+5=17")),  # no steps at all
    ],
)
def test_first_wrong_step_is_replaced(steps: tuple[str, ...], reply: OracleReply) -> None:
    assert ask(*steps) == reply


@pytest.mark.parametrize(
    ("steps", "reply"),
    [
        # 17-3=15 is taken back; what remains wrong is the last step.
        (("12+5=17", "17-3=15", "17-3=14", "14+4=19", "\\boxed{19}"), fixed(4, "14+4=18")),
        # The wrong step is ignored by the next one, which goes on from the right value.
        (("12+5=17", "17-3=15", "14+4=18", "\\boxed{19}"), OracleReply(failure="error_in_answer")),
        # Repeating a right step is no error.
        (("12+5=17", "12+5=17", "17-3=15"), fixed(3, "17-3=14")),
        # Two wrong steps in a row: the first of them.
        (("12+5=18", "18-3=16", "16+4=20"), fixed(1, "12+5=17")),
    ],
)
def test_recovered_steps_are_left_alone(steps: tuple[str, ...], reply: OracleReply) -> None:
    assert ask(*steps) == reply


@pytest.mark.parametrize(
    ("steps", "failure"),
    [
        (("12+5=17", "17-3=14", "14+4=18", "\\boxed{18}"), "no_error"),
        (("12 + 5 = 17", "17-3=14", "14+4=18", "\\boxed{18}"), "no_error"),  # spaces say nothing
        (("12+5=17", "17-3=14", "14+4=18", "\\boxed{18}", "18+1=19"), "no_error"),  # after the answer
        (("12+5=17", "17-3=14", "14+4=18", "\\boxed{81}"), "error_in_answer"),
        (("12+5=17", "17-3=14", "14+4=18", "18+1=19", "\\boxed{19}"), "error_in_answer"),  # a step too many
        (("12+5=17", "17-3=14"), "unfinished"),
        ((), "unfinished"),
    ],
)
def test_failures_have_names(steps: tuple[str, ...], failure: str) -> None:
    assert ask(*steps) == OracleReply(failure=failure)


def test_without_a_solution_there_is_no_reference() -> None:
    attempt = attempt_at(Problem("p", "12+5=?", "17"), ["12+5=18"])
    assert ExactOracle().propose(attempt) == OracleReply(failure="no_reference")


def test_flawed_traces_are_corrected_where_they_first_leave_the_reference() -> None:
    rng = random.Random(0)
    for _ in range(300):
        chain = draw_problem_chain(rng, range(1, 4))
        right, flawed = chain.steps(), chain.steps(misadd)
        first = next(i for i, (a, b) in enumerate(zip(right, flawed, strict=True)) if a != b)
        attempt = attempt_at(chain.problem("p"), trace(flawed).split("\n\n"))
        assert ExactOracle().propose(attempt) == fixed(first + 1, right[first])


def test_kinds_are_found_by_name() -> None:
    assert isinstance(CHECKERS["chains"](), ExactOracle)
