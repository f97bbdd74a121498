"""`int-ray`, the same as `python -m launch.cli`. Commands import late, so that --help is instant."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from launch.cli_arguments import ConfigFile, DryRun, Overrides, Plugins, ResumeAuto
from launch.cli_tools import tools
from launch.commands import Given
from launch.exits import EXIT_FAILED, exit_on_config_error, exit_resumable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train language models by RL that gets past problems where every rollout fails (InT).",
)


@contextmanager
def resumable(given: Given) -> Iterator[Given]:
    """One line for whatever ends the command early, and the command that goes on with it."""
    with exit_resumable(given.command, given.config, given.overrides, given.plugins):
        yield given


@app.callback()
def root() -> None:
    """Commands of int_ray."""


@app.command(
    epilog="Examples:  int-ray train configs/quickstart.yaml  |  "
    "int-ray train configs/quickstart.yaml schedule=never run.seed=1 run.folder=runs/plain  |  "
    "int-ray train configs/quickstart.yaml run.folder=runs/plain --resume auto"
)
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Annotated[
        str | None,
        typer.Option(help="auto: newest checkpoint of run.folder, or a fresh start; or the path of a checkpoint."),
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Run InT (or plain RL: schedule=never) from a config.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    arguments = overrides or []
    with exit_resumable("train", config, arguments, plugins or []):
        from launch.train import run_training

        run_training(config, arguments, dry_run=dry_run, resume=resume, plugins=plugins or [])


@app.command(
    epilog="Examples:  int-ray collect configs/quickstart.yaml run.folder=runs/collected  |  "
    "int-ray train configs/quickstart.yaml patch.interventions=runs/collected/interventions.jsonl"
)
def collect(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: ResumeAuto = None,
    plugins: Plugins = None,
) -> None:
    """Collect interventions on all training problems, train on nothing: a file for patch.interventions, TRL and others.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    with resumable(Given("collect", config, overrides or [], plugins or [], dry_run, resume is not None)) as given:
        from launch.collect import Collection

        Collection(given).run()


@app.command(
    epilog="Examples:  int-ray evaluate configs/quickstart.yaml run.folder=runs/evaluated  |  int-ray evaluate FILE "
    "'evaluate.checkpoints={base: FOLDER, trained: FOLDER}' evaluate.sets.aime=benchmark:aime_2025 evaluate.decoding=e3"
)
def evaluate(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: ResumeAuto = None,
    plugins: Plugins = None,
) -> None:
    """Measure pass@k of one or several checkpoints on every set of evaluate.sets: JSON, Markdown and a page.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    with resumable(Given("evaluate", config, overrides or [], plugins or [], dry_run, resume is not None)) as given:
        from launch.evaluation import Evaluation

        Evaluation(given).run()


@app.command(
    epilog="Examples:  int-ray ablate configs/quickstart.yaml run.folder=runs/table1  |  "
    "int-ray ablate FILE ablate.n=64 oracle.kind=gemini"
)
def ablate(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: ResumeAuto = None,
    plugins: Plugins = None,
) -> None:
    """Fill Table 1 of the paper: the base model, from and with interventions, and four patches of it.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    with resumable(Given("ablate", config, overrides or [], plugins or [], dry_run, resume is not None)) as given:
        from launch.ablation import TableOne

        TableOne(given).run()


@app.command(
    epilog="Examples:  int-ray compare configs/compare.yaml --seeds 3  |  "
    "int-ray compare configs/compare.yaml --seeds 3 --resume auto"
)
def compare(
    config: ConfigFile,
    overrides: Overrides = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each arm; default: compare.seeds.")] = None,
    dry_run: DryRun = False,
    resume: ResumeAuto = None,
    plugins: Plugins = None,
) -> None:
    """Train every arm of compare.arms from the same base, one after the other; judge the paper's claims by them.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    changes = [*(overrides or []), *([] if seeds is None else [f"compare.seeds={seeds}"])]
    with resumable(Given("compare", config, changes, plugins or [], dry_run, resume is not None)) as given:
        from launch.comparison import Comparison

        Comparison(given).run()


@app.command(
    "hard-set",
    epilog="Examples:  int-ray hard-set configs/quickstart.yaml run.folder=runs/hard problems.train=pool.jsonl  |  "
    "int-ray hard-set FILE hard_set.n=64 hard_set.oracle_solves=true oracle.kind=gemini",
)
def hard_set(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: ResumeAuto = None,
    plugins: Plugins = None,
) -> None:
    """Find the problems that the model never solves in hard_set.n rollouts; write them as training and test files.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    with resumable(Given("hard-set", config, overrides or [], plugins or [], dry_run, resume is not None)) as given:
        from launch.hard_set import Selection

        Selection(given).run()


@app.command(
    epilog="Example:  int-ray submit configs/quickstart.yaml run.folder=/shared/runs/first --address "
    "http://127.0.0.1:8265  |  docs/clusters.md says how to come by a cluster"
)
def submit(
    config: ConfigFile,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.", show_default=False)
    ],
    overrides: Overrides = None,
    wait: Annotated[bool, typer.Option(help="Show the log and exit as the job does. Ctrl-C leaves it running.")] = True,
    resume: Annotated[str | None, typer.Option(help="As for train.")] = None,
    plugins: Plugins = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="NAME of a variable to send along. Keys are never sent: set them on the cluster."),
    ] = None,
) -> None:
    """Run `int-ray train` on a Ray cluster: sends this folder (without what .rayignore names) as a job.

    The cluster's token is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. Exit codes: those of
    train; 1 if the cluster cannot be used, 75 if the job was stopped, 130 after Ctrl-C.
    """
    from int_ray.errors import RunError

    with exit_on_config_error():
        from launch.submission import run_submit

        try:
            code = run_submit(
                config,
                overrides or [],
                address=address,
                wait=wait,
                resume=resume,
                plugins=plugins or [],
                env=env or [],
            )
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(EXIT_FAILED) from None
    raise typer.Exit(code)


app.add_typer(tools)


def main() -> None:
    """Console script."""
    app()


if __name__ == "__main__":
    main()
