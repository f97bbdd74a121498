"""`int-ray collect`: everything of a run up to the interventions, and none of the training."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from int_ray.config import Config
from int_ray.oracles.spending import Spend, read_spend
from int_ray.preflight import Inputs
from launch.commands import Given, command_line, program
from launch.console import ConsoleProgress
from launch.experiment import OnTrainingProblems
from launch.preparation import check_same_problems

if TYPE_CHECKING:
    from actors.collector import Collected
    from actors.run_folder import RunFolder

# What only training needs is left out, and schedule: paper is what collects before anything else.
WITHOUT_TRAINING = (
    "schedule=paper",
    "problems.mixed=null",
    "rollout.mixed=0",
    "patch.interventions=null",
    "evaluate.sets={}",
)
# What is collected already depends on these.
FIXED = ("model.path", "model.revision", "problems.train", "rollout.batch_size", "rollout.n", "run.seed")
BEGINS = "collecting"


class Collection(OnTrainingProblems["RunFolder", "Collected"]):
    """One call of the command."""

    purpose = "Collecting interventions, without training"
    begins, fixed, without, assembly = BEGINS, FIXED, WITHOUT_TRAINING, "actors.collector_assembly"

    def sizes(self) -> list[tuple[str, str]]:
        """Rollouts, and what is asked and tested."""
        size, n = self.config.rollout.batch_size, self.config.rollout.n
        return [
            ("rollouts per chunk", f"{size} problems x {n} = {size * n}"),
            ("attempts shown per unsolved problem", str(self.config.oracle.attempts)),
            ("continuations per intervention", str(self.config.patch.continuations)),
        ]

    def event(self, loaded: Inputs) -> dict[str, Any]:
        """Which problems they are: a chunk is a place in their order."""
        return {"problem_sets": check_same_problems(self.config.run.folder, BEGINS, self.sets(loaded))}

    def open(self) -> RunFolder:
        """A run folder without curves."""
        from actors.run_folder import RunFolder

        return RunFolder(self.config.run.folder)

    async def work(self, loaded: Inputs, folder: RunFolder, progress: ConsoleProgress) -> Collected:
        """Collect chunk by chunk."""
        from actors.collector_assembly import assemble_collector

        problems = loaded.problems.problems
        async with assemble_collector(self.config, loaded.tokenizer, problems, folder, progress) as collector:
            return await collector.run()

    def show(self, result: Collected, console: Console) -> None:
        """Counts and the bill."""
        show_collected(result, read_spend(self.config.run.folder / "oracle_calls.jsonl"), console)

    def what_next(self, result: Collected) -> list[str]:
        """Reading them, training with them."""
        return what_next(self.given, self.config, result)


def show_collected(collected: Collected, spend: Spend, console: Console) -> None:
    """Counts, reasons of refusals, and the bill."""
    table = Table("", "", title="Collected", show_header=False)
    table.add_row("problems sampled", str(collected.sampled))
    table.add_row("unsolved in every rollout", str(collected.unsolved))
    table.add_row("attempts shown to the oracle", str(collected.attempts))
    table.add_row("interventions tested", str(collected.tested))
    table.add_row("interventions kept", str(collected.kept))
    for reason, count in collected.refused.most_common():
        table.add_row(f"refused: {reason}", str(count))
    if spend.calls or spend.cached:
        table.add_row("spent on the oracle", spend.story())
    console.print(table)


def what_next(given: Given, config: Config, collected: Collected) -> list[str]:
    """Where the files are, and commands that can be pasted."""
    folder = config.run.folder
    read = f"To read them: {program('int-ray')} inspect {shlex.quote(str(folder))}"
    if not collected.kept:
        return ["No intervention was kept, so there is nothing to train on", read]
    kept = [item for item in given.overrides if not item.startswith("run.folder=")]
    interventions, trained = f"patch.interventions={folder / 'interventions.jsonl'}", f"run.folder={folder}-trained"
    return [
        f"Interventions: {folder / 'interventions.jsonl'}, and the same as .parquet",
        read,
        f"To train with them: {command_line('train', given.config, [*kept, interventions, trained], given.plugins)}",
    ]
