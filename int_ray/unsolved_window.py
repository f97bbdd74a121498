"""Which problems stayed unsolved over the last iterations, and the failed rollouts to show for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from int_ray.types import Outcome, Rollout, RolloutGroup


class UnsolvedWindow:
    """Remembers the groups of the last `length` iterations (trigger.patience)."""

    def __init__(self, length: int) -> None:
        self._iterations: deque[tuple[RolloutGroup, ...]] = deque(maxlen=length)

    def __len__(self) -> int:
        return len(self._iterations)

    def add(self, groups: Sequence[RolloutGroup]) -> None:
        """One more iteration; the oldest one leaves."""
        self._iterations.append(tuple(groups))

    def extend(self, groups: Sequence[RolloutGroup]) -> None:
        """More groups of the latest iteration."""
        self._iterations.append((*self._iterations.pop(), *groups))

    def clear(self) -> None:
        """Forget everything: the policy has just been patched."""
        self._iterations.clear()

    def stayed_unsolved(self) -> list[RolloutGroup]:
        """The latest unsolved group of every problem that was tried in the window and never solved in it."""
        groups = [group for iteration in self._iterations for group in iteration]
        solved = {group.problem.id for group in groups if group.any_solved}
        latest = {group.problem.id: group for group in groups if group.is_unsolved}
        return [group for problem_id, group in latest.items() if problem_id not in solved]


def failed_rollouts(group: RolloutGroup, limit: int) -> list[Rollout]:
    """Up to `limit` different failed rollouts; finished ones first, since a truncated one may yet be right."""
    different = {rollout.completion.token_ids.tobytes(): rollout for rollout in reversed(group.graded)}
    failed = [rollout for rollout in different.values() if rollout.outcome is not Outcome.CORRECT]
    failed.sort(key=lambda rollout: (rollout.outcome is Outcome.TRUNCATED, rollout.completion.seed))
    return failed[:limit]
