"""Requests that engines refuse: one is a group that is left out, one after the other ends the run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from actors.engine_client import Engine, EngineGroup, Sampling
from actors.failures import EngineCallError
from actors.fleet import Fleet
from actors.rollout_pool import MOST_REFUSED, RolloutPool
from int_ray.config import RolloutConfig
from int_ray.errors import RunError
from int_ray.types import Outcome, Problem, Purpose, RolloutGroup, TokenIds
from tests.factories import problem
from tests.fakes import FakeProgress

REFUSED, FINE = "1", "0"  # answers of problems, and the tokens of their prompts


class ChoosyEngine:
    """Refuses what begins with a 1."""

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        if prompt_ids[0] == int(REFUSED):
            raise EngineCallError("ValueError: cannot decode that")
        ids, logprobs = np.array([5, 6], np.int32), np.zeros(2, np.float32)
        return EngineGroup(ids, logprobs, np.array([0, 1, 2]), ("", ""), (True, True), sampling.seed, 0)


class KindGrader:
    """All is right."""

    async def grade(self, problem: Problem, completions: Sequence[Any]) -> list[Outcome]:
        return [Outcome.CORRECT] * len(completions)


class World:
    """A pool over one engine."""

    def __init__(self) -> None:
        self.progress = FakeProgress()
        self.fleet = Fleet([cast(Engine, ChoosyEngine())], 100, self.progress)
        config = RolloutConfig(max_tokens=8)
        self.pool = RolloutPool(self.fleet, KindGrader(), encode, config, 0, self.progress)

    async def sample(self, answers: str) -> list[RolloutGroup]:
        problems = [replace(problem(index), answer=answer) for index, answer in enumerate(answers)]
        return await self.pool.sample(problems, 2, Purpose.TRAIN, 0)


def encode(problem: Problem) -> TokenIds:
    return np.array([int(problem.answer)], np.int32)


def test_a_refused_group_is_said_and_counted_and_the_others_are_sampled():
    async def story(world: World) -> None:
        for _ in range(MOST_REFUSED):  # but not in a row
            left_out, sampled = await world.sample(REFUSED + FINE)
            assert [one.outcome for one in left_out.rollouts] == [Outcome.ERROR] * 2 and left_out.is_undetermined
            assert sampled.any_solved
        why = "rollout engine 0 could not sample 2 rollouts of problem p0: ValueError: cannot decode that"
        assert world.progress.story == [f"problem p0 is left out: {why}"] * MOST_REFUSED
        assert len(world.fleet.members) == 1 and world.fleet.members[0].samples == 0

    asyncio.run(story(World()))


def test_an_engine_that_refuses_everything_ends_the_run_with_one_line():
    with pytest.raises(
        RunError, match=f"ValueError: cannot decode that; so it went for {MOST_REFUSED} groups in a row"
    ):
        asyncio.run(World().sample(REFUSED * (MOST_REFUSED + 2)))
