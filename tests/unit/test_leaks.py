"""The leak guard against labelled steps, with the real math grader."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.grader_pool import GraderPool
from int_ray.interventions import Splicer
from int_ray.leaks import leaks, refuse_leaks
from int_ray.leaks.claims import claimed_values
from int_ray.leaks.statements import clauses, plain
from int_ray.ports import Grader
from int_ray.types import Completion, OracleReply, Outcome, Problem, Proposal
from tests.factories import attempt
from tests.fakes import FakeGrader

CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data" / "leaks.jsonl").read_text("utf-8").splitlines()
]


class StuckGrader:
    """Has no time for anything."""

    async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
        return [Outcome.TIMEOUT for _ in completions]


class CountingGrader(FakeGrader):
    asked = 0

    async def grade(self, problem: Problem, completions: Sequence[Completion]) -> list[Outcome]:
        self.asked += len(completions)
        return await super().grade(problem, completions)


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    pool = GraderPool("math", workers=1, timeout_s=10.0)
    yield pool
    pool.close()


def verdict(answer: str, content: str, grader: Grader, question: str = "What is it?", prefix: str = "") -> bool:
    return asyncio.run(leaks(Problem("p", question, answer), prefix, content, grader))


def test_precision_and_recall_on_the_labelled_steps(pool: GraderPool) -> None:
    async def judge() -> list[bool]:
        problems = [Problem("p", case["question"], case["answer"]) for case in CASES]
        pairs = zip(problems, CASES, strict=True)
        return await asyncio.gather(*(leaks(problem, case["prefix"], case["step"], pool) for problem, case in pairs))

    verdicts = asyncio.run(judge())
    for holdout in (False, True):
        judged = [(case, said) for case, said in zip(CASES, verdicts, strict=True) if case["holdout"] == holdout]
        caught = sum(case["leak"] and said for case, said in judged)
        missed = sum(case["leak"] and not said for case, said in judged)
        wronged = sum(said and not case["leak"] for case, said in judged)
        passed = len(judged) - caught - missed - wronged
        precision, recall = caught / (caught + wronged), caught / (caught + missed)
        print(
            f"holdout {holdout}: caught {caught}, missed {missed}, wrongly refused {wronged}, passed {passed};", end=" "
        )
        print(f"precision {precision:.3f}, recall {recall:.3f}")
        wrong = [(case["step"], case["why"]) for case, said in judged if case["leak"] != said]
        assert min(precision, recall) >= 0.95, wrong


@pytest.mark.parametrize(
    ("question", "answer", "restated", "calculated"),
    [
        ("Compute $2023^2-2022^2$.", "4045", "So $2023^2-2022^2=4045$.", "$(2023-2022)(2023+2022)=4045$"),
        ("Evaluate $\\sqrt{12+\\sqrt{16}}$.", "4", "Hence $\\sqrt{12+\\sqrt{16}} = 4$.", "$\\sqrt{12+4} = 4$"),
        (
            "Find the remainder when $3^{100}$ is divided by $7$.",
            "4",
            "So $3^{100} \\equiv 4 \\pmod 7$.",
            "$3^{100} \\equiv 3^4 = 81 \\equiv 4 \\pmod 7$",
        ),
        ("12+5-3=?", "14", "12+5-3=14", "17-3=14"),
    ],
)
def test_a_calculation_of_the_question_is_none_of_the_step(
    question: str, answer: str, restated: str, calculated: str, pool: GraderPool
) -> None:
    assert verdict(answer, restated, pool, question)
    assert not verdict(answer, calculated, pool, question)


def test_a_question_of_one_calculation_can_be_corrected(pool: GraderPool) -> None:
    assert not verdict("17", "12+5=17", pool, "12+5=?")


def test_the_labelled_steps_are_many_and_varied() -> None:
    assert len(CASES) >= 140
    assert len({(case["question"], case["answer"], case["prefix"], case["step"]) for case in CASES}) == len(CASES)
    assert min(sum(case["leak"] for case in CASES), sum(not case["leak"] for case in CASES)) >= 50
    assert sum(case["answer"] in ("0", "1", "2") for case in CASES) >= 20


@pytest.mark.parametrize(
    "content", ["the answer is 1/2", "so we get 50%", "hence 0.5", "it is \\frac{9}{18}", "one half"]
)
def test_equality_is_the_graders(content: str, pool: GraderPool) -> None:
    assert verdict("\\frac12", content, pool)
    assert not verdict("\\frac13", content, pool)


def test_without_a_verdict_the_wording_decides() -> None:
    assert verdict("14", "so the answer is 14", StuckGrader())
    assert not verdict("14", "so the answer is 28/2", StuckGrader())


def test_the_grader_is_asked_about_few_values() -> None:
    grader = CountingGrader()
    assert not verdict("7", ". ".join(f"the answer is {number}" for number in range(100, 200)), grader)
    assert grader.asked == 8


def test_steps_without_a_claim_take_no_grader() -> None:
    grader = CountingGrader()
    assert not verdict("44", "53-9=44", grader)
    assert not verdict("2", "Now I divide both sides by 2", grader)
    assert grader.asked == 0


def test_leaks_are_refused_by_name() -> None:
    replies = [OracleReply((Proposal(1, "12+5=17"), Proposal(2, "the answer is 14")))]
    splicer = Splicer(lambda text: list(map(ord, text)), "\n\n", 100, 100)
    interventions, _ = splicer.splice([attempt("12+5=18\n\n", "18-3=15\n\n")], replies)
    valid, refused = asyncio.run(refuse_leaks(interventions, FakeGrader()))
    assert valid == interventions[:1]
    assert [(item.reason, item.proposal) for item in refused] == [("leak", interventions[1].proposal)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$\\dfrac{1}{2} + 3$", "1/2+3"),
        ("forty-two", "42"),
        ("two thirds of 1,024", "2/3 of 1024"),
        ("minus three", "-3"),
        ("$x \\in [-2, 8]$", "x\\in[-2,8]"),
        ("1, 2 and 3", "1,2,3"),
        ("10{,}000 or rather 50 percent", "10000 or rather 50%"),
        ("$90^\\circ$", "90"),
        ("5\u00b2 \u00d7 2", "5^2\\times2"),
    ],
)
def test_one_notation(text: str, expected: str) -> None:
    assert plain(text).strip() == expected


def test_clauses_remember_what_their_sentence_began_with() -> None:
    first, second = clauses("So $a = 2$, and b is 3.")
    assert first.tokens == ("so", "a=2") and first.before == ()
    assert second.tokens == ("and", "b", "is", "3") and second.before == first.tokens
    assert first.terms[1].value == "2" and first.terms[1].sides == ("a",)


@pytest.mark.parametrize(
    "content",
    [
        "answer" + " " * 5000 + "answer: " * 250 + "$*" * 2000,
        "one " * 250,
        "1, " * 250,
        "1" * 5000,
        "(" * 2000 + ")" * 2000,
        "\\frac{" * 250,
        "\\sqrt{2}" * 250,
        "a-" * 2000,
        "1 2 " * 125,
        "=" * 5000,
    ],
    ids=lambda content: content[:8],
)
def test_hostile_content_takes_no_time(content: str) -> None:
    started = time.process_time()
    list(claimed_values(Problem("p", "What is the area?", "x+1=y+1024"), "", content))
    assert time.process_time() - started < 5.0
