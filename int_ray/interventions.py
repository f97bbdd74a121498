"""From what an oracle proposes to what may be trained on: splice on token ids, select, filter (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from int_ray.guards import frame, objection
from int_ray.types import Attempt, Intervention, OracleReply, Proposal, TestedIntervention

Encode = Callable[[str], Sequence[int]]  # text -> ids, no special tokens added


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """A proposal that a guard refused, or an attempt that the oracle proposed nothing about."""

    attempt: Attempt
    reason: str  # a guards.GuardName, or the oracle's failure
    proposal: Proposal | None
    reply: OracleReply


@dataclass(frozen=True)
class Splicer:
    r"""Puts a proposed step in the place of the one at its location; everything after that is dropped.

    Example: `Splicer(encode, "\n\n", max_step_tokens=256, max_tokens=4096).splice(attempts, replies)`
    """

    encode: Encode
    default_separator: str  # ends a step where the replaced one had no separator
    max_step_tokens: int
    max_tokens: int  # longest response, prefix included

    def splice(
        self, attempts: Sequence[Attempt], replies: Sequence[OracleReply]
    ) -> tuple[list[Intervention], list[Refusal]]:
        """What becomes of every proposal about every attempt; a reply without any is one refusal."""
        interventions: list[Intervention] = []
        refused: list[Refusal] = []
        for attempt, reply in zip(attempts, replies, strict=True):
            if not reply.proposals:
                refused.append(Refusal(attempt, reply.failure or "no_proposal", None, reply))
            for proposal in reply.proposals:
                spliced = self._splice(attempt, proposal, reply)
                if isinstance(spliced, Intervention):
                    interventions.append(spliced)
                else:
                    refused.append(spliced)
        return interventions, refused

    def _splice(self, attempt: Attempt, proposal: Proposal, reply: OracleReply) -> Intervention | Refusal:
        """The new step takes over the replaced one's white space, so that it ends in the same separator."""
        reason = objection(attempt, proposal)
        if reason is not None:
            return Refusal(attempt, reason, proposal, reply)
        replaced = attempt.steps[proposal.location - 1]
        opening, _, separator = frame(replaced.text)
        step = opening + proposal.content.strip() + (separator or self.default_separator)
        prefix_ids = attempt.rollout.completion.token_ids[: replaced.start]
        intervention_ids = np.array(self.encode(step), np.int32)
        if len(intervention_ids) > self.max_step_tokens:
            return Refusal(attempt, "too_long", proposal, reply)
        if len(prefix_ids) + len(intervention_ids) >= self.max_tokens:
            return Refusal(attempt, "no_room", proposal, reply)
        return Intervention(attempt, proposal, prefix_ids, intervention_ids, reply)


def prefix_text(intervention: Intervention) -> str:
    """The attempt's steps before the replaced one."""
    return "".join(step.text for step in intervention.attempt.steps[: intervention.proposal.location - 1])


def refuse_duplicates(interventions: Sequence[Intervention]) -> tuple[list[Intervention], list[Refusal]]:
    """Of the interventions on one problem that differ in nothing but white space, the first stays."""
    different: dict[tuple[str, str], Intervention] = {}
    refused: list[Refusal] = []
    for item in interventions:
        text = prefix_text(item) + item.proposal.content
        if different.setdefault((item.attempt.problem.id, "".join(text.split())), item) is not item:
            refused.append(Refusal(item.attempt, "duplicate", item.proposal, item.reply))
    return list(different.values()), refused


def first_per_attempt(interventions: Sequence[Intervention]) -> list[Intervention]:
    """The first one on each attempt (select: first_valid)."""
    firsts: dict[tuple[str, bytes], Intervention] = {}
    for item in interventions:
        firsts.setdefault(_attempt_key(item), item)
    return list(firsts.values())


def best_per_attempt(tested: Sequence[TestedIntervention]) -> list[TestedIntervention]:
    """The one with the highest success rate on each attempt, of equal ones the first (select: best_of)."""
    best: dict[tuple[str, bytes], TestedIntervention] = {}
    for item in tested:
        key = _attempt_key(item.intervention)
        if key not in best or _success_rate(item) > _success_rate(best[key]):
            best[key] = item
    return list(best.values())


def keep_helpful(tested: Sequence[TestedIntervention], *, filter: bool) -> list[TestedIntervention]:
    """Those from which the policy reached a right answer; all of them without `filter` (Table 1)."""
    return [item for item in tested if item.helps or not filter]


def _attempt_key(intervention: Intervention) -> tuple[str, bytes]:
    attempt = intervention.attempt
    return attempt.problem.id, attempt.rollout.completion.token_ids.tobytes()


def _success_rate(tested: TestedIntervention) -> float:
    return tested.continuations.success_rate if tested.continuations else 0.0
