"""A copy of a run elsewhere: in S3 as moto serves it, in `memory://`, and in `file://` as on a shared disk."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from actors.checkpoint import CheckpointError, Checkpoints, verify
from actors.storage import Storage, open_storage
from int_ray.config_file import ConfigError, load_config
from int_ray.types import RunState
from launch.train import fetch_run
from tests.factories import weights_bytes


def saved(run: Path, iteration: int, keep: int = 2, ranks: int = 1) -> Path:
    checkpoints, state = Checkpoints(run / "checkpoints", keep), RunState(iteration=iteration)
    partial = checkpoints.begin(state)
    (partial / "learner").mkdir()
    (partial / "model.safetensors").write_bytes(weights_bytes(f"weights of {iteration}"))
    for rank in range(ranks):
        (partial / "learner" / f"{rank}.json").write_text(f"state of {iteration}, rank {rank} of {ranks}")
    (run / "journal.jsonl").write_text("{}\n")
    (run / "rollouts").mkdir(exist_ok=True)
    (run / "rollouts" / f"{iteration}.jsonl").write_text("{}\n")
    (run / "oracle_answers.jsonl").write_text("paid\n" * iteration)
    (run / "groups").mkdir(exist_ok=True)
    (run / "groups" / "version_000001.jsonl").write_text("{}\n")
    return checkpoints.complete(partial, state)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Of a server on this machine."""
    missing = "S3 needs int-ray[s3] and moto[server]"
    s3fs, server = (pytest.importorskip(name, reason=missing) for name in ("s3fs", "moto.server"))
    serving = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    serving.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*serving.get_host_and_port()))
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    serving.stop()


@pytest.fixture(params=["s3", "memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = uuid.uuid4().hex
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/{name}/run"
    return f"memory://{name}/run" if request.param == "memory" else f"file://{tmp_path / name / 'run'}"


def test_a_run_goes_on_where_the_disk_is_empty(tmp_path: Path, url: str):
    run, storage = tmp_path / "run", open_storage(url)
    for iteration in (1, 2, 3):
        storage.send(run, saved(run, iteration), {"iteration_000001"})
    assert sorted(storage.checkpoints()) == ["iteration_000002", "iteration_000003"]
    other = tmp_path / "other"
    assert open_storage(url).fetch(other) == "iteration_000003"
    assert verify(other / "checkpoints" / "iteration_000003") == RunState(iteration=3)
    assert (other / "oracle_answers.jsonl").read_text() == "paid\n" * 3
    assert sorted(path.name for path in (other / "rollouts").iterdir()) == ["1.jsonl", "2.jsonl", "3.jsonl"]
    assert not (other / "groups").exists()


def test_what_has_not_arrived_whole_or_was_altered_is_passed_over(tmp_path: Path, url: str):
    run, storage = tmp_path / "run", open_storage(url)
    for iteration in (1, 2, 3):
        storage.send(run, saved(run, iteration, keep=3))
    files, root = storage.files, storage.root / "checkpoints"
    files.rm_file(str(root / "iteration_000003" / "manifest.json"))  # the connection broke before it came
    files.pipe_file(str(root / "iteration_000002" / "model.safetensors"), weights_bytes("weights of 9"))
    assert storage.fetch(tmp_path / "other") == "iteration_000001"
    files.pipe_file(str(root / "iteration_000001" / "model.safetensors"), weights_bytes("weights of 9"))
    with pytest.raises(CheckpointError, match=r"iteration_000002.*iteration_000001"):
        storage.fetch(tmp_path / "third")


def test_the_manifest_comes_last(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    run, storage, order = tmp_path / "run", open_storage(url), []
    put = storage._put  # pyright: ignore
    monkeypatch.setattr(storage, "_put", lambda path, name: (order.append(name), put(path, name)))
    storage.send(run, saved(run, 1))
    assert order[-1] == "checkpoints/iteration_000001/manifest.json"
    assert "oracle_answers.jsonl" in order[:2]
    del order[:]
    storage.send(run, saved(run, 2))
    assert "rollouts/1.jsonl" not in order and "rollouts/2.jsonl" in order  # only what is new


def test_a_checkpoint_that_is_written_again_leaves_nothing_of_the_one_before(tmp_path: Path, url: str):
    run, other, storage = tmp_path / "run", tmp_path / "other", open_storage(url)
    storage.send(run, saved(run, 1, ranks=2))
    storage.send(run, saved(run, 1, ranks=1))
    assert storage.fetch(other) == "iteration_000001"
    learner = other / "checkpoints" / "iteration_000001" / "learner"
    assert [path.read_text() for path in learner.iterdir()] == ["state of 1, rank 0 of 1"]


@pytest.mark.parametrize("allowed", range(5))
def test_a_checkpoint_counts_no_more_while_it_is_written_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, allowed: int
):
    run, storage = tmp_path / "run", open_storage(url)
    for iteration in (1, 2):
        storage.send(run, saved(run, iteration, ranks=2))
    put, left = storage._put, allowed  # pyright: ignore

    def torn(path: Path, name: str) -> None:
        nonlocal left
        assert storage.checkpoints() == ["iteration_000001"]
        left -= 1
        if left < 0:
            raise ValueError("the connection is gone")
        put(path, name)

    again = saved(run, 2, ranks=2)
    monkeypatch.setattr(storage, "_send_files", lambda _: None)
    monkeypatch.setattr(storage, "_put", torn)
    with pytest.raises(ValueError, match="the connection is gone"):
        storage.send(run, again)
    assert storage.fetch(tmp_path / "other") == "iteration_000001"


def test_one_that_was_pruned_before_it_was_sent_takes_nothing_with_it(tmp_path: Path, url: str):
    run, storage = tmp_path / "run", open_storage(url)
    checkpoint = saved(run, 1)
    storage.send(run, checkpoint)
    shutil.rmtree(checkpoint)
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json any more"):
        storage.send(run, checkpoint)
    assert storage.fetch(tmp_path / "other") == "iteration_000001"


def test_the_one_that_arrived_last_is_fetched_and_then_those_before_it(tmp_path: Path, url: str):
    run, storage = tmp_path / "run", open_storage(url)
    storage.send(run, saved(run, 3, keep=3))
    for iteration in (1, 2):  # resumed from one that was older
        time.sleep(1.1 if url.startswith("s3") else 0.05)  # S3 tells whole seconds
        storage.send(run, saved(run, iteration, keep=3))
    for newest in ("iteration_000002", "iteration_000001", "iteration_000003"):
        other = tmp_path / newest
        assert storage.fetch(other) == newest
        assert [path.name for path in (other / "checkpoints").iterdir()] == [newest]
        storage.files.pipe_file(str(storage.root / "checkpoints" / newest / "state.json"), b"altered")


def test_of_those_that_arrived_at_one_time_the_highest_number_is_fetched(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
):
    run, storage = tmp_path / "run", open_storage(url)
    for iteration in (1, 3, 2):
        storage.send(run, saved(run, iteration, keep=3))
    monkeypatch.setattr(storage.files, "modified", lambda _: 0)
    assert storage.fetch(tmp_path / "other") == "iteration_000003"


def test_an_empty_store_has_nothing(tmp_path: Path, url: str):
    assert open_storage(url).fetch(tmp_path / "run") is None


def test_a_fetch_that_is_interrupted_begins_again(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    run, other = tmp_path / "run", tmp_path / "other"
    open_storage(url).send(run, saved(run, 1))
    config = load_config("configs/quickstart.yaml", [f"run.folder={other}", f"run.storage={url}"])
    get, left = Storage._get, 0  # pyright: ignore

    def torn(self: Storage, name: str, path: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("the connection is gone")  # as remote stores raise what is no OSError
        get(self, name, path)

    monkeypatch.setattr(Storage, "_get", torn)
    for allowed in range(6):
        left = allowed
        with pytest.raises(ConfigError, match=r"run.storage: .*the connection is gone"):
            fetch_run(config, "auto")
        assert not (other / "journal.jsonl").exists()
    left = 100
    assert fetch_run(config, "auto") == [f"Fetched iteration_000001 of {url}"]
    assert verify(other / "checkpoints" / "iteration_000001") == RunState(iteration=1)
    assert (other / "journal.jsonl").exists() and fetch_run(config, "auto") == []


def test_what_this_folder_never_had_is_not_deleted(tmp_path: Path, url: str):
    run, other = tmp_path / "run", tmp_path / "other"
    open_storage(url).send(run, saved(run, 7))
    storage = open_storage(url)
    storage.send(other, saved(other, 1))
    assert sorted(storage.checkpoints()) == ["iteration_000001", "iteration_000007"]


def test_a_new_run_does_not_begin_in_a_store_that_holds_one(tmp_path: Path, url: str):
    run = tmp_path / "run"
    config = load_config("configs/quickstart.yaml", [f"run.folder={tmp_path / 'other'}", f"run.storage={url}"])
    assert fetch_run(config, None) == []
    open_storage(url).send(run, saved(run, 1))
    with pytest.raises(ConfigError, match="already holds a run; add --resume auto"):
        fetch_run(config, None)


def test_a_store_that_cannot_be_reached_is_not_an_empty_one(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no credentials")

    config = load_config("configs/quickstart.yaml", [f"run.folder={tmp_path / 'other'}", f"run.storage={url}"])
    monkeypatch.setattr(open_storage(url).files, "ls", refuse)
    for resume in ("auto", None):
        with pytest.raises(ConfigError, match="no credentials"):
            fetch_run(config, resume)


def test_a_store_that_never_answers_is_one_line(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    settings = [f"run.folder={tmp_path / 'other'}", f"run.storage={url}", "run.storage_deadline_s=0.05"]
    config, hang, said = load_config("configs/quickstart.yaml", settings), threading.Event(), list[str]()
    monkeypatch.setattr(Storage, "checkpoints", lambda _: hang.wait())
    for resume in ("auto", None):
        with pytest.raises(ConfigError, match=r"no end within 0.05 s \(run.storage_deadline_s\)"):
            fetch_run(config, resume, said.append)
    hang.set()
    assert "for 0.05 s at most" in said[0] and len(said) == 2


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path):
    class Hostile:
        def ls(self, path: str) -> list[str]:
            return [path]

        def find(self, path: str) -> list[str]:
            return [f"{path}/../../evil/manifest.json"]

    with pytest.raises(CheckpointError, match="written elsewhere"):
        Storage(Hostile(), "/bucket/run").fetch(tmp_path)  # pyright: ignore


def test_an_unknown_protocol_is_a_config_error():
    with pytest.raises(ConfigError, match=r"run.storage: nowhere://x"):
        open_storage("nowhere://x")
    if "s3" in fsspec.available_protocols() and not _has("s3fs"):
        with pytest.raises(ConfigError, match=r"pip install 'int-ray\[s3\]'"):
            open_storage("s3://bucket/run")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("run.storage=/mnt/run", "is no URL"),
        ("run.storage=s3://key:secret@bucket/run", "keep credentials out of the URL"),
        ("run.keep_best=hard/pass@8", "is no figure of this run's evaluations"),
        ("run.keep_best=hard_test/pass@8", "needs evaluations in between"),
    ],
)
def test_settings_that_cannot_work_are_named(setting: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        load_config("configs/quickstart.yaml", [setting])


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
