"""Checkpoints on a disk that is really full: a small one of its own, where this machine lets tests mount one."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from actors.recovery import Recovery
from actors.run_folder import RunFolder
from int_ray.compute.shards import write_shard
from int_ray.config_file import load_config
from int_ray.journal import read_json_lines
from int_ray.types import RunState
from tests.fakes import FakeLearner, FakePolicy, FakeProgress


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One with room for 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


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
