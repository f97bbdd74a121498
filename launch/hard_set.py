"""`int-ray hard-set`: the training problems that the model never solves, as files to train on and to test with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from int_ray.config import Config
from int_ray.config_checks import engine_gpus
from int_ray.config_file import ConfigError, dump_config, load_config
from int_ray.data.originals import original_rows
from int_ray.data.rows import DataError
from int_ray.errors import RunError
from int_ray.hard_set import HardSet, rows_text, wave_sizes
from int_ray.oracles.api import APIS
from int_ray.oracles.spending import read_spend
from int_ray.preflight import Inputs, load_inputs
from int_ray.result_folder import ResultFolder
from int_ray.types import Problem
from launch.commands import command_line
from launch.console import ConsoleProgress
from launch.preparation import check_folder, import_plugins, journalled_end, report_quarantined, show_plan

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
    "model.path",
    "model.revision",
    "model.dtype",
    "model.max_length",
    "model.chat_template_kwargs",
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


def run_hard_set(
    path: str, overrides: Sequence[str], *, dry_run: bool, resumed: bool, plugins: Sequence[str] = ()
) -> None:
    """Raises ConfigError for what the user can fix, RunError and KeyboardInterrupt for what `--resume` goes on from."""
    console = Console()
    import_plugins(plugins)
    config = _load(path, overrides)
    check_folder(config, BEGINS, FIXED, resumed=resumed)
    if dry_run:
        show_plan(config, plan(config), console)
        return
    with ConsoleProgress(console) as progress:
        progress.say(f"Looking for hard problems, without training; everything is written to {config.run.folder}")
        progress.say(f"Checking the model and the problems of {path}")
        inputs = load_inputs(config)
        import_module("actors.evaluator_assembly")  # seconds: here, where a Ctrl-C ends the process at once
        hard_set = asyncio.run(_select(config, inputs, progress))
    show_hard_set(config, hard_set, console)
    for line in what_next(path, overrides, plugins, config, hard_set):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _load(path: str, overrides: Sequence[str]) -> Config:
    """The config with an oracle only if one is to be asked. Raises ConfigError."""
    config = load_config(path, [*overrides, *WITHOUT_TRAINING, "schedule=never"])
    if not config.hard_set.oracle_solves:
        return config
    if config.oracle.kind not in APIS:
        kinds = " or ".join(APIS)
        raise ConfigError(
            [f"hard_set.oracle_solves: oracle.kind = {config.oracle.kind} writes no solutions; choose {kinds}"]
        )
    return load_config(path, [*overrides, *WITHOUT_TRAINING, "schedule=paper"])


async def _select(config: Config, inputs: Inputs, progress: ConsoleProgress) -> HardSet:
    from actors.evaluator_assembly import assemble_selector

    folder = ResultFolder(config.run.folder)
    (folder.path / "config.yaml").write_text(dump_config(config))
    folder.journal.write(BEGINS)
    problems = inputs.problems.problems
    progress.say(f"Problems: {len(problems)}")
    report_quarantined({"train": inputs.problems}, folder.path, progress)
    with journalled_end(folder, progress):
        async with assemble_selector(config, inputs.tokenizer, problems, folder, progress) as selector:
            hard_set, train, test = await selector.run()
        write_files(config, folder, hard_set, {"hard_train": train, "hard_test": test})
    return hard_set


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


def plan(config: Config) -> list[tuple[str, str]]:
    """What selecting takes."""
    waves = wave_sizes(config.hard_set.n)
    return [
        ("rollouts per problem", f"{config.hard_set.n} at most, in waves of {', '.join(map(str, waves))}"),
        ("problems held out for testing", f"{config.hard_set.test} at most"),
        ("asked for solutions", config.oracle.kind if config.hard_set.oracle_solves else "no oracle"),
        ("rollout engines", f"{config.rollout.num_engines} x {config.rollout.tensor_parallel_size} device(s)"),
        ("GPUs", str(engine_gpus(config))),
    ]


def show_hard_set(config: Config, hard_set: HardSet, console: Console) -> None:
    """Counts, and the bill."""
    table = Table("", "", title="Hard problems", show_header=False)
    for row in hard_set.rows():
        table.add_row(*row)
    spend = read_spend(config.run.folder / "oracle_calls.jsonl")
    if spend.calls or spend.cached:
        table.add_row("spent on the oracle", spend.story())
    console.print(table)


def what_next(
    path: str, overrides: Sequence[str], plugins: Sequence[str], config: Config, hard_set: HardSet
) -> list[str]:
    """Where the files are, and a command that can be pasted."""
    folder = config.run.folder
    if not hard_set.train:
        return ["No problem is hard, so there is nothing to train on"]
    kept = [item for item in overrides if not item.startswith(("run.folder=", "problems.train=", "hard_set."))]
    given = [f"problems.train={_source(folder / 'hard_train.jsonl')}"]
    if hard_set.test:
        given.append(f"evaluate.sets.hard_test={_source(folder / 'hard_test.jsonl')}")
    given.append(f"run.folder={folder}-trained")
    return [
        f"Problems: {folder / 'hard_train.jsonl'} and hard_test.jsonl; how they were found: summary.md",
        f"To train with them: {command_line('train', path, [*kept, *given], plugins)}",
    ]


def _source(file: Path) -> str:
    """A file of hard problems as an override names it: with columns of its own, whatever those of the pool were."""
    return f"{{path: {json.dumps(str(file))}, columns: {{id: id}}}}"
