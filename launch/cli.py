"""`int-ray`, the same as `python -m launch.cli`. Commands import late, so that --help is instant."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

EXIT_FAILED, EXIT_CONFIG, EXIT_RESUMABLE = 1, 2, 75

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
    config: Annotated[str, typer.Argument(help="YAML file, such as configs/quickstart.yaml.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, such as trigger.patience=2.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config, resources and batch sizes; start nothing.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(help="auto: newest checkpoint of run.folder, or a fresh start; or the path of a checkpoint."),
    ] = None,
) -> None:
    """Run InT (or plain RL: schedule=never) from a config.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    arguments = overrides or []
    try:
        from int_ray.config_file import ConfigError
        from int_ray.errors import RunError

        try:
            from launch.train import run_training

            run_training(config, arguments, dry_run=dry_run, resume=resume)
        except ConfigError as error:
            for problem in error.problems:
                print(f"error: {problem}", file=sys.stderr)
            raise typer.Exit(EXIT_CONFIG) from None
        except (RunError, TimeoutError) as error:
            print(f"error: {error}", file=sys.stderr)
            print(how_to_go_on(config, arguments), file=sys.stderr)
            raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        print(f"Interrupted. {how_to_go_on(config, arguments)}", file=sys.stderr)
        raise typer.Exit(EXIT_RESUMABLE) from None


def how_to_go_on(config: str, overrides: Sequence[str]) -> str:
    """The command that resumes."""
    return f"To go on from the last checkpoint: int-ray train {shlex.join([config, *overrides])} --resume auto"


def main() -> None:
    """Console script."""
    app()


if __name__ == "__main__":
    main()
