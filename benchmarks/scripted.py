"""The real Coordinator between engines and a learner that only take time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.coordinator import Coordinator
from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.config_file import parse_config
from int_ray.intervention_round import InterventionRound
from int_ray.ports import Ports
from int_ray.segmentation import Segmenter
from int_ray.trigger import build_trigger
from int_ray.types import (
    Attempt,
    Completion,
    Intervention,
    Logprobs,
    OracleReply,
    Outcome,
    Problem,
    ProblemSets,
    Purpose,
    Rollout,
    RolloutGroup,
    TokenIds,
    Update,
    UpdateBatches,
)

Sleep = Callable[[float], Coroutine[None, None, None]]
RESPONSE_TOKENS = 64  # as many as a 2-core machine decodes in about such a stage


@dataclass
class Span:
    """From the first begin to the last end of a stage's work; seconds of the event loop's clock."""

    begin: float = float("inf")
    end: float = 0.0

    async def work(self, seconds: float) -> None:
        """Take so long."""
        now = asyncio.get_running_loop().time
        self.begin = min(self.begin, now())
        await asyncio.sleep(seconds)
        self.end = max(self.end, now())

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin


class ScriptedRollouts:
    """Engines with `slots`. `parts(i)` are the seconds that each part of the i-th group holds a slot."""

    def __init__(self, slots: int, parts: Callable[[int], Sequence[float]]) -> None:
        self.parts = parts
        self.version = 0
        self.span = Span()
        self._slots = asyncio.Semaphore(slots)
        self._indices = itertools.count()
        self._completion = _completion()

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        """Half of the rollouts are right."""
        return await asyncio.gather(*(self._group(problem, n) for problem in problems))

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        """No schedule here intervenes."""
        raise NotImplementedError

    async def _group(self, problem: Problem, n: int) -> RolloutGroup:
        versions = await asyncio.gather(*map(self._part, self.parts(next(self._indices))))
        outcomes = (Outcome.CORRECT, Outcome.WRONG)
        rollouts = tuple(Rollout(self._completion, outcomes[i % 2], min(versions)) for i in range(n))
        return RolloutGroup(problem, np.array([3, 4], np.int32), np.array([], np.int32), rollouts)

    async def _part(self, seconds: float) -> int:
        async with self._slots:
            version = self.version
            await self.span.work(seconds)
        return version


class Weightless:
    """The parts of a Learner that take no time here."""

    async def patch(self, batches: UpdateBatches) -> Update:
        """No schedule here intervenes."""
        raise NotImplementedError

    async def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """Nobody asks."""
        raise NotImplementedError

    async def save(self, folder: Path) -> None:
        """A checkpoint without weights."""

    async def saved(self, folder: Path) -> None:
        """At once."""

    async def restart(self, folder: Path | None) -> None:
        """It is never lost."""
        raise NotImplementedError


class ScriptedLearner(Weightless):
    """Learner and weight sync: `train_s` per reinforce phase, `sync_s` per publish."""

    def __init__(self, rollouts: ScriptedRollouts, train_s: float, sync_s: float) -> None:
        self.rollouts = rollouts
        self.train_s = train_s
        self.sync_s = sync_s
        self.span = Span()  # from the first reinforce phase on

    async def reinforce(self, batches: UpdateBatches) -> Update:
        """Nothing changes."""
        await self.span.work(self.train_s)
        return Update(len(batches))

    async def publish(self, policy_version: int) -> Mapping[str, float]:
        """The engines go on meanwhile."""
        if policy_version == 0:
            await asyncio.sleep(self.sync_s)
        else:
            await self.span.work(self.sync_s)
        self.rollouts.version = policy_version
        return {}


class Unasked:
    """Oracle and grader of a run that never intervenes and whose rollouts come graded."""

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """No schedule here intervenes."""
        raise NotImplementedError

    async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
        """The script says what is right."""
        raise NotImplementedError


class Silent:
    """A Progress that nobody looks at."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Not shown."""

    def advance(self, amount: int = 1) -> None:
        """Not shown."""

    def say(self, message: str) -> None:
        """Not shown."""


def config(staleness: int, batch_size: int, n: int, iterations: int) -> Config:
    """Plain RL with the paper's batches (Table 3)."""
    return parse_config(
        {
            "schedule": "never",
            "model": {"path": "none", "max_length": 1024},
            "problems": {"train": "none", "reward": "exact"},
            "rollout": {
                "batch_size": batch_size,
                "n": n,
                "max_tokens": 512,
                "staleness": staleness,
                "top_p": 1.0,
                "num_engines": 1,
            },
            "reinforce": {"mini_batch_size": batch_size // 2, "importance_cap": 2.0 if staleness else None},
            "run": {"folder": "none", "iterations": iterations, "checkpoint_every": iterations},
        }
    )


def coordinator(config: Config, ports: Ports, folder: Path) -> Coordinator:
    """With everything that a run has, TensorBoard aside."""
    problems = ProblemSets([Problem(f"p{index}", "12+5-3=?", "14") for index in range(4 * config.rollout.batch_size)])
    segmenter = Segmenter(lambda ids: "".join(map(chr, ids)), ())
    round_ = InterventionRound(
        ports, segmenter, lambda text: list(map(ord, text)), config.oracle, config.patch, config.rollout.max_tokens
    )
    trigger = build_trigger(config.schedule, config.trigger)
    return Coordinator(config, problems, ports, round_, trigger, RunFolder(folder))


def scripted(config: Config, rollouts: ScriptedRollouts, learner: ScriptedLearner, folder: Path) -> Coordinator:
    """Between scripted stages."""
    return coordinator(config, Ports(rollouts, Unasked(), Unasked(), Silent(), learner, learner), folder)


def _completion() -> Completion:
    ids = np.arange(RESPONSE_TOKENS, dtype=np.int32) + 100
    return Completion(ids, np.full(len(ids), -0.5, np.float32), "12+5=17\n\n17-3=14\n\n\\boxed{14}" * 4, True, 0)
