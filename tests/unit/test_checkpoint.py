from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.checkpoint import CheckpointError, Checkpoints, verify
from int_ray.journal import Journal
from int_ray.types import RunState
from tests.fakes import FakeLearner, FakePolicy


def save(folder: Path, *iterations: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    learner = FakeLearner(FakePolicy(), [])
    for iteration in iterations:
        asyncio.run(checkpoints.save(RunState(iteration=iteration, trigger={"stalled": 1}), learner))
    return checkpoints


def test_the_newest_checkpoint_gives_the_state_back(tmp_path: Path):
    checkpoints = save(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_000002", "iteration_000003"]
    latest = checkpoints.latest()
    assert latest == tmp_path / "iteration_000003"
    assert verify(latest) == RunState(iteration=3, trigger={"stalled": 1})


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str):
    checkpoints = save(tmp_path, 1, 2)
    weights = tmp_path / "iteration_000002" / "model.safetensors"
    if damage == "flip":
        weights.write_bytes(b"Weights")
    elif damage == "truncate":
        weights.write_bytes(b"weig")
    elif damage == "remove":
        weights.unlink()
    else:
        (weights.parent / "manifest.json").unlink()
    with pytest.raises(CheckpointError):
        verify(weights.parent)
    assert checkpoints.latest() == tmp_path / "iteration_000001"


def test_half_written_checkpoints_are_not_complete(tmp_path: Path):
    (tmp_path / "iteration_000005.partial").mkdir(parents=True)
    assert Checkpoints(tmp_path, 2).latest() is None
    assert save(tmp_path, 5).latest() == tmp_path / "iteration_000005"


def test_the_journal_survives_a_torn_last_line(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "a"}\n{"eve')
    journal = Journal(path)
    journal.write("b", count=1)
    journal.close()
    lines = path.read_text().splitlines()
    assert lines[1] == '{"eve' and '"event": "b", "count": 1' in lines[2]
