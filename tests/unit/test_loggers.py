"""Loggers: what each service is told, with its published signatures, and that none of them can end or hold up a run."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from actors.run_folder import RunFolder
from int_ray import loggers
from int_ray.config import Config
from int_ray.config_file import ConfigError, load_config
from int_ray.loggers import Background, Loggers, harmless
from int_ray.metrics import evaluate_set
from int_ray.trackers import open_loggers, require_loggers
from tests.factories import group

ROOT = Path(__file__).parents[2]


def config(folder: Path, *names: str) -> Config:
    return load_config(ROOT / "configs/quickstart.yaml", [f"run.folder={folder}", f"run.loggers=[{', '.join(names)}]"])


class Recorder:
    """Module of a service; every call is kept as its name and arguments."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.module = ModuleType(name)
        self.module.__spec__ = ModuleSpec(name, None, origin="here")
        monkeypatch.setitem(sys.modules, name, self.module)

    def keep(self, called: str, /, **arguments: Any) -> None:
        self.calls.append((called, arguments))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [arguments for called, arguments in self.calls if called == name]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """wandb 0.31: the parameters that exist, with others a TypeError."""
    service = Recorder("wandb", monkeypatch)

    class Settings:
        def __init__(
            self,
            *,
            console: str,
            disable_git: bool,
            save_code: bool,
            x_disable_machine_info: bool,
            x_disable_meta: bool,
            x_disable_stats: bool,
            x_save_requirements: bool,
        ) -> None:
            self.sends = not (disable_git and x_disable_machine_info and x_disable_meta and x_disable_stats)
            self.sends |= save_code or x_save_requirements or console != "off"

    class Run:
        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            service.keep("define_metric", name=name, step_metric=step_metric)

        def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            service.keep("log", data=data, step=step)

        def finish(self, exit_code: int | None = None) -> None:
            service.keep("finish")

    def init(
        *,
        project: str,
        dir: str,
        id: str,
        name: str,
        config: dict[str, Any],
        reinit: str,
        resume: str,
        settings: Settings,
    ) -> Run:
        given = {"project": project, "dir": dir, "id": id, "name": name, "resume": resume, "reinit": reinit}
        service.keep("init", config=config, settings=settings, **given)
        return Run()

    vars(service.module).update(init=init, Settings=Settings)
    return service


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """mlflow 3.17."""
    service = Recorder("mlflow", monkeypatch)

    def start_run(
        run_id: str | None = None, *, run_name: str | None = None, log_system_metrics: bool | None = None
    ) -> SimpleNamespace:
        service.keep("start_run", run_id=run_id, run_name=run_name, system=log_system_metrics)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "given-by-mlflow"))

    def log_params(params: dict[str, Any], synchronous: bool | None = None, run_id: str | None = None) -> None:
        assert all(len(str(value)) <= 6000 for value in params.values())
        service.keep("log_params", params=params, run_id=run_id)

    def log_metrics(metrics: dict[str, float], step: int | None = None, *, run_id: str | None = None) -> None:
        assert not any("@" in name for name in metrics)  # mlflow refuses such names
        service.keep("log_metrics", metrics=metrics, step=step, run_id=run_id)

    def end_run(status: str = "FINISHED") -> None:
        service.keep("end_run")

    vars(service.module).update(start_run=start_run, log_params=log_params, log_metrics=log_metrics, end_run=end_run)
    return service


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """trackio 0.43."""
    service = Recorder("trackio", monkeypatch)

    class Run:
        def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
            service.keep("log", metrics=metrics, step=step)

        def finish(self) -> None:
            service.keep("finish")

    def init(
        project: str,
        name: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        resume: str = "never",
        embed: bool = True,
        auto_log_gpu: bool | None = None,
        auto_log_cpu: bool | None = None,
    ) -> Run:
        service.keep("init", project=project, name=name, config=config, resume=resume)
        return Run()

    vars(service.module).update(init=init)
    return service


def run_and_resume(settings: Config) -> list[str]:
    """Two processes of a run, one row and one evaluation each; returns what the person was told."""
    told: list[str] = []
    for iteration in (1, 2):
        folder = RunFolder(settings.run.folder, open_loggers(settings, told.append))
        folder.metrics(iteration, {"rollout/reward": iteration / 4})
        folder.evaluation(iteration, "hard", [], evaluate_set([group("cwww")], (1,), 0))
        folder.close()
    return told


def test_wandb_gets_rows_and_config_and_goes_on_with_its_run(wandb: Recorder, tmp_path: Path):
    assert run_and_resume(config(tmp_path / "mine", "wandb")) == []
    first, second = wandb.named("init")
    given = [first[name] for name in ("project", "name", "resume", "reinit")]
    assert given == ["int-ray", "mine", "allow", "create_new"]
    assert first["id"] == second["id"] and first["dir"] == str(tmp_path / "mine")
    assert first["config"]["rollout"]["n"] == 16 and not first["settings"].sends
    assert {"name": "*", "step_metric": "iteration"} in wandb.named("define_metric")
    rows = [call["data"] for call in wandb.named("log")]
    assert rows[0] == {"iteration": 1, "rollout/reward": 0.25}
    assert rows[1]["evaluate/hard/pass@1"] == 0.25 and rows[2] == {"iteration": 2, "rollout/reward": 0.5}
    assert all(call["step"] is None for call in wandb.named("log")) and len(wandb.named("finish")) == 2


def test_mlflow_gets_rows_and_goes_on_with_its_run(mlflow: Recorder, tmp_path: Path):
    assert run_and_resume(config(tmp_path / "mine", "mlflow")) == []
    assert [call["run_id"] for call in mlflow.named("start_run")] == [None, "given-by-mlflow"]
    (settings,) = mlflow.named("log_params")  # mlflow refuses to change them
    assert settings["params"]["rollout.n"] == "16" and settings["params"]["evaluate.k"] == "[1, 8]"
    rows = mlflow.named("log_metrics")
    assert rows[0]["metrics"] == {"rollout/reward": 0.25} and [call["step"] for call in rows] == [1, 1, 2, 2]
    assert rows[1]["metrics"]["evaluate/hard/pass_at_1"] == 0.25
    assert {call["run_id"] for call in rows} == {"given-by-mlflow"} and len(mlflow.named("end_run")) == 2


def test_trackio_gets_rows_and_goes_on_with_its_run(trackio: Recorder, tmp_path: Path):
    assert run_and_resume(config(tmp_path / "mine", "trackio")) == []
    first, second = trackio.named("init")
    assert first["name"] == second["name"] and first["name"].startswith("mine-") and first["resume"] == "allow"
    assert [call["step"] for call in trackio.named("log")] == [1, 1, 2, 2]
    assert trackio.named("log")[0]["metrics"] == {"rollout/reward": 0.25} and len(trackio.named("finish")) == 2


def test_tensorboard_writes_curves(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run_and_resume(config(tmp_path, "tensorboard")) == []
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(point.step, point.value) for point in board.Scalars("rollout/reward")] == [(1, 0.25), (2, 0.5)]
    assert [point.value for point in board.Scalars("evaluate/hard/pass@1")] == [0.25, 0.25]


def test_the_default_is_tensorboard_alone():
    assert load_config(ROOT / "configs/quickstart.yaml").run.loggers == ("tensorboard",)


def test_a_logger_that_is_not_installed_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: Recorder
):
    (tmp_path / "trackio").mkdir()  # a folder is no package
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as refusal:
        require_loggers(config(tmp_path, "tensorboard", "wandb", "mlflow", "trackio"))
    said = str(refusal.value)
    assert "run.loggers: mlflow is not installed; pip install 'int-ray[mlflow]'" in said
    assert "int-ray[trackio]" in said and "wandb" not in said


class Broken:
    """Takes one row."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.rows: list[int] = []

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.rows.append(iteration)
        if iteration > 1:
            raise self.error

    def close(self) -> None:
        raise AssertionError("it has been left out")


def test_one_that_fails_is_named_once_and_the_others_go_on(tmp_path: Path):
    told: list[str] = []
    broken = Broken(ConnectionError("no route\nto host"))
    some = Loggers(told.append)
    some.add("mlflow", broken)
    folder = RunFolder(tmp_path, some)
    for iteration in (1, 2, 3):
        folder.metrics(iteration, {"rollout/reward": 0.5})
    folder.close()
    assert broken.rows == [1, 2]
    assert told == [
        "run.loggers: mlflow failed and gets no more numbers (ConnectionError: no route); metrics.jsonl has them all"
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_service_that_cannot_be_reached_is_left_out(wandb: Recorder, tmp_path: Path):
    def init(**options: Any) -> None:
        raise ConnectionError("no network")

    vars(wandb.module).update(init=init)
    (line,) = run_and_resume(config(tmp_path, "wandb"))[:1]
    assert line.startswith("run.loggers: wandb failed") and "no network" in line


def test_one_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loggers, "CLOSE_DEADLINE_S", 0.05)
    release = threading.Event()

    class Hanging(Broken):
        def log(self, iteration: int, values: Mapping[str, float]) -> None:
            release.wait(60)

    told: list[str] = []
    some = Loggers(told.append)
    some.add("mlflow", Background(lambda: Hanging(ValueError())))
    for iteration in range(3):
        some.log(iteration, {})
    some.close()
    release.set()
    assert len(told) == 1 and "waited 0.05 s" in told[0]


def test_no_secret_is_in_a_warning_or_in_what_a_service_gets(
    monkeypatch: pytest.MonkeyPatch, wandb: Recorder, tmp_path: Path
):
    monkeypatch.setenv("WANDB_API_KEY", "canary-77aa-key")
    monkeypatch.setenv("GEMINI_API_KEY", "canary-88bb-key")
    said = harmless("MlflowException: https://me:pass-1@host/api refused canary-77aa-key\nmore")
    assert said == "MlflowException: https://host/api refused [WANDB_API_KEY]"
    settings = load_config(
        ROOT / "configs/quickstart.yaml",
        [f"run.folder={tmp_path}", "run.loggers=[wandb]", "oracle.kind=gemini", "oracle.gemini.model=m"],
    )
    run_and_resume(settings)
    sent = json.dumps([call for name, call in wandb.calls if name != "init"]) + json.dumps(
        [call["config"] for call in wandb.named("init")]
    )
    assert "GEMINI_API_KEY" in sent and "canary-" not in sent
