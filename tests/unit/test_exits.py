"""How a command ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
import ray
import typer
from ray._private import utils

from actors import local_ray
from launch.exits import exit_resumable


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
