"""A round against fakes. In these tests a token is a character."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from int_ray.intervention_records import round_records
from int_ray.intervention_round import InterventionRound, RoundResult
from int_ray.oracle_config import OracleConfig
from int_ray.ports import CollectingPorts
from int_ray.segmentation import Segmenter
from int_ray.training_config import PatchConfig
from int_ray.types import Attempt, Intervention, OracleReply, Proposal, RolloutGroup, TestedIntervention
from tests.factories import attempt, group
from tests.fakes import FakeGrader, FakePolicy, FakeProgress, FakeRollouts

RIGHT = Proposal(1, "12+5=17")
FAIR = Proposal(1, "I add 12+5=17")
LEAK = Proposal(2, "so the answer is 14")
BAD = Proposal(9, "x")


class Scripted:
    """An oracle that gives one reply to every attempt, or one per attempt."""

    def __init__(self, replies: OracleReply | Sequence[OracleReply]) -> None:
        self.replies = replies

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        if isinstance(self.replies, OracleReply):
            return [self.replies for _ in attempts]
        assert len(self.replies) == len(attempts)
        return list(self.replies)


class Rated(FakeRollouts):
    """Continuations that succeed as often as the step's content says."""

    def __init__(self, rates: Mapping[str, str]) -> None:
        super().__init__(FakePolicy())
        self.rates = rates
        self.tested: list[str] = []

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        self.tested.extend(item.proposal.content for item in interventions)
        return [group(self.rates.get(item.proposal.content, "wwww")) for item in interventions]


def run(
    replies: OracleReply | Sequence[OracleReply],
    rates: Mapping[str, str] | None = None,
    *,
    unsolved: Sequence[RolloutGroup] = (),
    select: str = "first_valid",
    filter: bool = True,
    attempts: int = 1,
) -> tuple[RoundResult, Rated]:
    rollouts = Rated(rates or {})
    round_ = build(Scripted(replies), rollouts, {"select": select, "attempts": attempts}, filter=filter)
    return asyncio.run(round_.run(unsolved or [group("wwww")], 1)), rollouts


def build(oracle: Scripted, rollouts: Rated, oracle_keys: dict[str, Any], *, filter: bool) -> InterventionRound:
    return InterventionRound(
        CollectingPorts(rollouts, FakeGrader(), oracle, FakeProgress()),
        Segmenter(lambda ids: "".join(map(chr, ids)), ("wait",)),
        lambda text: list(map(ord, text)),
        OracleConfig.model_validate(oracle_keys),
        PatchConfig(continuations=4, filter=filter),
        max_tokens=128,
    )


def statuses(result: RoundResult) -> list[tuple[str | None, str, str | None]]:
    return [(record["content"], record["status"], record["reason"]) for record in round_records(result)]


def test_the_first_valid_proposal_is_tested_and_the_others_are_passed_over() -> None:
    result, rollouts = run(OracleReply((BAD, LEAK, RIGHT, FAIR)), {RIGHT.content: "cwww"})
    assert rollouts.tested == [RIGHT.content]
    assert statuses(result) == [
        (RIGHT.content, "kept", None),
        (FAIR.content, "not_selected", None),
        (BAD.content, "refused", "location_out_of_range"),
        (LEAK.content, "refused", "leak"),
    ]


def test_best_of_tests_all_and_keeps_the_best() -> None:
    rates = {RIGHT.content: "cwww", FAIR.content: "ccww"}
    result, rollouts = run(OracleReply((RIGHT, FAIR, LEAK)), rates, select="best_of")
    assert rollouts.tested == [RIGHT.content, FAIR.content]
    assert statuses(result) == [
        (RIGHT.content, "not_selected", None),
        (FAIR.content, "kept", None),
        (LEAK.content, "refused", "leak"),
    ]


def test_the_best_of_none_that_helps_is_kept_only_without_the_filter() -> None:
    reply = OracleReply((RIGHT, FAIR))
    assert [status for _, status, _ in statuses(run(reply, select="best_of")[0])] == ["unhelpful", "unhelpful"]
    unfiltered, rollouts = run(reply, select="best_of", filter=False)
    assert [item.intervention.proposal for item in unfiltered.kept] == [RIGHT]
    assert len(rollouts.tested) == 2  # the best is found by testing


def test_without_the_filter_nothing_is_tested() -> None:
    result, rollouts = run(OracleReply((RIGHT,)), filter=False)
    assert rollouts.tested == []
    assert [item.intervention.proposal for item in result.kept] == [RIGHT]


@pytest.mark.parametrize("reply", [OracleReply(), OracleReply(failure="no_error"), OracleReply((BAD,))])
def test_no_interventions_are_a_normal_round(reply: OracleReply) -> None:
    result, rollouts = run(reply)
    assert (result.tested, result.kept, result.outage) == ((), (), None)
    assert rollouts.tested == []
    assert len(result.refused) == 1
    assert result.metrics()["intervention/refused"] == 1


def test_each_attempt_gets_its_own_choice_and_duplicates_across_attempts_count_once() -> None:
    # The two attempts of each problem differ in nothing that precedes the replaced step.
    result, _ = run(OracleReply((RIGHT,)), {RIGHT.content: "cccc"}, unsolved=[varied(0), varied(1)], attempts=2)
    assert (result.num_problems, result.num_attempts) == (2, 4)
    assert [item.intervention.attempt.problem.id for item in result.kept] == ["p0", "p1"]
    assert [refusal.reason for refusal in result.refused] == ["duplicate", "duplicate"]


def test_flaws_of_replies_are_counted_and_told() -> None:
    result, _ = run(OracleReply((RIGHT,), faults=("not_a_number", "empty", "empty")), {RIGHT.content: "cccc"})
    assert result.metrics()["intervention/faults"] == 3
    assert "3 flaws in replies (2 empty, 1 not_a_number)" in result.story()
    assert result.story().endswith("1 kept, on 1 problems")


@pytest.mark.parametrize(
    ("failures", "outage"),
    [
        (["circuit_open", "circuit_open"], "circuit_open"),
        (["server_error", "circuit_open"], "server_error"),  # what opened the circuit
        (["over_budget", "over_budget"], "over_budget"),
        (["blocked", "cut_off"], None),  # no word was said, but the server is there
        (["no_error", "over_budget"], None),  # it answered
        (["unauthorized", None], None),
    ],
)
def test_an_oracle_that_cannot_be_asked_is_an_outage(failures: list[str | None], outage: str | None) -> None:
    replies = [OracleReply(failure=failure) if failure else OracleReply((RIGHT,)) for failure in failures]
    result, _ = run(replies, unsolved=[group("wwww"), group("wwww", index=1)])
    assert result.outage == outage


def test_interventions_from_elsewhere_are_tested_where_they_have_not_been() -> None:
    rollouts = Rated({FAIR.content: "cwww"})
    round_ = build(Scripted(()), rollouts, {}, filter=True)
    old, new = (round_.splicer.splice([attempt("12+5=18\n\n", "x")], [OracleReply((p,))])[0][0] for p in (RIGHT, FAIR))
    giveaway = Proposal(1, "So the answer is 14.")
    leak = replace(new, proposal=giveaway)
    given = [TestedIntervention(old, group("cccc")), TestedIntervention(new, None), TestedIntervention(leak, None)]
    result = asyncio.run(round_.run_given(given, 1))
    assert rollouts.tested == [FAIR.content]
    assert [item.intervention for item in result.kept] == [old, new]
    assert [(refusal.reason, refusal.proposal) for refusal in result.refused] == [("leak", giveaway)]


def varied(index: int) -> RolloutGroup:
    """A group of two failed rollouts that differ in their last step."""
    found = group("ww", index=index)
    first, second = found.rollouts
    ids = second.completion.token_ids.copy()
    ids[-3] = ord("6")
    completion = type(second.completion)(ids, second.completion.rollout_logprobs, "other", True, 1)
    other = type(second)(completion, second.outcome, 0)
    return RolloutGroup(found.problem, found.prompt_ids, found.prefix_ids, (first, other))
