"""The loggers that run.loggers can name: TensorBoard, W&B, MLflow, trackio.

The services get numbers and the resolved config, which names environment variables and holds no key. Their own
settings, such as address and key, are the environment's: WANDB_API_KEY, MLFLOW_TRACKING_URI and so on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from int_ray.arms import run_name
from int_ray.config import Config
from int_ray.config_file import ConfigError
from int_ray.loggers import Background, Logger, Loggers

PROJECT = "int-ray"


class TensorBoard:
    """Event files in the run folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """One point per curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases."""

    def __init__(self, config: Config, identity: str) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        folder = config.run.folder
        # Of the machine nothing but its name is sent: no command line, packages, code, output or hardware.
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=PROJECT,
            name=run_name(folder),
            id=identity,
            resume="allow",
            reinit="create_new",
            dir=str(folder),
            config=config.model_dump(mode="json"),
            settings=settings,
        )
        # Its own steps may never go back, as a resumed run does.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log({"iteration": iteration, **values})

    def close(self) -> None:
        """Send the rest."""
        self._run.finish()


class MLflow:
    """A run of MLflow, of the experiment that MLFLOW_EXPERIMENT_NAME names."""

    def __init__(self, config: Config, identity: str) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow = mlflow
        known = config.run.folder / "logged_as_mlflow"  # MLflow chooses its own
        if known.exists():
            self._id = mlflow.start_run(run_id=known.read_text(), log_system_metrics=False).info.run_id
            return
        self._id = mlflow.start_run(run_name=run_name(config.run.folder), log_system_metrics=False).info.run_id
        known.write_text(self._id)
        mlflow.log_params(flat(config.model_dump(mode="json")), run_id=self._id)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """One request; its names cannot have the @ of pass@k."""
        named = {name.replace("@", "_at_"): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=iteration, run_id=self._id)

    def close(self) -> None:
        """Mark the run as ended."""
        self._mlflow.end_run()


class Trackio:
    """A run of trackio: files on this machine, unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says otherwise."""

    def __init__(self, config: Config, identity: str) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self._run = trackio.init(
            project=PROJECT,
            name=f"{run_name(config.run.folder)}-{identity}",
            config=config.model_dump(mode="json"),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=iteration)

    def close(self) -> None:
        """Write or send the rest."""
        self._run.finish()


SERVICES: Mapping[str, Callable[[Config, str], Logger]] = {"wandb": WandB, "mlflow": MLflow, "trackio": Trackio}


def require_loggers(config: Config) -> None:
    """Raises ConfigError for each of run.loggers whose package is not installed."""
    # A folder that is called like the package is a module, too, but one without an origin.
    specs = {name: find_spec(name) for name in config.run.loggers if name in SERVICES}
    missing = [name for name, spec in specs.items() if spec is None or spec.origin is None]
    if missing:
        raise ConfigError(
            [
                f"run.loggers: {name} is not installed; pip install 'int-ray[{name}]', or leave it out"
                for name in missing
            ]
        )


def open_loggers(config: Config, say: Callable[[str], object]) -> Loggers:
    """Those of run.loggers; `say` gets one line about each that fails."""
    loggers = Loggers(say)
    for name in config.run.loggers:
        if name in SERVICES:
            identity = remembered_id(config.run.folder)
            loggers.add(name, Background(partial(SERVICES[name], config, identity)))
        else:
            loggers.add(name, TensorBoard(config.run.folder))
    return loggers


def remembered_id(folder: Path) -> str:
    """What services know the run of this folder by; the same for a resumed one."""
    path = folder / "logged_as"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Settings by their dotted names, such as `rollout.n`."""
    leaves: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = str(value)
    return leaves
