"""Final answers and their comparison."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_ray.rewards import exact_match, final_answer, math_match, outcome_of
from int_ray.types import Outcome
from tests.factories import completion


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{14}", "14"),
        (r"\boxed{1} no, \boxed{ 2 }.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\boxed{1}, then \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed {4} } \}", "4"),
        ("\\\\boxed{5}", "5"),
        (r"{ \boxed{6}", "6"),
        (r"\boxed{}", None),
        (r"\boxed{7} and \boxed{}", None),
        (r"\fbox{8} boxed{8}", None),
        ("the answer is 14", None),
        ("", None),
    ],
)
def test_the_last_closed_box_is_the_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize("text", ["\\boxed{" * 100_000, "\\" * 1_000_000, "{" * 1_000_000, "\\boxed" + " " * 10**6])
def test_hostile_text_is_read_in_one_pass(text: str) -> None:
    started = time.process_time()
    assert final_answer(text) is None
    assert time.process_time() - started < 5


@given(st.text(alphabet="12 \\{}boxed", max_size=30), st.text(alphabet="12ab+=", min_size=1))
def test_whatever_comes_before_a_box_does_not_hide_it(before: str, answer: str) -> None:
    assert final_answer(f"{before.rstrip(chr(92))} \\boxed{{{answer}}}") == answer


def test_exact_answers_may_differ_in_white_space_only() -> None:
    assert exact_match(" 1,  2", "1, 2\n")
    assert not exact_match("12", "1 2")
    assert not exact_match("14", "14.0")


@pytest.mark.parametrize(("reference", "answer"), [("1/2", r"\frac12"), ("14", "14.0"), ("x=3", "3"), ("(A)", "A")])
def test_equal_mathematics_matches(reference: str, answer: str) -> None:
    assert math_match(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), [("14", "15"), ("6", "5 or 6"), ("6", "5, 6, 7"), ("6", "{6")])
def test_other_mathematics_and_lists_of_guesses_do_not(reference: str, answer: str) -> None:
    assert not math_match(reference, answer)


@pytest.mark.parametrize(
    ("text", "finished", "outcome"),
    [
        (r"\boxed{14}", True, Outcome.CORRECT),
        (r"\boxed{15}", True, Outcome.WRONG),
        ("14", True, Outcome.UNPARSABLE),
        (r"\boxed{14} and so", False, Outcome.TRUNCATED),
    ],
)
def test_outcomes(text: str, finished: bool, outcome: Outcome) -> None:
    assert outcome_of("14", completion(text, finished=finished), exact_match) is outcome
