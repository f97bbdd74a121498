"""`int-ray hard-set`: the training problems that the model never solves, as files to train on and to test with."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from int_ray.config import Config
from int_ray.config_file import ConfigError, load_config
from int_ray.data.originals import original_rows
from int_ray.data.rows import DataError
from int_ray.errors import RunError
from int_ray.hard_set import HardSet, rows_text, wave_sizes
from int_ray.oracles.api import APIS
from int_ray.oracles.spending import read_spend
from int_ray.preflight import Inputs
from int_ray.result_folder import ResultFolder
from int_ray.types import Problem
from launch.commands import Given, command_line
from launch.console import ConsoleProgress
from launch.experiment import MODEL, OnTrainingProblems

# What only training needs is left out; the sizes of its batches would be one more limit for the pool.
WITHOUT_TRAINING = (
    "problems.mixed=null",
    "rollout.mixed=0",
    "rollout.batch_size=1",
    "reinforce.mini_batch_size=1",
    "patch.interventions=null",
    "oracle.fallback=[]",
)
# What is sampled already depends on these.
FIXED = (
    *MODEL,
    "problems.train",
    "problems.reward",
    "rollout.temperature",
    "rollout.top_p",
    "rollout.top_k",
    "rollout.max_tokens",
    "hard_set.n",
    "run.seed",
)
BEGINS = "selecting"


class Selection(OnTrainingProblems[ResultFolder, HardSet]):
    """One call of the command."""

    purpose = "Looking for hard problems, without training"
    begins, fixed, without, assembly = BEGINS, FIXED, WITHOUT_TRAINING, "actors.evaluator_assembly"

    def read(self) -> Config:
        """The config with an oracle only if one is to be asked. Raises ConfigError."""
        path, overrides = self.given.config, [*self.given.overrides, *WITHOUT_TRAINING]
        config = load_config(path, [*overrides, "schedule=never"])
        if not config.hard_set.oracle_solves:
            return config
        if config.oracle.kind not in APIS:
            kinds = " or ".join(APIS)
            raise ConfigError(
                [f"hard_set.oracle_solves: oracle.kind = {config.oracle.kind} writes no solutions; choose {kinds}"]
            )
        return load_config(path, [*overrides, "schedule=paper"])

    def sizes(self) -> list[tuple[str, str]]:
        """What is sampled and asked."""
        hard_set = self.config.hard_set
        waves = ", ".join(map(str, wave_sizes(hard_set.n)))
        return [
            ("rollouts per problem", f"{hard_set.n} at most, in waves of {waves}"),
            ("problems held out for testing", f"{hard_set.test} at most"),
            ("asked for solutions", self.config.oracle.kind if hard_set.oracle_solves else "no oracle"),
        ]

    def open(self) -> ResultFolder:
        """Groups are kept as they come."""
        return ResultFolder(self.config.run.folder)

    async def work(self, loaded: Inputs, folder: ResultFolder, progress: ConsoleProgress) -> HardSet:
        """Select, and write the splits."""
        from actors.evaluator_assembly import assemble_selector

        problems = loaded.problems.problems
        async with assemble_selector(self.config, loaded.tokenizer, problems, folder, progress) as selector:
            hard_set, train, test = await selector.run()
        write_files(self.config, folder, hard_set, {"hard_train": train, "hard_test": test})
        return hard_set

    def show(self, result: HardSet, console: Console) -> None:
        """Counts and the bill."""
        show_hard_set(self.config, result, console)

    def what_next(self, result: HardSet) -> list[str]:
        """Training on them."""
        return what_next(self.given, self.config, result)


def write_files(config: Config, folder: ResultFolder, hard_set: HardSet, splits: dict[str, list[Problem]]) -> None:
    """The splits with all columns of the source, and the statistics. Raises RunError if the source has changed."""
    from actors.run_folder import replace_file, write_json

    try:
        rows = original_rows(config.problems, [problem for problems in splits.values() for problem in problems])
    except DataError as error:
        raise RunError(f"{error}; what was sampled is kept") from None
    texts = {name: rows_text(rows[problem.id] for problem in problems) for name, problems in splits.items()}
    for name, text in texts.items():
        replace_file(folder.path / f"{name}.jsonl", text)
    write_json(folder.path / "statistics.json", hard_set.as_dict())
    summary = "".join(f"- {name}: {value}\n" for name, value in hard_set.rows())
    replace_file(folder.path / "summary.md", f"# Hard problems of {config.model.path}\n\n{summary}")


def show_hard_set(config: Config, hard_set: HardSet, console: Console) -> None:
    """Counts, and the bill."""
    table = Table("", "", title="Hard problems", show_header=False)
    for row in hard_set.rows():
        table.add_row(*row)
    spend = read_spend(config.run.folder / "oracle_calls.jsonl")
    if spend.calls or spend.cached:
        table.add_row("spent on the oracle", spend.story())
    console.print(table)


def what_next(given: Given, config: Config, hard_set: HardSet) -> list[str]:
    """Where the files are, and a command that can be pasted."""
    folder = config.run.folder
    if not hard_set.train:
        return ["No problem is hard, so there is nothing to train on"]
    kept = [item for item in given.overrides if not item.startswith(("run.folder=", "problems.train=", "hard_set."))]
    found = [f"problems.train={_source(folder / 'hard_train.jsonl')}"]
    if hard_set.test:
        found.append(f"evaluate.sets.hard_test={_source(folder / 'hard_test.jsonl')}")
    found.append(f"run.folder={folder}-trained")
    return [
        f"Problems: {folder / 'hard_train.jsonl'} and hard_test.jsonl; how they were found: summary.md",
        f"To train with them: {command_line('train', given.config, [*kept, *found], given.plugins)}",
    ]


def _source(file: Path) -> str:
    """A file of hard problems as an override names it: with columns of its own, whatever those of the pool were."""
    return f"{{path: {json.dumps(str(file))}, columns: {{id: id}}}}"
