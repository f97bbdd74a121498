"""Commands that run one Experiment of launch/experiment.py and differ in nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import typer

from launch.cli_arguments import ConfigFile, DryRun, Overrides, Plugins, ResumeAuto
from launch.commands import Given
from launch.exits import exit_resumable

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable."


@dataclass(frozen=True)
class Command:
    """What `int-ray NAME` runs, and its help."""

    name: str
    experiment: str  # "module:class", imported only when it runs
    text: str
    examples: tuple[str, str]


COMMANDS = (
    Command(
        "collect",
        "launch.collect:Collection",
        "Collect interventions on all training problems, train on nothing: a file for patch.interventions and TRL.",
        (
            "int-ray collect configs/quickstart.yaml run.folder=runs/collected",
            "int-ray train configs/quickstart.yaml patch.interventions=runs/collected/interventions.jsonl",
        ),
    ),
    Command(
        "evaluate",
        "launch.evaluation:Evaluation",
        "Measure pass@k of one or several checkpoints on every set of evaluate.sets: JSON, Markdown and a page.",
        (
            "int-ray evaluate configs/quickstart.yaml run.folder=runs/evaluated",
            "int-ray evaluate FILE 'evaluate.checkpoints={base: FOLDER, trained: FOLDER}' "
            "evaluate.sets.aime=benchmark:aime_2025 evaluate.decoding=e3",
        ),
    ),
    Command(
        "ablate",
        "launch.ablation:TableOne",
        "Fill Table 1 of the paper: the base model, from and with interventions, and four patches of it.",
        (
            "int-ray ablate configs/quickstart.yaml run.folder=runs/table1",
            "int-ray ablate FILE ablate.n=64 oracle.kind=gemini",
        ),
    ),
    Command(
        "hard-set",
        "launch.hard_set:Selection",
        "Find the problems that the model never solves in hard_set.n rollouts; write them as training and test files.",
        (
            "int-ray hard-set configs/quickstart.yaml run.folder=runs/hard problems.train=pool.jsonl",
            "int-ray hard-set FILE hard_set.n=64 hard_set.oracle_solves=true oracle.kind=gemini",
        ),
    ),
)


def add_experiments(app: typer.Typer) -> None:
    """Register all of COMMANDS."""
    for command in COMMANDS:
        _add(app, command)


def _add(app: typer.Typer, command: Command) -> None:
    @app.command(
        command.name,
        help=f"{command.text}\n\n{EXIT_CODES}",
        epilog=f"Examples:  {'  |  '.join(command.examples)}",
    )
    def run(
        config: ConfigFile,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        resume: ResumeAuto = None,
        plugins: Plugins = None,
    ) -> None:
        given = Given(command.name, config, overrides or [], plugins or [], dry_run, bool(resume))
        run_experiment(command.experiment, given)


def run_experiment(experiment: str, given: Given) -> None:
    """One line for whatever ends it early, and the command that goes on with it."""
    module, name = experiment.split(":")
    with exit_resumable(given.command, given.config, given.overrides, given.plugins):
        getattr(import_module(module), name)(given).run()
