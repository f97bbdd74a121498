"""Rollout engines that decode nothing, in process: they take time, crash, and lose answers that they have decoded."""

from __future__ import annotations

import asyncio
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
STRAGGLERS = 0.01  # share of the requests
STRAGGLE = 3.0  # times as long as others
submitted: ContextVar[float] = ContextVar("submitted")  # when the group was sent to the pool, on the loop's clock


@dataclass(frozen=True)
class Dispatch:
    """A group's way to an engine."""

    waited: bool  # for an engine, in the fleet's line
    overhead_s: float  # from when group and engine were both there to the engine's call


@dataclass
class Workload:
    """What all engines share: how long requests take, and what became of them. Seeded by the requests' own seeds."""

    mean_s: float
    deaths: float  # share of the requests that an engine dies of, both halfway and with the answer decoded
    asked: Counter[int] = field(default_factory=Counter)  # by seed of the request
    decoded: Counter[int] = field(default_factory=Counter)  # to the end, by seed of the request
    crashed: int = 0  # engines that died halfway
    silent: int = 0  # engines that died of an answer that nobody got
    dispatches: list[Dispatch] = field(default_factory=list)  # in order, first attempts alone
    version: int = 0

    def __post_init__(self) -> None:
        generator = np.random.default_rng(0)
        self._seconds = (self.mean_s * generator.lognormal(-0.03125, 0.25, 10_007)).tolist()
        fates = generator.random(10_009)
        self._straggles = (fates < STRAGGLERS).tolist()
        self._crashes = (fates > 1 - self.deaths).tolist()
        self._loses = ((fates > 1 - 2 * self.deaths) & (fates <= 1 - self.deaths)).tolist()

    def seconds(self, seed: int) -> float:
        """Until the answer."""
        return self._seconds[seed % 10_007] * (STRAGGLE if self._straggles[seed % 10_009] else 1.0)

    def crashes(self, seed: int) -> bool:
        """Whether the engine dies halfway; first attempts alone."""
        return self._crashes[seed % 10_009] and self.asked[seed] == 1

    def loses(self, seed: int) -> bool:
        """Whether the engine dies once it has decoded everything; first attempts alone."""
        return self._loses[seed % 10_009] and self.asked[seed] == 1


class SimulatedEngine:
    """An Engine for sampling alone, one group at a time."""

    place = None  # on no machine

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._free_at = float("-inf")  # when the last answer was due, on the loop's clock; inf while it decodes

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        """Take time, then answer or die. Raises RuntimeError if it is busy."""
        workload, seed, version = self.workload, sampling.seed, self.workload.version
        self._note_dispatch(seed)
        answer_s = workload.seconds(seed)
        if workload.crashes(seed):
            await asyncio.sleep(answer_s / 2)
            workload.crashed += 1
            raise EngineDiedError("simulated crash")
        due = asyncio.get_running_loop().time() + answer_s
        await asyncio.sleep(answer_s)
        self._free_at = due
        workload.decoded[seed] += 1
        if workload.loses(seed):
            workload.silent += 1
            raise EngineDiedError("simulated loss of an answer")
        tokens = sampling.n * RESPONSE_TOKENS
        return EngineGroup(
            np.full(tokens, 100, np.int32),
            np.full(tokens, -0.5, np.float32),
            np.arange(0, tokens + 1, RESPONSE_TOKENS),
            ("12+5=17",) * sampling.n,
            (True,) * sampling.n,
            seed,
            version,
        )

    def _note_dispatch(self, seed: int) -> None:
        if self._free_at == float("inf"):
            raise RuntimeError("a simulated engine got a second group where it has room for one")
        workload, sent = self.workload, submitted.get()
        workload.asked[seed] += 1
        if workload.asked[seed] == 1:
            now = asyncio.get_running_loop().time()
            workload.dispatches.append(Dispatch(self._free_at > sent, now - max(sent, self._free_at)))
        self._free_at = float("inf")

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

    async def probe(self) -> None:
        """It never hangs."""

    async def close(self) -> None:
        """Nothing to end."""

    def kill(self) -> None:
        """Nothing to end."""


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
        submitted.set(asyncio.get_running_loop().time())
        return self.pool.sample(problems, n, purpose, round_)
