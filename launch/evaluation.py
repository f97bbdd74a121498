"""`int-ray evaluate`: pass@k of one or several checkpoints on every set of evaluate.sets. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from int_ray.config import Config
from int_ray.config_file import ConfigError
from int_ray.data.problems import LoadedProblems
from int_ray.decoding import checkpoints, decoding
from int_ray.evaluation_inputs import EvaluationInputs, check_evaluation, load_evaluation
from int_ray.evaluation_results import Results, headings, rows_by_set
from int_ray.journal import read_json_lines
from int_ray.report.evaluation_page import write_evaluation_report
from int_ray.result_folder import ResultFolder
from launch.console import ConsoleProgress
from launch.experiment import MODEL, Experiment

WITHOUT_TRAINING = ("schedule=never", "problems.mixed=null", "rollout.mixed=0", "patch.interventions=null")
# What is sampled already depends on these, and on what `check_same` compares.
FIXED = (
    *MODEL[1:],  # evaluate.checkpoints stand in the place of its path
    "problems.reward",
    "evaluate.n",
    "run.seed",
)
BEGINS = "evaluating"


class Evaluation(Experiment[EvaluationInputs, ResultFolder, Results]):
    """One call of the command."""

    purpose, reads = "Evaluating, without training", "the checkpoints and the problem sets"
    begins, fixed, without, assembly = BEGINS, FIXED, WITHOUT_TRAINING, "actors.evaluator_assembly"

    def check_resumed(self) -> None:
        """The checkpoints and the decoding."""
        check_same(self.config)

    def check(self) -> list[str]:
        """Checkpoints and problem sets; the training problems are not looked at."""
        return check_evaluation(self.config)

    def introduce(self) -> list[str]:
        """With the decoding."""
        first, *others = super().introduce()
        return [first, f"Decoding: {decoding(self.config)}", *others]

    def sizes(self) -> list[tuple[str, str]]:
        """What is sampled, and how."""
        return [
            ("checkpoints", ", ".join(f"{name} ({path})" for name, path in checkpoints(self.config).items())),
            ("problem sets", ", ".join(self.config.evaluate.sets)),
            ("rollouts per problem", str(self.config.evaluate.n)),
            ("decoding", str(decoding(self.config))),
        ]

    def load(self) -> EvaluationInputs:
        """Tokenizers and problem sets."""
        return load_evaluation(self.config)

    def sets(self, loaded: EvaluationInputs) -> Mapping[str, LoadedProblems]:
        """Those of evaluate.sets."""
        return loaded.sets

    def event(self, loaded: EvaluationInputs) -> dict[str, Any]:
        """What `check_same` compares."""
        return {"checkpoints": checkpoints(self.config), "decoding": asdict(decoding(self.config))}

    def open(self) -> ResultFolder:
        """Groups are kept as they come."""
        return ResultFolder(self.config.run.folder)

    async def work(self, loaded: EvaluationInputs, folder: ResultFolder, progress: ConsoleProgress) -> Results:
        """Evaluate checkpoint by checkpoint."""
        from actors.evaluator_assembly import assemble_evaluator

        sets = {name: item.problems for name, item in loaded.sets.items()}
        async with assemble_evaluator(self.config, loaded.tokenizers, sets, folder, progress) as evaluator:
            return await evaluator.run()

    def show(self, result: Results, console: Console) -> None:
        """The scores."""
        show_results(result, console)

    def what_next(self, result: Results) -> list[str]:
        """Files and page."""
        folder = self.config.run.folder
        report = write_evaluation_report(folder)
        return [f"Results: {folder}/results.json and .md", f"Report: {report.resolve().as_uri()}"]


def check_same(config: Config) -> None:
    """Raises ConfigError where a resumed evaluation would mix the rollouts of two checkpoints, or two decodings."""
    journal = config.run.folder / "journal.jsonl"
    events = read_json_lines(journal) if journal.exists() else []
    mistakes = set()
    for event in (event for event in events if event["event"] == BEGINS):
        if event["decoding"] != asdict(decoding(config)):
            mistakes.add(f"evaluate.decoding: {decoding(config)}, but the evaluation to resume has {event['decoding']}")
        for name, path in checkpoints(config).items():
            was = event["checkpoints"].get(name, path)
            if was != path:
                mistakes.add(f"evaluate.checkpoints.{name}: {path}, but in the evaluation to resume it is {was}")
    if mistakes:
        raise ConfigError([f"{line}; keep it, or choose another run.folder" for line in sorted(mistakes)])


def show_results(results: Results, console: Console) -> None:
    """One row for each set and checkpoint, and the averages; what a narrow terminal has no room for is in the files."""
    names = headings(results)
    shown = [place for place, name in enumerate(names) if name not in ("problems", "unsolved", "not graded")]
    table = Table(*(names[place] for place in shown), title="Evaluation (95% bootstrap intervals over problems)")
    for rows in rows_by_set(results, digits=2).values():
        for row in rows:
            table.add_row(*(Text(row[place].replace(" [", "\n[")) for place in shown))
        table.add_section()
    console.print(table)
