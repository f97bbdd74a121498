"""Checkpoints on a disk that is really full: a small one of its own, where this machine lets tests mount one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.drift import Drift
from actors.recovery import Recovery
from actors.run_folder import RunFolder
from actors.updates import Updates
from int_ray.compute.shards import write_shard
from int_ray.config_file import load_config
from int_ray.errors import RunError
from int_ray.journal import Journal, read_json_lines
from int_ray.types import RunState, TrainingSample, Update, UpdateBatches
from launch.train import Start, train
from tests.factories import group
from tests.fakes import FakeLearner, FakePolicy, FakeProgress
from tests.small_disk import fill, mounted
from tests.unit.test_resume import World


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One with room for 1 MB."""
    with mounted(tmp_path / "disk", 1) as why_not:
        if why_not:
            pytest.skip(why_not)
        yield tmp_path / "disk"


class GrowingLearner(FakeLearner):
    """Writes as the ranks do, so many bytes."""

    size = 0

    async def save(self, folder: Path) -> None:
        write_shard(folder / "model.safetensors", {"weight": torch.zeros(self.size // 4)})


def test_a_checkpoint_that_fills_the_disk_is_given_up_and_the_next_that_fits_is_written(
    small_disk: Path, tmp_path: Path
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(small_disk)
    folder = RunFolder(tmp_path / "run")
    learner, progress = GrowingLearner(FakePolicy(), []), FakeProgress()
    config = load_config("configs/quickstart.yaml", [f"run.folder={folder.path}"])
    recovery = Recovery(config, learner, folder, progress)

    def checkpoint(iteration: int) -> Path:
        return folder.path / "checkpoints" / f"iteration_{iteration:06d}"

    async def save(iteration: int, size: int) -> None:
        learner.size = size
        await recovery.save(RunState(iteration))
        await recovery.settle()

    async def save_all() -> None:
        await save(1, 400_000)
        await save(2, 900_000)  # there is room for as much as the last one took, not for this
        assert recovery.checkpoints.latest() == (checkpoint(1), RunState(1), [])
        assert not list(small_disk.glob("*.partial*"))
        await save(3, 400_000)

    asyncio.run(save_all())
    assert recovery.checkpoints.latest() == (checkpoint(3), RunState(3), [])
    events = read_json_lines(folder.path / "journal.jsonl")
    assert [(event["event"], event["iteration"]) for event in events] == [
        ("checkpoint", 1),
        ("checkpoint_failed", 2),
        ("checkpoint", 3),
    ]
    assert "No space left on device" in events[1]["reason"]
    assert any("iteration_000001 stays the newest" in line for line in progress.story)
    folder.close()


def test_a_disk_with_room_for_nothing_ends_no_run_and_what_is_lost_is_counted(small_disk: Path, tmp_path: Path):
    whole = World(tmp_path / "whole", schedule="never")
    whole.run()
    world = World(small_disk / "run", schedule="never")
    saves = [number for number, name in enumerate(whole.calls.made, start=1) if name == "save"]
    world.calls.at[saves[1] - 3] = lambda: fill(small_disk)  # iteration 2 is saved, 4 is about to be
    with pytest.raises(RunError, match=r"the last checkpoint could not be written: make room.*iteration_000002"):
        world.run()
    assert world.learner.weights == whole.learner.weights
    assert world.coordinator.recovery.checkpoints.latest()[1].iteration == 2
    assert any("iteration 4 could not be written" in line for line in world.progress.story)
    assert sum("No room in" in line for line in world.progress.story) == 1

    (small_disk / "ballast").unlink()
    resumed = World(small_disk / "run", schedule="never")
    resumed.run()
    assert resumed.outcome() == whole.outcome()


def test_the_journal_has_the_count_once_there_is_room_and_whole_lines_alone(small_disk: Path):
    lines: list[str] = []
    folder, long = RunFolder(small_disk / "run", say=lines.append), "x" * 5000
    folder.journal.write("before")
    ballast = fill(small_disk)
    for number in range(3):
        folder.journal.write("lost", number=number, text=long)
        folder.metrics(number, {"reward": 0.5})
    folder.rollouts(1, [])
    ballast.unlink()
    folder.journal.write("after")
    folder.metrics(4, {"reward": 0.5})
    folder.close()
    events = read_json_lines(folder.path / "journal.jsonl")
    assert len(lines) == 1 and [event["event"] for event in events] in (
        ["before", "records_lost", "after"],
        ["before", "lost", "records_lost", "after"],  # a page that was begun has room
    )
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines() if line]
    assert rows[-1] == {"iteration": 4, "reward": 0.5}
    assert not list(folder.path.rglob("*.partial"))


def test_half_of_a_line_is_closed_off_by_the_next(small_disk: Path):
    journal = Journal(small_disk / "journal.jsonl")
    ballast = fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        journal.write("torn", text="x" * 20000)
    ballast.write_bytes(b"")
    journal.write("whole")
    journal.close()
    assert [event["event"] for event in read_json_lines(small_disk / "journal.jsonl")] == ["whole"]


def test_a_resumed_run_without_room_leaves_the_config_as_it_was(small_disk: Path):
    config = load_config("configs/quickstart.yaml", [f"run.folder={small_disk / 'run'}", "run.loggers=[]"])
    RunFolder(config.run.folder).close()
    before = "schedule: never\n"
    (config.run.folder / "config.yaml").write_text(before)
    fill(small_disk)
    problems = SimpleNamespace(identity=lambda: "8 problems", problems=[])
    inputs = SimpleNamespace(problems=problems, mixed=problems)

    def assemble(*_: object, **__: object) -> None:
        pytest.fail("nothing starts")

    start = Start(RunState(), None)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(train(config, inputs, start, FakeProgress(), assemble))  # pyright: ignore
    assert (config.run.folder / "config.yaml").read_text() == before


def test_without_room_neither_a_skipped_update_nor_drift_ends_a_run(small_disk: Path):
    class NothingFinite(FakeLearner):
        async def patch(self, batches: UpdateBatches) -> Update:
            return Update(0, not_finite=(0,))

    folder = RunFolder(small_disk / "run")
    learner = NothingFinite(FakePolicy(), [])
    batches = [[TrainingSample(np.array([1, 2], np.int32), np.array([0, 1], np.uint8))]]

    async def patch_and_measure() -> RunState:
        state, _ = await Updates(learner, folder, most_skipped=3).patch(RunState(), batches)
        await Drift(learner, folder).measure(state, "hard", [group("cw")])
        return state

    ballast = fill(small_disk)
    assert asyncio.run(patch_and_measure()).skipped_in_row == 1
    ballast.unlink()
    folder.journal.write("after")
    events = read_json_lines(folder.path / "journal.jsonl")
    assert [event["event"] for event in events][-2:] == ["records_lost", "after"]
    assert not list(folder.path.rglob("*.partial"))
