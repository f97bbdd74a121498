"""`int-ray`, the same as `python -m launch.cli`. Commands import late, so that --help is instant."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from launch.exits import EXIT_FAILED, exit_on_config_error, exit_resumable

ConfigFile = Annotated[str, typer.Argument(help="YAML file, such as configs/quickstart.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, such as trigger.patience=2.", show_default=False)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved config, resources and batch sizes; start nothing.")
]
ResumeAuto = Annotated[
    Literal["auto"] | None, typer.Option("--resume", help="auto: go on with what is in run.folder, or start there.")
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
    resume: ResumeAuto = None,
    plugins: Plugins = None,
) -> None:
    """Collect interventions on all training problems, train on nothing: a file for patch.interventions, TRL and others.

    Exit codes: 0 done, 1 failed, 2 the config or the data cannot be used, 75 interrupted and resumable.
    """
    arguments = overrides or []
    with exit_resumable("collect", config, arguments, plugins or []):
        from launch.collect import run_collection

        run_collection(config, arguments, dry_run=dry_run, resumed=resume is not None, plugins=plugins or [])


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
    arguments = overrides or []
    with exit_resumable("evaluate", config, arguments, plugins or []):
        from launch.evaluation import run_evaluation

        run_evaluation(config, arguments, dry_run=dry_run, resumed=resume is not None, plugins=plugins or [])


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
    arguments = overrides or []
    with exit_resumable("hard-set", config, arguments, plugins or []):
        from launch.hard_set import run_hard_set

        run_hard_set(config, arguments, dry_run=dry_run, resumed=resume is not None, plugins=plugins or [])


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


@app.command(epilog="Examples:  int-ray doctor  |  int-ray doctor configs/quickstart.yaml --oracle")
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


def main() -> None:
    """Console script."""
    app()


if __name__ == "__main__":
    main()
