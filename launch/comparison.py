"""`int-ray compare`: every arm with every seed as an ordinary run, all on one Ray, one learner and the same engines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from int_ray.arms import ArmRun, arm_runs
from int_ray.comparison_results import (
    ComparisonResults,
    as_json,
    as_markdown,
    claim_cells,
    compare_runs,
    headings,
    score_cells,
)
from int_ray.data.problems import LoadedProblems
from int_ray.journal import read_json_lines
from int_ray.model_checks import require_trainable
from int_ray.preflight import Inputs, check_local_inputs, is_local, load_inputs, require_kernels
from int_ray.report.run_page import write_report
from int_ray.report.several import write_comparison
from int_ray.result_folder import ResultFolder
from int_ray.trackers import require_loggers
from launch.commands import Given
from launch.console import ConsoleProgress
from launch.experiment import ORACLE, Experiment
from launch.preparation import check_folder
from launch.train import fetch_run, find_start, train

if TYPE_CHECKING:
    from actors.compute import Compute

LoadedArms = Mapping[str, Inputs]  # by arm
# Runs that are there already were trained and evaluated with these.
FIXED = (
    "compare.arms",
    "schedule",
    "model",
    "problems",
    *(f"rollout.{name}" for name in ("batch_size", "mixed", "n", "staleness")),
    *(f"rollout.{name}" for name in ("temperature", "top_p", "top_k", "max_tokens")),
    *ORACLE,
    "trigger",
    "patch",
    "reinforce",
    "evaluate",
    "run.iterations",
    "run.seed",
)


class Comparison(Experiment[LoadedArms, ResultFolder, ComparisonResults]):
    """One call of the command."""

    purpose, reads = "Comparing arms", "the model and the problems of every arm"
    begins, fixed, without, assembly = "comparing", FIXED, (), "actors.assembly"
    learns = True

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.runs = arm_runs(given.config, given.overrides, self.config)
        self.fetched: list[str] = []  # what came from run.storage, for people
        self.by_arm = {run.arm: run.config for run in reversed(self.runs)}  # of the first seed

    def introduce(self) -> list[str]:
        """With the arms."""
        first, *others = super().introduce()
        arms, seeds = ", ".join(self.config.compare.arms), self.config.compare.seeds
        return [first, f"{len(self.runs)} runs, one after the other: {arms}; seeds: {seeds}", *others]

    def check(self) -> list[str]:
        """Every arm's."""
        not_checked: dict[str, None] = {}
        for config in self.by_arm.values():
            not_checked |= dict.fromkeys(check_local_inputs(config))
            if is_local(config.model.path):
                require_trainable(config)
        return list(not_checked)

    def sizes(self) -> list[tuple[str, str]]:
        """What is run."""
        arms, evaluate = self.config.compare.arms, self.config.evaluate
        return [
            *((f"arm {name}", " ".join(settings) or "as configured") for name, settings in arms.items()),
            ("seeds", str(self.config.compare.seeds)),
            ("iterations of a run", ", ".join(str(config.run.iterations) for config in self.by_arm.values())),
            ("evaluation", f"{evaluate.n} rollouts per problem of {', '.join(evaluate.sets)}"),
            ("learner ranks", f"{self.config.learner.num_ranks} on {self.config.learner.device}"),
        ]

    def load(self) -> LoadedArms:
        """Tokenizer and problems of every arm; the learner can start."""
        require_kernels(self.config)
        require_loggers(self.config)
        loaded = {name: load_inputs(config) for name, config in self.by_arm.items()}
        require_trainable(self.config)
        self.fetch()
        return loaded

    def fetch(self) -> None:
        """Bring runs that only run.storage has. Raises ConfigError if one is of another recipe."""
        for run in self.runs:
            self.fetched += fetch_run(run.config, "auto" if self.given.resumed else None)
            check_folder(run.config, "started", FIXED, resumed=True)

    def sets(self, loaded: LoadedArms) -> Mapping[str, LoadedProblems]:
        """The evaluation sets, which are every arm's."""
        return next(iter(loaded.values())).evaluation_sets

    def open(self) -> ResultFolder:
        """The parent of all runs."""
        return ResultFolder(self.config.run.folder)

    async def work(self, loaded: LoadedArms, folder: ResultFolder, progress: ConsoleProgress) -> ComparisonResults:
        """Run by run; what is finished is left as it is."""
        from actors.compute import shared_compute
        from actors.run_folder import replace_file

        for line in self.fetched:
            progress.say(line)
        left = [run for run in self.runs if not is_finished(run.config.run.folder)]
        if len(left) < len(self.runs):
            progress.say(f"{len(self.runs) - len(left)} of {len(self.runs)} runs are finished already")
        if left:
            async with shared_compute(left[0].config, progress) as compute:
                await self._train_all(left, loaded, compute, progress)
        results = compare_runs(folder.path)
        replace_file(folder.path / "results.json", as_json(results))
        replace_file(folder.path / "results.md", as_markdown(results))
        return results

    async def _train_all(
        self, left: Sequence[ArmRun], loaded: LoadedArms, compute: Compute, progress: ConsoleProgress
    ) -> None:
        from actors.assembly import assemble_on

        began = time.monotonic()
        for index, run in enumerate(left):
            number = self.runs.index(run) + 1
            remaining = (time.monotonic() - began) / index * (len(left) - index) / 60 if index else None
            estimate = "" if remaining is None else f"; about {remaining:.0f} min left"
            progress.say(f"== Run {number} of {len(self.runs)}: seed {run.seed}, {run.arm}{estimate} ==")
            start = find_start(run.config, "auto")
            await train(run.config, loaded[run.arm], start, progress, partial(assemble_on, compute))
            write_report(run.config.run.folder)
            progress.forget_times()  # each run's are its own

    def show(self, result: ComparisonResults, console: Console) -> None:
        """Scores of every policy, and the verdicts."""
        scores = Table("policy", *headings(result), title="pass@k (95% intervals over seeds and problems)")
        for row in score_cells(result):
            scores.add_row(*map(Text, row))
        claims = Table("claim", "verdict", "difference", title="The paper's claims")
        for says, verdict, difference, _ in claim_cells(result):
            claims.add_row(Text(says), Text(verdict), Text(difference))
        console.print(scores)
        console.print(claims)

    def what_next(self, result: ComparisonResults) -> list[str]:
        """Files and page."""
        folder = self.config.run.folder
        report = write_comparison([folder], folder / "report.html")
        return [
            f"Runs: {folder}/seed-*/*; results: {folder}/results.json and .md",
            f"Report: {report.resolve().as_uri()}",
        ]


def is_finished(folder: Path) -> bool:
    """Whether the last process of a run got to its end."""
    journal = folder / "journal.jsonl"
    events = read_json_lines(journal) if journal.exists() else []
    return bool(events) and events[-1]["event"] == "finished" and (folder / "summary.json").is_file()
