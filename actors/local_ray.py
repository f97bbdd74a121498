"""Connects to a Ray cluster, or starts one on this machine that only this machine can reach."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import utils as ray_utils
from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]

# Ray's processes read it when they start, so it is set before `ray.init`.
LOCAL_ENVIRONMENT = {
    # A killed actor takes its children along; otherwise vLLM's engine process survives it and keeps its memory.
    "RAY_process_group_cleanup_enabled": "true",
    # A killed driver takes the GCS along, and Ray's agents end once they have given it up: after 60 s by default.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # also silences a warning
    # Ray binds to the loopback interface only if the node's address is 127.0.0.1, and lets it be only where it takes
    # several nodes for impossible. Elsewhere every port is open to the network.
    ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    "NCCL_SOCKET_IFNAME": "lo",  # ranks and engines on GPUs: all on this machine
}


def connect(address: str | None) -> bool:
    """Connect to `address` or RAY_ADDRESS; without either start a local Ray, on 127.0.0.1 and with a new token.

    Returns whether it started one.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        _init(address=address)
        return False
    # The token keeps out other users of this machine. Ray's processes inherit it, and it is written nowhere.
    os.environ |= LOCAL_ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # This process read some of it when it imported Ray.
    ray_constants.ENABLE_RAY_CLUSTER = False
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    # Workers and the processes that vLLM starts inherit it: they find the packages without an installation.
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    _init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1")
    return True


def _init(**options: Any) -> None:
    """`ray.init`; where the caller handles SIGTERM it goes on doing so, and one that comes meanwhile waits.

    Ray's own handler would end the process with exit code 15, and while Ray starts leave some of it running.
    """
    handler, came = signal.getsignal(signal.SIGTERM), []
    if not callable(handler):
        ray.init(logging_level=logging.WARNING, **options)
        return
    rays = ray_utils.set_sigterm_handler
    ray_utils.set_sigterm_handler = lambda sigterm_handler: None
    signal.signal(signal.SIGTERM, lambda *signalled: came.append(signalled))
    try:
        ray.init(logging_level=logging.WARNING, **options)
    finally:
        ray_utils.set_sigterm_handler = rays
        signal.signal(signal.SIGTERM, handler)
    for signalled in came:
        handler(*signalled)


def is_on_loopback() -> bool:
    """Whether the Ray that this process is connected to is reached by this machine alone."""
    return ray.util.get_node_ip_address() == "127.0.0.1"


def disconnect() -> None:
    """Leave the cluster; a Ray that `connect` started ends."""
    ray.shutdown()
