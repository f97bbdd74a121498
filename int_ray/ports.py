"""What the coordinator needs from the outside, as Protocols.

`actors/` implements them on Ray, `tests/fakes.py` in process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from int_ray.types import (
    Attempt,
    Completion,
    Intervention,
    Logprobs,
    OracleReply,
    Outcome,
    Problem,
    Purpose,
    RolloutGroup,
    Start,
    TokenIds,
    Update,
    UpdateBatches,
)


class Grader(Protocol):
    """Judges final answers. Must return within a deadline whatever the text holds."""

    async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
        """One outcome per completion, in order. Failures of the grader are outcomes, not exceptions."""
        ...


class Rollouts(Protocol):
    """Samples from the current policy; every group comes back graded and stamped with the policy version."""

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        """`n` rollouts per problem, groups in the order of `problems`. `round_` (the iteration) enters the seeds."""
        ...

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        """`n` continuations of each prefix + intervention; only the continuation is graded."""
        ...


class Policy(Protocol):
    """What an oracle may ask of the policy itself; nothing here is trained on."""

    async def continue_from(
        self, starts: Sequence[Start], n: int, temperature: float, round_: int
    ) -> list[RolloutGroup]:
        """`n` graded continuations of each start, nothing masked, in order; equal starts share their prefix cache."""
        ...

    async def write(
        self, prompts: Sequence[TokenIds], temperature: float, top_p: float, max_tokens: int, seed: int
    ) -> list[Completion]:
        """One ungraded response per prompt, in order."""
        ...


class Oracle(Protocol):
    """Finds the first wrong step of failed attempts and proposes replacements."""

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """One reply per attempt, in order. An unreachable oracle is a reply with `failure`, not an exception."""
        ...


class Learner(Protocol):
    """Owns the weights and changes them."""

    async def patch(self, batches: UpdateBatches) -> Update:
        """Supervised fine-tuning, one optimizer update per batch (paper, section 4.2)."""
        ...

    async def reinforce(self, batches: UpdateBatches) -> Update:
        """GRPO, one optimizer update per batch (paper, section 4.3)."""
        ...

    async def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """Of every token of every sequence given those before it, 0 for the first. [T] each"""
        ...

    async def save(self, folder: Path) -> None:
        """Begin to write model (Hugging Face format), reference and optimizer into an existing empty folder.

        Returns as soon as the weights may change again.
        """
        ...

    async def saved(self, folder: Path) -> None:
        """Wait until all that `save` began is on disk. Raises OSError as the disk did."""
        ...

    async def restart(self, folder: Path | None) -> None:
        """End whatever is left and start anew from what `save` wrote; None: from the base model."""
        ...


class WeightSync(Protocol):
    """Brings the learner's weights to every rollout engine."""

    async def publish(self, policy_version: int) -> Mapping[str, float]:
        """From here on every rollout is sampled with, and stamped with, this version. Returns metrics.

        Raises WeightSyncError when an engine's log-probs differ from the learner's afterwards.
        """
        ...


class Progress(Protocol):
    """Tells a person where the run is."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase of `total` pieces of work begins; None: nobody can say how many."""
        ...

    def advance(self, amount: int = 1) -> None:
        """Some pieces of the current phase are done."""
        ...

    def say(self, message: str) -> None:
        """One line of the run's story."""
        ...


@dataclass(frozen=True)
class CollectingPorts:
    """Everything that collecting interventions works with (Algorithm 1, lines 1-10)."""

    rollouts: Rollouts
    grader: Grader
    oracle: Oracle
    progress: Progress


@dataclass(frozen=True)
class Ports(CollectingPorts):
    """Everything that a coordinator works with."""

    learner: Learner
    weights: WeightSync
