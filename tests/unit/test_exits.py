"""How a command ends when it is told to."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable

import pytest
import ray
import typer
from ray._private import utils

from actors import local_ray
from actors.recovery import LearnerLost
from actors.updates import NotFinite
from int_ray.errors import Stopped
from launch.exits import exit_resumable, sigterm_sets


@pytest.mark.timeout(30)
@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def test_sigterm_ends_a_run_as_ctrl_c_does(ctrl_c: Callable | int, capsys: pytest.CaptureFixture[str]):
    ended: list[type[BaseException]] = []

    async def run() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError as error:
            await asyncio.sleep(0)  # there is a loop to end processes with
            ended.append(type(error))
            raise

    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, ctrl_c)
    try:
        with pytest.raises(typer.Exit) as end, exit_resumable("train", "a.yaml", ["run.seed=1"], []):
            asyncio.run(run())
    finally:
        signal.signal(signal.SIGINT, before[1])
    assert end.value.exit_code == 75 and ended == [asyncio.CancelledError]
    said = capsys.readouterr().err
    assert said.startswith("Interrupted. To go on: ") and "int-ray train a.yaml run.seed=1 --resume auto" in said
    assert signal.getsignal(signal.SIGTERM) is before[0]


@pytest.mark.timeout(30)
def test_the_first_sigterm_asks_to_save_and_another_one_ends_the_run():
    asked: list[bool] = []

    async def run() -> None:
        stop = asyncio.Event()
        with sigterm_sets(stop):
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
            asked.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(20)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(typer.Exit) as end, exit_resumable("train", "a.yaml", [], []):
            asyncio.run(run())
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.exit_code == 75 and asked == [True]


@pytest.mark.parametrize(
    ("error", "code"), [(LearnerLost("again"), 1), (NotFinite("again"), 1), (Stopped("asked"), 75)]
)
def test_what_would_come_again_is_not_queued_again(error: Exception, code: int, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit) as end, exit_resumable("train", "a.yaml", [], []):
        raise error
    assert end.value.exit_code == code and "--resume auto" in capsys.readouterr().err


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit) as end, exit_resumable("train", "a.yaml", [], []):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/journal.jsonl")
    assert end.value.exit_code == 1
    assert "No space left on device: 'runs/a/journal.jsonl'\nTo go on: " in capsys.readouterr().err
    with pytest.raises(PermissionError), exit_resumable("train", "a.yaml", [], []):
        raise PermissionError(errno.EACCES, "not a matter of the disk")


def test_sigterm_before_there_is_a_loop(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit) as end, exit_resumable("collect", "a.yaml", [], []):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("goes on")
    assert end.value.exit_code == 75 and "int-ray collect a.yaml --resume auto" in capsys.readouterr().err


def test_sigterm_waits_until_ray_has_started(monkeypatch: pytest.MonkeyPatch):
    steps: list[str] = []

    def starts(**options: object) -> None:
        utils.set_sigterm_handler(lambda *_: steps.append("Ray's handler"))
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("Ray has started")

    monkeypatch.setattr(ray, "init", starts)
    before = signal.signal(signal.SIGTERM, lambda *_: steps.append("our handler"))
    try:
        local_ray.connect("10.0.0.1:6379")
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps == ["Ray has started", "our handler", "our handler"]
