"""What happened to every proposal of an intervention round, as JSON: one record per proposal, and one per attempt
about which the oracle proposed nothing.

`interventions/iteration_*.jsonl` of a run folder holds them, and so do the files of `int-ray collect`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, TypedDict

import numpy as np

from int_ray.intervention_round import RoundResult
from int_ray.interventions import Refusal
from int_ray.rollout_records import read_rollout, rollout_record
from int_ray.types import (
    Attempt,
    Completion,
    Intervention,
    OracleReply,
    Outcome,
    Problem,
    Proposal,
    Rollout,
    RolloutGroup,
    Source,
    Step,
    TestedIntervention,
)

Status = Literal[
    "kept",  # trained on
    "unhelpful",  # tested, and no continuation was right
    "not_selected",  # it passed the guards, but another proposal about the same attempt was preferred
    "refused",  # by a guard, or there was no proposal at all: `reason` says why
]


class InterventionRecord(TypedDict):
    """One record. Steps and locations count from 1, token positions from 0; text is as written by model or oracle."""

    status: Status
    kept: bool
    reason: str | None  # refused: name of the guard, or of the oracle's failure
    # The problem
    problem_id: str
    question: str
    answer: str
    solution: str
    # The failed attempt
    policy_version: int
    attempt_seed: int
    attempt_outcome: str  # wrong, unparsable, truncated
    attempt_finished: bool
    prompt_ids: list[int]  # [P]
    attempt_ids: list[int]  # [T]
    steps: list[str]
    step_ends: list[int]  # token position after each step; each begins where the one before ends
    # What the oracle said about the attempt
    log: str
    category: Literal["high", "execution"] | None
    faults: list[str]  # flaws of its whole reply: the same in every record of one attempt
    source: dict[str, Any] | None  # fields of types.Source: of the proposal, else of the whole reply
    # The proposal; None throughout where there is none
    first_error: int | None
    location: int | None
    replaced: str | None  # None as well if the attempt has no step there
    content: str | None
    # The intervention; None where refused
    prefix_ids: list[int] | None  # [S]
    intervention_ids: list[int] | None  # [I]
    # Its test; None where not tested
    num_correct: int | None
    num_graded: int | None
    success_rate: float | None
    continuations: list[dict[str, Any]]  # as in rollouts/


def round_records(result: RoundResult) -> list[InterventionRecord]:
    """Everything that a round tried: what it tested, then what it did not select, then what it refused."""
    kept = set(result.kept)
    return [
        *(_tested(item, "kept" if item in kept else _why_not(item)) for item in result.tested),
        *(_tested(TestedIntervention(item, None), "not_selected") for item in result.passed_over),
        *(_refused(refusal) for refusal in result.refused),
    ]


def read_intervention(record: Mapping[str, Any]) -> TestedIntervention:
    """The intervention of a record that was not refused, with its test if it had one.

    Log-probs are NaN, for unknown. The reply holds this proposal only. Raises KeyError for a record that lacks a field.
    """
    problem = Problem(*(record[name] for name in ("problem_id", "question", "answer", "solution")))
    prompt_ids, attempt_ids, prefix_ids, intervention_ids = (
        np.array(record[name], np.int32) for name in ("prompt_ids", "attempt_ids", "prefix_ids", "intervention_ids")
    )
    ends = record["step_ends"]
    steps = tuple(Step(*span) for span in zip([0, *ends], ends, record["steps"], strict=False))
    unknown = np.full(len(attempt_ids), np.nan, np.float32)
    response = Completion(
        attempt_ids, unknown, "".join(record["steps"]), record["attempt_finished"], record["attempt_seed"]
    )
    attempt = Attempt(
        problem, prompt_ids, Rollout(response, Outcome(record["attempt_outcome"]), record["policy_version"]), steps
    )
    source = Source(**record["source"]) if record["source"] is not None else None
    proposal = Proposal(record["location"], record["content"], record["first_error"], source)
    reply = OracleReply((proposal,), None, tuple(record["faults"]), record["log"], record["category"])
    intervention = Intervention(attempt, proposal, prefix_ids, intervention_ids, reply)
    continuations = tuple(map(read_rollout, record["continuations"]))
    tested = RolloutGroup(problem, prompt_ids, intervention.resume_ids, continuations) if continuations else None
    return TestedIntervention(intervention, tested)


def _why_not(item: TestedIntervention) -> Status:
    """Why a tested intervention was not kept."""
    return "not_selected" if item.helps else "unhelpful"


def _tested(item: TestedIntervention, status: Status) -> InterventionRecord:
    intervention, continuations = item.intervention, item.continuations
    record = _record(intervention.attempt, intervention.reply, intervention.proposal, status)
    record["prefix_ids"] = intervention.prefix_ids.tolist()
    record["intervention_ids"] = intervention.intervention_ids.tolist()
    if continuations is not None:
        record["num_correct"] = sum(rollout.outcome is Outcome.CORRECT for rollout in continuations.rollouts)
        record["num_graded"] = len(continuations.graded)
        record["success_rate"] = continuations.success_rate
        record["continuations"] = [rollout_record(rollout) for rollout in continuations.rollouts]
    return record


def _refused(refusal: Refusal) -> InterventionRecord:
    return _record(refusal.attempt, refusal.reply, refusal.proposal, "refused", refusal.reason)


def _record(
    attempt: Attempt, reply: OracleReply, proposal: Proposal | None, status: Status, reason: str | None = None
) -> InterventionRecord:
    """What every record has; without intervention and test."""
    problem, rollout, steps = attempt.problem, attempt.rollout, attempt.steps
    source = (proposal.source if proposal else None) or reply.source
    replaced = steps[proposal.location - 1].text if proposal and 1 <= proposal.location <= len(steps) else None
    return {
        "status": status,
        "kept": status == "kept",
        "reason": reason,
        "problem_id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "solution": problem.solution,
        "policy_version": rollout.policy_version,
        "attempt_seed": rollout.completion.seed,
        "attempt_outcome": rollout.outcome,
        "attempt_finished": rollout.completion.finished,
        "prompt_ids": attempt.prompt_ids.tolist(),
        "attempt_ids": rollout.completion.token_ids.tolist(),
        "steps": [step.text for step in steps],
        "step_ends": [step.end for step in steps],
        "log": reply.log,
        "category": reply.category,
        "faults": list(reply.faults),
        "first_error": proposal.first_error if proposal else None,
        "location": proposal.location if proposal else None,
        "replaced": replaced,
        "content": proposal.content if proposal else None,
        "source": asdict(source) if source else None,
        "prefix_ids": None,
        "intervention_ids": None,
        "num_correct": None,
        "num_graded": None,
        "success_rate": None,
        "continuations": [],
    }
