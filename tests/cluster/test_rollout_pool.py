"""The pool over fake engines in real actors: order, dispatch, bounds, seeds, deadlines and deaths."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray

from actors.engine_client import RemoteEngine
from actors.failures import FleetLostError
from actors.fleet import Fleet
from actors.rollout_pool import MOST_REFUSED, RolloutPool
from int_ray.config import RolloutConfig
from int_ray.errors import RunError
from int_ray.types import (
    Completion,
    Intervention,
    Outcome,
    Problem,
    Proposal,
    Purpose,
    RolloutGroup,
    Start,
    TestedIntervention,
    TokenIds,
)
from tests.factories import attempt, problem
from tests.fake_engine import DEADLY, FakeEngine
from tests.fakes import FakeProgress

pytestmark = pytest.mark.usefixtures("ray_cluster")


class FakeGrader:
    """Everything is correct; remembers how many groups were in at each call."""

    def __init__(self) -> None:
        self.graded: list[str] = []

    async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
        self.graded.append(problem.id)
        return [Outcome.CORRECT] * len(completions)


class Setup:
    """A pool over fake engines. A problem's answer is how many milliseconds its rollouts take."""

    def __init__(self, num_engines: int = 2, *, version: int = 0, **config: Any) -> None:
        spawn: Any = ray.remote(FakeEngine).options(num_cpus=0, max_concurrency=100)
        self.engines = [spawn.remote(version) for _ in range(num_engines)]
        self.grader, self.progress = FakeGrader(), FakeProgress()
        self.counts()  # their processes are up: deadlines are for answers
        settings = RolloutConfig(**{"max_tokens": 50, **config})
        self.fleet = Fleet(list(map(RemoteEngine, self.engines)), 2 * settings.max_num_seqs, self.progress)
        self.fleet.policy_version = version
        self.pool = RolloutPool(self.fleet, self.grader, encode, settings, 0, self.progress)

    def kill(self, index: int) -> None:
        self.engines[index].__ray_call__.remote(lambda _: os._exit(1))

    def sample(self, milliseconds: Sequence[int], n: int = 2, **other: Any) -> list[RolloutGroup]:
        problems = [replace(problem(index), answer=str(wait)) for index, wait in enumerate(milliseconds)]
        purpose, round_ = other.get("purpose", Purpose.TRAIN), other.get("round_", 0)
        return asyncio.run(self.pool.sample(problems, n, purpose, round_))

    def counts(self) -> list[tuple[int, int]]:
        return ray.get([engine.counts.remote() for engine in self.engines])


def encode(problem: Problem) -> TokenIds:
    return np.array([int(problem.answer)], np.int32)


def seeds(groups: Sequence[RolloutGroup]) -> list[int]:
    return [rollout.completion.seed for group in groups for rollout in group.rollouts]


def test_groups_keep_the_order_of_the_problems_and_are_graded_as_they_arrive():
    setup = Setup()
    groups = setup.sample([5000, 5, 5, 5])
    assert [group.problem.id for group in groups] == ["p0", "p1", "p2", "p3"]
    assert setup.grader.graded[-1] == "p0" and setup.progress.done == 4
    assert all(rollout.outcome is Outcome.CORRECT for group in groups for rollout in group.rollouts)


def test_a_slow_group_does_not_hold_up_its_engine_nor_the_others():
    setup = Setup(max_num_seqs=2)  # two groups of two in flight per engine
    setup.sample([1500, *[30] * 20])
    (first, most), (second, other_most) = setup.counts()
    assert first + second == 21 and min(first, second) >= 5
    assert max(most, other_most) == 2


def test_in_flight_bound_follows_the_group_size():
    setup = Setup(1, max_num_seqs=8)
    setup.sample([30] * 12, n=4)
    assert setup.counts() == [(12, 4)]


def test_seeds_differ_by_problem_round_purpose_version_and_run():
    setup = Setup()
    first = seeds(setup.sample([1, 1, 1], n=4))
    assert len(set(first)) == 12 and first == seeds(setup.sample([1, 1, 1], n=4))
    others = [
        setup.sample([1, 1, 1], n=4, round_=1),
        setup.sample([1, 1, 1], n=4, purpose=Purpose.EVALUATE),
        Setup(version=1).sample([1, 1, 1], n=4),
    ]
    assert all(not set(first) & set(seeds(groups)) for groups in others)


def test_evaluations_of_two_versions_share_their_seeds():
    first, second = Setup(version=1), Setup(version=2)
    assert seeds(first.sample([1], purpose=Purpose.EVALUATE)) == seeds(second.sample([1], purpose=Purpose.EVALUATE))


def test_a_problem_asked_for_twice_in_one_call_gets_other_samples():
    setup = Setup()
    twice = asyncio.run(setup.pool.sample([replace(problem(), answer="1")] * 2, 2, Purpose.TRAIN, 0))
    assert len(set(seeds(twice))) == 4


def intervention(*ids: int) -> Intervention:
    return Intervention(attempt("12+5=18"), Proposal(1, "12+5=17"), np.array([9], np.int32), np.array(ids, np.int32))


def test_resuming_sends_the_prefix_and_leaves_it_room_in_the_limit():
    first, second = intervention(5, 6), intervention(5, 7)
    groups = asyncio.run(Setup().pool.resume_from([first, second], 2, 0))
    for group, resumed in zip(groups, [first, second], strict=True):
        np.testing.assert_array_equal(group.prefix_ids, resumed.resume_ids)
        np.testing.assert_array_equal(group.prompt_ids, resumed.attempt.prompt_ids)
        np.testing.assert_array_equal(group.rollouts[0].completion.token_ids, [3, 50 - 3])
        assert TestedIntervention(resumed, group).helps
    assert len(set(seeds(groups))) == 4


def explore(setup: Setup, *prefixes: Sequence[int], n: int = 2, round_: int = 0) -> list[RolloutGroup]:
    starts = [Start(problem(), np.array([1], np.int32), np.array(prefix, np.int32)) for prefix in prefixes]
    return asyncio.run(setup.pool.continue_from(starts, n, 1.3, round_))


def test_exploring_masks_nothing_and_grades_in_order():
    setup = Setup(1, temperature=0.6, top_p=0.9, top_k=5)
    groups = explore(setup, [5, 6, 7], [], n=3)
    assert [group.prefix_ids.tolist() for group in groups] == [[5, 6, 7], []]
    assert [group.rollouts[0].completion.token_ids.tolist() for group in groups] == [[3, 47], [0, 50]]
    assert all(rollout.outcome is Outcome.CORRECT for group in groups for rollout in group.rollouts)
    for sampling in ray.get(setup.engines[0].requests.remote()):
        assert (sampling.n, sampling.temperature, sampling.top_p, sampling.top_k) == (3, 1.3, 1.0, 0)
    assert setup.progress.done == 0  # an oracle counts attempts, not groups


def test_training_rollouts_are_sampled_as_the_config_says():
    setup = Setup(1, temperature=0.7, top_p=0.9, top_k=5)
    setup.sample([1], n=4)
    (sampling,) = ray.get(setup.engines[0].requests.remote())
    assert (sampling.n, sampling.max_tokens) == (4, 50)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 5)


def test_exploring_repeats_nothing_but_itself():
    setup = Setup()
    first = seeds(explore(setup, [5], [5], [6]))
    assert len(set(first)) == 6 and first == seeds(explore(setup, [5], [5], [6]))
    assert not set(first) & set(seeds(explore(setup, [5], [5], [6], round_=1)))
    tests = asyncio.run(setup.pool.resume_from([intervention(5)], 2, 0))
    assert not set(seeds(explore(setup, [9, 5]))) & set(seeds(tests))


def write(setup: Setup, *prompts: Sequence[int], seed: int = 0) -> list[Completion]:
    arrays = [np.array(prompt, np.int32) for prompt in prompts]
    return asyncio.run(setup.pool.write(arrays, temperature=0.7, top_p=0.8, max_tokens=90, seed=seed))


def test_written_answers_come_in_order_and_are_not_graded():
    setup = Setup(1)
    answers = write(setup, [30], [1])
    assert [answer.token_ids.tolist() for answer in answers] == [[0, 90], [0, 90]]
    asked = ray.get(setup.engines[0].requests.remote())
    assert [answer.seed for answer in answers] == [sampling.seed for sampling in asked]
    assert {(one.n, one.max_tokens, one.temperature, one.top_p, one.top_k) for one in asked} == {(1, 90, 0.7, 0.8, 0)}
    assert not setup.grader.graded and setup.progress.done == 0


def test_the_same_question_gets_the_same_answer_unless_it_is_asked_anew():
    setup = Setup()
    first = [answer.seed for answer in write(setup, [1], [1], [2])]
    assert len(set(first)) == 3 and first == [answer.seed for answer in write(setup, [1], [1], [2])]
    assert not set(first) & {answer.seed for answer in write(setup, [1], [1], [2], seed=1)}
    newer = Setup(version=1)
    assert not set(first) & {answer.seed for answer in write(newer, [1], [1], [2])}


def test_nobody_decodes_for_a_call_that_has_ended():
    class BrokenGrader(FakeGrader):
        async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
            raise ValueError("a mistake")

    setup = Setup(1)
    setup.pool.grader = BrokenGrader()
    with pytest.raises(ValueError, match="a mistake"):
        setup.sample([60_000, 1])
    wait_for(lambda: ray.get(setup.engines[0].now_in_flight.remote()) == 0)


def test_a_call_that_is_given_up_leaves_its_engine_free():
    setup = Setup(1)

    async def give_up() -> None:
        async with asyncio.timeout(0.5):
            await setup.pool.write([np.array([60_000], np.int32)], 1.0, 1.0, 5, 0)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    wait_for(lambda: ray.get(setup.engines[0].now_in_flight.remote()) == 0)


def wait_for(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"waited {deadline_s:g} s"
        time.sleep(0.05)


def test_a_late_group_costs_its_engine_and_the_story_names_problem_and_setting():
    setup = Setup(1, deadline_s=0.3)
    with pytest.raises(FleetLostError, match=r"no rollout engine is left: waited 0\.3 s \(rollout\.deadline_s\) .*p0"):
        setup.sample([5000])
    assert "rollout engine 0 is lost (waited 0.3 s" in setup.progress.story[0]


def test_a_group_that_is_late_on_two_engines_is_left_out_and_nothing_else():
    setup = Setup(3, deadline_s=8)
    late, *others = setup.sample([60_000, 1, 1])
    assert [rollout.outcome for rollout in late.rollouts] == [Outcome.ERROR] * 2 and late.is_undetermined
    assert all(len(rollout.completion.token_ids) == 0 for rollout in late.rollouts)
    assert all(group.any_solved for group in others) and setup.progress.done == 3
    assert [line for line in setup.progress.story if line.startswith("problem p0 is left out: 2 rollout engines")]
    assert len(setup.fleet.members) == 1


def test_an_answer_that_kills_engine_after_engine_is_left_out():
    setup = Setup(5)
    answers = write(setup, [DEADLY], [1])
    assert [len(answer.token_ids) for answer in answers] == [0, 2] and not answers[0].finished
    assert len(setup.fleet.members) == 1


def test_without_any_engine_there_is_one_clear_error():
    setup = Setup(1)
    setup.kill(0)
    with pytest.raises(FleetLostError, match="rollout engine 0 could not sample 2 rollouts of problem p0: Actor"):
        setup.sample([1])
    with pytest.raises(FleetLostError, match="no rollout engine is left"):
        setup.sample([1])


def test_what_a_dead_engine_was_sampling_is_sampled_once_more_by_the_others_with_the_same_seeds():
    expected = seeds(Setup().sample([1] * 8))
    setup = Setup()

    async def kill_in_the_middle() -> list[RolloutGroup]:
        problems = [replace(problem(index), answer="8000") for index in range(8)]
        sampling = asyncio.create_task(setup.pool.sample(problems, 2, Purpose.TRAIN, 0))
        while await setup.engines[1].now_in_flight.remote() < 4:
            await asyncio.sleep(0.01)
        setup.kill(1)
        return await sampling

    groups = asyncio.run(kill_in_the_middle())
    assert [group.problem.id for group in groups] == [f"p{index}" for index in range(8)]
    assert seeds(groups) == expected and sorted(setup.grader.graded) == sorted(group.problem.id for group in groups)
    assert ray.get(setup.engines[0].counts.remote())[0] == 8
    assert [member.name for member in setup.fleet.members] == ["rollout engine 0"]
    assert len([line for line in setup.progress.story if "rollout engine 1 is lost" in line]) == 1


def test_a_refused_group_is_left_out_with_one_line_and_no_death():
    setup = Setup(1, max_tokens=1003)
    room = Start(problem(0), np.array([1], np.int32), np.arange(5, dtype=np.int32))
    refused = Start(problem(1), np.array([1], np.int32), np.arange(1, dtype=np.int32))
    for _ in range(MOST_REFUSED):  # but not in a row
        left_out, sampled = asyncio.run(setup.pool.continue_from([refused, room], 2, 1.0, 0))
        assert left_out.is_undetermined and sampled.any_solved
    reason = "rollout engine 0 could not sample 2 rollouts of problem p1: ValueError: cannot decode that much"
    assert setup.progress.story == [f"problem p1 is left out: {reason}"] * MOST_REFUSED


def test_an_engine_that_refuses_everything_ends_the_run_with_one_line():
    with pytest.raises(RunError, match=rf"ValueError: cannot decode that much; .* {MOST_REFUSED} groups in a row$"):
        Setup(1, max_tokens=2000).sample([1] * MOST_REFUSED)


def test_another_version_than_the_published_one_is_refused():
    setup = Setup(version=1)
    setup.fleet.policy_version = 2
    with pytest.raises(RuntimeError, match=r"rollout engine 0 sampled with policy version 1 where 2 was asked for"):
        setup.sample([1])


def test_nothing_to_sample_is_nothing():
    assert Setup(1).sample([]) == []
