"""What `stacks-*.txt` says about processes that are stuck: looked into from outside, as they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.watchdog import write_actor_stacks

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_the_stack_of_an_actor_that_is_stuck_names_the_function(tmp_path: Path):
    class Stuck:
        def ready(self) -> bool:
            return True

        def wait_for_what_never_comes(self) -> None:
            time.sleep(600)

    actor: Any = ray.remote(num_cpus=0)(Stuck).remote()
    assert ray.get(actor.ready.remote(), timeout=60)
    actor.wait_for_what_never_comes.remote()
    path = tmp_path / "stacks.txt"
    until = time.monotonic() + 60
    while "wait_for_what_never_comes" not in (told := write_and_read(path)):
        if "Permission denied" in told or "Operation not permitted" in told:
            pytest.skip("py-spy may not look into other processes here (ptrace)")
        assert time.monotonic() < until, told
    assert "Stuck (pid" in told and "test_stacks.py" in told
    ray.kill(actor)


def write_and_read(path: Path) -> str:
    path.unlink(missing_ok=True)
    write_actor_stacks(path)
    return path.read_text()
