r"""The leak guard: a proposed step must not give the final answer away.

A step leaks if it tells the student the answer. It does so if it

- states a value equal to the answer as the answer, in a box, in words or in any notation (`the answer is one half`);
- restates what the question asks for with that value filled in (`so there are 48 ways`, `$a+b=5$`), announces the value
  (`we get 48`) or is nothing else (`= 48`), without the calculation that the value comes from;
- holds an answer that no step has by chance, such as a polynomial, new to the question and to the steps before, and
  not the result of a calculation in the step.

It does not leak where the value is one number among others (`divide by 2`), where a calculation in the step comes to it
(`53-9=44`: the last calculation may be the one to correct), where it has still to be worked out (`there are $2^{10}$`),
or where it is denied, supposed or asked for (`suppose the answer were 48`).

What is restated is understood in English only; in other languages it takes a box or the word for answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from int_ray.interventions import Refusal, prefix_text
from int_ray.leak_words import ANNOUNCE, ANSWER, ARITHMETIC, DENIED, EMPTY, MULTIPLIED, SUPPOSED, Request, stem
from int_ray.ports import Grader
from int_ray.rewards import final_answer
from int_ray.statements import Clause, clauses, is_calculation, plain
from int_ray.types import Completion, Intervention, Outcome, Problem

MAX_CANDIDATES = 8  # values of one step that the grader is asked about
MAX_VALUE_LENGTH = 100  # characters
DISTINCTIVE_LENGTH = 4  # symbols from which an answer is not met by chance


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
    if _answer_key(problem) in map(_key, claims):
        return True
    candidates = [value for value in claims if len(value) <= MAX_VALUE_LENGTH][:MAX_CANDIDATES]
    return bool(candidates) and Outcome.CORRECT in await grader.grade(problem, list(map(_boxed, candidates)))


def claimed_values(problem: Problem, prefix: str, content: str) -> Iterator[str]:
    """The values that a step gives as the final answer, right or wrong, as far as its wording tells."""
    boxed = final_answer(content)
    if boxed is not None:
        yield plain(boxed)
    request, answer = Request.of(problem.question), _answer_key(problem)
    calculated: set[str] = set()  # values that a calculation in the step has come to
    for clause in clauses(content):
        calculated.update(_calculated(clause, request))
        if clause.is_question:
            continue
        if answer not in calculated and _holds_distinctive_answer(clause, problem, prefix):
            yield answer
        for index, term in enumerate(clause.terms):
            if _is_claimed(clause, index, request, answer, calculated):
                yield term.value


def _calculated(clause: Clause, request: Request) -> Iterator[str]:
    """The values of equations whose other sides are operations on numbers, and not what the question asks for."""
    for term in clause.terms:
        if any(is_calculation(side) and side not in request.formulas for side in term.sides):
            yield _key(term.value)


def _is_claimed(clause: Clause, index: int, request: Request, answer: str, calculated: Collection[str]) -> bool:
    """Whether the value of one term is given as the final answer."""
    term = clause.terms[index]
    key = _key(term.value)
    if not (key == answer or re.search(r"[\d\\]", key)) or _is_denied_or_supposed(clause, index):
        return False
    if _is_called_answer(clause, index):
        return True
    if key in calculated or not (key == answer or term.is_worked_out):
        return False
    return _is_restated(clause, index, request) or _is_announced(clause, index, request)


def _is_called_answer(clause: Clause, index: int) -> bool:
    """`the answer is V` or `V is the answer`, with a few words between at most; not `the answer is V times ...`."""
    if index + 1 < len(clause.tokens) and MULTIPLIED.fullmatch(clause.tokens[index + 1]):
        return False
    around = (*clause.tokens[max(0, index - 6) : index], *clause.tokens[index + 1 : index + 5])
    return any(map(ANSWER.fullmatch, around))


def _is_restated(clause: Clause, index: int, request: Request) -> bool:
    """The clause says what was asked for, with the value filled in, and nothing that is not in the question."""
    start = 1 + max((place for place, token in enumerate(clause.tokens[:index]) if token in ANNOUNCE), default=-1)
    if re.search(r"[\d\\]", "".join(clause.tokens[:start])):
        start = 0  # words only say where the value comes from, as in `Legendre's formula gives n=18`
    others = (*clause.tokens[start:index], *clause.tokens[index + 1 :])
    said = {stem(token) for token in others if token not in EMPTY}
    names_it = said & request.words or request.formulas.intersection(clause.terms[index].sides)
    return bool(names_it) and said <= request.words | request.context


def _is_announced(clause: Clause, index: int, request: Request) -> bool:
    """The clause says nothing but the value, and nothing before it in the sentence leads there."""
    others = {*clause.tokens[:index], *clause.tokens[index + 1 :]}
    if not others <= EMPTY or (clause.terms[index].sides and request.formulas):
        return False
    numbers = [token for token in clause.before if re.search(r"\d", token)]
    has_arithmetic = len(numbers) > 1 and any(map(ARITHMETIC.fullmatch, clause.before))
    return not has_arithmetic and not any("=" in token for token in clause.before)


def _is_denied_or_supposed(clause: Clause, index: int) -> bool:
    """By a word before the value; for a denial, since the last number."""
    before = clause.tokens[:index]
    last = max((place for place, token in enumerate(before) if re.search(r"\d", token)), default=-1)
    return any(map(SUPPOSED.fullmatch, before)) or any(map(DENIED.fullmatch, before[last + 1 :]))


def _holds_distinctive_answer(clause: Clause, problem: Problem, prefix: str) -> bool:
    """An answer that cannot be there by chance, and that nothing before had."""
    answer = plain(problem.answer).strip().lower()
    if len(re.findall(r"\\[a-z]+|\w|[-+*/^]", answer)) < DISTINCTIVE_LENGTH:
        return False
    if _is_denied_or_supposed(clause, len(clause.tokens)) or not _holds(" ".join(clause.tokens), answer):
        return False
    return not _holds(plain(f"{problem.question}\n{prefix}").lower(), answer)


def _holds(text: str, answer: str) -> bool:
    """Whether the answer is in a text, and no part of a longer word or number."""
    before = r"(?<![\w.])" if answer[:1].isalnum() else ""
    after = r"(?!\w|\.\d)" if answer[-1:].isalnum() else ""
    return re.search(before + re.escape(answer) + after, text) is not None


def _answer_key(problem: Problem) -> str:
    return _key("".join(plain(problem.answer).split()))


def _key(value: str) -> str:
    """For comparing values as text: `(B)` and `b` are the same choice."""
    return re.sub(r"^\((\w)\)$", r"\1", value.strip(".").lower())


def _boxed(value: str) -> Completion:
    """A response with this final answer, for the grader."""
    return Completion(np.array([], np.int32), np.array([], np.float32), f"\\boxed{{{value}}}", finished=True, seed=0)
