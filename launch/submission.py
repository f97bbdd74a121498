"""`int-ray submit`: runs `int-ray train` as a job of a Ray cluster, shows its log, and exits as it does."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from int_ray.config_file import ConfigError, load_config
from launch.commands import program

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from actors.job_client import JobClient

EXIT_STOPPED, EXIT_DETACHED = 75, 130  # stopped is resumable; detached: as a shell reports a Ctrl-C
MEGABYTE = 1_000_000
LIMIT_BYTES = 100 * MEGABYTE  # the head node keeps it in memory
# Variables that --env may send. Ray shows their values to everyone who may ask about jobs, so only such belong here as
# can never be secrets. Keys are set on the cluster.
SENDABLE = (
    "GLOO_SOCKET_IFNAME",
    "HF_DATASETS_CACHE",
    "HF_DATASETS_OFFLINE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_IB_HCA",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "RAY_DEDUP_LOGS",
    "TORCH_LOGS",
    "VLLM_LOGGING_LEVEL",
)
# `ray job stop` then leaves time to end every process in good order; Ray kills after 3 s otherwise.
JOB_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": "300"}


def run_submit(
    path: str,
    overrides: Sequence[str],
    *,
    address: str,
    wait: bool = True,
    resume: str | None = None,
    plugins: Sequence[str] = (),
    env: Sequence[str] = (),
) -> int:
    """Submit; with `wait` follow the job to its end. Returns the exit code.

    Raises ConfigError for what the user can fix before anything is sent, ClusterError for what the cluster refuses.
    """
    config_path = check_submission(path, overrides, address, env)
    from actors.job_client import connect_jobs, sent_files, submit

    total = check_sent(sent_files(Path.cwd()), config_path)
    warn_of_plain_http(address)
    client = connect_jobs(address)
    say(f"Sending {total / MEGABYTE:.1f} MB of {Path.cwd()} to {address}")
    job_id = f"int-ray-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    environment = {**JOB_ENVIRONMENT, **{name: os.environ[name] for name in env}}
    submit(client, entrypoint(config_path, overrides, resume, plugins), job_id, environment)
    say(f"Submitted {job_id}")
    if not wait:
        detach(address, job_id)
        return 0
    return follow_to_the_end(client, address, job_id)


def check_submission(path: str, overrides: Sequence[str], address: str, env: Sequence[str]) -> str:
    """The config's path within the working directory. Raises ConfigError with everything that is wrong."""
    config = load_config(path, overrides)
    mistakes = []
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.password:
        mistakes.append(f"--address: {address!r} is not a dashboard's URL such as http://127.0.0.1:8265")
    if not config.run.folder.is_absolute():
        mistakes.append(
            f"run.folder: {config.run.folder} would be inside the job's copy of this folder and be deleted with it; "
            "give a path that the cluster keeps and all its nodes share, such as run.folder=/shared/runs/first"
        )
    if config.run.ray_address is not None:
        mistakes.append("run.ray_address: leave it out, a job runs on the cluster that it is sent to")
    mistakes += _environment_mistakes(env)
    inside = Path(os.path.relpath(Path(path).resolve(), Path.cwd()))
    if inside.parts[0] == "..":
        mistakes.append(f"{path}: only {Path.cwd()} is sent; copy the config into it, or submit from its own folder")
    if mistakes:
        raise ConfigError(mistakes)
    return inside.as_posix()


def _environment_mistakes(env: Sequence[str]) -> list[str]:
    mistakes = []
    for name in env:
        if name not in SENDABLE:
            shown = name if re.fullmatch(r"\w+", name) else "a value"  # NAME=value is not repeated
            mistakes.append(
                f"--env: {shown} is not sent, since a cluster shows a job's variables to everyone who may ask; "
                f"set it where the cluster starts (docs/clusters.md). These names can be sent: {', '.join(SENDABLE)}"
            )
        elif name not in os.environ:
            mistakes.append(f"--env: {name} is not set here")
    return mistakes


def check_sent(files: Mapping[str, int], config_path: str) -> int:
    """Total bytes of what is sent. Raises ConfigError if that is too much, or the config is not among it."""
    total = sum(files.values())
    if config_path not in files:
        raise ConfigError([f"{config_path}: .gitignore or .rayignore keeps it from being sent; move it"])
    if total > LIMIT_BYTES:
        largest = sorted(files.items(), key=lambda item: -item[1])[:5]
        listed = ", ".join(f"{name} {size / MEGABYTE:.0f} MB" for name, size in largest)
        raise ConfigError(
            [
                f"{Path.cwd()}: a job would be sent {total / MEGABYTE:.0f} MB, at most {LIMIT_BYTES / MEGABYTE:.0f} MB "
                f"are accepted; add to .rayignore what it does not need (largest: {listed}), and put models and data "
                "where the cluster can read them"
            ]
        )
    return total


def entrypoint(config_path: str, overrides: Sequence[str], resume: str | None, plugins: Sequence[str]) -> str:
    """The shell command that the cluster runs."""
    named = [option for plugin in plugins for option in ("--plugin", plugin)]
    resumed = ["--resume", resume] if resume else []
    return shlex.join(["python", "-m", "launch.cli", "train", config_path, *overrides, *named, *resumed])


def follow_to_the_end(client: JobClient, address: str, job_id: str) -> int:
    """Show the log until the job ends; Ctrl-C leaves it running. Returns the exit code."""
    from actors.job_client import ClusterError, follow

    try:
        details = asyncio.run(follow(client, job_id, show, say))
    except KeyboardInterrupt:
        detach(address, job_id)
        return EXIT_DETACHED
    except ClusterError:
        detach(address, job_id)
        raise
    return exit_code(details)


def exit_code(details: JobDetails) -> int:
    """The driver's own, whatever Ray calls it; 75 for a job that was stopped."""
    if details.status == "STOPPED":
        say("Stopped. To go on: the same command with --resume auto")
        return EXIT_STOPPED
    code = details.driver_exit_code
    if code is None:
        say(f"error: the job did not start: {details.message or 'Ray does not say why'}")
        return 1
    say(f"The job ended with exit code {code}")
    return code if 0 <= code < 256 else 1  # a negative one is a signal


def detach(address: str, job_id: str) -> None:
    """Say that the job goes on, and how to see and to stop it."""
    say(f"The job goes on. To follow it:  {_ray_job('logs --follow', address, job_id)}")
    say(f"To stop it, resumable:          {_ray_job('stop', address, job_id)}")


def _ray_job(command: str, address: str, job_id: str) -> str:
    return f"RAY_AUTH_MODE=token {program('ray')} job {command} --address {shlex.quote(address)} {job_id}"


def warn_of_plain_http(address: str) -> None:
    """A token that crosses a network in the clear is anyone's."""
    url = urlsplit(address)
    if url.scheme == "http" and url.hostname not in ("127.0.0.1", "localhost", "::1"):
        say(f"warning: {address} is not encrypted, so the token and all data can be read on the way; use a tunnel")


def show(text: str) -> None:
    """A piece of the job's log, as it is."""
    print(text, end="", flush=True)


def say(line: str) -> None:
    """A line of this command's own, apart from the job's log."""
    print(line, file=sys.stderr, flush=True)
