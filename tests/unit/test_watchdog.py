"""What is said and done when nothing happens for long; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from ray.exceptions import RaySystemError

from actors import watchdog
from actors.fleet import Fleet
from actors.watchdog import StalledError, WatchedProgress, watched
from benchmarks import virtual_time
from tests.fakes import FakeProgress


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor, which has no process."""
    actor = {"ActorClassName": "LearnerRank", "Pid": 7, "Address": {"IPAddress": "10.0.0.1", "NodeID": "aa"}}
    monkeypatch.setattr(watchdog, "alive", lambda: [actor])
    monkeypatch.setattr(watchdog, "write_actor_stacks", lambda path: None)


def run(folder: Path, story: Callable[[WatchedProgress], Awaitable[None]]) -> list[str]:
    progress = FakeProgress()

    async def watch() -> None:
        async with watched(progress, Fleet([], 8, progress), folder, 100, 1000) as watching:
            await story(watching)

    virtual_time.run(watch())
    return progress.story


def test_progress_keeps_it_silent(tmp_path: Path):
    async def story(progress: WatchedProgress) -> None:
        for _ in range(50):
            await asyncio.sleep(90)
            progress.advance()

    assert run(tmp_path, story) == [] and not list(tmp_path.iterdir())


def test_a_long_silence_is_said_once_per_interval_with_phase_and_process(tmp_path: Path):
    async def story(progress: WatchedProgress) -> None:
        progress.phase("sampling", 8)
        progress.advance(3)
        await asyncio.sleep(250)
        progress.say("a line is no progress")
        await asyncio.sleep(100)
        progress.phase("reinforcing")
        await asyncio.sleep(150)

    first, second, line, third, last = run(tmp_path, story)
    start = "nothing has happened for 100 s in the phase sampling (3 of 8), waiting for LearnerRank (pid 7 on 10.0.0.1)"
    assert first == start and "200 s in the phase sampling" in second and "300 s" in third and line.startswith("a line")
    assert "100 s in the phase reinforcing, waiting" in last


def test_in_the_end_the_run_stops_with_stacks(tmp_path: Path):
    async def story(progress: WatchedProgress) -> None:
        progress.phase("patching")
        await asyncio.Event().wait()

    with pytest.raises(StalledError, match=r"1000 s in the phase patching \(run\.stall_abort_s\); see stacks"):
        run(tmp_path, story)
    (stacks,) = tmp_path.iterdir()
    assert "test_watchdog.py" in stacks.read_text() and "in story" in stacks.read_text()


def test_what_is_cancelled_by_others_stays_cancelled(tmp_path: Path):
    async def story(progress: WatchedProgress) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        run(tmp_path, story)


def test_a_diagnosis_that_fails_ends_nothing_and_the_end_names_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreachable() -> list[dict[str, object]]:
        raise RaySystemError("the GCS is gone")

    said: list[str] = []

    async def story(progress: WatchedProgress) -> None:
        said.append("began")
        await asyncio.sleep(500)
        said.append("went on")
        await asyncio.Event().wait()

    monkeypatch.setattr(watchdog, "alive", unreachable)
    folder = tmp_path / "away"  # there is none
    with pytest.raises(StalledError, match=r"not all stacks could be written to stacks-.*No such file"):
        run(folder, story)
    assert said == ["began", "went on"]


def test_without_an_answer_of_ray_nobody_knows_who_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreachable() -> list[dict[str, object]]:
        raise RuntimeError("Ray has ended")

    async def story(progress: WatchedProgress) -> None:
        await asyncio.sleep(150)

    monkeypatch.setattr(watchdog, "alive", unreachable)
    (line,) = run(tmp_path, story)
    assert line.endswith("waiting for ?")
