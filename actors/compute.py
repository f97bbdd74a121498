"""Starts what takes long to start: Ray, the rollout engines, the learner. Several runs may use them in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors import local_ray
from actors.engine_client import Engine
from actors.engine_spawning import EngineStarter, close_engines, spawn_engines
from actors.fleet import Fleet
from actors.fleet_keeper import FleetKeeper
from actors.grader_pool import GraderPool, Reward
from actors.learner import Learner
from actors.learner_rank import LearnerSettings
from actors.placement import draining_nodes, expect_gpus, patience, reserve_learner_gpus
from int_ray.config import Config
from int_ray.config_checks import num_gpus, reinforce_updates
from int_ray.data_config import ProblemsConfig
from int_ray.errors import RunError
from int_ray.ports import Progress
from int_ray.side_by_side import beside


@dataclass(frozen=True)
class Compute:
    """What runs that follow each other share."""

    fleet: Fleet
    learner: Learner
    grader: GraderPool


@asynccontextmanager
async def shared_compute(config: Config, progress: Progress) -> AsyncIterator[Compute]:
    """All of it, for runs whose configs agree on model, learner, engines and reward; ends with the block."""
    async with AsyncExitStack() as stack:
        await connect_ray(config.run.ray_address, num_gpus(config), progress, stack)
        grader = start_grader(config.problems, stack)
        fleet, learner = await start_compute(config, progress, stack)
        yield Compute(fleet, learner, grader)


async def connect_ray(address: str | None, gpus: int, progress: Progress, stack: AsyncExitStack) -> None:
    """A local Ray that has so many GPUs, or the cluster that `address` or RAY_ADDRESS names."""
    progress.phase("starting Ray")
    await asyncio.sleep(0)  # a Ctrl-C that came during the imports ends the run here
    is_local = local_ray.connect(address)
    stack.callback(local_ray.disconnect)
    if is_local:
        require_gpus(gpus)
    else:
        expect_gpus(gpus, progress)


def start_grader(config: ProblemsConfig, stack: AsyncExitStack, reward: Reward | None = None) -> GraderPool:
    """Grading processes; `reward` replaces what the config names."""
    grader = GraderPool(reward or config.reward, config.grader_workers, config.grader_timeout_s)
    stack.callback(grader.close)
    return grader


async def start_compute(config: Config, progress: Progress, stack: AsyncExitStack) -> tuple[Fleet, Learner]:
    """Engines and learner, side by side unless they share a GPU; what has started is closed with the stack."""
    progress.phase("starting the learner and the rollout engines")
    progress.say("Each is a process of its own with PyTorch or vLLM to import: about a minute on a laptop")

    # The learner's first: engines may run on any node, and would take its only one.
    deadline_s = config.learner.startup_deadline_s
    async with patience(progress, f"{config.learner.num_ranks} free GPUs for the learner", deadline_s):
        placement = await reserve_learner_gpus(config.learner)
    if placement is not None:
        stack.callback(remove_placement_group, placement)

    async def start_learner() -> Learner:
        async with patience(progress, "the learner to start", deadline_s):
            learner = await Learner.start(learner_settings(config), placement)
        stack.callback(learner.close)
        return learner

    if config.learner.weight_sync == "ipc":
        learner = await start_learner()
        return await start_engines(config, progress, stack, placement), learner
    both = asyncio.create_task(start_engines(config, progress, stack)), asyncio.create_task(start_learner())
    try:
        return await asyncio.gather(*both)
    finally:
        for task in both:
            task.cancel()  # nothing where it has ended
        await asyncio.wait(both)


async def start_engines(
    config: Config, progress: Progress, stack: AsyncExitStack, shared: PlacementGroup | None = None
) -> Fleet:
    """Rollout engines with the weights of model.path, which are replaced when they are lost.

    `shared` is the learner's GPU with weight_sync: ipc.
    """
    deadline_s = config.rollout.startup_deadline_s
    async with patience(progress, f"{config.rollout.num_engines} rollout engines to start", deadline_s):
        engines = await spawn_engines(config.model, config.rollout, config.learner, shared)
    # Twice what an engine decodes at once: it never runs dry, and hoards nothing that another one could take.
    fleet = Fleet(engines, 2 * config.rollout.max_num_seqs, progress)
    stack.push_async_callback(lambda: close_engines([member.engine for member in fleet.everyone]))
    starter = EngineStarter(config.model, config.rollout, config.learner, shared)

    async def start_engine() -> Engine:
        if shared is None:
            return await starter.start()
        async with fleet.turn:  # the learner's GPU has no room for an engine that starts while it works
            return await starter.start()

    keeper = FleetKeeper(fleet, start_engine, draining_nodes, config.rollout, progress)
    await stack.enter_async_context(beside(keeper.run()))
    return fleet


def require_gpus(needed: int) -> None:
    """Raises RunError at once where waiting for GPUs is in vain: on a Ray that is this machine only."""
    present = int(ray.cluster_resources().get("GPU", 0))
    if present < needed:
        raise RunError(
            f"learner.device = cuda needs {needed} GPUs, this machine has {present}; set run.ray_address to a cluster, "
            "or learner.device=cpu learner.weight_sync=shm"
        )


def learner_settings(config: Config) -> LearnerSettings:
    """The learner's share of the config."""
    return LearnerSettings(
        model=config.model,
        learner=config.learner,
        patch=config.patch,
        reinforce=config.reinforce,
        temperature=config.rollout.temperature,
        reinforce_updates=reinforce_updates(config),
        seed=config.run.seed,
    )
