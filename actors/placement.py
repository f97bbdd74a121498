"""Where actors run: on GPUs that are reserved for them, or on the driver's machine."""

from __future__ import annotations

import asyncio

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from int_ray.errors import RunError
from int_ray.training_config import LearnerConfig


def on_this_machine() -> NodeAffinitySchedulingStrategy:
    """The driver's node: CPU ranks meet in a file there, and CPU engines take weights from its shared memory."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


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
