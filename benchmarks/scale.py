"""The real Coordinator and the real RolloutPool over 4,096 simulated engines that are full, straggle and die."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.fleet import Fleet
from actors.rollout_pool import RolloutPool
from benchmarks import virtual_time
from benchmarks.measure import Figure, Scale, at_least, at_most
from benchmarks.scripted import Silent, Unasked, Weightless, config, coordinator
from benchmarks.simulated_engines import HalfRight, SimulatedEngine, Stamped, Workload
from int_ray.ports import Ports
from int_ray.types import Problem, RunState, TokenIds, Update, UpdateBatches

STALENESS = 4
GROUP = 16
PROMPT: TokenIds = np.arange(20, dtype=np.int32)


@dataclass(frozen=True)
class Size:
    """How large a run is. An engine takes one group at a time.

    The `STALENESS + 1` batches that may be under way are more than the engines take, and the learner is the faster
    stage, so that groups wait in line.
    """

    engines: int
    batch: int  # groups
    iterations: int
    train_s: float
    mean_s: float  # of a group
    deaths: float  # shares of the groups whose engine dies halfway, and of those whose engine dies with the answer


CLUSTER = Size(engines=4096, batch=896, iterations=12, train_s=0.6, mean_s=2.5, deaths=0.01)
TOY = Size(engines=64, batch=48, iterations=8, train_s=0.04, mean_s=0.15, deaths=0.04)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    wall_s: float
    dispatch_s: list[float]  # overhead of every group after the engines' first ones
    waited: float  # share of these groups that waited in line for an engine
    staleness_max: float
    lost: int  # rollouts that no iteration was trained on
    doubled: int  # rollouts that were trained on more than once
    crashed: int  # engines that died halfway
    silent: int  # engines that died with an answer
    again: int  # groups that were asked for more than once
    duplicated: int  # groups that were decoded to the end more than once
    rollouts: int


class Learner(Weightless):
    """Learner and weight sync of a run: takes its time, then the engines have another version."""

    def __init__(self, workload: Workload, fleet: Fleet, train_s: float) -> None:
        self.workload = workload
        self.fleet = fleet
        self.train_s = train_s

    async def reinforce(self, batches: UpdateBatches) -> Update:
        """Nothing changes."""
        await asyncio.sleep(self.train_s)
        return Update(len(batches))

    async def publish(self, policy_version: int) -> Mapping[str, float]:
        """At once."""
        self.workload.version = self.fleet.policy_version = policy_version
        return {}


def run(scale: Scale) -> list[Figure]:
    """Throughput where waiting takes no time, dispatch in real time at 5,000 rollouts/s, the bound in both.

    Dispatch is what int_ray adds: from when a group has been submitted and an engine is due to have room for it, to the
    engine's call. The wait for a full fleet is no part of it; a busy event loop that hears late of the room is.
    """
    size = CLUSTER if scale is Scale.FULL else TOY
    fast, real = simulate(size, virtual=True), simulate(size, virtual=False)
    for outcome in (fast, real):
        check(outcome)
    late, median_ms = np.percentile(real.dispatch_s, 99).item(), 1e3 * np.median(real.dispatch_s)
    load = f"at {real.rollouts / real.wall_s:,.0f} rollouts/s, {real.waited:.0%} of the groups waited for an engine"
    deaths = f"{fast.crashed} crashes, {fast.duplicated} groups decoded twice, none lost or trained on twice"
    return [
        at_least("scale.rollouts_per_s", fast.rollouts / fast.wall_s, 5000, note=deaths),
        at_most("scale.dispatch_p99_s", late, 0.05, note=f"{load}; median overhead {median_ms:.1f} ms"),
        at_most("scale.staleness_max", max(fast.staleness_max, real.staleness_max), STALENESS),
    ]


def check(outcome: Outcome) -> None:
    """Raises RuntimeError unless all was trained on once, although engines died in both ways and were full."""
    if outcome.lost or outcome.doubled:
        raise RuntimeError(f"{outcome.lost} rollouts were never trained on, {outcome.doubled} more than once")
    if not (outcome.crashed and outcome.duplicated and outcome.waited):
        raise RuntimeError(
            f"no hard run: {outcome.crashed} crashes, {outcome.duplicated} groups decoded twice, {outcome.waited:.0%} "
            "of the groups waited for an engine"
        )


def simulate(size: Size, *, virtual: bool) -> Outcome:
    """One whole run."""
    workload = Workload(size.mean_s, size.deaths)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        (virtual_time.run if virtual else asyncio.run)(run_coordinator(size, workload, Path(folder)))
        wall_s = time.perf_counter() - started
        return read(Path(folder), size, workload, wall_s)


async def run_coordinator(size: Size, workload: Workload, folder: Path) -> None:
    """Pool, pipeline and coordinator are those of a real run."""
    settings = config(STALENESS, size.batch, GROUP, size.iterations)
    progress = Silent()
    fleet = Fleet([SimulatedEngine(workload) for _ in range(size.engines)], GROUP, progress)
    pool = RolloutPool(fleet, HalfRight(), encode_prompt, settings.rollout, settings.run.seed, progress)
    learner = Learner(workload, fleet, size.train_s)
    ports = Ports(Stamped(pool), HalfRight(), Unasked(), progress, learner, learner)
    await coordinator(settings, ports, folder).run(RunState())


def encode_prompt(problem: Problem) -> TokenIds:
    """The same for all."""
    return PROMPT


def read(folder: Path, size: Size, workload: Workload, wall_s: float) -> Outcome:
    """From the run folder: what was trained on, by the seed of every rollout, and how stale it was."""
    groups = [json.loads(line) for path in (folder / "rollouts").iterdir() for line in path.open()]
    seeds = [rollout["seed"] for group in groups for rollout in group["rollouts"]]
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    expected = size.batch * GROUP * size.iterations
    dispatches = workload.dispatches[size.engines :]
    return Outcome(
        wall_s=wall_s,
        dispatch_s=[dispatch.overhead_s for dispatch in dispatches],
        waited=sum(dispatch.waited for dispatch in dispatches) / len(dispatches),
        staleness_max=max(row["rollout/staleness_max"] for row in rows),
        lost=expected - len(set(seeds)),
        doubled=len(seeds) - len(set(seeds)),
        crashed=workload.crashed,
        silent=workload.silent,
        again=sum(times > 1 for times in workload.asked.values()),
        duplicated=sum(times > 1 for times in workload.decoded.values()),
        rollouts=len(seeds),
    )
