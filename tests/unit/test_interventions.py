"""Splicing on token ids, duplicates, and selection. In these tests a token is a character."""

from __future__ import annotations

import numpy as np

from int_ray.interventions import (
    Splicer,
    best_per_attempt,
    first_per_attempt,
    keep_helpful,
    prefix_text,
    refuse_duplicates,
)
from int_ray.types import Attempt, Intervention, OracleReply, Proposal, TestedIntervention
from tests.factories import attempt, group

STEPS = ("12+5=18\n\n", " Wait, 18-3=15\n", "\\boxed{15}")
SPLICER = Splicer(lambda text: list(map(ord, text)), "\n\n", max_step_tokens=100, max_tokens=100)


def text_of(ids: np.ndarray) -> str:
    return "".join(map(chr, ids))


def spliced(location: int, content: str, failed: Attempt | None = None) -> Intervention:
    reply = OracleReply((Proposal(location, content),))
    (intervention,), _ = SPLICER.splice([failed or attempt(*STEPS)], [reply])
    return intervention


def with_test(failed: Attempt, content: str, outcomes: str) -> TestedIntervention:
    return TestedIntervention(spliced(1, content, failed), group(outcomes))


def test_the_prefix_is_the_sampled_ids_and_the_step_keeps_its_white_space() -> None:
    intervention = spliced(2, "  17-3=14 ")
    assert intervention.prefix_ids.tolist() == attempt(*STEPS).rollout.completion.token_ids[:9].tolist()
    assert text_of(intervention.intervention_ids) == " 17-3=14\n"
    assert text_of(intervention.resume_ids) == "12+5=18\n\n 17-3=14\n"
    assert intervention.intervention_ids.dtype == np.int32
    assert prefix_text(intervention) == "12+5=18\n\n"


def test_a_step_without_a_separator_gets_the_default_one() -> None:
    assert text_of(spliced(3, "so 14").intervention_ids) == "so 14\n\n"


def test_the_first_step_has_no_prefix_and_keeps_the_opening_of_the_thinking_part() -> None:
    intervention = spliced(1, "12+5=17", attempt("<think>\n12+5=18\n\n", "x"))
    assert len(intervention.prefix_ids) == 0
    assert text_of(intervention.intervention_ids) == "<think>\n12+5=17\n\n"


def test_an_intervention_knows_the_reply_that_it_comes_from() -> None:
    reply = OracleReply((Proposal(1, "12+5=17"), Proposal(9, "x"), Proposal(2, "17-3=14")), log="the sum is wrong")
    interventions, refused = SPLICER.splice([attempt(*STEPS)], [reply])
    assert [item.proposal.location for item in interventions] == [1, 2]
    assert [(item.reason, item.proposal) for item in refused] == [("location_out_of_range", reply.proposals[1])]
    assert all(item.reply is reply for item in (*interventions, *refused))


def test_what_differs_in_nothing_but_white_space_is_a_duplicate_for_one_problem_but_not_for_another() -> None:
    first, same, spaced, later = attempt(*STEPS), attempt(*STEPS), attempt(*STEPS), attempt(*STEPS)
    other = attempt(*STEPS, index=1)
    items = [
        spliced(1, "12+5=17", first),
        spliced(1, "12+5=17", same),
        spliced(1, "12 + 5 = 17", spaced),
        spliced(1, "12+5=17", other),
        spliced(2, "12+5=17", later),
    ]
    different, refused = refuse_duplicates(items)
    assert different == [items[0], items[3], items[4]]
    assert [(item.attempt, item.reason) for item in refused] == [(same, "duplicate"), (spaced, "duplicate")]


def test_the_first_on_each_attempt_is_selected() -> None:
    a, b = attempt("1\n\n", "2"), attempt("1\n\n", "3")
    items = [spliced(2, "4", a), spliced(1, "5", a), spliced(2, "6", b)]
    assert first_per_attempt(items) == [items[0], items[2]]
    assert first_per_attempt([]) == []


def test_the_best_on_each_attempt_is_selected_and_the_first_of_equal_ones() -> None:
    a, b = attempt("1\n\n", "2"), attempt("1\n\n", "3")
    items = [with_test(a, "4", "cwww"), with_test(a, "5", "ccww"), with_test(a, "6", "wwcc"), with_test(b, "7", "wwww")]
    assert best_per_attempt(items) == [items[1], items[3]]


def test_a_verdict_that_the_grader_failed_to_give_counts_for_nothing() -> None:
    failed = attempt("1\n\n", "2")
    items = [with_test(failed, "4", "ccww"), with_test(failed, "5", "cxxx")]
    assert best_per_attempt(items) == [items[1]]


def test_only_helpful_interventions_are_kept_if_asked_for() -> None:
    items = [TestedIntervention(spliced(1, "12+5=17"), tests) for tests in (group("wwc"), group("www"), None)]
    assert keep_helpful(items, filter=True) == items[:1]
    assert keep_helpful(items, filter=False) == items
