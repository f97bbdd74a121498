"""Builds a Coordinator with everything behind its ports, on a local or a given Ray, and takes it all down again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors import local_ray
from actors.colocated import ColocatedLearner, WholeLearner
from actors.coordinator import Coordinator
from actors.engine_spawning import close_engines, spawn_engines
from actors.fleet import Fleet
from actors.grader_pool import GraderPool, Reward
from actors.learner import Learner
from actors.learner_rank import LearnerSettings
from actors.oracle_assembly import Accounts, build_oracle, build_segmenter, start_apis, start_oracle_pool
from actors.placement import reserve_learner_gpus
from actors.rollout_pool import RolloutPool
from actors.run_folder import RunFolder
from actors.trace import Trace, TracedProgress, traced
from actors.weight_sync import EngineWeightSync, weight_sender
from int_ray.config import Config
from int_ray.config_checks import num_gpus, reinforce_updates
from int_ray.errors import RunError
from int_ray.intervention_round import InterventionRound
from int_ray.oracle_config import OracleKindName
from int_ray.oracles import StepOracle
from int_ray.ports import CollectingPorts, Oracle, Ports, Progress
from int_ray.prompts import encode_prompt, encode_text
from int_ray.timeline import LEARNER, RUN
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
    async with AsyncExitStack() as stack:
        trace = Trace(folder.path / "trace.json")
        stack.callback(trace.close)
        progress = TracedProgress(progress, trace)
        await connect_ray(config.run.ray_address, num_gpus(config), progress, stack)
        services = await start_services(config, folder.path, progress, stack, reward=reward, oracle=oracle)
        fleet, learner = await start_compute(config, progress, stack)
        if checkpoint is not None:
            await learner.load(checkpoint)
        services = replace(services, grader=traced(services.grader, trace, "graders", "grade"))
        for member in fleet.members:
            member.engine = traced(member.engine, trace, member.name, "sample_group")
        learner = traced(learner, trace, LEARNER, "patch", "reinforce", "save", "send_weights", "logprobs")
        in_turn = take_turns(config, fleet, learner)
        weights = traced(
            build_weight_sync(config, tokenizer, problems, fleet, in_turn), trace, "weight sync", "publish"
        )
        collecting = await build_collecting(config, tokenizer, fleet, services, progress, stack)
        ports = Ports(**vars(collecting), learner=in_turn, weights=weights)
        ports = replace(ports, oracle=traced(ports.oracle, trace, "oracle", "intervene"))
        with trace.span(RUN, "training"):
            yield build_coordinator(config, tokenizer, problems, ports, folder)


async def connect_ray(address: str | None, gpus: int, progress: Progress, stack: AsyncExitStack) -> None:
    """A local Ray that has so many GPUs, or the cluster that `address` or RAY_ADDRESS names."""
    progress.phase("starting Ray")
    await asyncio.sleep(0)  # a Ctrl-C that came during the imports ends the run here
    is_local = local_ray.connect(address)
    stack.callback(local_ray.disconnect)
    if is_local:
        require_gpus(gpus)


@dataclass(frozen=True)
class Services:
    """What runs beside engines and learner, and starts before them, so that a refused key costs no minute."""

    grader: GraderPool
    accounts: Accounts
    oracles: Mapping[OracleKindName, Oracle]  # behind APIs; they have accepted key and model
    own_oracle: Oracle | None  # of the user's making


async def start_services(
    config: Config,
    folder: Path,
    progress: Progress,
    stack: AsyncExitStack,
    *,
    reward: Reward | None = None,
    oracle: StepOracle | None = None,
) -> Services:
    """Graders, and the workers that talk to APIs. Raises RunError if an API refuses key or model."""
    problems = config.problems
    grader = GraderPool(reward or problems.reward, problems.grader_workers, problems.grader_timeout_s)
    stack.callback(grader.close)
    accounts = Accounts.open(config, folder, progress, stack)
    if oracle is not None:
        return Services(grader, accounts, {}, await start_oracle_pool("own", oracle, config, progress, stack))
    return Services(grader, accounts, await start_apis(config, accounts, progress, stack), None)


async def build_collecting(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    fleet: Fleet,
    services: Services,
    progress: Progress,
    stack: AsyncExitStack,
) -> CollectingPorts:
    """Rollouts on the fleet's engines, and the oracle."""
    encode = partial(encode_prompt, tokenizer, template_kwargs=config.model.chat_template_kwargs)
    rollouts = RolloutPool(fleet, services.grader, encode, config.rollout, config.run.seed, progress)
    oracle = services.own_oracle or await build_oracle(
        config, services.oracles, services.accounts, tokenizer, rollouts, progress, stack
    )
    return CollectingPorts(rollouts, services.grader, oracle, progress)


def take_turns(config: Config, fleet: Fleet, learner: Learner) -> WholeLearner:
    """The learner, with engines on its GPU that sleep while it works, if that is wanted."""
    if config.learner.weight_sync == "ipc" and config.rollout.sleep:
        return ColocatedLearner(learner, fleet, config.learner.deadline_s)
    return learner


def build_weight_sync(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: ProblemSets,
    fleet: Fleet,
    learner: WholeLearner,
) -> EngineWeightSync:
    """Learner -> engines; the first problem is the canary."""
    return EngineWeightSync(
        fleet,
        learner,
        partial(weight_sender, fleet, config.model, config.rollout, config.learner),
        encode_prompt(tokenizer, problems.train[0], config.model.chat_template_kwargs),
        config.rollout.temperature,
        config.learner,
    )


def build_coordinator(
    config: Config, tokenizer: PreTrainedTokenizerBase, problems: ProblemSets, ports: Ports, folder: RunFolder
) -> Coordinator:
    """The loop with its round and its trigger."""
    round_ = build_round(config, tokenizer, ports)
    return Coordinator(config, problems, ports, round_, build_trigger(config.schedule, config.trigger), folder)


def build_round(config: Config, tokenizer: PreTrainedTokenizerBase, ports: CollectingPorts) -> InterventionRound:
    """The intervention round with the tokenizer's steps and ids."""
    segmenter = build_segmenter(config, tokenizer)
    encode = partial(encode_text, tokenizer)
    return InterventionRound(ports, segmenter, encode, config.oracle, config.patch, config.rollout.max_tokens)


async def start_compute(config: Config, progress: Progress, stack: AsyncExitStack) -> tuple[Fleet, Learner]:
    """Engines and learner, side by side unless they share a GPU; what has started is closed with the stack."""
    progress.phase("starting the learner and the rollout engines")
    progress.say("Each is a process of its own with PyTorch or vLLM to import: about a minute on a laptop")

    # The learner's first: engines may run on any node, and would take its only one.
    placement = await reserve_learner_gpus(config.learner)
    if placement is not None:
        stack.callback(remove_placement_group, placement)

    async def start_learner() -> Learner:
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
    """Rollout engines with the weights of model.path; `shared` is the learner's GPU with weight_sync: ipc."""
    engines = await spawn_engines(config.model, config.rollout, config.learner, shared)
    stack.push_async_callback(close_engines, engines)
    # Twice what an engine decodes at once: it never runs dry, and hoards nothing that another one could take.
    return Fleet(engines, 2 * config.rollout.max_num_seqs, progress)


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
