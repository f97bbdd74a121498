"""Starts rollout engines where their GPUs are, and ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.engine_client import Engine, RemoteEngine, cause_of
from actors.failures import EngineCallError, EngineDiedError
from actors.placement import on_this_machine
from actors.rollout_engine import RolloutEngine
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.training_config import LearnerConfig

CLOSE_DEADLINE_S = 5.0


@dataclass(frozen=True)
class EngineStarter:
    """How the engines of a run are started, one by one.

    An engine's GPUs are on one node; a node has as many engines as it has room for. A placement group that has found no
    room yet is also what Ray's autoscaler hears of, and forgets with the group.
    """

    model: ModelConfig
    rollout: RolloutConfig
    learner: LearnerConfig
    shared: PlacementGroup | None = None  # the learner's GPU with weight_sync: ipc

    async def start(self) -> Engine:
        """Wait for room as long as it takes, then start an engine. Raises EngineDiedError or TimeoutError."""
        async with AsyncExitStack() as undo:
            own = self.reserve()
            if own is not None:
                undo.callback(remove_placement_group, own)
                try:
                    await own.ready()
                except RayError as error:
                    raise EngineDiedError(f"no room for a rollout engine: {cause_of(error)}") from error
            engine = self.spawn(own)
            undo.push_async_callback(close_engines, [engine])
            await self.start_all([engine])
            undo.pop_all()
        return engine

    async def start_all(self, engines: Sequence[RemoteEngine]) -> None:
        """Have them load the model, within `startup_deadline_s` from now."""
        try:
            async with asyncio.timeout(self.rollout.startup_deadline_s):
                await asyncio.gather(*(engine.start() for engine in engines))
        except (EngineDiedError, EngineCallError) as error:
            raise EngineDiedError(f"a rollout engine did not start: {error}") from error
        except TimeoutError:
            raise TimeoutError(_why_late(engines, self.rollout)) from None

    def reserve(self) -> PlacementGroup | None:
        """Room for an engine's own GPUs, if it has any; it need not be there yet."""
        if self.learner.device == "cpu" or self.shared is not None:
            return None
        return placement_group([{"GPU": float(self.rollout.tensor_parallel_size)}])

    def spawn(self, own: PlacementGroup | None) -> RemoteEngine:
        """An actor on its own GPUs, on half of the learner's, or on none."""
        rollout, place = self.rollout, self.shared or own
        spawn: Any = ray.remote(RolloutEngine).options(
            num_cpus=0,
            num_gpus=0.5 if self.shared else rollout.tensor_parallel_size if own else 0,
            max_concurrency=2 * rollout.max_num_seqs + 16,  # groups of one sample, and calls of the weight sync beside
            scheduling_strategy=PlacementGroupSchedulingStrategy(place, placement_group_bundle_index=0)
            if place
            else on_this_machine(),  # shared memory is how weights come
        )
        return RemoteEngine(spawn.remote(self.model, rollout, self.learner), own)


async def spawn_engines(
    model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig, shared: PlacementGroup | None = None
) -> list[RemoteEngine]:
    """Start all engines side by side, with weight_sync: ipc on the learner's `shared` GPU.

    Raises EngineDiedError or TimeoutError, with none of them left.
    """
    starter = EngineStarter(model, rollout, learner, shared)
    engines = [starter.spawn(starter.reserve()) for _ in range(rollout.num_engines)]
    async with AsyncExitStack() as undo:
        undo.push_async_callback(close_engines, engines)
        await starter.start_all(engines)
        undo.pop_all()
    return engines


def _why_late(engines: Sequence[RemoteEngine], rollout: RolloutConfig) -> str:
    """What the engines that have not started were waiting for."""
    waited = f"waited {rollout.startup_deadline_s:g} s (rollout.startup_deadline_s)"
    homeless = sum(engine.placement is not None and not engine.placement.wait(0) for engine in engines)
    if not homeless:
        return f"{waited} for {len(engines)} rollout engine(s) to start"
    gpus = rollout.tensor_parallel_size
    return (
        f"{waited}: {homeless} of {len(engines)} rollout engines found no node with {gpus} free GPU(s); add GPUs, or "
        "lower rollout.num_engines or rollout.tensor_parallel_size"
    )


async def close_engines(engines: Sequence[Engine]) -> None:
    """End the engines and vLLM's processes; one that does not answer is killed, and takes them along."""
    if not engines:  # all of them were lost
        return
    closing = [asyncio.create_task(engine.close()) for engine in engines]
    _, late = await asyncio.wait(closing, timeout=CLOSE_DEADLINE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*closing, return_exceptions=True)  # whatever it was, the engine is killed next
    for engine in engines:
        engine.kill()
