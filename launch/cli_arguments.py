"""Arguments and options that several commands have."""

from typing import Annotated, Literal

import typer

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
