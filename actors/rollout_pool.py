"""N rollout engines behind the ports Rollouts and Policy: each request goes to the engine that has the least to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from actors.engine_client import EngineGroup, Sampling
from actors.failures import EngineCallError, EngineDiedError, EngineHungError, PoisonedGroupError
from actors.fleet import Fleet, Member
from actors.group_journal import GroupJournal, group_key
from int_ray.config import RolloutConfig
from int_ray.ports import Grader, Progress
from int_ray.seeds import sample_seed
from int_ray.side_by_side import all_or_none
from int_ray.types import Completion, Intervention, Outcome, Problem, Purpose, Rollout, RolloutGroup, Start, TokenIds

T = TypeVar("T")

NO_PREFIX: TokenIds = np.array([], np.int32)
# So many engines may be lost to one group. A deadline is the group's own; a death takes along all that the engine had.
MOST_HANGS, MOST_DEATHS = 2, 4
MOST_REFUSED = 8  # groups, one after the other: then it is not the groups' fault


@dataclass(frozen=True, slots=True)
class Call:
    """What all requests of one call share."""

    sampling: Sampling  # seed and room are each request's own
    purpose: Purpose
    version: int  # of the policy, when the call came


class RolloutPool:
    """Implements the ports Rollouts and Policy. `encode_prompt` applies the chat template.

    What an engine was sampling when it died or hung is sampled again by another one, with the same seeds. A group that
    engine after engine is lost to, or that one refuses, comes back ungraded, without a token (Outcome.ERROR). Any other
    failure ends its call, along with all that the engines still decode for it.
    """

    def __init__(
        self,
        fleet: Fleet,
        grader: Grader,
        encode_prompt: Callable[[Problem], TokenIds],
        config: RolloutConfig,
        run_seed: int,
        progress: Progress,
        journal: GroupJournal | None = None,
    ) -> None:
        self.fleet = fleet
        self.grader = grader
        self.encode_prompt = encode_prompt
        self.config = config
        self.run_seed = run_seed
        self.progress = progress
        self.journal = journal  # of groups that a resumed run need not sample again
        self._refused = 0  # groups, since the last one that was sampled

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
        return await all_or_none(self._written(call, *one) for one in zip(prompts, seeds, strict=True))

    async def _written(self, call: Call, prompt: TokenIds, seed: int) -> Completion:
        try:
            return (await self._sampled(call, "write an answer", prompt, NO_PREFIX, seed)).completions()[0]
        except PoisonedGroupError as error:
            self.progress.say(f"an answer is left out: {error}")
            return _nothing(seed)

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
        if self.journal is None:
            group = await self._new_group(call, start, seed)
        else:
            group = await self._journalled_group(self.journal, call, start, seed)
        if call.purpose is not Purpose.EXPLORE:  # an oracle counts its attempts
            self.progress.advance()
        return group

    async def _journalled_group(self, journal: GroupJournal, call: Call, start: Start, seed: int) -> RolloutGroup:
        """What a run before this one has sampled, or a group that is written down."""
        key = group_key(start, replace(call.sampling, seed=seed), call.version)
        known = journal.find(key, start)
        if known is not None:
            return known
        group = await self._new_group(call, start, seed)
        try:
            await journal.add(key, group)
        except OSError as error:
            self.progress.say(f"groups are not kept for a resumed run until the next checkpoint: {error}")
        return group

    async def _new_group(self, call: Call, start: Start, seed: int) -> RolloutGroup:
        what = f"sample {call.sampling.n} rollouts of problem {start.problem.id}"
        try:
            sampled = await self._sampled(call, what, start.prompt_ids, start.prefix_ids, seed)
        except PoisonedGroupError as error:
            self.progress.say(f"problem {start.problem.id} is left out: {error}")
            return _ungraded(call, start, seed)
        completions = sampled.completions()
        outcomes = await self.grader.grade(start.problem, completions)
        versions = sampled.policy_versions()
        rollouts = tuple(Rollout(*one) for one in zip(completions, outcomes, versions, strict=True))
        return RolloutGroup(start.problem, start.prompt_ids, start.prefix_ids, rollouts)

    async def _sampled(
        self, call: Call, what: str, prompt_ids: TokenIds, prefix_ids: TokenIds, seed: int
    ) -> EngineGroup:
        """From the first engine that lives to the end of the request.

        Raises PoisonedGroupError, or EngineCallError where engines refuse group after group.
        """
        sampling = replace(call.sampling, seed=seed, max_tokens=call.sampling.max_tokens - len(prefix_ids))
        hangs = deaths = 0
        while hangs < MOST_HANGS and deaths < MOST_DEATHS:
            async with self.fleet.least_busy(sampling.n) as member:
                request = member.engine.sample_group(prompt_ids, prefix_ids, sampling)
                try:
                    sampled = await self._answer(member, what, request)
                except EngineDiedError as error:
                    hangs += isinstance(error, EngineHungError)
                    deaths += 1
                    self.fleet.lose(member, error)
                    continue
                except EngineCallError as error:
                    self._refused += 1
                    if self._refused >= MOST_REFUSED:
                        raise EngineCallError(f"{error}; so it went for {self._refused} groups in a row") from error
                    raise PoisonedGroupError(str(error)) from error
            self._refused = 0
            self._check_version(call, member, sampled)
            return sampled
        raise PoisonedGroupError(f"{deaths} rollout engines were lost while they were to {what}")

    def _check_version(self, call: Call, member: Member, sampled: EngineGroup) -> None:
        """Without staleness a group is of the version that its call came at, and of no other."""
        versions = {sampled.policy_version, sampled.policy_version + len(sampled.switches)}
        if self.config.staleness == 0 and versions != {call.version}:
            raise RuntimeError(
                f"{member.name} sampled with policy version {max(versions)} where {call.version} was asked for"
            )

    async def _answer(self, member: Member, what: str, request: Awaitable[T]) -> T:
        """An engine's answer. Raises EngineDiedError, or EngineCallError for a failure that leaves the engine alive."""
        try:
            async with asyncio.timeout(self.config.deadline_s):
                answer = await request
        except (EngineDiedError, EngineCallError) as error:
            raise type(error)(f"{member.name} could not {what}: {error}") from error
        except TimeoutError:
            waited = f"{self.config.deadline_s:g} s (rollout.deadline_s)"
            raise EngineHungError(f"waited {waited} for {member.name} to {what}") from None
        member.heard = asyncio.get_running_loop().time()
        return answer


def _nothing(seed: int) -> Completion:
    return Completion(NO_PREFIX, np.array([], np.float32), "", False, seed)


def _ungraded(call: Call, start: Start, seed: int) -> RolloutGroup:
    """Nothing to train on and no verdict on the problem, in the shape of a group."""
    seeds = range(seed, seed + call.sampling.n)
    rollouts = tuple(Rollout(_nothing(own), Outcome.ERROR, call.version) for own in seeds)
    return RolloutGroup(start.problem, start.prompt_ids, start.prefix_ids, rollouts)
