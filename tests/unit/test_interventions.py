"""Splicing on token ids, and the guards. In these tests a token is a character."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from int_ray.interventions import Rejection, keep_helpful, leaks_answer, splice, splice_all
from int_ray.types import Attempt, Intervention, OracleReply, Problem, Proposal, TestedIntervention
from tests.factories import attempt, group, problem

STEPS = ("12+5=18\n\n", " Wait, 18-3=15\n", "\\boxed{15}")


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def text_of(ids: np.ndarray) -> str:
    return "".join(map(chr, ids))


def spliced(location: int, content: str, steps: tuple[str, ...] = STEPS, max_tokens: int = 100) -> Intervention:
    result = splice(attempt(*steps), Proposal(location, content), encode, "\n\n", max_tokens)
    assert isinstance(result, Intervention)
    return result


def reason(location: int, content: str, max_tokens: int = 100, failed: Attempt | None = None) -> str:
    result = splice(failed or attempt(*STEPS), Proposal(location, content), encode, "\n\n", max_tokens)
    assert isinstance(result, Rejection)
    return result.reason


def test_the_prefix_is_the_sampled_ids_and_the_step_keeps_its_white_space() -> None:
    intervention = spliced(2, "  17-3=14 ")
    assert intervention.prefix_ids.tolist() == attempt(*STEPS).rollout.completion.token_ids[:9].tolist()
    assert text_of(intervention.intervention_ids) == " 17-3=14\n"
    assert text_of(intervention.resume_ids) == "12+5=18\n\n 17-3=14\n"
    assert intervention.intervention_ids.dtype == np.int32


def test_a_step_without_a_separator_gets_the_default_one() -> None:
    assert text_of(spliced(3, "so 14").intervention_ids) == "so 14\n\n"


def test_the_first_step_has_no_prefix_and_keeps_the_opening_of_the_thinking_part() -> None:
    intervention = spliced(1, "12+5=17", ("<think>\n12+5=18\n\n", "x"))
    assert len(intervention.prefix_ids) == 0
    assert text_of(intervention.intervention_ids) == "<think>\n12+5=17\n\n"


@pytest.mark.parametrize("location", [0, -1, 4])
def test_a_location_outside_the_attempt_is_refused(location: int) -> None:
    assert reason(location, "x") == "location_out_of_range"


def test_what_follows_the_thinking_part_cannot_be_replaced() -> None:
    failed = attempt(*STEPS)
    failed = replace(failed, steps=(*failed.steps[:2], replace(failed.steps[2], replaceable=False)))
    assert reason(3, "x", failed=failed) == "after_thinking"


def test_empty_unchanged_and_leaking_steps_are_refused() -> None:
    assert reason(1, " \n") == "empty"
    assert reason(2, "Wait,  18-3=15") == "unchanged"
    assert reason(1, "12+5=18", failed=attempt("<think>\n12+5=18\n\n")) == "unchanged"
    assert reason(3, "\\boxed{14}") == "leak"


def test_a_step_that_leaves_no_token_for_a_continuation_is_too_long() -> None:
    assert reason(2, "17-3=14", max_tokens=18) == "too_long"
    assert len(spliced(2, "17-3=14", max_tokens=19).resume_ids) == 18


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ("2", "so \\boxed{7}"),
        ("2", "2"),
        ("2", " $2$."),
        ("2", "= 2"),
        ("2", "Therefore the answer is 2."),
        ("2", "Final Answer: **2**"),
        ("2", "the answer must be $2$"),
        ("2", "answer = \\( 2 \\)"),
        ("1024", "so we get 1024 in the end"),
        ("1,024", "so we get $1024$"),
        ("\\frac{3}{17}", "hence \\dfrac{3}{17} remains"),
        ("x + 1 = y", "it follows that x+1=y holds"),
        ("Monday", "so it is monday"),
    ],
)
def test_a_step_that_gives_the_answer_away_leaks(answer: str, content: str) -> None:
    assert leaks_answer(Problem("p", "What is it?", answer), "we start", content)


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ("2", "2x = 4, and dividing by 2 gives x"),
        ("42", "45-3=42"),
        ("42", "The answer is 3 more than 39"),
        ("2", "the answer is 2.5 times x"),
        ("2", "the answer is 23 then"),
        ("1024", "so 11024 and 1024.5 and 10245"),
        ("2048", "the question has 2048 in it"),
        ("4096", "the prefix has 4,096 in it"),
    ],
)
def test_a_step_on_the_way_does_not_leak(answer: str, content: str) -> None:
    assert not leaks_answer(Problem("p", "Is 2048 it?", answer), "we have 4096 here", content)


def test_equal_ids_for_one_problem_are_a_duplicate_but_not_for_another() -> None:
    reply = OracleReply((Proposal(1, "12+5=17"),))
    attempts = [attempt(*STEPS), attempt(*STEPS), attempt(*STEPS, index=1), attempt(*STEPS)]
    replies = [reply, reply, reply, OracleReply(failure="no_error")]
    interventions, rejections = splice_all(attempts, replies, encode, "\n\n", 100)
    assert [item.attempt.problem.id for item in interventions] == ["p0", "p1"]
    assert rejections == [Rejection("p0", Proposal(1, "12+5=17"), "duplicate")]


def test_every_refused_proposal_is_counted_by_reason() -> None:
    proposals = (Proposal(9, "x"), Proposal(1, ""), Proposal(1, "12+5=17"), Proposal(1, "12+5=17"))
    interventions, rejections = splice_all([attempt(*STEPS)], [OracleReply(proposals)], encode, "\n\n", 100)
    assert len(interventions) == 1
    assert [rejection.reason for rejection in rejections] == ["location_out_of_range", "empty", "duplicate"]


def test_only_helpful_interventions_are_kept_if_asked_for() -> None:
    intervention = spliced(1, "12+5=17")
    tested = [TestedIntervention(intervention, tests) for tests in (group("wwc"), group("www"), group("wwx"), None)]
    assert keep_helpful(tested, filter=True) == tested[:1]
    assert keep_helpful(tested, filter=False) == tested


def test_hostile_content_is_read_in_linear_time() -> None:
    content = "answer" + " " * 50_000 + "answer: " * 20_000 + "$*" * 50_000
    assert not leaks_answer(problem(), "", content)
