"""What a proposed step must not be. In these tests a token is a character."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from int_ray.guards import objection
from int_ray.interventions import Refusal, Splicer
from int_ray.language import is_other_language
from int_ray.types import Attempt, OracleReply, Proposal
from tests.factories import attempt

STEPS = ("12+5=18\n\n", " Wait, 18-3=15\n", "\\boxed{15}")
ENGLISH = "First I subtract two from both sides, and then I divide by three, so that the unknown stands alone."
GERMAN = "Zuerst ziehe ich auf beiden Seiten zwei ab, und dann teile ich durch drei, damit x allein steht."
JAPANESE = "まず両辺から二を引き、次に三で割ると、未知数だけが残る。"
CHINESE = "首先两边同时减去二,然后除以三,就得到了未知数。"


def reason(location: int, content: str, failed: Attempt | None = None) -> str | None:
    return objection(failed or attempt(*STEPS), Proposal(location, content))


@pytest.mark.parametrize("location", [0, -1, 4, 10**9])
def test_a_location_outside_the_attempt(location: int) -> None:
    assert reason(location, "x") == "location_out_of_range"


def test_an_attempt_without_steps_has_no_location() -> None:
    assert reason(1, "x", attempt()) == "location_out_of_range"


def test_what_follows_the_thinking_part() -> None:
    failed = attempt(*STEPS)
    failed = replace(failed, steps=(*failed.steps[:2], replace(failed.steps[2], replaceable=False)))
    assert reason(3, "x", failed) == "after_thinking"
    assert reason(2, "x", failed) is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (" \n", "empty"),
        ("Wait,  18 - 3 = 15", "unchanged"),
        ("17-3=14\n\n14+1=15", "several_steps"),
        ("17-3=14\n  \n14+1=15", "several_steps"),
        ("so \\boxed{7}", "boxed"),
        ("Wait, 17-3=14\n", None),
        ("Wait,\n17-3=14", None),
    ],
)
def test_what_the_content_must_not_be(content: str, expected: str | None) -> None:
    assert reason(2, content) == expected


def test_the_tag_that_opens_the_thinking_part_changes_nothing() -> None:
    assert reason(1, "12+5=18", attempt("<think>\n12+5=18\n\n")) == "unchanged"


@pytest.mark.parametrize(
    ("student", "content", "other"),
    [
        (ENGLISH, ENGLISH, False),
        (ENGLISH, GERMAN, True),
        (ENGLISH, CHINESE, True),
        (ENGLISH, "所以 $x=4$", True),  # short, but in another script
        (ENGLISH, "先减去2再除以3,得到x=4", True),  # no blanks around the numbers
        (ENGLISH, "Nullstellen", False),  # too short to tell
        (ENGLISH, "\u03b1 + \u03b2 = \u03b3, and \\alpha \\in \u211d", False),
        (GERMAN, GERMAN, False),
        (GERMAN, ENGLISH, True),
        (CHINESE, CHINESE, False),
        (CHINESE, ENGLISH, True),
        (CHINESE, "\\sin x = 4", False),
        (JAPANESE, JAPANESE, False),
        (JAPANESE, ENGLISH, True),
        ("12+5=18", "17-3=14", False),
        ("12+5=18", ENGLISH, False),  # the student says nothing in words
    ],
)
def test_the_language_of_the_student(student: str, content: str, other: bool) -> None:
    assert is_other_language("12+5-3=?", student, content) == other


def test_the_language_of_the_question_will_do() -> None:
    assert not is_other_language(GERMAN, ENGLISH, GERMAN)
    assert reason(1, GERMAN, attempt(ENGLISH)) == "other_language"


@pytest.mark.parametrize("wordless", ["\u2460\u2461 " * 9, "\u00b2\u00b3 " * 9, "\u30fb" * 20])
def test_marks_that_are_no_letters_have_no_language(wordless: str) -> None:
    assert reason(1, ENGLISH, attempt(wordless)) is None
    assert reason(1, wordless, attempt(ENGLISH)) is None


@pytest.mark.parametrize("piece", ["首", "首1", "a", "1a", "a首", "\\(", "\\[", "$", "<", " ", "\n "])
def test_hostile_texts_take_no_time(piece: str) -> None:
    hostile = piece * 16_000
    started = time.process_time()
    reason(1, f"{hostile}。", attempt(ENGLISH))
    reason(1, ENGLISH, attempt(hostile))
    assert time.process_time() - started < 5.0


def test_lengths_count_the_tokens_that_would_be_trained_on() -> None:
    def refused(max_step_tokens: int, max_tokens: int) -> list[str]:
        splicer = Splicer(lambda text: list(map(ord, text)), "\n\n", max_step_tokens, max_tokens)
        _, refusals = splicer.splice([attempt(*STEPS)], [OracleReply((Proposal(2, "17-3=14"),))])
        return [refusal.reason for refusal in refusals]

    # Prefix: 9 characters; step: blank, 7 characters, new line.
    assert refused(max_step_tokens=8, max_tokens=100) == ["too_long"]
    assert refused(max_step_tokens=9, max_tokens=18) == ["no_room"]
    assert refused(max_step_tokens=9, max_tokens=19) == []


def test_a_reply_without_proposals_is_one_refusal_with_the_reason() -> None:
    splicer = Splicer(lambda text: list(map(ord, text)), "\n\n", 100, 100)
    failed = attempt(*STEPS)
    replies = [OracleReply(failure="no_error"), OracleReply()]
    interventions, refusals = splicer.splice([failed, failed], replies)
    assert interventions == []
    assert [(refusal.reason, refusal.proposal) for refusal in refusals] == [("no_error", None), ("no_proposal", None)]
    assert all(isinstance(refusal, Refusal) and refusal.attempt is failed for refusal in refusals)
