"""Evaluation and selection of hard problems on a real engine, ended early and resumed; the command in make soak."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors.assembly import Services, start_services
from actors.evaluator import Evaluator
from actors.evaluator_assembly import serve_rollouts
from actors.hard_set import HardSetSelector
from int_ray.config import Config
from int_ray.config_file import load_config
from int_ray.evaluation_inputs import load_evaluation
from int_ray.hard_set import Verdict
from int_ray.ports import Rollouts
from int_ray.result_folder import ResultFolder
from int_ray.types import Problem
from tests.fakes import FakeProgress

ROOT = Path(__file__).parents[2]
DATA = ROOT / "int_ray" / "chains" / "data"
NUMBER = 6  # problems of each kind


class EndedEarlyError(Exception):
    """Instead of a Ctrl-C."""


class EndingProgress(FakeProgress):
    """Ends the work after so many groups."""

    def __init__(self, groups: int = 10**6) -> None:
        super().__init__()
        self.groups = groups

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        if self.done > self.groups:
            raise EndedEarlyError


@dataclass
class Served:
    """A real engine with the base model of the laptop world, and what runs beside it."""

    config: Config
    services: Services
    rollouts: Rollouts
    sets: dict[str, list[Problem]]
    runner: asyncio.Runner

    def evaluate(self, folder: Path, groups: int = 10**6) -> list[dict[str, Any]]:
        """The records of the evaluation, ended after so many groups."""
        opened = ResultFolder(folder)
        progress = self.rollouts.progress = EndingProgress(groups)  # pyright: ignore
        evaluator = Evaluator(self.config, self.sets, opened, progress, lambda _: nullcontext(self.rollouts))
        try:
            self.runner.run(evaluator.run())
        except EndedEarlyError:
            assert groups < 2 * NUMBER
        finally:
            opened.close()
        return [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in _groups(path)]


def _groups(path: Path) -> list[str]:
    return [] if path.name == "journal.jsonl" else path.read_text().splitlines()


@pytest.fixture(scope="module")
def served(local_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    for name in ("hard_train", "easy"):
        lines = (DATA / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:NUMBER]))
    sets = f"evaluate.sets={{hard: {folder}/hard_train.jsonl, easy: {folder}/easy.jsonl}}"
    overrides = [f"run.folder={folder}", "schedule=never", "evaluate.n=8", "hard_set.n=8", sets]
    config = load_config(ROOT / "configs" / "quickstart.yaml", [*overrides, "model.path=" + str(DATA / "base")])
    inputs = load_evaluation(config)
    problems = {name: list(loaded.problems) for name, loaded in inputs.sets.items()}
    stack, progress = AsyncExitStack(), FakeProgress()

    async def start(runner: asyncio.Runner) -> Served:
        services = await start_services(config, folder, progress, stack)
        tokenizer = inputs.tokenizers[config.model.path]
        rollouts = await stack.enter_async_context(serve_rollouts(config, tokenizer, services, progress))
        return Served(config, services, rollouts, problems, runner)

    with asyncio.Runner() as runner:
        yield runner.run(start(runner))
        runner.run(stack.aclose())


def test_an_evaluation_that_ended_early_goes_on_to_the_same_results(served: Served, tmp_path: Path):
    whole = served.evaluate(tmp_path / "whole")
    first = served.evaluate(tmp_path / "halves", groups=5)
    resumed = served.evaluate(tmp_path / "halves")
    assert 0 < len(first) < len(resumed) == len(whole) == 2 * NUMBER

    def known(records: list[dict[str, Any]]) -> dict[str, list[tuple[int, str]]]:
        return {item["problem_id"]: [(one["seed"], one["outcome"]) for one in item["rollouts"]] for item in records}

    assert known(resumed) == known(whole)
    results, again = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "halves"))
    sets = results["checkpoints"]["model"]["sets"]
    assert sets["hard"]["pass_at"]["8"]["mean"] == 0 and sets["easy"]["pass_at"]["1"]["mean"] > 0.9
    assert sets["easy"]["response_tokens"]["mean"] > 10
    assert again["checkpoints"]["model"]["average"] == results["checkpoints"]["model"]["average"]


def test_hard_problems_are_found(served: Served, tmp_path: Path):
    pool = [*served.sets["easy"], *served.sets["hard"]]
    opened = ResultFolder(tmp_path)
    progress = served.rollouts.progress = EndingProgress()  # pyright: ignore
    selector = HardSetSelector(
        served.config, pool, opened, progress, lambda: nullcontext(served.rollouts), served.services.grader, None
    )
    hard_set, train, test = served.runner.run(selector.run())
    opened.close()
    assert {problem.id for problem in train + test} == {problem.id for problem in served.sets["hard"]}
    assert len(test) == NUMBER // 2
    assert hard_set.verdicts[Verdict.SOLVED] == NUMBER
    assert hard_set.rollouts < hard_set.rollouts_without_stop
    assert progress.done == len(pool) * 3  # waves of 1, 3 and 4


@pytest.mark.slow
def test_the_command_is_interrupted_and_goes_on(tmp_path: Path):
    folder = tmp_path / "run"
    base = DATA / "base"
    settings = [
        f"run.folder={folder}",
        "evaluate.n=4",
        "evaluate.k=[1, 4]",
        f"evaluate.sets.hard={DATA}/hard_test.jsonl",
    ]
    checkpoints = f"evaluate.checkpoints={{first: {base}, second: {base}}}"
    command = [sys.executable, "-m", "launch.cli", "evaluate", "configs/quickstart.yaml", *settings, checkpoints]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, text=True, stderr=subprocess.PIPE)
    until = time.monotonic() + 200
    while not list((folder / "evaluations").glob("first/*.jsonl")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "To go on: " in errors
    subprocess.run([*command, "--resume", "auto"], cwd=ROOT, timeout=600, check=True)
    results = json.loads((folder / "results.json").read_text())
    first, second = (results["checkpoints"][name]["sets"] for name in ("first", "second"))
    assert first.keys() == second.keys() and first["hard"]["pass_at"] == second["hard"]["pass_at"]
    assert "<svg" in (folder / "report.html").read_text()
