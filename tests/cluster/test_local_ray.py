"""The Ray of a laptop run is closed to the network and to strangers, finds the packages and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, subprocess, sys, time
import psutil, ray
from actors import local_ray

def where():
    import actors.rollout_engine, int_ray.types
    return os.environ["RAY_process_group_cleanup_enabled"], os.environ["NCCL_SOCKET_IFNAME"]

local_ray.connect(None)
cleanup, interface = ray.get(ray.remote(where).remote(), timeout=60)
loopback = [interface, local_ray.is_on_loopback()]
ask = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
strangers = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
address = ray.get_runtime_context().gcs_address
stranger = subprocess.run([sys.executable, "-c", ask, address], env=strangers, capture_output=True, text=True)
time.sleep(5)  # some of Ray's processes open their ports late
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
ports = [port for process in family for port in process.net_connections("inet") if port.status == "LISTEN"]
local_ray.disconnect()
_, alive = psutil.wait_procs(family[1:], timeout=90)
addresses = sorted({port.laddr.ip for port in ports})
print(json.dumps({"addresses": addresses, "cleanup": cleanup, "alive": len(alive), "family": len(family),
                  "loopback": loopback,
                  "stranger": [stranger.returncode, stranger.stderr]}))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run sees that is started from another folder, with the packages on the path only."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(ROOT)
    folder = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_port_is_on_the_loopback_interface(report: dict[str, object]):
    addresses = report["addresses"]
    assert isinstance(addresses, list) and addresses
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_ranks_on_gpus_would_stay_on_it_too(report: dict[str, object]):
    assert report["loopback"] == ["lo", True]


def test_another_user_of_the_machine_is_refused(report: dict[str, object]):
    assert isinstance(report["stranger"], list)
    code, said = report["stranger"]
    assert code != 0 and "AuthenticationError" in said


def test_workers_import_the_packages_and_take_their_children_along(report: dict[str, object]):
    assert report["cleanup"] == "true"


def test_disconnecting_leaves_no_process(report: dict[str, object]):
    assert report["alive"] == 0 and isinstance(report["family"], int) and report["family"] >= 4
