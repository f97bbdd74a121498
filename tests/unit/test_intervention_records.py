"""What a round writes down about every proposal, and reading it back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from int_ray.intervention_records import InterventionRecord, read_intervention, round_records
from int_ray.intervention_round import RoundResult
from int_ray.interventions import Refusal, Splicer
from int_ray.types import Attempt, Intervention, OracleReply, Proposal, Source, TestedIntervention
from tests.factories import attempt, group

SOURCE = Source("gemini", "gemini-2.5-pro", "math-1", "abc", 2, 100, 50, 0.25, cached=True)
REPLY = OracleReply(
    (
        Proposal(1, "12+5=17", first_error=1, source=SOURCE),
        Proposal(2, "17-3=14", first_error=1, source=SOURCE),
        Proposal(7, "so", first_error=1, source=SOURCE),
    ),
    faults=("not_a_number",),
    log="Step 1: the sum is wrong.",
    category="execution",
)
SPLICER = Splicer(lambda text: list(map(ord, text)), "\n\n", max_step_tokens=100, max_tokens=100)


def spliced() -> tuple[list[Intervention], list[Refusal]]:
    return SPLICER.splice([failed()], [REPLY])


def failed() -> Attempt:
    return attempt("12+5=18\n\n", "18-3=15\n\n", "\\boxed{15}")


def records(result: RoundResult) -> list[InterventionRecord]:
    """As another process reads them."""
    return json.loads(json.dumps(round_records(result)))


def test_every_proposal_has_one_record_with_its_status() -> None:
    (first, second), refused = spliced()
    helps, fails = TestedIntervention(first, group("cwww")), TestedIntervention(second, group("wwww"))
    better = TestedIntervention(second, group("cccw"))
    silent = Refusal(failed(), "no_error", None, OracleReply(failure="no_error"))
    result = RoundResult(1, 2, tested=(helps, fails, better), kept=(better,), refused=(*refused, silent))
    result = replace(result, passed_over=(first,))
    found = records(result)
    assert [(record["status"], record["reason"], record["kept"]) for record in found] == [
        ("not_selected", None, False),  # it helps, yet another one was kept
        ("unhelpful", None, False),
        ("kept", None, True),
        ("not_selected", None, False),
        ("refused", "location_out_of_range", False),
        ("refused", "no_error", False),
    ]
    assert [record["success_rate"] for record in found] == [0.25, 0.0, 0.75, None, None, None]


def test_a_record_says_where_an_intervention_comes_from_and_how_its_test_went() -> None:
    (first, _), _ = spliced()
    item = TestedIntervention(first, group("cwxw"))
    (record,) = records(RoundResult(1, 1, tested=(item,), kept=(item,)))
    assert (record["question"], record["answer"], record["solution"]) == (
        "12+5-3=?",
        "14",
        "12+5=17\n\n17-3=14\n\n\\boxed{14}",
    )
    assert record["steps"] == ["12+5=18\n\n", "18-3=15\n\n", "\\boxed{15}"]
    assert (record["first_error"], record["location"], record["replaced"]) == (1, 1, "12+5=18\n\n")
    assert (record["content"], record["log"], record["category"]) == (
        "12+5=17",
        "Step 1: the sum is wrong.",
        "execution",
    )
    assert record["source"] is not None and record["source"]["cost"] == 0.25
    assert record["faults"] == ["not_a_number"]
    assert (record["num_correct"], record["num_graded"]) == (1, 3)  # one verdict is missing
    assert [row["outcome"] for row in record["continuations"]] == ["correct", "wrong", "timeout", "wrong"]


def test_a_refused_location_replaces_nothing() -> None:
    _, (refused,) = spliced()
    (record,) = records(RoundResult(1, 1, refused=(refused,)))
    assert (record["location"], record["replaced"], record["content"]) == (7, None, "so")
    assert record["prefix_ids"] is None and record["continuations"] == []


def test_what_an_unusable_reply_came_from_is_written_down_as_well() -> None:
    source = Source("gemini", "gemini-2.5-pro", "math-1", "abc", 0, 100, 800, 0.5)
    silent = Refusal(failed(), "cut_off", None, OracleReply(failure="cut_off", source=source))
    (record,) = records(RoundResult(1, 1, refused=(silent,)))
    assert record["source"] is not None and Source(**record["source"]) == source
    assert (record["reason"], record["content"]) == ("cut_off", None)
    _, (refused,) = spliced()
    (record,) = records(RoundResult(1, 1, refused=(replace(refused, reply=replace(REPLY, source=source)),)))
    assert record["source"] is not None and Source(**record["source"]) == SOURCE  # its own goes first


@pytest.mark.parametrize("outcomes", ["cwtx", None])
def test_what_is_written_can_be_read_back(outcomes: str | None) -> None:
    _, second = spliced()[0]
    item = TestedIntervention(second, group(outcomes) if outcomes else None)
    (record,) = records(RoundResult(1, 1, tested=(item,)))
    read = read_intervention(record)
    # Written again it is the same, so that nothing but log-probs and the other proposals is lost.
    assert records(RoundResult(1, 1, tested=(read,))) == [record]
    assert read.intervention.attempt.problem == second.attempt.problem
    assert read.intervention.attempt.steps == second.attempt.steps
    assert read.intervention.resume_ids.tolist() == second.resume_ids.tolist()
    assert read.intervention.resume_ids.dtype == np.int32
    assert read.intervention.proposal == second.proposal
    assert np.isnan(read.intervention.attempt.rollout.completion.rollout_logprobs).all()
    assert read.helps == item.helps
