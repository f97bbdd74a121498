"""Whole solutions by the oracle's language model: what a problem set keeps only if the oracle can solve it."""

from __future__ import annotations

import numpy as np

from int_ray.oracles.chat import Answer, Fault, Prompt
from int_ray.oracles.paid_chat import PaidChat, Question
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
        prompt = Prompt("solve-1", (_PROMPT.format(question=problem.question),))
        return (await self.chat.ask(Question(_no_attempt(problem), prompt))).result


def as_response(text: str) -> Completion:
    """A text that no policy sampled, to be graded like a response."""
    return Completion(np.array([], np.int32), np.array([], np.float32), text, finished=True, seed=0)


def _no_attempt(problem: Problem) -> Attempt:
    """Questions are about an attempt; here it is an empty one."""
    return Attempt(problem, np.array([], np.int32), Rollout(as_response(""), Outcome.UNPARSABLE, 0), ())
