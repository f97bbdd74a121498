r"""The leak guard: a proposed step must not give the final answer away.

A step leaks if it tells the student the answer. It does so if it

- states a value equal to the answer as the answer, in a box, in words or in any notation (`the answer is one half`);
- restates what the question asks for with that value filled in (`so there are 48 ways`, `$a+b=5$`, and `$2^4-3^2=7$` if
  the question has `$2^4-3^2$`), announces the value (`we get 48`) or is nothing else (`= 48`), without the calculation
  that the value comes from;
- holds an answer that no step has by chance, such as `x^2+2x+1`, new to the question and to the steps before, and
  not the result of a calculation in the step.

It does not leak where the value is one number among others (`divide by 2`), where a calculation in the step comes to it
(`53-9=44`: the last calculation may be the one to correct), where it has still to be worked out (`there are $2^{10}$`),
or where it is denied, supposed or asked for (`suppose the answer were 48`).

Wording decides which values a step claims (`claims`), the run's own grader which of them equal the answer. What is
restated or announced is understood in English only; in other languages it takes a box or the word for answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from int_ray.interventions import Refusal, prefix_text
from int_ray.leaks.claims import answer_key, claimed_values, key_of
from int_ray.ports import Grader
from int_ray.types import Completion, Intervention, Outcome, Problem

MAX_CANDIDATES = 8  # values of one step that the grader is asked about
MAX_VALUE_LENGTH = 100  # characters


async def refuse_leaks(
    interventions: Sequence[Intervention], grader: Grader
) -> tuple[list[Intervention], list[Refusal]]:
    """Those that do not give the final answer away, and refusals of the others."""
    verdicts = await asyncio.gather(
        *(leaks(item.attempt.problem, prefix_text(item), item.proposal.content, grader) for item in interventions)
    )
    judged = list(zip(interventions, verdicts, strict=True))
    refused = [Refusal(item.attempt, "leak", item.proposal, item.reply) for item, leaked in judged if leaked]
    return [item for item, leaked in judged if not leaked], refused


async def leaks(problem: Problem, prefix: str, content: str, grader: Grader) -> bool:
    """Whether a step that follows `prefix` gives the answer away. Equality is the grader's, in a killable process.

    A value that the grader cannot judge, for instance in time, is no leak.
    """
    claims = list(dict.fromkeys(claimed_values(problem, prefix, content)))
    if answer_key(problem) in map(key_of, claims):
        return True
    candidates = [value for value in claims if len(value) <= MAX_VALUE_LENGTH][:MAX_CANDIDATES]
    return bool(candidates) and Outcome.CORRECT in await grader.grade(problem, list(map(_boxed, candidates)))


def _boxed(value: str) -> Completion:
    """A response with this final answer, for the grader."""
    return Completion(np.array([], np.int32), np.array([], np.float32), f"\\boxed{{{value}}}", finished=True, seed=0)
