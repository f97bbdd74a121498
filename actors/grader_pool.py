"""Grading that always comes back: whatever judges answers runs in processes that can be killed."""

from __future__ import annotations

import asyncio
import logging
import math
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import Literal

from pebble import ProcessPool

from int_ray.data.generated import gym_match
from int_ray.processes import make_expendable
from int_ray.rewards import exact_match, final_answer, math_match, outcome_of
from int_ray.types import Completion, Outcome, Problem

# True if the response (its text) solves the problem, False if not. A function of an importable module, since it runs in
# processes of its own. It is not asked about responses that the token limit cut off.
Reward = Callable[[Problem, str], bool]
Named = Literal["exact", "math", "reasoning_gym"]  # problems.reward

RESTART_S = 30.0  # longest time between two tasks: kill a process, start another, import

logger = logging.getLogger(__name__)


class GraderPool:
    """The Grader port. Exact answers are compared on the spot, everything else in `workers` processes.

    Example: `GraderPool("math", workers=2, timeout_s=10.0)`, `GraderPool(my_module.solves, workers=2, timeout_s=10.0)`
    """

    def __init__(self, reward: Named | Reward, workers: int, timeout_s: float) -> None:
        if callable(reward):
            _check_picklable(reward)
        self.reward = reward
        self.workers = workers
        self.timeout_s = timeout_s
        self._unfinished = 0  # tasks
        self._pool = None if reward == "exact" else self._start_pool()

    async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
        """One outcome per completion, in order. Equal answers are judged once.

        TIMEOUT after `timeout_s` in a process; ERROR, logged, if the process died or the reward function raised.
        """
        outcomes = [self._without_process(problem, completion) for completion in completions]
        open_ = {i: self._subject(completions[i]) for i, outcome in enumerate(outcomes) if outcome is None}
        subjects = list(dict.fromkeys(open_.values()))
        verdicts = await asyncio.gather(*(self._judge(problem, text) for text in subjects), return_exceptions=True)
        judged = {text: _outcome(problem, verdict) for text, verdict in zip(subjects, verdicts, strict=True)}
        return [outcome or judged[open_[i]] for i, outcome in enumerate(outcomes)]

    def close(self) -> None:
        """End all processes, whatever they are doing."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()

    def _without_process(self, problem: Problem, completion: Completion) -> Outcome | None:
        """The outcome if it takes no process, else None."""
        if callable(self.reward):
            return None if completion.finished else Outcome.TRUNCATED
        outcome = outcome_of(problem.answer, completion, exact_match)
        return None if outcome is Outcome.WRONG and self.reward != "exact" else outcome

    def _subject(self, completion: Completion) -> str:
        """What a process judges: the final answer, or for a user's function the whole response."""
        return completion.text if callable(self.reward) else final_answer(completion.text) or ""

    async def _judge(self, problem: Problem, subject: str) -> bool:
        """The verdict of a process. Raises what went wrong there, TimeoutError included."""
        judge = self._judge_of(problem)
        self._unfinished += 1
        rounds = math.ceil(self._unfinished / self.workers)
        try:
            future = self._living_pool().schedule(_verdict, (judge, subject), timeout=self.timeout_s)
            # The pool's limit counts from the start of the task; this one ends the wait for a task that never starts.
            return await asyncio.wait_for(asyncio.wrap_future(future), rounds * (self.timeout_s + RESTART_S))
        finally:
            self._unfinished -= 1

    def _judge_of(self, problem: Problem) -> Callable[[str], bool]:
        if callable(self.reward):
            return partial(self.reward, problem)
        return partial(math_match, problem.answer) if self.reward == "math" else partial(gym_match, problem.id)

    def _living_pool(self) -> ProcessPool:
        """The pool; a new one if a process died while it had nothing to do, which breaks the whole pool."""
        if self._pool is None or not self._pool.active:
            logger.warning("The grading processes have died; starting new ones")
            self.close()
            self._pool = self._start_pool()
        return self._pool

    def _start_pool(self) -> ProcessPool:
        """Processes that import what they need while nobody waits for them yet."""
        pool = ProcessPool(
            self.workers, initializer=_prepare_process, initargs=(self.reward,), context=get_context("spawn")
        )
        pool.schedule(_prepared)  # the first task is what starts them
        return pool


def _check_picklable(reward: Reward) -> None:
    try:
        pickle.dumps(reward)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"a reward must be a function of an importable module, no lambda or inner one: {error}"
        ) from None


def _outcome(problem: Problem, verdict: bool | BaseException) -> Outcome:
    if isinstance(verdict, TimeoutError):
        return Outcome.TIMEOUT
    if isinstance(verdict, BaseException):
        logger.warning("Grading an answer to problem %s failed: %r", problem.id, verdict)
        return Outcome.ERROR
    return Outcome.CORRECT if verdict else Outcome.WRONG


# From here on: what runs in the processes.


def _prepare_process(reward: Named | Reward) -> None:
    """Import what grading needs (a user's module came with `reward`)."""
    first_uses = {"math": partial(math_match, "1", "2"), "reasoning_gym": partial(import_module, "reasoning_gym")}
    make_expendable(_prepared if callable(reward) else first_uses[reward])


def _prepared() -> None:
    """A task that asks for nothing."""


def _verdict(judge: Callable[[str], bool], subject: str) -> bool:
    """The judge's verdict, if it is one. Ctrl-C is the business of the main process: pebble ignores it here."""
    verdict = judge(subject)
    if verdict not in (True, False):
        raise TypeError(f"a reward function must return True or False, not {verdict!r:.80}")
    return bool(verdict)
