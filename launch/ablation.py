"""`int-ray ablate`: Table 1 of the paper on the training problems of a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from int_ray.ablation import PATCH, ROWS, Table, finished_table, footnotes, headings, table_rows
from int_ray.model_checks import require_trainable
from int_ray.oracles.spending import read_spend
from int_ray.preflight import Inputs, require_kernels
from int_ray.report.ablation_page import write_ablation_report
from launch.console import ConsoleProgress
from launch.experiment import MODEL, ORACLE, OnTrainingProblems
from launch.preparation import check_same_problems

if TYPE_CHECKING:
    from actors.run_folder import RunFolder

WITHOUT_RL = (
    "schedule=paper",
    "problems.mixed=null",
    "rollout.mixed=0",
    "rollout.staleness=0",
    "patch.clone=interventions",
    "patch.interventions=null",
    *(f"patch.{name}={str(value).lower()}" for name, value in PATCH.items()),
    "evaluate.sets={}",
)
# What is collected, patched and sampled already depends on these.
FIXED = (
    *MODEL,
    "problems.train",
    "problems.reward",
    "rollout.batch_size",
    "rollout.n",
    "rollout.temperature",
    "rollout.top_p",
    "rollout.top_k",
    "rollout.max_tokens",
    *ORACLE,
    "patch",
    "ablate.n",
    "run.seed",
)
BEGINS = "ablating"


class TableOne(OnTrainingProblems["RunFolder", Table]):
    """One call of the command."""

    purpose = "Interventions and patches, row by row of Table 1"
    begins, fixed, without, assembly = BEGINS, FIXED, WITHOUT_RL, "actors.ablation_assembly"
    learns = True

    def check(self) -> list[str]:
        """The model must be one that can be trained, too."""
        not_checked = super().check()
        if self.config.model.path not in not_checked:
            require_trainable(self.config)
        return not_checked

    def sizes(self) -> list[tuple[str, str]]:
        """What is collected first, and then sampled for each row."""
        config, patch = self.config, self.config.patch
        return [
            ("rollouts to collect interventions from", f"{config.rollout.n} per problem"),
            ("attempts shown per unsolved problem", str(config.oracle.attempts)),
            ("continuations per intervention", str(patch.continuations)),
            ("rows", f"{len(ROWS)}, each of {config.ablate.n} rollouts per problem"),
            (
                "SFT updates per patch",
                f"{config.patch.epochs} epochs x ceil(interventions / {config.patch.batch_size})",
            ),
            ("learner ranks", f"{config.learner.num_ranks} on {config.learner.device}"),
        ]

    def load(self) -> Inputs:
        """Tokenizer and problems; the learner can start."""
        require_kernels(self.config)
        inputs = super().load()
        require_trainable(self.config)
        return inputs

    def event(self, loaded: Inputs) -> dict[str, Any]:
        """Which problems they are: a chunk of the collection is a place in their order."""
        return {"problem_sets": check_same_problems(self.config.run.folder, BEGINS, self.sets(loaded))}

    def open(self) -> RunFolder:
        """A run folder without curves."""
        from actors.run_folder import RunFolder

        return RunFolder(self.config.run.folder)

    async def work(self, loaded: Inputs, folder: RunFolder, progress: ConsoleProgress) -> Table:
        """Row by row; nothing starts if an earlier process has finished them all."""
        finished = finished_table(folder.path)
        if finished is not None:
            progress.say(f"All {len(ROWS)} rows are finished already")
            return finished
        from actors.ablation_assembly import assemble_ablation

        problems = loaded.problems.problems
        async with assemble_ablation(self.config, loaded.tokenizer, problems, folder, progress) as ablation:
            return await ablation.run()

    def show(self, result: Table, console: Console) -> None:
        """The table with its footnotes, and the bill."""
        grid = Grid(*headings(), title="Table 1 (95% bootstrap intervals over problems)")
        for row in table_rows(result):
            grid.add_row(*(Text(cell.replace(" [", "\n[")) for cell in row))
        console.print(grid)
        spend = read_spend(self.config.run.folder / "oracle_calls.jsonl")
        bill = [f"Spent on the oracle: {spend.story()}"] if spend.calls or spend.cached else []
        for line in (*footnotes(result), *bill):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def what_next(self, result: Table) -> list[str]:
        """Files and page."""
        folder = self.config.run.folder
        report = write_ablation_report(folder)
        return [
            f"Results: {folder}/results.json and .md; the rollouts of each row: {folder}/rows",
            f"Report: {report.resolve().as_uri()}",
        ]
