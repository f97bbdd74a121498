"""`int-ray`, the same as `python -m launch.cli`. Commands import late, so that --help is instant."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from launch.commands import command_line

EXIT_FAILED, EXIT_CONFIG, EXIT_RESUMABLE = 1, 2, 75

ConfigFile = Annotated[str, typer.Argument(help="YAML file, such as configs/quickstart.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, such as trigger.patience=2.", show_default=False)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved config, resources and batch sizes; start nothing.")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="Python module to import first, such as one that calls int_ray.oracles.register_checker.",
        show_default=False,
    ),
]

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


@app.command(
    epilog="Examples:  int-ray collect configs/quickstart.yaml run.folder=runs/collected  |  "
    "int-ray train configs/quickstart.yaml patch.interventions=runs/collected/interventions.jsonl"
)
def collect(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Annotated[
        Literal["auto"] | None, typer.Option(help="auto: go on with the collection in run.folder, or start one there.")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Collect interventions on all training problems, train on nothing: a file for patch.interventions, TRL and others.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    arguments = overrides or []
    with exit_resumable("collect", config, arguments, plugins or []):
        from launch.collect import run_collection

        run_collection(config, arguments, dry_run=dry_run, resumed=resume is not None, plugins=plugins or [])


@app.command(epilog="Example:  int-ray report runs/quickstart")
def report(
    folder: Annotated[str, typer.Argument(help="Folder of a run, finished or not.", show_default=False)],
) -> None:
    """Build report.html of a run again and print its path; `int-ray train` does so at its end."""
    with exit_on_config_error():
        from launch.report import run_report

        run_report(folder)


@app.command(epilog="Examples:  int-ray inspect runs/quickstart  |  int-ray inspect rows.parquet --out page.html")
def inspect(
    source: Annotated[
        str, typer.Argument(metavar="FILE_OR_RUN", help="Run folder, or JSONL or Parquet file.", show_default=False)
    ],
    out: Annotated[
        str | None, typer.Option(help="Page to write; default: inspect.html in the run, or beside the file.")
    ] = None,
) -> None:
    """Write a page to browse interventions, kept and refused, and print its path."""
    with exit_on_config_error():
        from launch.inspection import run_inspect

        run_inspect(source, out)


@contextmanager
def exit_on_config_error() -> Iterator[None]:
    """One line per mistake, and exit code 2."""
    from int_ray.config_file import ConfigError

    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(EXIT_CONFIG) from None


@contextmanager
def exit_resumable(command: str, config: str, overrides: Sequence[str], plugins: Sequence[str]) -> Iterator[None]:
    """One line for whatever ends a run early, the command that goes on with it, and an exit code."""
    go_on = f"To go on: {command_line(command, config, overrides, plugins, '--resume', 'auto')}"
    try:
        from int_ray.errors import Resumable, RunError

        try:
            with exit_on_config_error():
                yield
        except (RunError, TimeoutError) as error:
            print(f"error: {error}", file=sys.stderr)
            print(go_on, file=sys.stderr)
            raise typer.Exit(EXIT_RESUMABLE if isinstance(error, Resumable) else EXIT_FAILED) from None
    except KeyboardInterrupt:
        print(f"Interrupted. {go_on}", file=sys.stderr)
        raise typer.Exit(EXIT_RESUMABLE) from None


def main() -> None:
    """Console script."""
    app()


if __name__ == "__main__":
    main()
