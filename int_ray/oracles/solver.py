"""Whole solutions by the oracle's language model: for problem sets that keep what it can solve, and to distill."""

from __future__ import annotations

import numpy as np

from int_ray.oracles.chat import Answer, Fault, Prompt
from int_ray.oracles.paid_chat import Heard, PaidChat, Question
from int_ray.types import Attempt, Completion, Outcome, Problem, Rollout

_PROMPT = """\
Solve this problem. Write the solution out step by step, with every intermediate result, and end with the final \
answer, and nothing else, in \\boxed{{...}}.

{question}"""


class Solver:
    """Asks one question per problem, without the reference solution; the same question is never paid twice."""

    def __init__(self, chat: PaidChat) -> None:
        self.chat = chat

    async def solve(self, problem: Problem) -> Answer | Fault:
        """The model's solution, or why there is none."""
        return (await self.hear(problem)).result

    async def hear(self, problem: Problem) -> Heard:
        """The same with what it cost."""
        return await self.chat.ask(Question(_no_attempt(problem), solve_prompt(problem)))


def solve_prompt(problem: Problem) -> Prompt:
    """The question, and how to answer it."""
    return Prompt("solve-1", (_PROMPT.format(question=problem.question),))


def as_response(text: str) -> Completion:
    """A text that no policy sampled, to be graded like a response."""
    return Completion(np.array([], np.int32), np.array([], np.float32), text, finished=True, seed=0)


def _no_attempt(problem: Problem) -> Attempt:
    """Questions are about an attempt; here it is an empty one."""
    return Attempt(problem, np.array([], np.int32), Rollout(as_response(""), Outcome.UNPARSABLE, 0), ())
