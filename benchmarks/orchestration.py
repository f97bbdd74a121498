"""What the coordinator costs between its stages, and what sampling beside the training gains."""

from __future__ import annotations

import asyncio
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import virtual_time
from benchmarks.measure import Figure, Scale, at_least, at_most, cpu_seconds, interquartile_range
from benchmarks.scripted import ScriptedLearner, ScriptedRollouts, config, scripted
from int_ray.types import RunState

BATCH, GROUP = 32, 16  # Table 3
SYNC_S = 0.05
STAGES = {"engine-bound": (0.5, 0.3), "learner-bound": (0.3, 0.45)}  # seconds to sample a batch, to train on it
Pair = tuple[float, float]  # (busy, wall)


def run(scale: Scale) -> list[Figure]:
    """Overheads in real time, the gain in virtual time."""
    full = scale is Scale.FULL
    repeats, iterations, shrink = (
        (5, 10, 1.0) if full else (1, 3, 0.1)
    )  # a checkpoint every 10, as by default; without weights
    before = cpu_seconds()
    sync_pairs = [synchronous(iterations, shrink) for _ in range(repeats)]
    cpu_ms = 1e3 * (cpu_seconds() - before) / (repeats * iterations)
    parts = "samples, metrics, rollout file, checkpoint without weights, the script itself"
    note = f"{cpu_ms:.0f} ms of CPU per iteration: {parts}"
    async_pairs = {bound: [asynchronous(bound, iterations, shrink) for _ in range(repeats)] for bound in STAGES}
    worse = max(async_pairs, key=lambda bound: statistics.median(map(overhead, async_pairs[bound])))
    return [
        overhead_figure("orchestration.overhead_sync", sync_pairs, 0.02, note),
        overhead_figure("orchestration.overhead_async", async_pairs[worse], 0.05, f"{worse}, the worse of two; {note}"),
        gain(iterations=60 if full else 6),
    ]


def overhead(pair: Pair) -> float:
    """Share of the wall time in which the bottleneck stage waits."""
    busy, wall = pair
    return 1 - busy / wall


def overhead_figure(name: str, pairs: Sequence[Pair], goal: float, note: str) -> Figure:
    """The median; its raw pairs are (busy, wall) seconds."""
    shares = [overhead(pair) for pair in pairs]
    spread = interquartile_range(shares)
    figure = at_most(name, statistics.median(shares), goal, limit="0", spread=spread, note=note)
    return replace(figure, raw=tuple(pairs))


def synchronous(iterations: int, shrink: float) -> Pair:
    """All stages of all iterations, one after the other, against the wall time of the whole run."""
    sample_s, train_s = (shrink * seconds for seconds in STAGES["engine-bound"])
    _, _, wall = run_scripted(0, iterations, sample_s, train_s, shrink * SYNC_S)
    busy = iterations * (sample_s + train_s + shrink * SYNC_S) + shrink * SYNC_S
    return busy, wall


def asynchronous(bound: str, iterations: int, shrink: float) -> Pair:
    """The bottleneck stage from the beginning of its first work to the end of its last."""
    sample_s, train_s = (shrink * seconds for seconds in STAGES[bound])
    sync_s = shrink * SYNC_S
    rollouts, learner, _ = run_scripted(1, iterations, sample_s, train_s, sync_s)
    if bound == "engine-bound":
        return iterations * sample_s, rollouts.span.seconds
    return iterations * (train_s + sync_s), learner.span.seconds


def run_scripted(
    staleness: int, iterations: int, sample_s: float, train_s: float, sync_s: float
) -> tuple[ScriptedRollouts, ScriptedLearner, float]:
    """A whole run in real time: the stages, and the seconds that it took."""

    async def timed(folder: Path) -> tuple[ScriptedRollouts, ScriptedLearner, float]:
        rollouts = ScriptedRollouts(BATCH, lambda _: (sample_s,))
        learner = ScriptedLearner(rollouts, train_s, sync_s)
        coordinator = scripted(config(staleness, BATCH, GROUP, iterations), rollouts, learner, folder)
        now = asyncio.get_running_loop().time
        started = now()
        await coordinator.run(RunState())
        return rollouts, learner, now() - started

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(timed(Path(folder)))


def gain(iterations: int, staleness: int = 4, sigma: float = 1.0) -> Figure:
    """Iteration time of synchronous over asynchronous runs, exact in virtual time, the first fill included.

    A sequence of lognormal length holds one of as many slots as a batch has sequences, at one speed. The learner takes
    as long for a batch as all slots do, so that neither stage is the larger one.
    """
    mean_s = math.exp(sigma**2 / 2)
    seconds = {k: simulated(k, iterations, sigma, train_s=mean_s) / iterations for k in (0, staleness)}
    bound = seconds[0] / mean_s
    note = f"{seconds[0]:.2f} against {seconds[staleness]:.2f} mean sequences; {mean_s:.2f} would keep all slots busy"
    return at_least("pipeline.async_over_sync", seconds[0] / seconds[staleness], 2.0, limit=f"{bound:.2f}", note=note)


def simulated(staleness: int, iterations: int, sigma: float, train_s: float) -> float:
    """Virtual seconds of a whole run; the same lengths for every `staleness`."""

    def parts(index: int) -> list[float]:
        return np.random.default_rng([7, index]).lognormal(0.0, sigma, GROUP).tolist()

    async def timed(folder: Path) -> float:
        rollouts = ScriptedRollouts(BATCH * GROUP, parts)
        learner = ScriptedLearner(rollouts, train_s, sync_s=0.0)
        await scripted(config(staleness, BATCH, GROUP, iterations), rollouts, learner, folder).run(RunState())
        return virtual_time.now()

    with tempfile.TemporaryDirectory() as folder:
        return virtual_time.run(timed(Path(folder)))
