"""Rollout engines that decode nothing, in process: they take time, crash, and are asked for the same again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any

import numpy as np

from actors.engine_client import EngineDiedError, EngineGroup, Part, Sampling
from actors.rollout_pool import RolloutPool
from int_ray.types import Completion, Outcome, Problem, Purpose, RolloutGroup, TokenIds

RESPONSE_TOKENS = 32
CRASHES, STRAGGLERS = 0.01, 0.01  # shares of the requests
STRAGGLE = 3.0  # times as long as others
submitted: ContextVar[float] = ContextVar("submitted")  # when the group was sent to the pool


@dataclass
class Workload:
    """What all engines share: how long requests take, and what became of them. Seeded by the requests' own seeds."""

    mean_s: float
    asked: Counter[int] = field(default_factory=Counter)  # by seed of the request
    crashed: int = 0
    dispatch_s: list[float] = field(default_factory=list)  # from the pipeline to the engine, first attempts alone
    version: int = 0

    def __post_init__(self) -> None:
        generator = np.random.default_rng(0)
        self._seconds = (self.mean_s * generator.lognormal(-0.03125, 0.25, 10_007)).tolist()
        fates = generator.random(10_009)
        self._straggles = (fates < STRAGGLERS).tolist()
        self._crashes = (fates > 1 - CRASHES).tolist()

    def seconds(self, seed: int) -> float:
        """Until the answer or the crash."""
        return self._seconds[seed % 10_007] * (STRAGGLE if self._straggles[seed % 10_009] else 1.0)

    def crashes(self, seed: int) -> bool:
        """Whether the engine dies of this attempt."""
        self.asked[seed] += 1
        dies = self._crashes[seed % 10_009] and self.asked[seed] == 1
        self.crashed += dies
        return dies


class SimulatedEngine:
    """An Engine for sampling alone. It crashes when a group is decoded, so that the group is decoded twice."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        """Take time, then answer or die."""
        workload, n = self.workload, sampling.n
        version = workload.version
        dies = workload.crashes(sampling.seed)
        if workload.asked[sampling.seed] == 1:
            workload.dispatch_s.append(time.perf_counter() - submitted.get())
        await asyncio.sleep(workload.seconds(sampling.seed))
        if dies:
            raise EngineDiedError("simulated crash")
        tokens = n * RESPONSE_TOKENS
        return EngineGroup(
            np.full(tokens, 100, np.int32),
            np.full(tokens, -0.5, np.float32),
            np.arange(0, tokens + 1, RESPONSE_TOKENS),
            ("12+5=17",) * n,
            (True,) * n,
            sampling.seed,
            version,
        )

    async def canary(self, prompt_ids: TokenIds, seed: int) -> EngineGroup:
        """Not a part of sampling."""
        raise NotImplementedError

    async def pause(self) -> None:
        """Nothing runs."""

    async def resume(self, policy_version: int) -> None:
        """Nothing runs."""

    async def sleep(self) -> None:
        """Nothing to give back."""

    async def wake(self, part: Part) -> None:
        """Nothing to take."""


class HalfRight:
    """A grader for which every second response is right."""

    async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
        """By position."""
        return [(Outcome.CORRECT, Outcome.WRONG)[index % 2] for index in range(len(completions))]


class Stamped:
    """The pool behind a clock: `submitted` says when a group was sent to it."""

    def __init__(self, pool: RolloutPool) -> None:
        self.pool = pool
        self.resume_from = pool.resume_from

    def sample(
        self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int
    ) -> CoroutineType[Any, Any, list[RolloutGroup]]:
        """Of the pool."""
        submitted.set(time.perf_counter())
        return self.pool.sample(problems, n, purpose, round_)
