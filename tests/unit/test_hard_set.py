"""Hard sets: when sampling stops, what counts as hard, what the oracle is asked, and what is written."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.hard_set import HardSetSelector
from int_ray.config_file import load_config
from int_ray.errors import Resumable
from int_ray.evaluation import Tally
from int_ray.hard_set import HardSet, Verdict, describe, split, verdict_of, wave_sizes
from int_ray.oracle_config import OracleConfig
from int_ray.oracles.answer_cache import AnswerCache
from int_ray.oracles.chat import Answer, ChatRequest, Fault, FaultName
from int_ray.oracles.paid_chat import PaidChat
from int_ray.oracles.solver import Solver
from int_ray.oracles.spending import Ledger
from int_ray.ports import Rollouts
from int_ray.result_folder import ResultFolder
from int_ray.types import Problem, Purpose, RolloutGroup
from tests.factories import group, problem
from tests.fakes import FakeGrader, FakeProgress

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
# Problem id -> outcomes of its rollouts in order, repeated for ever.
POOL = {"p0": "c", "p1": "wwc" + "w" * 29, "p2": "w" * 31 + "c", "p3": "w", "p4": "t", "p5": "wwwwwx", "p6": "uw"}


@dataclass
class Script:
    """Rollouts as the pool says; they break after so many waves."""

    breaks_after: int = 1000
    waves: list[tuple[str, int]] = field(default_factory=list)  # problem id, rollouts
    served: int = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Rollouts]:
        self.served += 1
        yield self  # pyright: ignore[reportReturnType]

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        (one,) = problems
        assert purpose is Purpose.SELECT and wave_sizes(32)[round_] == n
        if len(self.waves) == self.breaks_after:
            raise RuntimeError("the engines broke")
        self.waves.append((one.id, n))
        await asyncio.sleep(0)
        start = sum(wave_sizes(32)[:round_])
        letters = "".join(itertools.islice(itertools.cycle(POOL[one.id]), start, start + n))
        return [group(letters, index=int(one.id[1:]))]


def select(
    folder: Path, script: Script, solver: Solver | None = None, *overrides: str
) -> tuple[HardSet, list[str], list[str], FakeProgress]:
    config = load_config(QUICKSTART, ["hard_set.test=1", *overrides])
    opened, progress = ResultFolder(folder), FakeProgress()
    problems = [problem(index) for index in range(len(POOL))]
    selector = HardSetSelector(config, problems, opened, progress, script.serve, FakeGrader(), solver)
    try:
        hard_set, train, test = asyncio.run(selector.run())
    finally:
        opened.close()
    return hard_set, [item.id for item in train], [item.id for item in test], progress


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (2, [1, 1]), (4, [1, 3]), (32, [1, 3, 4, 8, 16]), (20, [1, 3, 4, 8, 4])]
)
def test_waves(n: int, sizes: list[int]):
    assert wave_sizes(n) == sizes


@given(st.integers(1, 500))
def test_waves_add_up_and_never_shrink_before_the_last(n: int):
    sizes = wave_sizes(n)
    assert sum(sizes) == n and all(size > 0 for size in sizes)
    assert sizes[:-1] == sorted(sizes[:-1])


@given(st.integers(0, 60), st.integers(0, 40), st.integers(0, 5))
def test_a_split_loses_nothing_and_leaves_half_for_training(size: int, test: int, seed: int):
    train, held_out = split(list(range(size)), test, seed)
    assert sorted(train + held_out) == list(range(size))
    assert len(held_out) == min(test, size // 2)
    assert train == sorted(train) and held_out == sorted(held_out)
    assert (train, held_out) == split(list(range(size)), test, seed)


def test_solved_problems_stop_and_hard_ones_get_every_wave(tmp_path: Path):
    script = Script()
    hard_set, train, test, progress = select(tmp_path, script)
    sampled = Counter()
    for problem_id, n in script.waves:
        sampled[problem_id] += n
    assert sampled == {"p0": 1, "p1": 4, "p2": 32, "p3": 32, "p4": 32, "p5": 32, "p6": 32}
    assert sorted(train + test) == ["p3", "p4", "p6"] and len(test) == 1
    assert hard_set.verdicts == {Verdict.SOLVED: 3, Verdict.HARD: 3, Verdict.UNDETERMINED: 1}
    assert hard_set.solved_within == {1: 1, 4: 2, 8: 2, 16: 2, 32: 3}
    assert (hard_set.rollouts, hard_set.rollouts_without_stop) == (165, 7 * 32)
    assert hard_set.truncated == pytest.approx(32 / 165)
    assert progress.done + len(script.waves) == 7 * 5  # the real pool counts each group


@pytest.mark.parametrize("waves", [0, 1, 9, 20])
def test_a_selection_that_broke_goes_on_where_it_stood(tmp_path: Path, waves: int):
    whole = Script()
    expected = select(tmp_path / "whole", whole)[:3]
    broken, rest = Script(breaks_after=waves), Script()
    with pytest.raises(RuntimeError, match="the engines broke"):
        select(tmp_path / "broken", broken)
    assert select(tmp_path / "broken", rest)[:3] == expected
    assert Counter(broken.waves + rest.waves) == Counter(whole.waves)


def test_a_torn_line_costs_one_wave(tmp_path: Path):
    expected = select(tmp_path, Script())[:3]
    path = tmp_path / "rollouts.jsonl"
    path.write_text(path.read_text()[:-30])
    again = Script()
    *found, progress = select(tmp_path, again)
    assert tuple(found) == expected and len(again.waves) == 1
    assert any("1 line cut off by a crash" in line for line in progress.story)


def test_a_finished_selection_starts_no_engine(tmp_path: Path):
    select(tmp_path, Script())
    again = Script()
    select(tmp_path, again)
    assert again.served == 0


def test_verdicts():
    hopeless, open_, lucky = Tally(0, 0, 0, (5,)), Tally(0, 1, 0, (5,)), Tally(1, 1, 0, (5,))
    assert [verdict_of(waves) for waves in ([hopeless], [hopeless, open_], [open_, lucky])] == [
        Verdict.HARD,
        Verdict.UNDETERMINED,
        Verdict.SOLVED,
    ]


def test_nothing_sampled_has_statistics():
    assert describe([], 32, 0, 0, None).rows()[0] == ("problems", "0")


class Teacher:
    """Gives its answers in turn, the last one from then on."""

    name, cacheable = "teacher", True
    settings: Mapping[str, Any] = {}

    def __init__(self, answers: Sequence[Answer | Fault]):
        self.answers = answers
        self.asked: list[str] = []

    async def check(self) -> Fault | None:
        return None

    async def ask(self, request: ChatRequest) -> Answer | Fault:
        self.asked.append(request.messages[0].content)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]

    async def close(self) -> None:
        return None


RIGHT, WRONG = Answer("So it is \\boxed{14}.", 10, 20), Answer("\\boxed{15}", 10, 20)


def solver_of(folder: Path, *answers: Answer | Fault) -> tuple[Solver, Teacher]:
    """A solver that hears these answers, in the order in which it asks."""
    folder.mkdir(exist_ok=True)
    config = OracleConfig.model_validate({"limits": {"tries": 1}, "concurrency": 1})
    teacher = Teacher(answers)
    ledger = Ledger(folder / "oracle_calls.jsonl", config.budget, config.prices)
    return Solver(PaidChat("openai", teacher, 100, config, ledger, AnswerCache(folder / "answers.jsonl"))), teacher


def test_only_what_the_oracle_solves_is_kept(tmp_path: Path):
    solver, teacher = solver_of(tmp_path, RIGHT, WRONG, Fault("blocked", output_tokens=1))
    hard_set, train, test, _ = select(tmp_path, Script(), solver)
    assert train + test == ["p3"]
    assert hard_set.oracle == {"answer correct": 1, "answer wrong": 1, "blocked": 1}
    assert all("12+5-3=?" in text and "17" not in text for text in teacher.asked)  # no reference solution


def test_an_empty_answer_that_was_billed_is_an_answer(tmp_path: Path):
    solver, _ = solver_of(tmp_path, Fault("empty", output_tokens=9), RIGHT, RIGHT)
    hard_set, train, test, _ = select(tmp_path, Script(), solver)
    assert sorted(train + test) == ["p4", "p6"] and hard_set.oracle == {"answer correct": 2, "empty": 1}
    again, more = solver_of(tmp_path)
    assert select(tmp_path, Script(), again)[:3] == (hard_set, train, test) and not more.asked


@pytest.mark.parametrize("name", ["forbidden", "unknown_model", "empty", "timeout"])
def test_what_may_be_answered_later_does_not_count_against_a_problem(tmp_path: Path, name: FaultName):
    solver, _ = solver_of(tmp_path, RIGHT, Fault(name))
    with pytest.raises(Resumable, match=name):
        select(tmp_path, Script(), solver)


def test_an_outage_can_be_resumed_and_no_answer_is_paid_twice(tmp_path: Path):
    solver, teacher = solver_of(tmp_path, RIGHT, Fault("no_credit"))
    with pytest.raises(Resumable, match="no_credit"):
        select(tmp_path, Script(), solver)
    assert len(teacher.asked) >= 2
    again, more = solver_of(tmp_path, WRONG)
    script = Script()
    hard_set, train, _, _ = select(tmp_path, script, again)
    assert script.served == 0 and len(more.asked) == 2
    assert train == ["p3"] and hard_set.oracle == {"answer correct": 1, "answer wrong": 2}
