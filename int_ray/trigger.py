"""When to intervene: a pure decision on what one iteration's groups look like (DESIGN: plateau, paper, never)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, Protocol

from int_ray.config import TriggerConfig
from int_ray.metrics import unsolved_ratio, zero_advantage_ratio
from int_ray.types import RolloutGroup


class Decision(StrEnum):
    """What the coordinator does besides reinforcing."""

    CONTINUE = "continue"
    INTERVENE = "intervene"


class Trigger(Protocol):
    """Decides after every iteration; its state is JSON-ready, so that a resumed run decides the same."""

    def observe(self, groups: Sequence[RolloutGroup], rounds: int) -> Decision:
        """Look at one iteration's groups; `rounds` of intervention have been made so far."""
        ...

    def state(self) -> dict[str, float]:
        """Everything that `restore` needs."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from a saved state."""
        ...


class PlateauTrigger:
    """Intervene when too many groups carried no signal for `patience` iterations in a row.

    The share is taken on raw binary outcomes; groups that a grader failure leaves undetermined do not count.
    A share between `threshold - hysteresis` and `threshold` keeps the count without adding to it.
    """

    def __init__(self, config: TriggerConfig) -> None:
        self.config = config
        self.stalled = 0  # iterations without a signal since the last one with
        self.cooldown = 0  # iterations left before another round may start

    def observe(self, groups: Sequence[RolloutGroup], rounds: int) -> Decision:
        """INTERVENE on a stall, at most `max_rounds` times."""
        share = self._share(groups)
        if share is not None:
            self._count(share)
        if self.cooldown > 0:
            self.cooldown -= 1
            return Decision.CONTINUE
        if self.stalled < self.config.patience or rounds >= self.config.max_rounds:
            return Decision.CONTINUE
        self.stalled, self.cooldown = 0, self.config.cooldown
        return Decision.INTERVENE

    def _share(self, groups: Sequence[RolloutGroup]) -> float | None:
        """Share of groups without a signal; None when every verdict is missing."""
        determined = [group for group in groups if not group.is_undetermined]
        if not determined:
            return None
        ratio = unsolved_ratio if self.config.signal == "unsolved" else zero_advantage_ratio
        return ratio(determined)

    def _count(self, share: float) -> None:
        if share >= self.config.threshold:
            self.stalled += 1
        elif share < self.config.threshold - self.config.hysteresis:
            self.stalled = 0

    def state(self) -> dict[str, float]:
        """Counters."""
        return {"stalled": self.stalled, "cooldown": self.cooldown}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take the counters of a saved state."""
        self.stalled, self.cooldown = int(state["stalled"]), int(state["cooldown"])


class PaperTrigger:
    """Algorithm 1: intervene once, on the first groups (the whole training set), then RL only."""

    def __init__(self) -> None:
        self.collected = False

    def observe(self, groups: Sequence[RolloutGroup], rounds: int) -> Decision:
        """INTERVENE at the first call."""
        decision = Decision.CONTINUE if self.collected else Decision.INTERVENE
        self.collected = True
        return decision

    def state(self) -> dict[str, float]:
        """Whether the interventions were collected."""
        return {"collected": float(self.collected)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take the flag of a saved state."""
        self.collected = bool(state["collected"])


class NeverTrigger:
    """Plain RL."""

    def observe(self, groups: Sequence[RolloutGroup], rounds: int) -> Decision:
        """Always CONTINUE."""
        return Decision.CONTINUE

    def state(self) -> dict[str, float]:
        """Nothing to remember."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Nothing to take."""


def build_trigger(schedule: Literal["paper", "plateau", "never"], config: TriggerConfig) -> Trigger:
    """The trigger of a schedule."""
    return {"plateau": lambda: PlateauTrigger(config), "paper": PaperTrigger, "never": NeverTrigger}[schedule]()
