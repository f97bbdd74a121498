"""In-process implementations of the ports: the coordinator's loop runs against them in milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from int_ray.rewards import exact_match, outcome_of
from int_ray.types import (
    Attempt,
    Completion,
    Intervention,
    Logprobs,
    OracleReply,
    Outcome,
    Problem,
    Proposal,
    Purpose,
    Rollout,
    RolloutGroup,
    TokenIds,
    Update,
    UpdateBatches,
)
from tests.factories import completion, weights_bytes


@dataclass
class FakePolicy:
    """Solves a problem with skill 1, never with skill 0; patching raises skills, reinforcing completes them."""

    skill: dict[str, float] = field(default_factory=dict)
    responds_to_interventions: bool = True
    version: int = 0


class FakeRollouts:
    """Deterministic groups: a share `skill` of the rollouts is correct."""

    def __init__(self, policy: FakePolicy):
        self.policy = policy
        self.calls: list[tuple[Purpose, int, int]] = []  # purpose, number of problems, round

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        self.calls.append((purpose, len(problems), round_))
        return [self._group(problem, n, self.policy.skill.get(problem.id, 0.0)) for problem in problems]

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        self.calls.append((Purpose.TEST_INTERVENTION, len(interventions), round_))
        share = 0.5 if self.policy.responds_to_interventions else 0.0
        return [self._group(item.attempt.problem, n, share, item.resume_ids) for item in interventions]

    def _group(self, problem: Problem, n: int, share: float, prefix_ids: np.ndarray | None = None) -> RolloutGroup:
        solved = round(share * n)
        rollouts = tuple(
            Rollout(
                completion(f"12+5={18 + i}\n\n15\n\n" if i >= solved else "12+5=17\n\n14", seed=i),
                Outcome.CORRECT if i < solved else Outcome.WRONG,
                self.policy.version,
            )
            for i in range(n)
        )
        prefix = np.array([], np.int32) if prefix_ids is None else prefix_ids
        return RolloutGroup(problem, np.array([3, 4], np.int32), prefix, rollouts)


class FakeGrader:
    """Right if the box holds the answer; nothing boxed is unparsable."""

    async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
        return [outcome_of(problem.answer, item, exact_match) for item in completions]


class FakeOracle:
    """Corrects step 1 of every attempt, or fails by a name."""

    def __init__(self, *, failure: str | None = None):
        self.failure = failure
        self.asked: list[Attempt] = []

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        self.asked.extend(attempts)
        reply = OracleReply(failure=self.failure) if self.failure else OracleReply((Proposal(1, "12+5=17"),))
        return [reply for _ in attempts]


class FakeLearner:
    """A patch gives every problem some skill, a reinforce phase gives it all."""

    def __init__(self, policy: FakePolicy, problem_ids: Sequence[str]):
        self.policy = policy
        self.problem_ids = problem_ids
        self.phases: list[str] = []

    async def patch(self, batches: UpdateBatches) -> Update:
        self.phases.append("patch")
        self.policy.skill = dict.fromkeys(self.problem_ids, 0.5)
        return Update(len(batches), {"patch/loss": 1.0})

    async def reinforce(self, batches: UpdateBatches) -> Update:
        self.phases.append("reinforce")
        await asyncio.sleep(0)  # what is sampled beside it goes on
        self.policy.skill = dict.fromkeys(self.problem_ids, 1.0)
        return Update(len(batches), {"reinforce/loss": 0.1})

    async def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """-1 per token and phase so far, in nats at any temperature; 0 for the first."""
        return [np.append(0.0, np.full(len(ids) - 1, -1.0 - len(self.phases))) for ids in sequences]

    async def save(self, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(weights_bytes("weights"))

    async def saved(self, folder: Path) -> None:
        await asyncio.sleep(0)

    async def restart(self, folder: Path | None) -> None:
        self.phases.append("restart")


class FakeWeightSync:
    """Records the versions that were published."""

    def __init__(self, policy: FakePolicy):
        self.policy = policy
        self.versions: list[int] = []

    async def publish(self, policy_version: int) -> Mapping[str, float]:
        self.policy.version = policy_version
        self.versions.append(policy_version)
        return {"sync/canary_error": 0.0}


class FakeProgress:
    """Keeps the story, and counts."""

    def __init__(self) -> None:
        self.done = 0  # pieces of work, of all phases
        self.phases: list[str] = []
        self.story: list[str] = []

    def phase(self, name: str, total: int | None = None) -> None:
        self.phases.append(name)

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def say(self, message: str) -> None:
        self.story.append(message)
