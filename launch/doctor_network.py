"""Checks of `int-ray doctor`: who could get in, and whether the oracle can be reached."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil

from actors.cluster_token import ClusterError, find_token
from int_ray.config import Config
from int_ray.oracle_checks import kinds_asked
from int_ray.oracle_config import OracleKindName
from int_ray.oracles.api import APIS, api_mistakes
from int_ray.oracles.chat import Fault
from launch.doctor import Finding
from launch.doctor_machine import cluster_address

TOKEN_FILE = Path("~/.ray/auth_token")


def check_authentication(config: Config | None) -> Iterator[Finding]:
    """Whether the cluster that would be used is closed with a token, and the token's file to others."""
    yield _cluster_authentication(cluster_address(config))
    file = TOKEN_FILE.expanduser()
    if file.is_file() and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("warn", "token file", f"other users may read {file}", f"chmod 600 {file}")


def _cluster_authentication(address: str | None) -> Finding:
    subject = "authentication"
    if address is None or address == "local":
        return Finding(
            "ok", subject, "no cluster is set: each run starts its own Ray, on 127.0.0.1 and with a new token"
        )
    try:
        token = find_token()
    except ClusterError as error:
        return Finding("fail", subject, str(error), "correct it, or unset RAY_AUTH_TOKEN_PATH")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        advice = "start the cluster with RAY_AUTH_MODE=token, and set it here too: whoever reaches it runs code on it"
        return Finding("warn", subject, f"off for {address}", advice)
    if token is None:
        return Finding("fail", subject, f"no token for {address}", "set RAY_AUTH_TOKEN, or write ~/.ray/auth_token")
    return Finding("ok", subject, f"token of {token.source} for {address}")


def check_listeners() -> Iterator[Finding]:
    """Ports of this machine that others can reach; Ray's own without a token are an open door."""
    others: set[str] = set()
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        ip, port = connection.laddr
        if is_loopback(ip):
            continue
        process = _process(connection.pid)
        where = f"{process.name() if process else 'unknown process'} on {ip}:{port}"
        if process is None or not _is_ray(process):
            others.add(where)
        elif process.environ().get("RAY_AUTH_MODE") != "token":
            advice = f"stop it (pid {process.pid}), or start it with RAY_AUTH_MODE=token: it runs what anyone sends it"
            yield Finding("fail", "open port", f"{where}, without a token", advice)
        else:
            yield Finding("ok", "open port", f"{where}, with a token")
    shown = ", ".join(sorted(others)) or "none"
    yield Finding("ok", "other open ports", shown)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _process(pid: int | None) -> psutil.Process | None:
    """None for one that has ended, or is another user's."""
    try:
        process = psutil.Process(pid) if pid else None
        if process:
            process.environ()
        return process
    except psutil.Error:
        return None


def _is_ray(process: psutil.Process) -> bool:
    return process.name().startswith(("ray", "gcs_server")) or any("/ray/" in part for part in process.cmdline()[:4])


def check_oracle(config: Config, *, ask: bool) -> Iterator[Finding]:
    """The keys of the oracles behind APIs; with `ask`, whether the servers know key and model, which costs nothing."""
    kinds: list[OracleKindName] = [kind for kind in APIS if kind in kinds_asked(config)]
    mistakes = api_mistakes(config.oracle, with_keys=True) if kinds else []
    for mistake in mistakes:
        yield Finding("fail", "oracle", mistake, "set it where the run starts; on a cluster, where the cluster starts")
    if mistakes or not kinds:
        return
    for kind in kinds:
        if ask:
            yield _asked(kind, config)
        else:
            yield Finding("ok", f"oracle {kind}", "its key is set", "--oracle asks the server, too")


def _asked(kind: OracleKindName, config: Config) -> Finding:
    from actors.chat_pool import ChatWorker

    async def ask() -> Fault | None:
        model = ChatWorker(kind, config.oracle).model
        try:
            return await model.check()
        finally:
            await model.close()

    fault = asyncio.run(ask())
    if fault is None:
        return Finding("ok", f"oracle {kind}", "the server takes key and model")
    return Finding("fail", f"oracle {kind}", f"{fault.name}: {fault.detail}", f"see oracle.{kind} in docs/oracles.md")
