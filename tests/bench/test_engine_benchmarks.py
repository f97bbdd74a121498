"""The engine benchmarks at toy size: they measure what they say and find the engine right; times mean nothing."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from benchmarks import pause, rollout, sync
from benchmarks.engines import TINY_SHAPE, one_engine
from benchmarks.measure import Figure, Scale


class Bench:
    """One engine for all modules."""

    def __init__(self, runner: asyncio.Runner, engine: Any, settings: Any) -> None:
        self.runner, self.engine, self.settings = runner, engine, settings

    def figures(self, module: Any) -> dict[str, Figure]:
        found = self.runner.run(partial(module.measure, Scale.TINY)(self.engine, self.settings))
        return {figure.name: figure for figure in found}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        context = one_engine(TINY_SHAPE)
        yield Bench(runner, *runner.run(context.__aenter__()))
        runner.run(context.__aexit__(None, None, None))


def test_the_actor_samples_what_bare_vllm_samples(bench: Bench):
    figure = bench.figures(rollout)["rollout.tokens_per_s_over_vllm"]
    assert len(figure.raw) == 2 and all(seconds > 0 for pair in figure.raw for seconds in pair)


def test_a_pause_is_timed_between_two_decoding_steps(bench: Bench):
    figure = bench.figures(pause)["pause.gap_ms_beyond_one_decode"]
    gaps, steps = zip(*figure.raw, strict=True)
    assert len(gaps) == 2 and min(gaps) >= 20 and min(steps) > 0  # vLLM waits 20 ms in every pause
    assert figure.value == pytest.approx(statistics.median(gaps) - steps[0])


class Handicapped:
    """The engine, with another pause and resume."""

    def __init__(self, engine: Any, delay_s: float, pauses: bool) -> None:
        self.engine, self.delay_s, self.pauses = engine, delay_s, pauses
        self.sample_group = engine.sample_group

    async def pause(self) -> None:
        if self.pauses:
            await self.engine.pause()
        await asyncio.sleep(self.delay_s)

    async def resume(self, policy_version: int) -> None:
        if self.pauses:
            await self.engine.resume(policy_version)


def test_a_slow_pause_is_noticed(bench: Bench):
    slow = Bench(bench.runner, Handicapped(bench.engine, 2.0, pauses=True), bench.settings)
    gaps = [gap for gap, _ in slow.figures(pause)["pause.gap_ms_beyond_one_decode"].raw]
    assert min(gaps) >= 2000


@pytest.mark.parametrize(("delay_s", "message"), [(0.0, "nothing was paused"), (10.0, "nothing stood still")])
def test_a_pause_that_stops_nothing_is_no_figure(bench: Bench, delay_s: float, message: str):
    deaf = Bench(bench.runner, Handicapped(bench.engine, delay_s, pauses=False), bench.settings)
    with pytest.raises(RuntimeError, match=message):
        deaf.figures(pause)


def test_a_sync_brings_the_weights_and_every_part_of_it_is_timed(bench: Bench):
    figures = bench.figures(sync)
    parts = {"transport_over_memcpy", "cast_over_memcpy_of_equal_traffic", "total_over_reload", "calls_over_reload"}
    assert figures.keys() == {f"sync.{part}" for part in parts}
    assert all(figure.value > 0 for figure in figures.values())
