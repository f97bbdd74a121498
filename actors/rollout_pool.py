"""N rollout engines behind the ports Rollouts and Policy: each request goes to the engine that has the least to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from actors.engine_client import EngineCallError, EngineDiedError, EngineGroup, Sampling
from actors.fleet import Fleet, Member
from int_ray.config import RolloutConfig
from int_ray.ports import Grader, Progress
from int_ray.seeds import sample_seed
from int_ray.types import Completion, Intervention, Problem, Purpose, Rollout, RolloutGroup, Start, TokenIds

T = TypeVar("T")

NO_PREFIX: TokenIds = np.array([], np.int32)


@dataclass(frozen=True, slots=True)
class Call:
    """What all requests of one call share."""

    sampling: Sampling  # seed and room are each request's own
    purpose: Purpose
    version: int  # of the policy, when the call came


class RolloutPool:
    """Implements the ports Rollouts and Policy. `encode_prompt` applies the chat template.

    What a dead engine was sampling is sampled again by another one, with the same seeds. Any other failure ends its
    call, along with all that the engines still decode for it.
    """

    def __init__(
        self,
        fleet: Fleet,
        grader: Grader,
        encode_prompt: Callable[[Problem], TokenIds],
        config: RolloutConfig,
        run_seed: int,
        progress: Progress,
    ) -> None:
        self.fleet = fleet
        self.grader = grader
        self.encode_prompt = encode_prompt
        self.config = config
        self.run_seed = run_seed
        self.progress = progress

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
        call = Call(Sampling(1, max_tokens, temperature, top_p), Purpose.ANSWER, self.fleet.policy_version)
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
        call = Call(sampling, purpose, self.fleet.policy_version)
        seeds = self._seeds(call, round_, [(start.problem.id, start.prefix_ids) for start in starts])
        return await all_or_none(self._group(call, start, seed) for start, seed in zip(starts, seeds, strict=True))

    def _seeds(self, call: Call, round_: int, starts: Sequence[tuple[str, TokenIds]]) -> Iterator[int]:
        """One seed per (problem id, first tokens), another one each time that the same is asked for again."""
        # Evaluations share their seeds, so that two of them differ by the weights alone.
        version = 0 if call.purpose is Purpose.EVALUATE else call.version
        asked: Counter[tuple[str, bytes]] = Counter()
        for problem_id, token_ids in starts:
            key = problem_id, token_ids.tobytes()
            yield sample_seed(self.run_seed, call.purpose, round_, version, problem_id, token_ids, asked[key])
            asked[key] += 1

    async def _group(self, call: Call, start: Start, seed: int) -> RolloutGroup:
        what = f"sample {call.sampling.n} rollouts of problem {start.problem.id}"
        sampled = await self._sampled(call, what, start.prompt_ids, start.prefix_ids, seed)
        completions = sampled.completions()
        outcomes = await self.grader.grade(start.problem, completions)
        if call.purpose is not Purpose.EXPLORE:  # an oracle counts its attempts
            self.progress.advance()
        versions = sampled.policy_versions()
        rollouts = tuple(Rollout(*one) for one in zip(completions, outcomes, versions, strict=True))
        return RolloutGroup(start.problem, start.prompt_ids, start.prefix_ids, rollouts)

    async def _sampled(
        self, call: Call, what: str, prompt_ids: TokenIds, prefix_ids: TokenIds, seed: int
    ) -> EngineGroup:
        """From the first engine that lives to the end of the request."""
        sampling = replace(call.sampling, seed=seed, max_tokens=call.sampling.max_tokens - len(prefix_ids))
        while True:
            async with self.fleet.least_busy(sampling.n) as member:
                request = member.engine.sample_group(prompt_ids, prefix_ids, sampling)
                try:
                    sampled = await self._answer(member, what, request)
                except EngineDiedError as error:
                    self.fleet.lose(member, error)
                    continue
            self._check_version(call, member, sampled)
            return sampled

    def _check_version(self, call: Call, member: Member, sampled: EngineGroup) -> None:
        """Without staleness a group is of the version that its call came at, and of no other."""
        versions = {sampled.policy_version, sampled.policy_version + len(sampled.switches)}
        if self.config.staleness == 0 and versions != {call.version}:
            raise RuntimeError(
                f"{member.name} sampled with policy version {max(versions)} where {call.version} was asked for"
            )

    async def _answer(self, member: Member, what: str, request: Awaitable[T]) -> T:
        """An engine's answer. Raises EngineDiedError, TimeoutError, or EngineCallError for any other failure."""
        try:
            async with asyncio.timeout(self.config.deadline_s):
                return await request
        except (EngineDiedError, EngineCallError) as error:
            raise type(error)(f"{member.name} could not {what}: {error}") from error
        except TimeoutError:
            waited = f"{self.config.deadline_s:g} s (rollout.deadline_s)"
            raise TimeoutError(f"waited {waited} for {member.name} to {what}") from None


async def all_or_none(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all side by side; results in order. The first failure cancels the others."""
    waiting = list(parts)
    if len(waiting) == 1:
        return [await waiting[0]]  # without a task of its own: a stream samples its groups one by one
    tasks = [asyncio.create_task(part) for part in waiting]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
