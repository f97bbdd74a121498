"""How a command's journal says that it has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rich.console import Console

from actors.coordinator import OracleOutage
from actors.failures import FleetLostError
from actors.recovery import LearnerLost
from actors.watchdog import StalledError
from int_ray.errors import Stopped
from int_ray.journal import read_json_lines
from int_ray.result_folder import ResultFolder
from launch.console import ConsoleProgress
from launch.preparation import journalled_end


@pytest.mark.parametrize(
    ("error", "ending", "reason"),
    [
        (FleetLostError("no engine"), "interrupted", "no engine"),
        (OracleOutage("no oracle"), "interrupted", "no oracle"),
        (StalledError("no progress"), "interrupted", "no progress"),
        (Stopped("asked"), "interrupted", "asked"),
        (asyncio.CancelledError(), "interrupted", None),
        (KeyboardInterrupt(), "interrupted", None),
        (LearnerLost("again"), "failed", None),
        (ValueError("a bug"), "failed", None),
    ],
)
def test_what_can_be_resumed_at_once_is_interrupted(
    tmp_path: Path, error: BaseException, ending: str, reason: str | None
):
    with (
        pytest.raises(type(error)),
        ConsoleProgress(Console(quiet=True)) as progress,
        journalled_end(ResultFolder(tmp_path), progress),
    ):
        raise error
    (event,) = read_json_lines(tmp_path / "journal.jsonl")
    assert event["event"] == ending and event.get("reason") == reason


def test_a_run_to_the_end_is_finished(tmp_path: Path):
    with ConsoleProgress(Console(quiet=True)) as progress, journalled_end(ResultFolder(tmp_path), progress):
        pass
    (event,) = read_json_lines(tmp_path / "journal.jsonl")
    assert event["event"] == "finished" and "reason" not in event
