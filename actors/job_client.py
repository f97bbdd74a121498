"""Ray's job API: a checked connection with a token and deadlines, what a folder would send, and a log that is followed.

Ray's own client waits for ever on a connection that hangs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import requests
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from actors.cluster_token import ClusterError, Token, find_token

Say = Callable[[str], None]

# They tell which ignore files they read and what they upload.
for talkative in ("ray._private.runtime_env.packaging", "ray.dashboard.modules.dashboard_sdk"):
    logging.getLogger(talkative).setLevel(logging.ERROR)

REQUEST_DEADLINE_S = 60.0
QUIET_S = 60.0  # a log that says nothing for so long is asked for anew: its connection may be half-dead
LOST_DEADLINE_S = 300.0  # longest silence of the cluster that a follower sits out
TELL_EVERY_S = 30.0
RETRY_S = 2.0
# What is never sent, whatever the ignore files say: it could be a secret, and the cluster keeps what it is sent.
NEVER_SENT = (".env", ".env.*", "*.env", "*.pem", "*.key", ".netrc", "id_rsa*", "id_ed25519*", "auth_token")


class JobClient(JobSubmissionClient):
    """Ray's client with a deadline for every request."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=REQUEST_DEADLINE_S, **options)


def connect_jobs(address: str) -> JobClient:
    """A client of the cluster whose dashboard is at `address`, such as http://127.0.0.1:8265. Raises ClusterError."""
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets this and RAY_ADDRESS prevail over the argument
    token = find_token()
    headers = {"Authorization": f"Bearer {token.value}"} if token else {}
    try:
        return JobClient(address, headers=headers)
    except AuthenticationError as error:
        raise ClusterError(_refused(address, token, "Authentication failed" in str(error))) from None
    except (ConnectionError, requests.RequestException) as error:
        reason = "" if isinstance(error, ConnectionError) else f" ({type(error).__name__})"
        raise ClusterError(
            f"no Ray cluster answers at {address}{reason}; is it up, and does a tunnel such as "
            "`ray dashboard CLUSTER.yaml` or `kubectl port-forward` lead to its port 8265?"
        ) from None
    except (RuntimeError, ValueError, KeyError) as error:
        raise ClusterError(f"{address} is not the dashboard of a Ray cluster: {first_line(error)}") from None


def _refused(address: str, token: Token | None, is_wrong: bool) -> str:
    if token is None or not is_wrong:
        return (
            f"the cluster at {address} wants a token and none was found; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, "
            "or put the cluster's token into ~/.ray/auth_token"
        )
    return f"the cluster at {address} refuses the token of {token.source}; it has to be the one it was started with"


def submit(client: JobClient, entrypoint: str, job_id: str, environment: dict[str, str]) -> str:
    """Send the working directory and start `entrypoint` in it; returns the job's id. Raises ClusterError."""
    # Ray shows the variables to everyone who may ask about jobs, and keeps them on disk.
    runtime_env = {"working_dir": ".", "excludes": list(NEVER_SENT), "env_vars": environment}
    try:
        return client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env)
    except (RuntimeError, OSError, ValueError) as error:  # requests' errors are OSErrors
        raise ClusterError(f"the cluster did not take the job: {first_line(error)}") from None


def sent_files(folder: Path) -> dict[str, int]:
    """Path in `folder` -> bytes, of what a job is sent: Ray's own selection by .gitignore and .rayignore."""
    files: dict[str, int] = {}

    def count(path: Path) -> None:
        if path.is_file():
            files[str(path.relative_to(folder))] = path.stat().st_size

    excluded = [_get_excludes(folder, [*get_runtime_env_default_excludes(), *NEVER_SENT])]
    respects_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    _dir_travel(folder, excluded, count, include_gitignore=respects_gitignore)
    return files


async def follow(client: JobClient, job_id: str, show: Say, tell: Callable[[str], None]) -> JobDetails:
    """Show the job's log until it ends; returns how it ended.

    A connection that breaks is made again, and nothing is shown twice. Raises ClusterError after LOST_DEADLINE_S
    without an answer.
    """
    shown, heard, told = 0, time.monotonic(), time.monotonic()
    while True:
        try:
            details = await asyncio.to_thread(client.get_job_info, job_id)
            heard = time.monotonic()
            if details.status != JobStatus.PENDING:
                shown = await _tail(client, job_id, shown, show)
                heard = time.monotonic()
                details = await asyncio.to_thread(client.get_job_info, job_id)
            if details.status.is_terminal():
                return details
            waits_for = f"the job, which is {details.status.lower()}: {first_line(details.message or '')}"
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            silence = time.monotonic() - heard
            if silence > LOST_DEADLINE_S:
                raise ClusterError(f"no answer from the cluster for {silence:.0f} s: {first_line(error)}") from None
            waits_for = f"the cluster, which has not answered for {silence:.0f} s: {first_line(error)}"
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            tell(f"waiting for {waits_for}")
        await asyncio.sleep(RETRY_S)


async def _tail(client: JobClient, job_id: str, shown: int, show: Say) -> int:
    """Show the log from character `shown` on; returns how much has been shown when it ends, breaks off or is quiet."""
    position, tail = 0, client.tail_job_logs(job_id)
    try:
        while True:
            text = await asyncio.wait_for(anext(tail), QUIET_S)
            fresh = text[max(0, shown - position) :]
            position += len(text)
            if fresh:
                show(fresh)
    except (StopAsyncIteration, TimeoutError):
        pass
    except (RuntimeError, OSError, aiohttp.ClientError):
        if position <= shown:
            raise
    return max(shown, position)


def first_line(error: object) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
