"""An oracle that needs no model but the policy: success rates of continuations show where an attempt goes wrong.

The value V(b) of a boundary is the policy's success rate from the attempt's first b steps on. The step that loses much
of it is the error; what a successful continuation from before that step does instead is the replacement.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from int_ray.guards import frame
from int_ray.oracle_config import MonteCarloConfig
from int_ray.ports import Policy, Progress
from int_ray.segmentation import Segmenter
from int_ray.types import Attempt, OracleReply, Outcome, Proposal, RolloutGroup, Source, Start

PROBES = 8  # boundaries looked at where no continuation from the start succeeds


@dataclass(frozen=True, slots=True)
class Look:
    """What a search wants to know next: the values of boundaries, from so many helpings of continuations each."""

    boundaries: tuple[int, ...]
    helpings: int = 1


def find_drop(num_steps: int, min_drop: float) -> Generator[Look, Mapping[int, float], int | None]:
    """Asks for values; returns the location, from 1, of a step that loses at least the share `min_drop` of the value.

    Bisection, which takes for granted that the value falls once. Chance may mislead it: a drop is believed only if it
    is still there after a second helping of continuations on both sides, else the search goes on behind it. V(0) = 0
    says nothing about where the value falls: then evenly spaced boundaries are tried, and the search goes on from the
    best of them. None if none has a value. Else there is a drop, since a failed attempt ends at value 0.
    """
    low, high = 0, num_steps
    values = yield Look((0,))
    if not values[0]:
        spread = range(0, num_steps, max(1, math.ceil(num_steps / PROBES)))
        values = yield Look(tuple(spread))
        if not any(values.values()):
            return None
        low = max(spread, key=lambda boundary: (values[boundary], boundary))
    while True:
        while high - low > 1:
            middle = (low + high) // 2
            values = yield Look((low, middle))
            low, high = (low, middle) if _drops(values, low, middle, min_drop) else (middle, high)
        values = yield Look((low, high), helpings=2)
        if _drops(values, low, high, min_drop):
            return high
        low, high = high, num_steps


def _drops(values: Mapping[int, float], before: int, after: int, min_drop: float) -> bool:
    return values[after] <= (1 - min_drop) * values[before]


@dataclass(frozen=True, slots=True)
class Response:
    """One explored response as bytes, 4 a token, so that a prefix of tokens is a prefix of bytes."""

    token_ids: bytes
    given: int  # bytes that the policy had not sampled, but started from
    outcome: Outcome

    def passes(self, prefix: bytes) -> bool:
        """Whether the policy, from where it started, came through the prefix by itself."""
        return self.given <= len(prefix) and self.token_ids.startswith(prefix)


class Explored:
    """All responses explored so far. Each counts for every boundary that the policy passed on its way."""

    def __init__(self) -> None:
        self._responses: dict[str, list[Response]] = defaultdict(list)  # by problem id

    def add(self, group: RolloutGroup) -> None:
        """Remember the continuations of a group."""
        given = group.prefix_ids.tobytes()
        self._responses[group.problem.id] += [
            Response(given + rollout.completion.token_ids.tobytes(), len(given), rollout.outcome)
            for rollout in group.rollouts
        ]

    def through(self, start: Start) -> list[Response]:
        """The responses to the start's problem that pass through its prefix."""
        prefix = start.prefix_ids.tobytes()
        return [response for response in self._responses[start.problem.id] if response.passes(prefix)]

    def value(self, start: Start) -> float:
        """Success rate of the responses through the start, of those that the verifier could judge."""
        graded = [response.outcome for response in self.through(start) if response.outcome.is_graded]
        return graded.count(Outcome.CORRECT) / len(graded) if graded else 0.0


class Search:
    """The search for one attempt's error, until there is no `look` any more."""

    def __init__(self, attempt: Attempt, min_drop: float) -> None:
        self.attempt = attempt
        self.continuations = self.tokens = 0  # sampled for this search first
        self.seen: dict[int, float] = {}  # boundary -> value
        self.location: int | None = None
        self._drop = find_drop(len(attempt.steps), min_drop)
        self.look: Look | None = next(self._drop)

    def starts(self) -> dict[int, Start]:
        """Boundary -> where continuations are wanted from. The attempt's end needs none: it has failed."""
        boundaries = self.look.boundaries if self.look else ()
        return {boundary: self.start(boundary) for boundary in boundaries if boundary < len(self.attempt.steps)}

    def start(self, boundary: int) -> Start:
        """The attempt's first steps, as many as there are before the boundary."""
        end = self.attempt.steps[boundary].start
        return Start(self.attempt.problem, self.attempt.prompt_ids, self.attempt.rollout.completion.token_ids[:end])

    def learn(self, explored: Explored) -> None:
        """Take what was looked for, and go on to the next look or to the end."""
        values = {boundary: explored.value(start) for boundary, start in self.starts().items()}
        self.seen |= values
        try:
            self.look = self._drop.send({len(self.attempt.steps): 0.0} | values)
        except StopIteration as found:
            self.look, self.location = None, found.value


class MonteCarloOracle:
    """Implements the Oracle port at the price of continuations: all open searches look further in one call.

    Failures: no_success_to_compare (no boundary has a value), error_in_answer (only the last, boxed part is wrong),
    no_other_step (every success begins with the attempt's own step).
    """

    def __init__(
        self, policy: Policy, segmenter: Segmenter, config: MonteCarloConfig, temperature: float, progress: Progress
    ) -> None:
        self.policy = policy
        self.segmenter = segmenter
        self.config = config
        self.temperature = temperature
        self.progress = progress
        self.continuations = self.located = 0  # in all calls; located: with a proposal

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """One reply per attempt, in order, with one proposal at most."""
        explored = Explored()
        searches = [Search(attempt, self.config.min_drop) for attempt in attempts]
        for round_ in itertools.count():
            open_ = [search for search in searches if search.look]
            if not open_:
                break
            await self._look(open_, explored, round_)
            for search in open_:
                search.learn(explored)
                if search.look is None:
                    self.progress.advance()
        replies = [self._reply(search, explored) for search in searches]
        self.progress.say(f"Monte Carlo: {self.continuations} continuations so far, {self.located} errors located")
        return replies

    async def _look(self, searches: Sequence[Search], explored: Explored, round_: int) -> None:
        """Sample continuations wherever a search wants more than there are; from equal prefixes once."""
        wanted: dict[tuple[str, bytes], tuple[Start, Search]] = {}
        for search in searches:
            helpings = search.look.helpings if search.look else 0
            for start in search.starts().values():
                if len(explored.through(start)) < helpings * self.config.continuations:
                    wanted.setdefault((start.problem.id, start.prefix_ids.tobytes()), (start, search))
        starts = [start for start, _ in wanted.values()]
        groups = await self.policy.continue_from(starts, self.config.continuations, self.temperature, round_)
        for (_, search), group in zip(wanted.values(), groups, strict=True):
            explored.add(group)
            search.continuations += len(group.rollouts)
            search.tokens += sum(len(rollout.completion.token_ids) for rollout in group.rollouts)
            self.continuations += len(group.rollouts)

    def _reply(self, search: Search, explored: Explored) -> OracleReply:
        seen = [f"{value:.2f} after {boundary} steps" for boundary, value in sorted(search.seen.items())]
        log = f"Success rates: {', '.join(seen)}; {search.continuations} continuations"
        if search.location is None:
            return OracleReply(failure="no_success_to_compare", log=log)
        replaced = search.attempt.steps[search.location - 1]
        own = frame(replaced.text)[1].split()
        steps = self._next_steps(search.start(search.location - 1), explored)
        others = [step for step in steps if step.split() not in ([], own)]
        usable = [step for step in others if "\\boxed" not in step]
        if not replaced.replaceable or (others and not usable):
            return OracleReply(failure="error_in_answer", log=log)
        if not usable:
            return OracleReply(failure="no_other_step", log=log)
        self.located += 1
        source = Source("monte_carlo", "policy", output_tokens=search.tokens)
        return OracleReply((Proposal(search.location, usable[0], search.location, source),), log=log)

    def _next_steps(self, start: Start, explored: Explored) -> Iterator[str]:
        """What the successful responses through the start say in their next step."""
        for response in explored.through(start):
            if response.outcome is Outcome.CORRECT:
                token_ids = np.frombuffer(response.token_ids, np.int32)
                step = self.segmenter.steps(token_ids[len(start.prefix_ids) :])[0]  # a success has tokens
                if step.replaceable:
                    yield frame(step.text)[1]
