"""Sampling beside the training, in virtual time: bounds, order, what is kept, drained and taken up again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.pipeline import FIRST_ROUND, Batch, OneBatch, Pipeline, ProblemOrder, RolloutStream, build_pipeline
from benchmarks import virtual_time
from int_ray.config import Config
from int_ray.config_file import parse_config
from int_ray.types import Intervention, Outcome, Problem, ProblemSets, Purpose, Rollout, RolloutGroup, RunState
from tests.factories import completion, group, problem


class TimedRollouts:
    """Engines with `slots` places. Group number s takes `seconds(s)`, and anew after each of its `crashes(s)`."""

    def __init__(
        self, seconds: Callable[[int], float], slots: int = 1000, crashes: Callable[[int], int] = lambda _: 0
    ) -> None:
        self.seconds = seconds
        self.crashes = crashes
        self.slots = asyncio.Semaphore(slots)
        self.version = 0
        self.submitted: list[tuple[str, int]] = []  # problem, number
        self.under_way = 0

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        assert purpose is Purpose.TRAIN
        (one,), number = problems, round_ - FIRST_ROUND
        self.submitted.append((one.id, number))
        self.under_way += 1
        try:
            async with self.slots:
                for _ in range(self.crashes(number)):
                    await asyncio.sleep(self.seconds(number))
                version = self.version
                await asyncio.sleep(self.seconds(number))
        finally:
            self.under_way -= 1
        rollouts = tuple(Rollout(completion(seed=number), Outcome.WRONG, version) for _ in range(n))
        return [replace(group(""), problem=one, rollouts=rollouts)]

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        raise NotImplementedError


def config(staleness: int, size: int = 4, mixed: int = 0, iterations: int = 6) -> Config:
    return parse_config(
        {
            "model": {"path": "unused", "max_length": 256},
            "problems": {"train": "unused", "reward": "exact", "mixed": "unused" if mixed else None},
            "rollout": {
                "batch_size": size - mixed,
                "mixed": mixed,
                "n": 2,
                "max_tokens": 128,
                "staleness": staleness,
                "top_p": 1.0,
            },
            "reinforce": {"mini_batch_size": 1, "importance_cap": 2.0 if staleness else None},
            "run": {"folder": "unused", "iterations": iterations},
        }
    )


def problems(config: Config) -> ProblemSets:
    solvable = [problem(index) for index in range(20, 24)]
    return ProblemSets([problem(index) for index in range(7)], mixed=solvable if config.rollout.mixed else ())


@dataclass
class Run:
    """What became of every group."""

    config: Config
    rollouts: TimedRollouts
    train_s: float = 1.0
    publishes: Callable[[int], bool] = lambda _: True  # whether an iteration changes the weights
    drains: Callable[[int], bool] = lambda _: False
    batches: list[list[int]] = field(default_factory=list)  # numbers, per update
    staleness: list[int] = field(default_factory=list)  # per update, of its oldest rollout
    seconds: list[float] = field(default_factory=list)  # when each batch was taken
    pipeline: Pipeline = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = build_pipeline(self.config, problems(self.config), self.rollouts)

    async def go(self, state: RunState, last: int | None = None) -> RunState:
        self.pipeline.restore(state)
        self.rollouts.version = state.policy_version
        try:
            while state.iteration < (last or self.config.run.iterations):
                state = await self.iterate(replace(state, iteration=state.iteration + 1))
        finally:
            await self.pipeline.aclose()
        return state

    async def iterate(self, state: RunState) -> RunState:
        batch = await self.pipeline.take(state)
        self.seconds.append(virtual_time.now())
        state = await self.train(state, batch, changes=self.publishes(state.iteration))
        if self.drains(state.iteration):
            rest = await self.pipeline.drain(state)
            assert self.rollouts.under_way == 0
            state = await self.train(state, rest, changes=True)
            state = self.publish(state)  # the patch
        return await self.pipeline.advance(state)

    async def train(self, state: RunState, batch: Batch, *, changes: bool) -> RunState:
        self.batches.append([item.rollouts[0].completion.seed for item in batch.all])
        ages = [state.policy_version - rollout.policy_version for item in batch.all for rollout in item.rollouts]
        self.staleness.append(max(ages, default=0))
        await asyncio.sleep(self.train_s)
        return self.publish(state) if changes else state

    def publish(self, state: RunState) -> RunState:
        self.rollouts.version = state.policy_version + 1
        return replace(state, policy_version=state.policy_version + 1)

    def numbers(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


def heavy_tailed(seed: int, sigma: float) -> Callable[[int], float]:
    return lambda number: Random(f"{seed} {number}").lognormvariate(0, sigma)


@settings(max_examples=150)
@given(
    staleness=st.integers(1, 5),
    size=st.integers(1, 6),
    slots=st.integers(1, 40),
    sigma=st.floats(0, 3),
    train_s=st.floats(0, 5),
    seed=st.integers(0, 10_000),
    idle=st.sets(st.integers(1, 12)),
    drained=st.sets(st.integers(1, 12), max_size=3),
    stopped=st.integers(1, 12),
)
def test_no_latencies_break_the_bound_nor_lose_a_group(
    *,
    staleness: int,
    size: int,
    slots: int,
    sigma: float,
    train_s: float,
    seed: int,
    idle: set[int],
    drained: set[int],
    stopped: int,
):
    settings_ = config(staleness, size, iterations=12)

    def crashes(number: int) -> int:
        return Random(f"crash {seed} {number}").choice((0,) * 9 + (3,))

    def start() -> Run:
        rollouts = TimedRollouts(heavy_tailed(seed, sigma), slots, crashes)
        return Run(settings_, rollouts, train_s, lambda i: i not in idle, lambda i: i in drained)

    async def both_halves() -> list[Run]:
        first, second = start(), start()
        await second.go(await first.go(RunState(), stopped))
        return [first, second]

    first, second = virtual_time.run(both_halves())
    for run in (first, second):
        assert max(run.staleness, default=0) <= staleness
        assert run.rollouts.under_way == 0
    numbers = first.numbers() + second.numbers()
    assert sorted(numbers) == list(range(len(numbers)))  # all that was submitted, in both halves, and each once
    assert {number for _, number in second.rollouts.submitted} == set(second.numbers())
    ordinary = len(numbers) - 12 * size  # trained in drains
    assert 0 <= ordinary <= len(drained) * staleness * size


def test_a_straggler_goes_on_until_it_is_as_old_as_it_may_be():
    run = Run(config(2, size=3), TimedRollouts(lambda number: 100.0 if number == 1 else 1.0), train_s=0.1)
    virtual_time.run(run.go(RunState()))
    assert run.batches[:3] == [[0, 2, 3], [4, 5, 6], [1, 7, 8]]  # two iterations could do without it
    assert run.staleness[:3] == [0, 1, 2] and run.seconds[2] == 100.0


def test_an_iteration_waits_for_a_crowd_of_stragglers_before_they_are_too_many_for_the_next():
    slow = {0: 50.0, 1: 50.0, 2: 60.0}  # staleness 1, batches of 2: at most two of these can wait for iteration 2
    run = Run(config(1, size=2), TimedRollouts(lambda number: slow.get(number, 1.0)), train_s=1.0)
    virtual_time.run(run.go(RunState()))
    assert run.seconds[0] == 50.0 and run.batches[0] == [0, 1] and run.batches[1] == [2, 3]
    assert max(run.staleness) <= 1


def test_one_step_off_hides_the_shorter_stage():
    together = Run(config(1), TimedRollouts(lambda _: 10.0, slots=4), train_s=10.0)
    virtual_time.run(together.go(RunState()))
    assert together.seconds == [10.0 * (i + 1) for i in range(6)]  # sampling never stops
    apart = Run(config(0), TimedRollouts(lambda _: 10.0))
    assert isinstance(apart.pipeline, OneBatch) and isinstance(together.pipeline, RolloutStream)


def test_nothing_is_sampled_that_no_iteration_trains_on():
    run = Run(config(4, size=3, iterations=5), TimedRollouts(heavy_tailed(0, 1.0)))
    virtual_time.run(run.go(RunState()))
    assert sorted(run.numbers()) == list(range(15)) == [number for _, number in run.rollouts.submitted]


def test_problems_are_sampled_in_their_seeded_order_and_mixed_in_ones_stay_apart():
    run = Run(config(2, size=4, mixed=1), TimedRollouts(heavy_tailed(3, 2.0)))
    order = ProblemOrder(problems(run.config), run.config)

    async def first_batch() -> Batch:
        try:
            return await run.pipeline.take(RunState(iteration=1))
        finally:
            await run.pipeline.aclose()

    batch = virtual_time.run(first_batch())
    assert run.rollouts.submitted == [(order[number].id, number) for number in range(12)]
    assert [int(order[number].id[1:]) >= 20 for number in range(12)] == [False, False, False, True] * 3
    assert len(batch.all) == 4 and all(int(item.problem.id[1:]) >= 20 for item in batch.mixed)
    assert all(int(item.problem.id[1:]) < 7 for item in batch.groups)


def test_a_drain_finishes_all_that_is_under_way_and_sampling_starts_afresh():
    run = Run(config(3, size=2), TimedRollouts(heavy_tailed(1, 1.0)), drains=lambda iteration: iteration == 2)
    virtual_time.run(run.go(RunState()))
    assert [len(batch) for batch in run.batches] == [2, 2, 6, 2, 2, 2, 2]  # one batch less in the drain than allowed
    assert run.staleness[3] == 0 and min(run.batches[3]) == 10


def test_a_resumed_run_first_samples_what_was_under_way():
    run = Run(config(2, size=3), TimedRollouts(lambda number: 100.0 if number == 1 else 1.0), train_s=0.1)
    state = virtual_time.run(run.go(RunState(), last=2))
    assert state.pending == [1, *range(7, 15)] and state.submitted == 15
    again = Run(run.config, TimedRollouts(lambda _: 1.0))
    virtual_time.run(again.go(state))
    assert [number for _, number in again.rollouts.submitted][:4] == [1, 7, 8, 9]
    assert sorted(run.numbers() + again.numbers()) == list(range(18))


def test_a_state_of_a_run_that_sampled_nothing_ahead_goes_on_with_the_next_batch():
    run = Run(config(1, size=4), TimedRollouts(lambda _: 1.0))
    virtual_time.run(run.go(RunState(iteration=3, policy_version=3)))
    assert run.batches[0] == [12, 13, 14, 15]


def test_a_slice_is_with_the_engines_before_the_next_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actors.pipeline.SLICE", 2)
    run = Run(config(1, size=3, iterations=2), TimedRollouts(lambda _: 1.0))
    sample, begun = run.rollouts.sample, []  # how many groups the engines had when each was made

    def noted(*arguments: Any) -> Coroutine[Any, Any, list[RolloutGroup]]:
        begun.append(len(run.rollouts.submitted))
        return sample(*arguments)

    monkeypatch.setattr(run.rollouts, "sample", noted)
    virtual_time.run(run.go(RunState()))
    assert begun == [0, 0, 2, 2, 4, 4] and sorted(run.numbers()) == list(range(6))


def test_a_failure_ends_the_wait_and_the_rest_is_cancelled():
    def seconds(number: int) -> float:
        if number == 2:
            raise OSError("no more engines")
        return 100.0

    run = Run(config(2), TimedRollouts(seconds))
    with pytest.raises(OSError, match="no more engines"):
        virtual_time.run(run.go(RunState()))
    assert run.rollouts.under_way == 0


def test_a_group_that_is_too_old_is_never_trained_on():
    run = Run(config(1), TimedRollouts(lambda _: 1.0))

    async def take() -> None:
        await run.pipeline.take(RunState(iteration=1, policy_version=7))

    with pytest.raises(RuntimeError, match=r"more than rollout\.staleness = 1 versions before version 7"):
        virtual_time.run(take())
