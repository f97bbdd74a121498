from __future__ import annotations

import errno
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.checkpoint import CheckpointError, Checkpoints, verify
from int_ray.config_file import ConfigError, load_config
from int_ray.journal import Journal
from int_ray.types import RunState
from launch.train import find_start
from tests.factories import weights_bytes


def save(folder: Path, *iterations: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for iteration in iterations:
        state = RunState(iteration=iteration, trigger={"stalled": 1})
        partial = checkpoints.begin(state)
        (partial / "model.safetensors").write_bytes(weights_bytes("weights"))
        checkpoints.complete(partial, state)
    return checkpoints


def test_the_newest_checkpoint_gives_the_state_back(tmp_path: Path):
    checkpoints = save(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_000002", "iteration_000003"]
    assert checkpoints.latest() == (tmp_path / "iteration_000003", RunState(3, trigger={"stalled": 1}), [])


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
    good, _, mistakes = checkpoints.latest()
    assert good is not None and good == tmp_path / "iteration_000001" and len(mistakes) == 1
    checkpoints.set_aside(good)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_000001", "iteration_000002.corrupt"]
    assert checkpoints.latest() == (good, verify(good), [])


def test_resume_auto_goes_on_from_the_one_before_and_a_path_to_a_bad_one_is_an_error(tmp_path: Path):
    config = load_config("configs/quickstart.yaml", [f"run.folder={tmp_path}"])
    save(tmp_path / "checkpoints", 1, 2)
    bad = tmp_path / "checkpoints" / "iteration_000002"
    (bad / "model.safetensors").write_bytes(b"Weights")
    start = find_start(config, "auto")
    assert start.checkpoint == bad.with_name("iteration_000001") and start.state.iteration == 1
    (mistake,) = start.passed_over
    assert "iteration_000002: model.safetensors is missing or differs" in mistake
    assert bad.exists()  # until the run begins
    with pytest.raises(ConfigError, match=r"--resume: .*model.safetensors is missing or differs"):
        find_start(config, str(bad))


@pytest.mark.parametrize("kill_at", [1, 2, 3, 4])
def test_a_kill_while_a_checkpoint_is_replaced_leaves_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int
):
    checkpoints, renamed = save(tmp_path, 5, keep=1), 0
    state, rename = RunState(iteration=5, policy_version=7), Path.rename
    partial = checkpoints.begin(state)

    def rename_or_die(path: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += 1
        if renamed == kill_at:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_or_die)
    if kill_at < 4:
        with pytest.raises(KeyboardInterrupt):
            checkpoints.complete(partial, state)
    else:
        checkpoints.complete(partial, state)
    monkeypatch.undo()
    folder, found, mistakes = Checkpoints(tmp_path, 1).latest()
    assert folder == tmp_path / "iteration_000005" and not mistakes
    assert found.policy_version == (7 if kill_at > 2 else 0)
    checkpoints.clear_partial()
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_000005"]


def test_an_old_checkpoint_has_its_name_back_where_the_new_one_cannot_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoints, rename = save(tmp_path, 5, keep=1), Path.rename
    partial = checkpoints.begin(RunState(iteration=5, policy_version=7))

    def fail(path: Path, target: Path) -> Path:
        if path == partial:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoints.complete(partial, RunState(iteration=5, policy_version=7))
    assert verify(tmp_path / "iteration_000005").policy_version == 0


def test_half_written_checkpoints_are_not_complete(tmp_path: Path):
    (tmp_path / "iteration_000005.partial1").mkdir(parents=True)
    assert Checkpoints(tmp_path, 2).latest() == (None, RunState(), [])
    assert save(tmp_path, 5).latest()[0] == tmp_path / "iteration_000005"
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_000005"]


def test_nothing_is_renamed_where_no_checkpoint_verifies(tmp_path: Path):
    checkpoints = save(tmp_path, 1, 2)
    for path in tmp_path.rglob("model.safetensors"):
        path.write_bytes(b"Weights")
    with pytest.raises(CheckpointError, match=r"iteration_000002: model.safetensors.*iteration_000001"):
        checkpoints.latest()


def test_a_checkpoint_that_cannot_be_deleted_is_none_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None if ignore_errors else 1 / 0)
    checkpoints = save(tmp_path, 1, 2, keep=1)
    assert checkpoints.latest()[0] == tmp_path / "iteration_000002" and checkpoints.pruned == {"iteration_000001"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_000001.partial0", "iteration_000002"]
    monkeypatch.undo()
    checkpoints.clear_partial()
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_000002"]


def listed(folder: Path, name: str, content: bytes = b"weights") -> None:
    """Add a file to the manifest, as it is on disk."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def put(path: Path) -> None:
    path.write_bytes(b"weights")


def link(path: Path) -> None:
    put(path.parents[1] / "outside.json")
    path.symlink_to("../outside.json")


def link_folder(path: Path) -> None:
    (path.parents[1] / "elsewhere").mkdir()
    path.symlink_to("../elsewhere", target_is_directory=True)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("pytorch_model.bin", put, "of a kind that no checkpoint holds"),
        ("learner.pt", put, "of a kind that no checkpoint holds"),
        ("modeling_qwen3.py", put, "of a kind that no checkpoint holds"),
        ("link.json", link, "no plain file"),
        ("reference", link_folder, "no plain file"),
    ],
)
@pytest.mark.parametrize("in_manifest", [True, False])
def test_a_hostile_file_is_refused_even_with_a_consistent_manifest(
    tmp_path: Path, name: str, make: Callable[[Path], None], reason: str, in_manifest: bool
):
    save(tmp_path, 1)
    folder = tmp_path / "iteration_000001"
    make(folder / name)
    if in_manifest:
        listed(folder, name)
    with pytest.raises(CheckpointError, match=reason):
        verify(folder)


def test_a_pickle_in_the_place_of_weights_is_refused_and_passed_over(tmp_path: Path):
    checkpoints, touched = save(tmp_path, 1, 2), tmp_path / "touched"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return touched.write_text, ("run",)

    hostile = pickle.dumps(Hostile())
    (tmp_path / "iteration_000002" / "model.safetensors").write_bytes(hostile)
    listed(tmp_path / "iteration_000002", "model.safetensors", hostile)
    good, _, (mistake,) = checkpoints.latest()
    assert good == tmp_path / "iteration_000001" and "is no safetensors file" in str(mistake)
    assert not touched.exists()


@pytest.mark.parametrize("name", ["../outside.json", "learner/../../outside.json", "{tmp_path}/outside.json"])
def test_a_manifest_cannot_name_what_is_outside(tmp_path: Path, name: str):
    save(tmp_path, 1)
    put(tmp_path / "outside.json")
    listed(tmp_path / "iteration_000001", name.format(tmp_path=tmp_path))
    with pytest.raises(CheckpointError, match="outside of the checkpoint"):
        verify(tmp_path / "iteration_000001")


def test_a_file_that_the_manifest_does_not_know_is_refused(tmp_path: Path):
    save(tmp_path, 1)
    put(tmp_path / "iteration_000001" / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="is not in the manifest"):
        verify(tmp_path / "iteration_000001")


def test_a_state_that_is_none_is_refused(tmp_path: Path):
    save(tmp_path, 1)
    folder, content = tmp_path / "iteration_000001", b'{"iteration": "many"}'
    (folder / "state.json").write_bytes(content)
    listed(folder, "state.json", content)
    with pytest.raises(CheckpointError, match=r"state.json is not the state of a run"):
        verify(folder)


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, 2, {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.1, 5: 0.1}.__getitem__)
    for iteration in range(1, 6):
        state = RunState(iteration=iteration)
        checkpoints.complete(checkpoints.begin(state), state)
    assert [path.name[-1] for path in checkpoints.complete_folders()] == ["2", "4", "5"]


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints = save(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3))
    with pytest.raises(OSError, match="the last one took") as caught:
        checkpoints.begin(RunState(iteration=2))
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_000001"]


def test_the_journal_survives_a_torn_last_line(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "a"}\n{"eve')
    journal = Journal(path)
    journal.write("b", count=1)
    journal.close()
    lines = path.read_text().splitlines()
    assert lines[1] == '{"eve' and '"event": "b", "count": 1' in lines[2]
