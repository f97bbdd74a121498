"""What is left of a process that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
GRADING = """
import asyncio
from actors.grader_pool import GraderPool
from int_ray.types import Problem
from tests.factories import completion

pool = GraderPool("math", workers=1, timeout_s=600)
for answer in "28/2", "(10^9)!":
    outcomes = asyncio.run(pool.grade(Problem("p", "?", "14"), [completion(f"\\\\boxed{{{answer}}}")]))
    print(*outcomes, flush=True)
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


@pytest.mark.timeout(180)
def test_a_grader_that_computes_for_good_ends_with_the_run():
    command = [sys.executable, "-c", GRADING]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert run.stdout is not None
    assert "correct" in run.stdout.readline().lower()  # the next answer is monstrous
    children = psutil.Process(run.pid).children()
    (grader,) = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    try:
        before = grader.cpu_times().user
        while grader.cpu_times().user < before + 1:  # it is at it
            time.sleep(0.05)
        run.kill()
        _, alive = psutil.wait_procs([grader], timeout=20)
        assert not alive
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
        if grader.is_running():
            grader.kill()
