"""`int-ray train`: check everything that can be checked, then start the cluster parts and run the coordinator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.checkpoint import CheckpointError, Checkpoints, verify
from int_ray.config import Config
from int_ray.config_checks import batch_arithmetic
from int_ray.config_file import ConfigError, dump_config, load_config
from int_ray.preflight import Inputs, check_local_inputs, load_inputs
from int_ray.types import ProblemSets, RunState
from launch.console import ConsoleProgress, show_summary

# A resumed run cannot change these: they say which problems an iteration has and what its saved trigger means.
FIXED = ("schedule", "problems.train", "rollout.batch_size", "run.seed")


@dataclass(frozen=True)
class Start:
    """Where training begins: a state and, unless it is a fresh run, the checkpoint that holds the weights."""

    state: RunState
    checkpoint: Path | None


def run_training(path: str, overrides: Sequence[str], *, dry_run: bool, resume: str | None) -> None:
    """Raises ConfigError for what the user can fix, RunError and KeyboardInterrupt for what `--resume` goes on from."""
    console = Console()
    config = load_config(path, overrides)
    start = find_start(config, resume)
    if dry_run:
        show_plan(config, console)
        return
    with ConsoleProgress(console) as progress:
        progress.say(f"Checking the model and the problems of {path}")
        inputs = load_inputs(config)
        import_module("actors.assembly")  # seconds of imports: here, where a Ctrl-C ends the process at once
        summary = asyncio.run(_train(config, inputs, start, progress))
    show_summary(summary, console)
    console.print(f"Everything is in {config.run.folder}; try: tensorboard --logdir {config.run.folder}", markup=False)


async def _train(config: Config, inputs: Inputs, start: Start, progress: ConsoleProgress) -> dict[str, Any]:
    from actors.assembly import assemble
    from actors.run_folder import RunFolder, write_json
    from actors.summary import summarise

    began = time.monotonic()
    folder = RunFolder(config.run.folder)
    (folder.path / "config.yaml").write_text(dump_config(config))
    _report_start(inputs, start, folder.path, progress)
    folder.journal.write("started", iteration=start.state.iteration, schedule=config.schedule)
    sets = {name: loaded.problems for name, loaded in inputs.evaluation_sets.items()}
    problems = ProblemSets(inputs.problems.problems, sets, inputs.mixed.problems)
    ended = "failed"
    try:
        async with assemble(
            config, inputs.tokenizer, problems, folder, progress, checkpoint=start.checkpoint
        ) as coordinator:
            state = await coordinator.run(start.state)
        summary = summarise(folder, state, time.monotonic() - began, progress.seconds())
        write_json(folder.path / "summary.json", summary)
        ended = "finished"
    except asyncio.CancelledError:
        ended = "interrupted"
        raise
    finally:
        folder.journal.write(ended)
        folder.close()
    return summary


def _report_start(inputs: Inputs, start: Start, folder: Path, progress: ConsoleProgress) -> None:
    """Say where the run begins and what was loaded; rows that cannot be used are listed in the run folder."""
    if start.checkpoint is not None:
        progress.say(f"Going on after iteration {start.state.iteration}, from {start.checkpoint}")
    mixed = {"mixed": inputs.mixed} if inputs.mixed.problems else {}
    loaded = {"train": inputs.problems, **mixed, **inputs.evaluation_sets}
    progress.say("Problems: " + ", ".join(f"{name} {len(item.problems)}" for name, item in loaded.items()))
    for name, item in loaded.items():
        if item.quarantined:
            path = folder / f"quarantine_{name}.jsonl"
            item.write_quarantine(path)
            progress.say(f"{len(item.quarantined)} rows of {name} cannot be used and were left out; {path} says why")


def show_plan(config: Config, console: Console) -> None:
    """The resolved config, the resource plan and the batch arithmetic; hub names are not looked up."""
    not_checked = check_local_inputs(config)
    console.print(dump_config(config), markup=False, highlight=False, soft_wrap=True)
    table = Table("plan", "value", title="Resources and batches")
    for row in batch_arithmetic(config):
        table.add_row(*row)
    console.print(table)
    for name in not_checked:
        console.print(f"not checked: {name} is a hub name", markup=False, highlight=False)


def find_start(config: Config, resume: str | None) -> Start:
    """A fresh state, or what `--resume` asks for. Raises ConfigError."""
    folder = config.run.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError([f"run.folder: {folder} is a file; choose another"])
    if resume is None:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                [f"run.folder: {folder} already holds a run; add --resume auto to go on with it, or choose another"]
            )
        return Start(RunState(), None)
    _check_unchanged(config, folder / "config.yaml")
    try:
        checkpoint = Checkpoints(folder / "checkpoints", 1).latest() if resume == "auto" else Path(resume)
        return Start(verify(checkpoint), checkpoint) if checkpoint else Start(RunState(), None)
    except CheckpointError as error:
        raise ConfigError([f"--resume: {error}"]) from None


def _check_unchanged(config: Config, path: Path) -> None:
    """Raises ConfigError if a setting differs that a resumed run must keep."""
    if not path.exists():
        return
    before, now = (item.model_dump(mode="json") for item in (load_config(path), config))
    mistakes = []
    for key in FIXED:
        was, is_now = before, now
        for name in key.split("."):
            was, is_now = was[name], is_now[name]
        if was != is_now:
            mistakes.append(
                f"{key}: {is_now!r}, but the run to resume has {was!r}; keep it, or choose another run.folder"
            )
    if mistakes:
        raise ConfigError(mistakes)
