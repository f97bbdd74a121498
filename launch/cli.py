"""`int-ray`, the same as `python -m launch.cli`. Commands import late, so that --help is instant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from launch.cli_arguments import ConfigFile, DryRun, Overrides, Plugins, ResumeAuto
from launch.cli_experiments import add_experiments, run_experiment
from launch.cli_tools import tools
from launch.commands import Given
from launch.exits import EXIT_FAILED, exit_on_config_error, exit_resumable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train language models by RL that gets past problems where every rollout fails (InT).",
)


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


add_experiments(app)


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
    run_experiment(
        "launch.comparison:Comparison", Given("compare", config, changes, plugins or [], dry_run, bool(resume))
    )


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
