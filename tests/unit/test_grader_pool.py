"""Grading in killable processes, with the real math-verify."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from actors.grader_pool import GraderPool
from int_ray.data.problems import load_problems
from int_ray.data_config import ProblemsConfig
from int_ray.types import Outcome, Problem
from tests.factories import completion, problem

TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    pool = GraderPool("math", workers=2, timeout_s=TIMEOUT_S)
    yield pool
    pool.close()


def grade(pool: GraderPool, *answers: str, reference: str = "14") -> list[Outcome]:
    asked = Problem("p", "?", reference)
    return asyncio.run(pool.grade(asked, [completion(f"\\boxed{{{answer}}}") for answer in answers]))


def misbehave(problem: Problem, text: str) -> bool:
    """A user's reward function that does what the response says."""
    if text == "hang":
        time.sleep(600)
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if text == "eat":
        return bool(bytearray(6 * 2**30))  # over the limit, yet never touched: it would succeed without one
    if text == "half":
        return 0.5  # pyright: ignore[reportReturnType]
    if text == "raise":
        raise KeyError(problem.id)
    return text == problem.answer


def test_math_is_compared_as_mathematics_and_in_order(pool: GraderPool) -> None:
    correct, wrong = Outcome.CORRECT, Outcome.WRONG
    assert grade(pool, "28/2", "15", "14.0", "14", "15", "x=14") == [correct, wrong, correct, correct, wrong, correct]


def test_what_needs_no_process_gets_its_own_outcome(pool: GraderPool) -> None:
    texts = [completion("14"), completion("\\boxed{14}", finished=False)]
    assert asyncio.run(pool.grade(problem(), texts)) == [Outcome.UNPARSABLE, Outcome.TRUNCATED]


def test_an_answer_that_never_ends_is_a_timeout_and_the_pool_survives(pool: GraderPool) -> None:
    started = time.monotonic()
    assert grade(pool, "9^{9^{9}}", "(10^9)!", "28/2") == [Outcome.TIMEOUT, Outcome.TIMEOUT, Outcome.CORRECT]
    assert grade(pool, "28/2", "16") == [Outcome.CORRECT, Outcome.WRONG]
    assert time.monotonic() - started < 2 * TIMEOUT_S + 20


def test_monstrous_answers_are_never_correct_and_come_back(pool: GraderPool) -> None:
    started = time.monotonic()
    monsters = ["(" * 5000 + "1" + ")" * 5000, "1" * 10**6, "1+" * 20_000 + "1"]
    assert Outcome.CORRECT not in grade(pool, *monsters)
    assert grade(pool, "28/2") == [Outcome.CORRECT]
    assert time.monotonic() - started < 3 * TIMEOUT_S + 15


def test_equal_answers_are_judged_once(pool: GraderPool) -> None:
    started = time.monotonic()
    assert grade(pool, *["9^{9^{9}}"] * 20) == [Outcome.TIMEOUT] * 20
    assert time.monotonic() - started < TIMEOUT_S + 10


def test_exact_needs_no_processes() -> None:
    pool = GraderPool("exact", workers=2, timeout_s=TIMEOUT_S)
    assert grade(pool, "14", "28/2") == [Outcome.CORRECT, Outcome.WRONG]
    assert pool._pool is None


def test_failures_of_a_users_function_are_outcomes() -> None:
    pool = GraderPool(misbehave, workers=2, timeout_s=TIMEOUT_S)
    texts = ["14", "15", "hang", "die", "eat", "half", "raise", "14"]
    outcomes = asyncio.run(pool.grade(problem(), [completion(text) for text in texts]))
    pool.close()
    failed = [Outcome.TIMEOUT, *[Outcome.ERROR] * 4]
    assert outcomes == [Outcome.CORRECT, Outcome.WRONG, *failed, Outcome.CORRECT]


def test_grading_ignores_an_interrupt_and_cut_off_responses_are_not_asked_about() -> None:
    pool = GraderPool(misbehave, workers=1, timeout_s=TIMEOUT_S)
    texts = [completion("interrupt"), completion("14", finished=False), completion("14")]
    assert asyncio.run(pool.grade(problem(), texts)) == [Outcome.WRONG, Outcome.TRUNCATED, Outcome.CORRECT]
    pool.close()


def test_a_process_that_dies_while_idle_is_replaced() -> None:
    pool = GraderPool(misbehave, workers=1, timeout_s=TIMEOUT_S)
    assert asyncio.run(pool.grade(problem(), [completion("14")])) == [Outcome.CORRECT]
    processes(pool)[0].kill()
    deadline = time.monotonic() + 20
    while asyncio.run(pool.grade(problem(), [completion("14")])) != [Outcome.CORRECT]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    pool.close()


def test_close_leaves_no_process_even_while_one_hangs() -> None:
    pool = GraderPool(misbehave, workers=2, timeout_s=60)

    async def give_up() -> None:
        await pool.grade(problem(), [completion("14")])
        await asyncio.wait_for(pool.grade(problem(), [completion("hang")]), 0.3)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    started, before = time.monotonic(), processes(pool)
    pool.close()
    assert before and not processes(pool)  # those that came for killed ones are gone, too
    assert not any(process.is_running() for process in before)
    assert time.monotonic() - started < 20  # to kill one takes pebble up to 3 s


def test_a_lambda_is_refused_with_one_clear_line() -> None:
    with pytest.raises(ValueError, match="importable module"):
        GraderPool(lambda problem, text: True, workers=1, timeout_s=TIMEOUT_S)


def processes(pool: GraderPool) -> list[psutil.Process]:
    """The grading processes of this pool; the module's may be starting others."""
    assert pool._pool is not None
    return [psutil.Process(pid) for pid in list(pool._pool._pool_manager.worker_manager.workers)]


def test_a_generated_task_judges_with_its_own_scorer() -> None:
    config = ProblemsConfig.model_validate({"train": {"path": "reasoning_gym:gcd", "options": {"size": 2}}})
    asked = load_problems(config.train, config).problems[1]
    pool = GraderPool("reasoning_gym", workers=1, timeout_s=TIMEOUT_S)
    texts = [completion(f"\\boxed{{{answer}}}") for answer in (asked.answer, f" {asked.answer} ", "x" + asked.answer)]
    outcomes = asyncio.run(pool.grade(asked, [*texts, completion(asked.answer)]))
    stray = asyncio.run(pool.grade(Problem("p", "?", "14"), [completion("\\boxed{15}")]))
    pool.close()
    assert outcomes == [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSABLE]
    assert stray == [Outcome.ERROR]
