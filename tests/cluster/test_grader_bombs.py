"""Answers that nobody can compute, from rollouts on real actors to real grading processes."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from actors.engine_client import EngineGroup, RemoteEngine, Sampling
from actors.fleet import Fleet
from actors.grader_pool import GraderPool
from actors.rollout_pool import RolloutPool
from int_ray.config import RolloutConfig
from int_ray.types import Outcome, Problem, Purpose, RolloutGroup, TokenIds
from tests.factories import problem
from tests.fake_engine import FakeEngine
from tests.fakes import FakeProgress

pytestmark = pytest.mark.usefixtures("ray_cluster")
BOMBS = ["9^{9^{9}}", "(10^9)!", "(" * 5000 + "1" + ")" * 5000, "1" + "0" * 1_000_000]
TIMEOUT_S = 3.0


def sample(problems: list[Problem]) -> tuple[list[RolloutGroup], list[psutil.Process]]:
    """Groups of two: the first rollout answers what the question says, the second is right. And the graders."""

    class Bomber(FakeEngine):
        async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
            group = await super().sample_group(prompt_ids[:1], prefix_ids, sampling)
            return dataclasses.replace(group, texts=(f"\\boxed{{{bytes(prompt_ids[1:].tolist()).decode()}}}", right))

    def encode(problem: Problem) -> TokenIds:
        return np.array([1, *problem.question.encode()], np.int32)

    right = f"\\boxed{{{problems[0].answer}}}"
    spawn: Any = ray.remote(Bomber).options(num_cpus=0, max_concurrency=100)
    progress, grader = FakeProgress(), GraderPool("math", workers=2, timeout_s=TIMEOUT_S)
    try:
        fleet = Fleet([RemoteEngine(spawn.remote())], 64, progress)
        pool = RolloutPool(fleet, grader, encode, RolloutConfig(max_tokens=50), 0, progress)
        groups = asyncio.run(asyncio.wait_for(pool.sample(problems, 2, Purpose.TRAIN, 0), 200))
        return groups, [process for process in psutil.Process().children(recursive=True) if is_grader(process)]
    finally:
        grader.close()


def test_a_bomb_is_a_timeout_or_wrong_and_spoils_nothing_else():
    texts = [*BOMBS, "7", "\\frac{14}{2}", "8"]
    problems = [dataclasses.replace(problem(index), question=text, answer="7") for index, text in enumerate(texts)]
    groups, graders = sample(problems)

    assert [group.problem.question for group in groups] == texts
    assert all(group.rollouts[1].outcome is Outcome.CORRECT for group in groups)
    *bombs, exact, equal, wrong = (group.rollouts[0].outcome for group in groups)
    assert bombs[:2] == [Outcome.TIMEOUT] * 2
    assert all(outcome in (Outcome.TIMEOUT, Outcome.ERROR, Outcome.WRONG) for outcome in bombs[2:])
    assert (exact, equal, wrong) == (Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG)
    until = time.monotonic() + 30
    assert graders
    while alive := [process for process in graders if is_grader(process)]:
        assert time.monotonic() < until, alive


def is_grader(process: psutil.Process) -> bool:
    """Whether it runs, and is one of pebble's."""
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
