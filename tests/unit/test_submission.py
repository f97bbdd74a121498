"""What `int-ray submit` checks before it sends anything, and how it follows a job."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from actors import job_client
from actors.cluster_token import ClusterError, find_token
from actors.job_client import JobClient, connect_jobs, follow, sent_files
from int_ray.config_file import ConfigError
from launch.submission import SENDABLE, check_sent, check_submission, entrypoint, exit_code
from tests.unit.test_cli import cli

ROOT = Path(__file__).parents[2]
CONFIG = "configs/quickstart.yaml"
URL = "http://127.0.0.1:8265"
CANARY = "canary-0b5e-token"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a cluster, and with a home that holds no token."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")  # and undo it afterwards, too


def mistakes(*overrides: str, config: str = CONFIG, address: str = URL, env: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as refusal:
        check_submission(config, overrides, address, env)
    return str(refusal.value)


def test_a_good_submission_names_the_config_within_the_folder():
    assert check_submission(str(ROOT / CONFIG), ["run.folder=/shared/a"], URL, ()) == CONFIG


def test_every_mistake_comes_at_once():
    said = mistakes("run.ray_address=auto", address="ray://head:10001")
    assert [line.partition(":")[0] for line in said.splitlines()] == ["--address", "run.folder", "run.ray_address"]


@pytest.mark.parametrize("address", ["", "head:8265", "file:///etc/passwd", "os://x", "http://user:secret@head:8265"])
def test_only_a_dashboards_url_is_an_address(address: str):
    assert "is not a dashboard's URL" in mistakes("run.folder=/shared/a", address=address)


def test_a_config_outside_the_folder_is_not_sent(tmp_path: Path):
    elsewhere = tmp_path / "config.yaml"
    elsewhere.write_text((ROOT / CONFIG).read_text())
    assert "is sent; copy the config into it" in mistakes("run.folder=/shared/a", config=str(elsewhere))


def test_no_secret_can_be_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GEMINI_API_KEY", CANARY)
    said = mistakes("run.folder=/shared/a", env=("GEMINI_API_KEY", f"HF_HOME={CANARY}", "HF_HUB_OFFLINE"))
    assert "--env: GEMINI_API_KEY is not sent" in said and "--env: HF_HUB_OFFLINE is not set here" in said
    assert CANARY not in said
    assert not [name for name in SENDABLE if any(word in name for word in ("KEY", "TOKEN", "SECRET", "PASS", "AUTH"))]


def test_a_mistake_ends_the_command_before_anything_is_sent():
    result = cli("submit", CONFIG, "--address", URL, "run.foldr=x")
    assert result.exit_code == 2 and result.stderr == "error: run.foldr: unknown key, did you mean run.folder?\n"


def test_the_command_survives_a_shell():
    command = entrypoint(CONFIG, ["evaluate.k=[1, 8]", "run.folder=/shared/a b"], "auto", ["my.plugin"])
    tail = ["evaluate.k=[1, 8]", "run.folder=/shared/a b", "--plugin", "my.plugin", "--resume", "auto"]
    assert shlex.split(command) == ["python", "-m", "launch.cli", "train", CONFIG, *tail]


def test_this_folder_is_small_and_holds_what_a_run_needs():
    files = sent_files(ROOT)
    assert check_sent(files, CONFIG) < 20_000_000
    assert {"launch/cli.py", "int_ray/chains/data/base/model.safetensors"} <= files.keys()
    assert not [name for name in files if name.startswith((".git/", ".venv/", "tests/", "runs/"))]


def test_secrets_in_files_stay_here_whatever_the_ignore_files_say(tmp_path: Path):
    for name in ("config.yaml", ".env", "keys.env", "server.pem", "deep/auth_token", "deep/data.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sent_files(tmp_path) == {"config.yaml": 1, "deep/data.jsonl": 1}


def test_too_large_a_folder_is_refused_with_the_largest_files():
    with pytest.raises(ConfigError, match=r"would be sent 250 MB.*largest: models/b\.bin 150 MB, models/a\.bin 100 MB"):
        check_sent({CONFIG: 1000, "models/a.bin": 100_000_000, "models/b.bin": 150_000_000}, CONFIG)
    with pytest.raises(ConfigError, match="keeps it from being sent"):
        check_sent({"other.yaml": 1}, CONFIG)


def test_the_token_is_looked_for_where_ray_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert find_token() is None
    file = tmp_path / "home/.ray/auth_token"
    file.parent.mkdir(parents=True)
    file.write_text("of-the-home\n")
    assert (found := find_token()) and (found.value, found.source) == ("of-the-home", str(file))
    named = tmp_path / "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    with pytest.raises(ClusterError, match=r"RAY_AUTH_TOKEN_PATH: .* cannot be read: FileNotFoundError"):
        find_token()
    named.write_text("of-the-path")
    assert (found := find_token()) and found.value == "of-the-path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", CANARY)
    assert (found := find_token()) and (found.value, found.source) == (CANARY, "RAY_AUTH_TOKEN")
    assert CANARY not in repr(found)


def test_no_cluster_is_one_line():
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at http://127\.0\.0\.1:9") as refusal:
        connect_jobs("http://127.0.0.1:9")
    assert "\n" not in str(refusal.value)


def details(status: JobStatus, code: int | None = None, message: str = "") -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION, status=status, entrypoint="train", message=message, driver_exit_code=code
    )


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_the_exit_code_is_the_drivers(code: int):
    assert exit_code(details(JobStatus.FAILED if code else JobStatus.SUCCEEDED, code)) == code


def test_exit_codes_of_jobs_without_one(capsys: pytest.CaptureFixture[str]):
    assert exit_code(details(JobStatus.STOPPED)) == 75
    assert exit_code(details(JobStatus.FAILED, message="no working directory")) == 1
    assert "no working directory" in capsys.readouterr().err
    assert exit_code(details(JobStatus.FAILED, code=-9)) == 1


HANGS = "(nothing more comes, and the connection stays)"


@dataclass
class FakeJobs:
    """Job states in order, then the last of them for ever; connections in order: pieces of the log, then its end.

    An exception among the pieces breaks a connection, HANGS leaves it open in silence.
    """

    states: list[JobDetails | Exception]
    connections: list[list[str | Exception]] = field(default_factory=list)

    def get_job_info(self, job_id: str) -> JobDetails:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return state

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for piece in self.connections.pop(0):
            if isinstance(piece, Exception):
                raise piece
            if piece is HANGS:
                await asyncio.sleep(60)
            yield piece


def followed(jobs: FakeJobs) -> tuple[JobDetails, str, list[str]]:
    shown: list[str] = []
    told: list[str] = []
    ended = asyncio.run(follow(cast(JobClient, cast(Any, jobs)), "job", shown.append, told.append))
    return ended, "".join(shown), told


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "RETRY_S", 0.01)
    monkeypatch.setattr(job_client, "QUIET_S", 0.05)
    monkeypatch.setattr(job_client, "TELL_EVERY_S", 0.0)
    monkeypatch.setattr(job_client, "LOST_DEADLINE_S", 0.1)


RUNNING, DONE = details(JobStatus.RUNNING), details(JobStatus.SUCCEEDED, 0)


@pytest.mark.usefixtures("impatient")
def test_a_broken_connection_is_made_again_and_shows_nothing_twice():
    broken = RuntimeError("closed unexpectedly")
    connections = [["one\n", "two", broken], [broken], ["one\ntw", "o\nthree\n"]]
    states = [RUNNING, RUNNING, RUNNING, RUNNING, DONE]
    ended, shown, _ = followed(FakeJobs(states, connections))
    assert shown == "one\ntwo\nthree\n" and ended == DONE


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("impatient")
def test_a_connection_that_hangs_is_made_again_and_shows_nothing_twice():
    connections = [["one\n", HANGS], [HANGS], ["one\n", "two\n", HANGS]]
    states = [RUNNING, RUNNING, RUNNING, RUNNING, RUNNING, DONE]
    ended, shown, _ = followed(FakeJobs(states, connections))
    assert shown == "one\ntwo\n" and ended == DONE


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("impatient")
def test_a_cluster_that_went_while_a_connection_hangs_ends_the_wait():
    gone = OSError("connection timed out")
    with pytest.raises(ClusterError, match=r"no answer from the cluster for .* s: connection timed out"):
        followed(FakeJobs([RUNNING, gone], [["one\n", HANGS]]))


@pytest.mark.usefixtures("impatient")
def test_waiting_for_a_start_says_why():
    pending = details(JobStatus.PENDING, message="no node has room for the driver")
    ended, shown, told = followed(FakeJobs([pending, pending, RUNNING, DONE], [["log\n"]]))
    assert (ended, shown) == (DONE, "log\n")
    assert told[0] == "waiting for the job, which is pending: no node has room for the driver"


@pytest.mark.usefixtures("impatient")
def test_a_cluster_that_is_gone_ends_the_wait():
    with pytest.raises(ClusterError, match=r"no answer from the cluster for .* s: connection refused"):
        followed(FakeJobs([OSError("connection refused")]))
