"""The commands of `int-ray` that start no run: to watch, check, report, inspect."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from launch.cli_arguments import Overrides
from launch.exits import EXIT_FAILED, exit_on_config_error

tools = typer.Typer()


@tools.command(
    epilog="Examples:  int-ray watch runs/quickstart  |  int-ray watch runs/quickstart --once  |  "
    "int-ray watch int-ray-20260101-120000-ab12 --address http://127.0.0.1:8265"
)
def watch(
    run: Annotated[
        str, typer.Argument(metavar="RUN_OR_JOB", help="Run folder, or with --address a job's id.", show_default=False)
    ],
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the dashboard of the job's cluster."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, as where there is no terminal.")] = False,
) -> None:
    """Show where a run stands, every second until it ends. Ctrl-C leaves the run alone.

    Exit codes: the run's own, 0 while it goes on; 1 if the cluster cannot be used, 2 for no run, 130 for Ctrl-C.
    """
    from int_ray.errors import RunError

    with exit_on_config_error():
        from launch.watch import run_watch

        try:
            code = run_watch(run, address=address, once=once)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(EXIT_FAILED) from None
    raise typer.Exit(code)


@tools.command(epilog="Examples:  int-ray doctor  |  int-ray doctor configs/quickstart.yaml --oracle")
def doctor(
    config: Annotated[str | None, typer.Argument(help="YAML file; adds checks of what it needs.")] = None,
    overrides: Overrides = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="Ask the oracle's server whether it takes the key.")] = False,
) -> None:
    """Check this machine: versions, GPUs, attention kernels, memory, disk, authentication, open ports.

    Exit codes: 0 nothing failed, 1 something failed, 2 the config cannot be used.
    """
    with exit_on_config_error():
        from launch.doctor import run_doctor

        healthy = run_doctor(config, overrides or [], ask_oracle=oracle)
    raise typer.Exit(0 if healthy else EXIT_FAILED)


@tools.command(
    epilog="Examples:  int-ray report runs/quickstart  |  int-ray report runs/compare  |  "
    "int-ray report runs/int-0 runs/int-1 runs/plain-0 runs/plain-1 --out arms.html"
)
def report(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, finished or not; or one of an evaluation, ablation or comparison.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None, typer.Option(help="Page over several runs; default: report.html in the folder they share.")
    ] = None,
) -> None:
    """Build report.html of a run again, or one page over several with figures and verdicts; print its path.

    Runs whose folders differ in a number at the end (int-0, int-1) are the seeds of one arm.
    """
    with exit_on_config_error():
        from launch.report import run_report

        run_report(folders, out)


@tools.command(epilog="Examples:  int-ray inspect runs/quickstart  |  int-ray inspect rows.parquet --out page.html")
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
