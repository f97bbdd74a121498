"""`int-ray collect`: everything of a run up to the interventions, and none of the training."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from int_ray.config import Config
from int_ray.config_checks import engine_gpus
from int_ray.config_file import dump_config, load_config
from int_ray.oracles.spending import Spend, read_spend
from int_ray.preflight import Inputs, load_inputs
from launch.commands import command_line, program
from launch.console import ConsoleProgress
from launch.preparation import (
    check_folder,
    check_same_problems,
    import_plugins,
    journalled_end,
    report_quarantined,
    show_plan,
)

if TYPE_CHECKING:
    from actors.collector import Collected

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


def run_collection(
    path: str, overrides: Sequence[str], *, dry_run: bool, resumed: bool, plugins: Sequence[str] = ()
) -> None:
    """Raises ConfigError for what the user can fix, RunError and KeyboardInterrupt for what `--resume` goes on from."""
    console = Console()
    import_plugins(plugins)
    config = load_config(path, [*overrides, *WITHOUT_TRAINING])
    check_folder(config, BEGINS, FIXED, resumed=resumed)
    if dry_run:
        show_plan(config, plan(config), console)
        return
    with ConsoleProgress(console) as progress:
        progress.say(f"Collecting interventions, without training; everything is written to {config.run.folder}")
        progress.say(f"Checking the model and the problems of {path}")
        inputs = load_inputs(config)
        import_module("actors.collector_assembly")  # seconds: here, where a Ctrl-C ends the process at once
        collected = asyncio.run(_collect(config, inputs, progress))
    show_collected(collected, read_spend(config.run.folder / "oracle_calls.jsonl"), console)
    for line in what_next(path, overrides, plugins, config, collected):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


async def _collect(config: Config, inputs: Inputs, progress: ConsoleProgress) -> Collected:
    from actors.collector_assembly import assemble_collector
    from actors.run_folder import RunFolder

    kept = check_same_problems(config.run.folder, BEGINS, {"train": inputs.problems})
    folder = RunFolder(config.run.folder, tensorboard=False)
    (folder.path / "config.yaml").write_text(dump_config(config))
    folder.journal.write(BEGINS, problem_sets=kept)
    progress.say(f"Problems: {len(inputs.problems.problems)}")
    report_quarantined({"train": inputs.problems}, folder.path, progress)
    with journalled_end(folder, progress):
        async with assemble_collector(
            config, inputs.tokenizer, inputs.problems.problems, folder, progress
        ) as collector:
            return await collector.run()


def plan(config: Config) -> list[tuple[str, str]]:
    """What collecting takes."""
    size, n = config.rollout.batch_size, config.rollout.n
    return [
        ("rollouts per chunk", f"{size} problems x {n} = {size * n}"),
        ("attempts shown per unsolved problem", str(config.oracle.attempts)),
        ("continuations per intervention", str(config.patch.continuations)),
        ("rollout engines", f"{config.rollout.num_engines} x {config.rollout.tensor_parallel_size} device(s)"),
        ("GPUs", str(engine_gpus(config))),
    ]


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


def what_next(
    path: str, overrides: Sequence[str], plugins: Sequence[str], config: Config, collected: Collected
) -> list[str]:
    """Where the files are, and commands that can be pasted."""
    folder = config.run.folder
    read = f"To read them: {program('int-ray')} inspect {shlex.quote(str(folder))}"
    if not collected.kept:
        return ["No intervention was kept, so there is nothing to train on", read]
    kept = [item for item in overrides if not item.startswith("run.folder=")]
    given, trained = f"patch.interventions={folder / 'interventions.jsonl'}", f"run.folder={folder}-trained"
    return [
        f"Interventions: {folder / 'interventions.jsonl'}, and the same as .parquet",
        read,
        f"To train with them: {command_line('train', path, [*kept, given, trained], plugins)}",
    ]
