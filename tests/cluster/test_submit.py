"""`int-ray submit` against a real Ray cluster of one node, closed with a token."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.local_ray import LOCAL_ENVIRONMENT
from tests.faults import read_lines

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TOKEN = secrets.token_hex(32)
SMALL = [
    "run.iterations=1",
    "rollout.batch_size=4",
    "rollout.mixed=0",
    "problems.mixed=null",
    "rollout.n=4",
    "reinforce.mini_batch_size=4",
    "learner.num_ranks=1",
]
PLAIN = [*SMALL, "schedule=never", "evaluate.sets={}"]
WITH_A_ROUND = [
    *SMALL,
    "trigger.patience=1",
    "trigger.threshold=0.5",
    "trigger.cooldown=0",
    "trigger.max_rounds=1",
    "patch.continuations=4",
    "patch.epochs=1",
    "evaluate.sets={hard: {path: int_ray/chains/data/hard_test.jsonl, limit: 4}}",
    "evaluate.n=1",
    "evaluate.k=[1]",
]


@dataclass(frozen=True)
class Cluster:
    """A head node, and how a shell of its user is set up."""

    url: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def plain_environment() -> dict[str, str]:
    """Of a shell that knows no Ray cluster and no token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}


# The agent that takes jobs has one port for the whole machine unless told otherwise, which ray.init cannot do: any
# other Ray there would keep it from starting.
HEAD = """
import sys, functools, ray
from ray._private import parameter
folder, port = sys.argv[1:]
parameter.RayParams = functools.partial(parameter.RayParams, dashboard_agent_listen_port=0)
ray.init(
    address="local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=True, dashboard_host="127.0.0.1",
    dashboard_port=int(port), _node_ip_address="127.0.0.1", _temp_dir=folder, log_to_driver=False,
)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # Ray's socket paths must be short
    home = folder / "home"
    home.mkdir()
    environment = plain_environment() | LOCAL_ENVIRONMENT | {"HOME": str(home), "RAY_AUTH_TOKEN": TOKEN}
    for patience in ("RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT", "RAY_DASHBOARD_STARTUP_TIMEOUT_S"):
        environment[patience] = "120"  # Ray's own are short for a busy machine
    port = free_port()
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            [sys.executable, "-c", HEAD, str(folder), str(port)],
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(head, url, folder / "head.log")
        yield Cluster(url, plain_environment() | {"HOME": str(home)})
    finally:
        assert head.stdin
        head.stdin.close()  # it ends, and takes all of its Ray along
        try:
            head.wait(timeout=120)
        finally:
            head.kill()
            shutil.rmtree(folder, ignore_errors=True)


def status_of(url: str, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_until_up(head: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + 150
    while status_of(f"{url}/api/jobs/", TOKEN) != 200:
        assert head.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.5)


def submit(
    cluster: Cluster, *arguments: str, token: str | None = TOKEN, deadline_s: float = 120
) -> tuple[int, str, str]:
    """Exit code, the job's log, and what the command itself says."""
    command = [sys.executable, "-m", "launch.cli", "submit", "configs/quickstart.yaml", "--address", cluster.url]
    environment = cluster.environment | ({"RAY_AUTH_TOKEN": token} if token else {})
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=deadline_s
    )
    return done.returncode, done.stdout, done.stderr


def watch(cluster: Cluster, job_id: str) -> tuple[int, str]:
    """Exit code and picture, or log, of a job."""
    command = [sys.executable, "-m", "launch.cli", "watch", job_id, "--address", cluster.url, "--once"]
    environment = cluster.environment | {"RAY_AUTH_TOKEN": TOKEN}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout


def job_info(cluster: Cluster, job_id: str) -> dict:
    request = urllib.request.Request(f"{cluster.url}/api/jobs/{job_id}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def job_id_of(said: str) -> str:
    found = re.search(r"^Submitted (\S+)$", said, re.MULTILINE)
    assert found, said
    return found[1]


@pytest.mark.parametrize(
    ("token", "reason"), [(None, "wants a token and none was found"), ("0" * 64, "refuses the token")]
)
def test_without_the_token_there_is_one_clear_line(cluster: Cluster, tmp_path: Path, token: str | None, reason: str):
    code, log, said = submit(cluster, f"run.folder={tmp_path / 'run'}", token=token)
    assert (code, log) == (1, "")
    (line,) = said.splitlines()
    assert line.startswith("error: ") and reason in line and "0" * 64 not in line


def test_the_cluster_lets_nobody_else_in(cluster: Cluster):
    assert status_of(f"{cluster.url}/api/jobs/", None) == 401
    assert status_of(f"{cluster.url}/api/jobs/", "guess") == 403


def test_a_run_on_the_cluster(cluster: Cluster, tmp_path: Path):
    folder = tmp_path / "run"
    code, log, said = submit(cluster, *WITH_A_ROUND, f"run.folder={folder}", deadline_s=600)
    assert code == 0, log + said
    assert "Evaluation" in log or "The run" in log
    assert json.loads((folder / "summary.json").read_text())["run"]["iterations"] == 1
    assert_round_patch_and_evaluations(folder)
    environment = job_info(cluster, job_id_of(said))["runtime_env"]["env_vars"]
    assert environment == {"RAY_JOB_STOP_WAIT_TIME_S": "300"}
    assert TOKEN not in log + said
    code, shown = watch(cluster, job_id_of(said))
    assert code == 0 and "finished" in shown and "iteration" in shown and folder.name in shown


def assert_round_patch_and_evaluations(folder: Path) -> None:
    """Oracle workers were asked, what helped was cloned, and the policy was measured before and after."""
    events = read_lines(folder / "journal.jsonl")
    (asked,) = [event for event in events if event["event"] == "intervention_round"]
    assert asked["outage"] is None and asked["intervention/kept"] > 0, asked
    evaluated = [(event["iteration"], event["set"]) for event in events if event["event"] == "evaluated"]
    assert evaluated == [(0, "hard"), (1, "hard")]
    (row,) = read_lines(folder / "metrics.jsonl")
    assert row["patch/loss"] > 0


def test_the_exit_code_is_the_drivers(cluster: Cluster, tmp_path: Path):
    code, log, said = submit(cluster, f"run.folder={tmp_path / 'run'}", "problems.train=/nowhere/problems.jsonl")
    assert code == 2
    assert "problems.train: /nowhere/problems.jsonl" in log
    assert watch(cluster, job_id_of(said)) == (2, log)


def stop(cluster: Cluster, said: str) -> None:
    """Run the command that was printed for it."""
    command = re.search(r"^To stop it, resumable:\s+(.+)$", said, re.MULTILINE)
    assert command, said
    environment = cluster.environment | {"RAY_AUTH_TOKEN": TOKEN}
    done = subprocess.run(
        command[1], shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert job_info(cluster, job_id_of(said))["status"] == "STOPPED"


def test_what_is_submitted_without_waiting_can_be_stopped(cluster: Cluster, tmp_path: Path):
    code, _, said = submit(cluster, f"run.folder={tmp_path / 'run'}", "--no-wait")
    assert code == 0
    stop(cluster, said)


def test_ctrl_c_leaves_the_job_running(cluster: Cluster, tmp_path: Path):
    command = [sys.executable, "-m", "launch.cli", "submit", "configs/quickstart.yaml", "--address", cluster.url]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, and inherited
    process = subprocess.Popen(
        [*command, f"run.folder={tmp_path / 'run'}"],
        cwd=ROOT,
        env=cluster.environment | {"RAY_AUTH_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout and process.stdout.readline()  # the job has begun to speak
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert job_info(cluster, job_id_of(said))["status"] == "RUNNING"
    assert "Traceback" not in said
    stop(cluster, said)


def test_rays_own_command_does_the_same(cluster: Cluster, tmp_path: Path):
    folder = tmp_path / "run"
    train = ["train", "configs/quickstart.yaml", *PLAIN, f"run.folder={folder}"]
    command = [str(BIN / "ray"), "job", "submit", "--address", cluster.url, "--working-dir", ".", "--"]
    environment = cluster.environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    done = subprocess.run(
        [*command, "python", "-m", "launch.cli", *train],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "summary.json").read_text())["run"]["iterations"] == 1
