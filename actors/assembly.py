"""Builds a Coordinator with everything behind its ports, on a local or a given Ray, and takes it all down again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup

from actors import local_ray
from actors.coordinator import Coordinator
from actors.grader_pool import GraderPool, Reward
from actors.learner import Learner
from actors.learner_rank import LearnerSettings
from actors.oracle_pool import OraclePool, StepOracle
from actors.rollout_pool import RolloutPool, close_engines, spawn_engines
from actors.run_folder import RunFolder
from actors.weight_sync import EngineWeightSync, weight_sender
from int_ray.config import Config
from int_ray.config_checks import num_gpus, reinforce_updates
from int_ray.errors import RunError
from int_ray.intervention_round import InterventionRound
from int_ray.oracles import ORACLES
from int_ray.ports import Ports, Progress
from int_ray.prompts import decode_ids, encode_prompt, encode_text
from int_ray.segmentation import Segmenter
from int_ray.trigger import build_trigger
from int_ray.types import ProblemSets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@asynccontextmanager
async def assemble(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: ProblemSets,
    folder: RunFolder,
    progress: Progress,
    *,
    oracle: StepOracle | None = None,
    reward: Reward | None = None,
    checkpoint: Path | None = None,
) -> AsyncIterator[Coordinator]:
    """A coordinator that is ready to run; leaving the block ends every process that it started.

    `oracle` and `reward` replace what the config names. `checkpoint` holds the weights of a resumed run.
    """
    encode = partial(encode_prompt, tokenizer, template_kwargs=config.model.chat_template_kwargs)
    async with AsyncExitStack() as stack:
        progress.phase("starting Ray")
        await asyncio.sleep(0)  # a Ctrl-C that came during the imports ends the run here
        is_local = local_ray.connect(config.run.ray_address)
        stack.callback(local_ray.disconnect)
        if is_local:
            require_gpus(num_gpus(config))
        progress.phase("starting the learner and the rollout engines")
        progress.say("Imports and the first use of everything take about a minute")
        grader = GraderPool(
            reward or config.problems.reward, config.problems.grader_workers, config.problems.grader_timeout_s
        )
        stack.callback(grader.close)
        engines, learner = await start_compute(config, stack)
        if checkpoint is not None:
            await learner.load(checkpoint)
        oracles = OraclePool(oracle or ORACLES[config.oracle.kind](), config.oracle, progress)
        stack.callback(oracles.close)
        await oracles.ready()
        rollouts = RolloutPool(engines, grader, encode, config.rollout, config.run.seed, progress)
        weights = EngineWeightSync(
            engines,
            learner,
            weight_sender(engines, config.model, config.rollout, config.learner),
            encode(problems.train[0]),
            config.rollout.temperature,
            config.learner,
        )
        ports = Ports(rollouts, grader, oracles, learner, weights, progress)
        trigger = build_trigger(config.schedule, config.trigger)
        yield Coordinator(config, problems, ports, build_round(config, tokenizer, ports), trigger, folder)


async def start_compute(config: Config, stack: AsyncExitStack) -> tuple[list[ActorHandle], Learner]:
    """Engines and learner, side by side unless they share a GPU; what has started is closed with the stack."""

    async def start_learner() -> Learner:
        learner = await Learner.start(learner_settings(config))
        stack.callback(learner.close)
        return learner

    async def start_engines(shared: PlacementGroup | None) -> list[ActorHandle]:
        engines = await spawn_engines(config.model, config.rollout, config.learner, shared)
        stack.push_async_callback(close_engines, engines)
        return engines

    if config.learner.weight_sync == "ipc":
        learner = await start_learner()
        return await start_engines(learner.placement), learner
    both = asyncio.create_task(start_engines(None)), asyncio.create_task(start_learner())
    try:
        return await asyncio.gather(*both)
    finally:
        for task in both:
            task.cancel()  # nothing where it has ended
        await asyncio.wait(both)


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


def build_round(config: Config, tokenizer: PreTrainedTokenizerBase, ports: Ports) -> InterventionRound:
    """The intervention round with the tokenizer's steps and ids."""
    segmenter = Segmenter(partial(decode_ids, tokenizer), config.oracle.step_keywords, config.model.thinking_end)
    encode = partial(encode_text, tokenizer)
    return InterventionRound(ports, segmenter, encode, config.oracle, config.patch, config.rollout.max_tokens)
