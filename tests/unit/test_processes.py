"""What is left of a process that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

MIDDLE = """
import subprocess, time
from int_ray.processes import end_as_a_family
end_as_a_family()
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
time.sleep(600)
"""
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {MIDDLE!r}])
"""


def stop_and_kill_parent(parent: psutil.Process, middle: psutil.Process) -> None:
    middle.send_signal(signal.SIGSTOP)
    parent.kill()


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "ending",
    [
        lambda parent, middle: middle.kill(),
        lambda parent, middle: middle.terminate(),
        lambda parent, middle: parent.kill(),
        stop_and_kill_parent,
    ],
    ids=["killed", "terminated", "its parent killed", "stopped and its parent killed"],
)
def test_a_process_ends_with_its_parent_and_its_children_with_it(
    ending: Callable[[psutil.Process, psutil.Process], None],
):
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # the family is complete
    parent = psutil.Process(process.pid)
    (middle,) = parent.children()
    family = [middle, *middle.children()]
    assert len(family) == 2  # what watches over them is nobody's child
    ending(parent, middle)
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
