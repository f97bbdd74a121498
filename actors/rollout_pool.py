"""N rollout engines behind the Rollouts port: each group to the least busy engine, graded the moment it arrives."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.rollout_engine import EngineDiedError, EngineGroup, RolloutEngine, cause_of
from int_ray.config import LearnerConfig, ModelConfig, RolloutConfig
from int_ray.ports import Grader, Progress
from int_ray.seeds import sample_seed
from int_ray.types import Intervention, Problem, Purpose, Rollout, RolloutGroup, TokenIds

T = TypeVar("T")

CLOSE_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class GroupRequest:
    """One group to sample: `n` responses to the prompt, all of which begin with the prefix."""

    problem: Problem
    prompt_ids: TokenIds  # [P]
    prefix_ids: TokenIds  # [S]
    n: int
    seed: int


class RolloutPool:
    """Implements the Rollouts port. `encode_prompt` applies the chat template; the first failure ends a call."""

    def __init__(
        self,
        engines: Sequence[ActorHandle],
        grader: Grader,
        encode_prompt: Callable[[Problem], TokenIds],
        config: RolloutConfig,
        run_seed: int,
        progress: Progress,
    ) -> None:
        self.engines = engines
        self.grader = grader
        self.encode_prompt = encode_prompt
        self.config = config
        self.run_seed = run_seed
        self.progress = progress
        self._in_flight = [0] * len(engines)  # groups

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        """`n` rollouts per problem, groups in the order of `problems`."""
        starts = [(problem, self.encode_prompt(problem), np.array([], np.int32)) for problem in problems]
        return await self._sample_all(starts, n, purpose, round_)

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        """`n` continuations of each prefix + intervention, groups in order; only the continuation is graded."""
        starts = [
            (intervention.attempt.problem, intervention.attempt.prompt_ids, intervention.resume_ids)
            for intervention in interventions
        ]
        return await self._sample_all(starts, n, Purpose.TEST_INTERVENTION, round_)

    async def _sample_all(
        self, starts: Sequence[tuple[Problem, TokenIds, TokenIds]], n: int, purpose: Purpose, round_: int
    ) -> list[RolloutGroup]:
        version = await self._policy_version()
        # Evaluations share their seeds, so that two of them differ by the weights alone.
        seed_version = 0 if purpose is Purpose.EVALUATE else version
        asked: Counter[tuple[str, bytes]] = Counter()
        requests = []
        for problem, prompt_ids, prefix_ids in starts:
            key = problem.id, prefix_ids.tobytes()
            seed = sample_seed(self.run_seed, purpose, round_, seed_version, problem.id, prefix_ids, asked[key])
            asked[key] += 1
            requests.append(GroupRequest(problem, prompt_ids, prefix_ids, n, seed))
        # Twice what the engines decode at once: they never run dry, and none hoards groups that another could take.
        gate = asyncio.Semaphore(len(self.engines) * math.ceil(2 * self.config.max_num_seqs / n))
        tasks = [asyncio.create_task(self._group(request, version, gate)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _policy_version(self) -> int:
        """The version that all engines are at."""
        versions = await asyncio.gather(
            *(
                self._answer(index, "say its policy version", engine.policy_version.remote())
                for index, engine in enumerate(self.engines)
            )
        )
        if len(set(versions)) != 1:
            raise RuntimeError(f"rollout engines are at different policy versions {versions}: publish weights first")
        return versions[0]

    async def _group(self, request: GroupRequest, version: int, gate: asyncio.Semaphore) -> RolloutGroup:
        async with self._least_busy(gate) as index:
            call = self.engines[index].sample_group.remote(
                request.prompt_ids,
                request.prefix_ids,
                request.n,
                request.seed,
                self.config.max_tokens - len(request.prefix_ids),
            )
            what = f"sample {request.n} rollouts of problem {request.problem.id}"
            sampled: EngineGroup = await self._answer(index, what, call)
        if sampled.policy_version != version:
            raise RuntimeError(f"weights changed to version {sampled.policy_version} while sampling from {version}")
        completions = sampled.completions()
        outcomes = await self.grader.grade(request.problem, completions)
        self.progress.advance()
        rollouts = tuple(
            Rollout(completion, outcome, version) for completion, outcome in zip(completions, outcomes, strict=True)
        )
        return RolloutGroup(request.problem, request.prompt_ids, request.prefix_ids, rollouts)

    @asynccontextmanager
    async def _least_busy(self, gate: asyncio.Semaphore) -> AsyncIterator[int]:
        """Index of the engine with the fewest groups in flight, once the gate lets another group in."""
        async with gate:
            index = self._in_flight.index(min(self._in_flight))
            self._in_flight[index] += 1
            try:
                yield index
            finally:
                self._in_flight[index] -= 1

    async def _answer(self, index: int, what: str, call: Awaitable[T]) -> T:
        """An engine's answer. Raises EngineDiedError, TimeoutError, or RuntimeError for any other failure."""
        try:
            return await asyncio.wait_for(call, self.config.deadline_s)
        except RayError as error:
            kind = EngineDiedError if isinstance(error, RayActorError | EngineDiedError) else RuntimeError
            raise kind(f"rollout engine {index} could not {what}: {cause_of(error)}") from error
        except TimeoutError:
            waited = f"{self.config.deadline_s:g} s (rollout.deadline_s)"
            raise TimeoutError(f"waited {waited} for rollout engine {index} to {what}") from None


async def spawn_engines(
    model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig, shared: PlacementGroup | None = None
) -> list[ActorHandle]:
    """Start all engines side by side, with weight_sync: ipc on the learner's `shared` GPU.

    Raises EngineDiedError or TimeoutError, with none of them left.
    """
    own = {"num_gpus": rollout.tensor_parallel_size if learner.device == "cuda" else 0}
    beside = {"num_gpus": 0.5, "scheduling_strategy": PlacementGroupSchedulingStrategy(shared)} if shared else {}
    spawn: Any = ray.remote(RolloutEngine).options(
        num_cpus=0,
        max_concurrency=2 * rollout.max_num_seqs + 16,  # groups of one sample, and calls of the weight sync beside them
        **own | beside,
    )
    engines: list[ActorHandle] = [spawn.remote(model, rollout, learner) for _ in range(rollout.num_engines)]
    deadline = rollout.startup_deadline_s
    async with AsyncExitStack() as undo:
        undo.push_async_callback(close_engines, engines)
        try:
            async with asyncio.timeout(deadline):
                await asyncio.gather(*(engine.start.remote() for engine in engines))
        except RayError as error:
            raise EngineDiedError(f"a rollout engine did not start: {cause_of(error)}") from error
        except TimeoutError:
            waited = f"{deadline:g} s (rollout.startup_deadline_s)"
            raise TimeoutError(f"waited {waited} for {len(engines)} rollout engine(s) to start") from None
        undo.pop_all()
    return engines


async def close_engines(engines: Sequence[ActorHandle]) -> None:
    """End the engines and vLLM's processes; one that does not answer is killed, and takes them along."""
    answers = [asyncio.wrap_future(engine.close.remote().future()) for engine in engines]
    await asyncio.wait(answers, timeout=CLOSE_DEADLINE_S)
    for answer in answers:
        if not answer.cancel():
            answer.exception()  # whatever it was, the engine is killed next
    for engine in engines:
        ray.kill(engine)
