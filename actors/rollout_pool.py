"""N rollout engines behind the ports Rollouts and Policy: each request goes to the engine that has the least to do."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.rollout_engine import EngineDiedError, EngineGroup, RolloutEngine, Sampling, cause_of
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.ports import Grader, Progress
from int_ray.seeds import sample_seed
from int_ray.training_config import LearnerConfig
from int_ray.types import Completion, Intervention, Problem, Purpose, Rollout, RolloutGroup, Start, TokenIds

T = TypeVar("T")

CLOSE_DEADLINE_S = 5.0
NO_PREFIX: TokenIds = np.array([], np.int32)


@dataclass(frozen=True, slots=True)
class Call:
    """What all requests of one call share."""

    sampling: Sampling  # seed and room are each request's own
    purpose: Purpose
    version: int  # of the policy
    gate: asyncio.Semaphore


class RolloutPool:
    """Implements the ports Rollouts and Policy. `encode_prompt` applies the chat template.

    The first failure ends a call, along with all that the engines still decode for it.
    """

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
        self._in_flight = [0] * len(engines)  # requests

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        """`n` rollouts per problem, groups in the order of `problems`."""
        starts = [Start(problem, self.encode_prompt(problem), NO_PREFIX) for problem in problems]
        return await self._sample_all(starts, self._for_training(n), purpose, round_)

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        """`n` continuations of each prefix + intervention, groups in order; only the continuation is graded."""
        starts = [
            Start(intervention.attempt.problem, intervention.attempt.prompt_ids, intervention.resume_ids)
            for intervention in interventions
        ]
        return await self._sample_all(starts, self._for_training(n), Purpose.TEST_INTERVENTION, round_)

    async def continue_from(
        self, starts: Sequence[Start], n: int, temperature: float, round_: int
    ) -> list[RolloutGroup]:
        """`n` continuations of each start, nothing masked, groups in order; only the continuation is graded."""
        return await self._sample_all(starts, Sampling(n, self.config.max_tokens, temperature), Purpose.EXPLORE, round_)

    async def write(
        self, prompts: Sequence[TokenIds], temperature: float, top_p: float, max_tokens: int, seed: int
    ) -> list[Completion]:
        """One response per prompt, in order; an empty unfinished one where the prompt leaves no room for any."""
        call = await self._call(Sampling(1, max_tokens, temperature, top_p), Purpose.ANSWER)
        seeds = self._seeds(call, seed, [("", prompt) for prompt in prompts])
        answers = (
            self._sampled(call, "write an answer", prompt, NO_PREFIX, seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        )
        return [answer.completions()[0] for answer in await all_or_none(answers)]

    def _for_training(self, n: int) -> Sampling:
        config = self.config
        return Sampling(n, config.max_tokens, config.temperature, config.top_p, config.top_k)

    async def _sample_all(
        self, starts: Sequence[Start], sampling: Sampling, purpose: Purpose, round_: int
    ) -> list[RolloutGroup]:
        call = await self._call(sampling, purpose)
        seeds = self._seeds(call, round_, [(start.problem.id, start.prefix_ids) for start in starts])
        return await all_or_none(self._group(call, start, seed) for start, seed in zip(starts, seeds, strict=True))

    async def _call(self, sampling: Sampling, purpose: Purpose) -> Call:
        # Twice what the engines decode at once: they never run dry, and none hoards what another could take.
        gate = asyncio.Semaphore(len(self.engines) * math.ceil(2 * self.config.max_num_seqs / sampling.n))
        return Call(sampling, purpose, await self._policy_version(), gate)

    def _seeds(self, call: Call, round_: int, starts: Sequence[tuple[str, TokenIds]]) -> Iterator[int]:
        """One seed per (problem id, first tokens), another one each time that the same is asked for again."""
        # Evaluations share their seeds, so that two of them differ by the weights alone.
        version = 0 if call.purpose is Purpose.EVALUATE else call.version
        asked: Counter[tuple[str, bytes]] = Counter()
        for problem_id, token_ids in starts:
            key = problem_id, token_ids.tobytes()
            yield sample_seed(self.run_seed, call.purpose, round_, version, problem_id, token_ids, asked[key])
            asked[key] += 1

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

    async def _group(self, call: Call, start: Start, seed: int) -> RolloutGroup:
        what = f"sample {call.sampling.n} rollouts of problem {start.problem.id}"
        sampled = await self._sampled(call, what, start.prompt_ids, start.prefix_ids, seed)
        completions = sampled.completions()
        outcomes = await self.grader.grade(start.problem, completions)
        if call.purpose is not Purpose.EXPLORE:  # an oracle counts its attempts
            self.progress.advance()
        rollouts = tuple(
            Rollout(completion, outcome, call.version)
            for completion, outcome in zip(completions, outcomes, strict=True)
        )
        return RolloutGroup(start.problem, start.prompt_ids, start.prefix_ids, rollouts)

    async def _sampled(
        self, call: Call, what: str, prompt_ids: TokenIds, prefix_ids: TokenIds, seed: int
    ) -> EngineGroup:
        sampling = replace(call.sampling, seed=seed, max_tokens=call.sampling.max_tokens - len(prefix_ids))
        async with self._least_busy(call.gate) as index:
            request = self.engines[index].sample_group.remote(prompt_ids, prefix_ids, sampling)
            sampled: EngineGroup = await self._answer(index, what, request)
        if sampled.policy_version != call.version:
            raise RuntimeError(f"weights changed to version {sampled.policy_version} while sampling {call.version}")
        return sampled

    @asynccontextmanager
    async def _least_busy(self, gate: asyncio.Semaphore) -> AsyncIterator[int]:
        """Index of the engine with the fewest requests in flight, once the gate lets another one in."""
        async with gate:
            index = self._in_flight.index(min(self._in_flight))
            self._in_flight[index] += 1
            try:
                yield index
            finally:
                self._in_flight[index] -= 1

    async def _answer(self, index: int, what: str, request: ObjectRef[T]) -> T:
        """An engine's answer. Raises EngineDiedError, TimeoutError, or RuntimeError for any other failure."""
        try:
            return await asyncio.wait_for(request, self.config.deadline_s)
        except RayError as error:
            kind = EngineDiedError if isinstance(error, RayActorError | EngineDiedError) else RuntimeError
            raise kind(f"rollout engine {index} could not {what}: {cause_of(error)}") from error
        except asyncio.CancelledError:
            ray.cancel(request)  # its tokens would be decoded for nobody
            raise
        except TimeoutError:
            ray.cancel(request)
            waited = f"{self.config.deadline_s:g} s (rollout.deadline_s)"
            raise TimeoutError(f"waited {waited} for rollout engine {index} to {what}") from None


async def all_or_none(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all side by side; results in order. The first failure cancels the others."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


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
