"""Builds a Coordinator with everything behind its ports, on a local or a given Ray, and takes it all down again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from actors.colocated import ColocatedLearner, LearnerInTurn, WholeLearner
from actors.compute import Compute, connect_ray, learner_settings, start_compute, start_grader
from actors.coordinator import Coordinator
from actors.fleet import Fleet
from actors.gauges import Gauges
from actors.grader_pool import GraderPool, Reward
from actors.group_journal import GroupJournal
from actors.learner import Learner
from actors.oracle_assembly import (
    Accounts,
    build_oracle,
    build_segmenter,
    build_teacher,
    start_apis,
    start_oracle_pool,
)
from actors.placement import watch_nodes
from actors.rollout_pool import RolloutPool
from actors.run_folder import RunFolder, traced_folder
from actors.trace import Trace, TracedProgress, traced
from actors.watchdog import watched
from actors.weight_sync import EngineWeightSync, weight_sender
from int_ray.config import Config
from int_ray.config_checks import num_gpus
from int_ray.deadlines import stall_abort_s
from int_ray.distillation_round import DistillationRound
from int_ray.intervention_round import InterventionRound
from int_ray.oracle_config import OracleKindName
from int_ray.oracles import StepOracle
from int_ray.oracles.teacher import Teacher
from int_ray.ports import CollectingPorts, Oracle, Ports, Progress
from int_ray.prompts import encode_prompt, encode_text
from int_ray.side_by_side import beside
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
        trace, progress = open_trace(folder, progress, stack)
        await connect_ray(config.run.ray_address, num_gpus(config), progress, stack)
        services = await start_services(config, folder.path, progress, stack, reward=reward, oracle=oracle)
        teacher = build_teacher(config, services.oracles, oracle)
        compute = Compute(*await start_compute(config, progress, stack), services.grader)
        if checkpoint is not None:
            await compute.learner.load(checkpoint)
        parts = Parts(compute, services, teacher, trace, progress)
        coordinator = await connect_parts(config, tokenizer, problems, folder, parts, stack)
        with trace.span(RUN, "training"):
            yield coordinator


@asynccontextmanager
async def assemble_on(
    compute: Compute,
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: ProblemSets,
    folder: RunFolder,
    progress: Progress,
    *,
    checkpoint: Path | None = None,
) -> AsyncIterator[Coordinator]:
    """The same on what runs already: the learner begins anew with the base model, or goes on from `checkpoint`."""
    async with AsyncExitStack() as stack:
        trace, progress = open_trace(folder, progress, stack)
        services = await start_services(config, folder.path, progress, stack, grader=compute.grader)
        teacher = build_teacher(config, services.oracles, None)
        compute.fleet.begin_run()
        async with compute.fleet.turn:  # an engine that joins meanwhile waits for the first publish
            compute.fleet.learner_in_step = False
            await compute.learner.reset(learner_settings(config))
            if checkpoint is not None:
                await compute.learner.load(checkpoint)
        parts = Parts(compute, services, teacher, trace, progress)
        coordinator = await connect_parts(config, tokenizer, problems, folder, parts, stack)
        with trace.span(RUN, "training"):
            yield coordinator


@dataclass(frozen=True)
class Parts:
    """What has started, and is to be connected."""

    compute: Compute
    services: Services
    teacher: Teacher | None
    trace: Trace
    progress: Progress


def open_trace(folder: RunFolder, progress: Progress, stack: AsyncExitStack) -> tuple[Trace, Progress]:
    """The run's trace, and `progress` with its phases recorded there."""
    trace = Trace(folder.path / "trace.json")
    stack.callback(trace.close)
    return trace, TracedProgress(progress, trace)


async def connect_parts(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: ProblemSets,
    folder: RunFolder,
    parts: Parts,
    stack: AsyncExitStack,
) -> Coordinator:
    """Everything behind its port, recorded in the trace, and the coordinator in front of it."""
    trace, fleet = parts.trace, parts.compute.fleet
    watching = watched(parts.progress, fleet, folder.path, config.run.stall_warning_s, stall_abort_s(config))
    progress = await stack.enter_async_context(watching)
    services = replace(parts.services, grader=traced(parts.services.grader, trace, "graders", "grade"))
    gauges = Gauges(folder.path, fleet, services.accounts.ledger, trace)
    folder.loggers.add("the live figures", gauges)
    await stack.enter_async_context(gauges.live())
    folder = traced_folder(folder, trace)
    learner = traced(parts.compute.learner, trace, LEARNER, "patch", "reinforce", "save", "send_weights", "logprobs")
    in_turn = take_turns(config, fleet, learner)
    weights = traced(build_weight_sync(config, tokenizer, problems, fleet, in_turn), trace, "weight sync", "publish")
    collecting = await build_collecting(config, tokenizer, fleet, services, progress, stack, folder.groups)
    ports = Ports(**vars(collecting), learner=in_turn, weights=weights)
    ports = replace(ports, oracle=traced(ports.oracle, trace, "oracle", "intervene"))
    coordinator = build_coordinator(config, tokenizer, problems, ports, folder, parts.teacher)
    watch = watch_nodes(lambda: parts.compute.learner.nodes, coordinator.saves_each, progress)
    await stack.enter_async_context(beside(watch))
    return coordinator


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
    grader: GraderPool | None = None,
) -> Services:
    """Graders, unless some run already, and the workers that talk to APIs.

    Raises RunError if an API refuses key or model.
    """
    grader = grader or start_grader(config.problems, stack, reward)
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
    groups: GroupJournal | None = None,
) -> CollectingPorts:
    """Rollouts on the fleet's engines, and the oracle; `groups` that are finished are kept for a resumed run."""
    model = config.model
    encode = partial(
        encode_prompt, tokenizer, template_kwargs=model.chat_template_kwargs, instruction=model.instruction
    )
    rollouts = RolloutPool(fleet, services.grader, encode, config.rollout, config.run.seed, progress, groups)
    oracle = services.own_oracle or await build_oracle(
        config, services.oracles, services.accounts, tokenizer, rollouts, progress, stack
    )
    return CollectingPorts(rollouts, services.grader, oracle, progress)


def take_turns(config: Config, fleet: Fleet, learner: Learner) -> WholeLearner:
    """The learner, which changes its weights or sends them; engines on its GPU sleep while it works, if wanted."""
    if config.learner.weight_sync == "ipc" and config.rollout.sleep:
        return ColocatedLearner(learner, fleet, config.learner.deadline_s)
    return LearnerInTurn(learner, fleet)


def build_weight_sync(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: ProblemSets,
    fleet: Fleet,
    learner: WholeLearner,
) -> EngineWeightSync:
    """Learner -> engines, those that join later too; the first problem is the canary."""
    sync = EngineWeightSync(
        fleet,
        learner,
        partial(weight_sender, config.model, config.rollout, config.learner),
        encode_prompt(tokenizer, problems.train[0], config.model.chat_template_kwargs, config.model.instruction),
        config.rollout.temperature,
        config.learner,
    )
    fleet.refresh = sync.refresh
    return sync


def build_coordinator(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: ProblemSets,
    ports: Ports,
    folder: RunFolder,
    teacher: Teacher | None = None,
) -> Coordinator:
    """The loop with its round and its trigger; with a `teacher` it clones whole solutions, not interventions."""
    round_ = build_round(config, tokenizer, ports)
    if teacher is not None:
        encode, end_id = partial(encode_text, tokenizer), tokenizer.eos_token_id
        assert isinstance(end_id, int)  # checked with the tokenizer
        room = config.rollout.max_tokens
        round_ = DistillationRound(teacher, ports.grader, ports.progress, encode, end_id, room)
    return Coordinator(config, problems, ports, round_, build_trigger(config.schedule, config.trigger), folder)


def build_round(config: Config, tokenizer: PreTrainedTokenizerBase, ports: CollectingPorts) -> InterventionRound:
    """The intervention round with the tokenizer's steps and ids."""
    segmenter = build_segmenter(config, tokenizer)
    encode = partial(encode_text, tokenizer)
    return InterventionRound(ports, segmenter, encode, config.oracle, config.patch, config.rollout.max_tokens)
