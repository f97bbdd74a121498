"""Evaluations that end early and go on: nothing is sampled twice, and the results are those of one without a break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from actors.evaluator import Evaluator
from int_ray.config_file import load_config
from int_ray.evaluation_results import Results, read_results
from int_ray.ports import Rollouts
from int_ray.result_folder import ResultFolder
from int_ray.types import Problem, Purpose, RolloutGroup
from tests.factories import problem
from tests.fakes import FakePolicy, FakeProgress, FakeRollouts

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SETS = {"hard": [problem(0), problem(1)], "easy": [problem(2), problem(3), problem(4)]}
SKILLS = {
    "a": {"p0": 0.25, "p2": 1.0, "p3": 1.0, "p4": 0.5},
    "b": {"p0": 0.5, "p1": 0.5, "p2": 1.0, "p3": 0.0, "p4": 1.0},
}


@dataclass
class Engines:
    """Fake rollouts for every checkpoint; they break after so many groups."""

    breaks_after: int = 1000
    served: list[str] = field(default_factory=list)
    sampled: list[tuple[str, str]] = field(default_factory=list)  # checkpoint, problem id

    @asynccontextmanager
    async def serve(self, path: str) -> AsyncIterator[Rollouts]:
        self.served.append(path)
        rollouts = FakeRollouts(FakePolicy(SKILLS[path]))
        engines = self

        class Breaking(FakeRollouts):
            async def sample(
                self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int
            ) -> list[RolloutGroup]:
                assert (purpose, round_, n) == (Purpose.EVALUATE, 0, 4)
                if len(engines.sampled) == engines.breaks_after:
                    raise RuntimeError("the engines broke")
                engines.sampled += [(path, item.id) for item in problems]
                return await rollouts.sample(problems, n, purpose, round_)

        yield Breaking(rollouts.policy)


def evaluate(
    folder: Path, engines: Engines, *overrides: str, sets: dict[str, list[Problem]] = SETS
) -> tuple[Results, list[str]]:
    """Results and the story of one process."""
    paths = "evaluate.checkpoints={first: a, second: b}"
    config = load_config(QUICKSTART, ["evaluate.n=4", "evaluate.k=[1, 4]", paths, *overrides])
    opened, progress = ResultFolder(folder), FakeProgress()
    try:
        return asyncio.run(Evaluator(config, sets, opened, progress, engines.serve).run()), progress.story
    finally:
        opened.close()


def test_every_checkpoint_is_scored_on_every_set(tmp_path: Path):
    engines = Engines()
    results, _ = evaluate(tmp_path, engines)
    assert engines.served == ["a", "b"] and len(engines.sampled) == 10
    first, second = (results.checkpoints[name] for name in ("first", "second"))
    assert first.sets["hard"].pass_at[1].mean == 0.125 and first.sets["hard"].pass_at[4].mean == 0.5
    assert second.sets["easy"].pass_at[1].mean == pytest.approx(2 / 3)
    assert second.average[4].mean == pytest.approx((1 + 2 / 3) / 2)
    assert read_results(tmp_path / "results.json") == results
    assert "| easy | second | 3 | 0.667" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("groups", [0, 3, 7])
def test_an_evaluation_that_broke_goes_on_where_it_stood(tmp_path: Path, groups: int):
    whole, _ = evaluate(tmp_path / "whole", Engines())
    broken = Engines(breaks_after=groups)
    with pytest.raises(RuntimeError, match="the engines broke"):
        evaluate(tmp_path / "broken", broken)
    rest = Engines()
    assert evaluate(tmp_path / "broken", rest)[0] == whole
    assert len(broken.sampled) == groups
    assert not set(broken.sampled) & set(rest.sampled) and len(broken.sampled) + len(rest.sampled) == 10


def test_nothing_is_served_for_a_finished_checkpoint(tmp_path: Path):
    whole, _ = evaluate(tmp_path, Engines())
    again = Engines()
    results, story = evaluate(tmp_path, again)
    assert (results, again.served) == (whole, []) and "first: 5 of 5 problems are finished already" in story


def test_a_checkpoint_that_is_added_is_evaluated_alone(tmp_path: Path):
    evaluate(tmp_path, Engines(), "evaluate.checkpoints={first: a}")
    added = Engines()
    results, _ = evaluate(tmp_path, added)
    assert added.served == ["b"] and list(results.checkpoints) == ["first", "second"]


def test_a_line_that_a_crash_cut_off_is_told_about_and_sampled_again(tmp_path: Path):
    whole, _ = evaluate(tmp_path, Engines())
    path = tmp_path / "evaluations" / "first" / "easy.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:40])
    again = Engines()
    results, story = evaluate(tmp_path, again)
    assert results == whole and again.sampled == [("a", json.loads(lines[-1])["problem_id"])]
    (line,) = [line for line in story if str(path) in line]
    assert "1 line cut off by a crash" in line
    assert len(path.read_text().splitlines()) == 4  # the torn line is closed off, not mended


def test_a_problem_that_was_changed_is_sampled_again(tmp_path: Path):
    evaluate(tmp_path, Engines())
    changed = {**SETS, "hard": [problem(0), replace(problem(1), answer="15")]}
    again = Engines()
    evaluate(tmp_path, again, sets=changed)
    assert again.sampled == [("a", "p1"), ("b", "p1")]
