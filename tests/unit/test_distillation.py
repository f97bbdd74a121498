"""Whole solutions by the oracle, and what is cloned of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.run_folder import RunFolder
from int_ray.chains.tokenizer import END, build_tokenizer
from int_ray.chains.worked_out import worked_out
from int_ray.chains.world import OPERANDS, Chain
from int_ray.config_file import ConfigError, load_config
from int_ray.data.problems import LoadedProblems
from int_ray.distillation_round import DistillationResult, DistillationRound
from int_ray.oracle_checks import oracle_mistakes
from int_ray.oracle_config import OracleConfig
from int_ray.oracles import CHECKERS
from int_ray.oracles.answer_cache import AnswerCache
from int_ray.oracles.chat import Answer
from int_ray.oracles.exact import ExactOracle
from int_ray.oracles.paid_chat import PaidChat
from int_ray.oracles.solver import Solver
from int_ray.oracles.spending import Ledger
from int_ray.oracles.teacher import CheckerTeacher, ModelTeacher, SolvingChecker, Written
from int_ray.prompts import encode_text
from int_ray.rewards import final_answer
from int_ray.training_config import PatchConfig
from int_ray.types import Problem, Source
from tests.factories import group
from tests.fake_chat import FakeModel
from tests.fakes import FakeGrader, FakeProgress

CHAINS = st.builds(Chain, st.integers(0, 99), st.lists(st.sampled_from(OPERANDS), min_size=1, max_size=6).map(tuple))


def test_a_worked_out_solution():
    assert worked_out("47+6-9=?") == "40+7+6=40+13=53\n50+3-9=50-6=44\n\\boxed{44}"
    assert worked_out("92+9-4=?") == "90+2+9=90+11=101=1\n0+1-4=0-3=-3=97\n\\boxed{97}"
    assert worked_out("What is 2+2?") is None


@given(CHAINS)
def test_it_has_the_right_answer_in_a_layout_of_its_own(chain: Chain):
    text = worked_out(chain.question)
    problem = chain.problem("p")
    assert text is not None and final_answer(text) == problem.answer
    assert "\n\n" not in text and len(text) > len(problem.solution)
    for line in text.splitlines()[:-1]:
        first, *others = line.split("=")
        tens, units, operand = first.replace("-", "+-").split("+")
        total = int(tens) + int(units) + int(operand)
        assert int(others[1]) == total and int(others[-1]) == total % 100


class Scripted:
    """A teacher that knows some solutions."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known = known

    async def solve(self, problem: Problem) -> Written:
        text = self.known.get(problem.id)
        return Written(text, source=Source("own")) if text else Written(failure="unreachable")


def distil(known: Mapping[str, str], count: int, max_tokens: int = 100) -> DistillationResult:
    """Of the problems p0, p1 and so on, whose answer is 14; token ids are code points, the end token is 1."""
    round_ = DistillationRound(
        Scripted(known), FakeGrader(), FakeProgress(), lambda text: list(map(ord, text)), 1, max_tokens
    )
    return asyncio.run(round_.run([group("ww", index=index) for index in range(count)], 1))


def test_right_solutions_are_cloned_whole_and_others_refused_by_name():
    known = {"p0": "so \\boxed{14}", "p1": "so \\boxed{15}", "p2": "no box", "p4": "x" * 99 + "\\boxed{14}"}
    result = distil(known, 5)
    assert [item.refusal for item in result.solutions] == [None, "wrong", "unparsable", "unreachable", "too_long"]
    (sample,) = result.samples(PatchConfig())
    text = "so \\boxed{14}"
    assert sample.token_ids.tolist() == [3, 4, *map(ord, text), 1]
    assert sample.loss_mask.tolist() == [0, 0, *[1] * len(text), 1]  # all of it, the end token included
    assert result.metrics() == {
        "intervention/problems": 5,
        "intervention/attempts": 5,
        "intervention/tested": 4,
        "intervention/kept": 1,
        "intervention/refused": 4,
    }
    assert result.outage is None  # some were answered
    assert "1 right solutions" in result.story() and "1 too_long" in result.story()


class Moody:
    """A user's own solver, which does something else with each problem; p0 hangs until another one was asked."""

    def __init__(self) -> None:
        self.goes_on = Event()

    def solve(self, problem: Problem) -> str | None:
        if problem.id == "p0":
            assert self.goes_on.wait(60)
        self.goes_on.set()
        if problem.id == "p1":
            raise ValueError("secret")
        return None if problem.id == "p2" else "so \\boxed{14}"


def taught(solver: SolvingChecker, count: int, deadline_s: float) -> DistillationResult:
    teacher = CheckerTeacher("own", solver, OracleConfig(deadline_s=deadline_s))
    round_ = DistillationRound(teacher, FakeGrader(), FakeProgress(), lambda text: list(map(ord, text)), 1, 100)
    return asyncio.run(round_.run([group("ww", index=index) for index in range(count)], 1))


def test_a_users_own_solver_fails_by_name_and_one_problem_holds_no_other_up():
    result = taught(Moody(), 4, 300)
    assert [item.refusal for item in result.solutions] == [None, "error: ValueError", "no_solution", None]
    assert all(item.written.source == Source("own") for item in result.solutions)


def test_a_users_own_solver_that_hangs_has_a_deadline():
    moody = Moody()
    result = taught(moody, 1, 0.2)
    moody.goes_on.set()
    assert [item.refusal for item in result.solutions] == ["timeout"] and result.outage == "timeout"


def test_a_failure_of_the_round_leaves_no_question_running():
    ended: list[str] = []

    class Broken:
        async def solve(self, problem: Problem) -> Written:
            if problem.id == "p1":
                raise RuntimeError("a mistake")
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(problem.id)
            return Written()

    async def both() -> None:
        round_ = DistillationRound(Broken(), FakeGrader(), FakeProgress(), lambda text: [], 1, 100)
        with pytest.raises(RuntimeError, match="a mistake"):
            await round_.run([group("ww", index=index) for index in range(2)], 1)
        await asyncio.sleep(0)
        assert ended == ["p0"]

    asyncio.run(both())


def test_an_oracle_that_nobody_reaches_is_an_outage():
    result = distil({}, 2)
    assert result.outage == "unreachable" and not result.kept


def test_every_solution_is_written_down(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.round(3, distil({"p0": "so \\boxed{14}"}, 2))
    lines = (tmp_path / "solutions" / "iteration_000003.jsonl").read_text().splitlines()
    right, missing = map(json.loads, lines)
    assert (right["kept"], right["outcome"], right["num_tokens"]) == (True, "correct", 14)
    assert right["source"]["oracle"] == "own" and right["text"] == "so \\boxed{14}"
    assert (missing["kept"], missing["reason"], missing["num_tokens"]) == (False, "unreachable", 0)


def test_the_chains_oracle_teaches_in_tokens_of_the_policy():
    tokenizer = build_tokenizer()
    end_id = tokenizer.convert_tokens_to_ids(END)
    assert isinstance(end_id, int)
    teacher = CheckerTeacher("exact", ExactOracle(), OracleConfig())
    round_ = DistillationRound(
        teacher, FakeGrader(), FakeProgress(), lambda text: encode_text(tokenizer, text), end_id, 128
    )
    (solution,) = asyncio.run(round_.run([group("ww")], 1)).solutions
    assert solution.refusal is None and solution.written.source == Source("exact")
    assert tokenizer.decode(solution.token_ids.tolist()) == "10+2+5=10+7=17\n10+7-3=10+4=14\n\\boxed{14}" + END


def test_a_model_is_asked_once_per_problem_and_the_bill_is_kept(tmp_path: Path):
    chat = FakeModel([Answer("It is \\boxed{14}", 30, 7)], takes_s=0.0)
    config = OracleConfig()
    ledger, cache = Ledger(tmp_path / "calls", config.budget, config.prices), AnswerCache(tmp_path / "answers")
    teacher = ModelTeacher("gemini", Solver(PaidChat("gemini", chat, 100, config, ledger, cache)))
    problem = Problem("p0", "12+5-3=?", "14")
    first, second = (asyncio.run(teacher.solve(problem)) for _ in range(2))
    assert first.text == second.text == "It is \\boxed{14}" and len(chat.requests) == 1
    assert first.source is not None and second.source is not None
    assert (first.source.input_tokens, first.source.output_tokens, first.source.cached) == (30, 7, False)
    assert second.source.cached and second.source.prompt == "solve-1"


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        ("oracle.kind=policy", "patch.clone: oracle.kind = policy writes no whole solutions; choose one of exact"),
        ("oracle.fallback=[monte_carlo]", "oracle.fallback: has no effect with patch.clone = solutions"),
        ("patch.interventions=some.jsonl", "patch.interventions: has no effect with patch.clone = solutions"),
    ],
)
def test_settings_that_do_not_fit(override: str, mistake: str):
    with pytest.raises(ConfigError) as error:
        load_config("configs/quickstart.yaml", ["patch.clone=solutions", override])
    assert error.value.problems[0].startswith(mistake)
    load_config("configs/quickstart.yaml", ["patch.clone=solutions", override, "schedule=never"])  # it is not asked


def test_a_checker_that_only_finds_errors(monkeypatch: pytest.MonkeyPatch):
    class Finder:
        def propose(self, attempt: object) -> object: ...

    monkeypatch.setitem(CHECKERS, "finder", Finder)  # pyright: ignore[reportArgumentType]
    config = load_config("configs/quickstart.yaml", ["patch.clone=solutions", "oracle.checker=finder"])
    (mistake,) = oracle_mistakes(config, LoadedProblems(()))
    assert mistake == "patch.clone: solutions: the checker 'finder' has no `solve(problem)` and writes none"


def test_no_sample_trains_the_prompt():
    (sample,) = distil({"p0": "\\boxed{14}"}, 1).samples(PatchConfig())
    assert not sample.loss_mask[:2].any() and sample.loss_mask[2:].all()
    assert sample.token_ids.dtype == np.int32
