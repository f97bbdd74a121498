"""Where actors run, on GPUs that are reserved for them or on the driver's machine; and the wait for what must come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import ray
from ray._private.state import state as cluster_state
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from int_ray.errors import RunError
from int_ray.ports import Progress
from int_ray.side_by_side import beside
from int_ray.training_config import LearnerConfig

SAY_EVERY_S = 30.0
LOOK_EVERY_S = 1.0  # for nodes that leave


@asynccontextmanager
async def patience(progress: Progress, what: str, deadline_s: float) -> AsyncIterator[None]:
    """Say every half minute what the block waits for. The deadline is the block's own."""

    async def say() -> None:
        waited_s = 0.0
        while True:
            await asyncio.sleep(SAY_EVERY_S)
            waited_s += SAY_EVERY_S
            progress.say(f"still waiting for {what}: {waited_s:.0f} s of at most {deadline_s:g} s")

    async with beside(say()):
        yield


def expect_gpus(needed: int, progress: Progress) -> None:
    """Compare a cluster's GPUs, and those that its autoscaler can add, with the need. Raises RunError if it is in vain.

    A cluster whose limits Ray does not know may get nodes from elsewhere, such as Slurm: it is waited for.
    """
    present = int(ray.cluster_resources().get("GPU", 0))
    if present >= needed:
        return
    limits = cluster_state.get_max_resources_from_cluster_config()
    possible = None if limits is None else int(limits.get("GPU", 0))
    if possible is not None and possible < needed:
        raise RunError(
            f"the run needs {needed} GPUs; the cluster has {present} and its autoscaler goes up to {possible}: raise "
            "its max_workers, or lower rollout.num_engines, rollout.tensor_parallel_size or learner.num_ranks"
        )
    progress.say(f"the run needs {needed} GPUs, the cluster has {present}: waiting for the rest to join")


def on_this_machine() -> NodeAffinitySchedulingStrategy:
    """The driver's node: CPU ranks meet in a file there, and CPU engines take weights from its shared memory."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


async def draining_nodes() -> Collection[str]:
    """Hex ids of the nodes that will be gone soon: preempted, or removed by the autoscaler.

    No nodes while Ray cannot be asked; whoever wants to know asks again in a second.
    """
    try:
        return await asyncio.to_thread(cluster_state.get_draining_nodes)
    except (RayError, RuntimeError):
        return ()


async def node_of(actor: ActorHandle) -> str | None:
    """Hex id; None while the actor has no process, or Ray cannot be asked."""
    try:
        known = await asyncio.to_thread(cluster_state.actor_table, actor._actor_id.hex())
    except (RayError, RuntimeError):
        return None
    return known.get("Address", {}).get("NodeID")


async def watch_nodes(nodes: Callable[[], frozenset[str]], are_leaving: asyncio.Event, progress: Progress) -> None:
    """Keep the event set as long as one of the learner's `nodes` will be gone soon. Has no end."""
    while True:
        if nodes().isdisjoint(await draining_nodes()):
            are_leaving.clear()
        elif not are_leaving.is_set():
            progress.say("A node of the learner will be gone soon: every iteration is saved from now on")
            are_leaving.set()
        await asyncio.sleep(LOOK_EVERY_S)


async def reserve_learner_gpus(config: LearnerConfig) -> PlacementGroup | None:
    """One GPU per rank, all or none, on as few nodes as possible; never on one that is labelled as spot.

    None without GPUs. Raises RunError after `startup_deadline_s`, with nothing reserved.
    """
    if config.device == "cpu":
        return None
    stays = [{"ray.io/market-type": "!spot"}] * config.num_ranks
    group = placement_group([{"GPU": 1}] * config.num_ranks, strategy="PACK", bundle_label_selector=stays)
    try:
        await asyncio.wait_for(group.ready(), config.startup_deadline_s)
    except TimeoutError:
        remove_placement_group(group)
        raise RunError(
            f"no {config.num_ranks} free GPUs for the learner: add GPUs or lower learner.num_ranks "
            f"(waited {config.startup_deadline_s:.0f} s)"
        ) from None
    except asyncio.CancelledError:
        remove_placement_group(group)
        raise
    return group
