"""Random kills during a real run; then the invariants. `make chaos SECONDS=600 SEED=7` runs longer."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import (
    UNDISTURBED_ITERATIONS,
    TrainingRun,
    assert_same_training,
    figure,
    is_alive,
    kill,
    one_version_one_set_of_weights,
    stop,
    undisturbed_run,
)

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
ITERATIONS = max(UNDISTURBED_ITERATIONS, round(SECONDS / 5))
PATIENCE_S = 600.0  # for what follows the last fault
MOST_ENGINE_FAULTS = 3  # per iteration: a group that four engines were lost to would be left out


class Chaos:
    """Breaks something of a run every now and then."""

    def __init__(self, run: TrainingRun, seed: int) -> None:
        self.run = run
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.stopped: list[tuple[float, int]] = []  # when to let which process go on
        self.engine_faults: Counter[int] = Counter()  # rows of metrics -> faults while there were so many
        self.faults: dict[Callable[[], bool], float] = {
            self.kill_an_engine: 5,
            self.kill_a_core: 3,
            self.stop_an_engine: 2,
            self.stop_a_rank_for_a_while: 2,
            self.kill_a_rank: 1,
        }

    def go_on(self, seconds: float) -> None:
        """Break things for so long, among them the driver. A run that ends early is started again, resuming."""
        began = time.monotonic()
        drivers = sorted(self.random.uniform(0.2, 0.7) * seconds for _ in range(max(1, int(seconds / 120))))
        while time.monotonic() < began + seconds:
            time.sleep(self.random.uniform(0.5, 4.0))
            self.let_stopped_go_on()
            if len(self.run.metrics()) >= ITERATIONS - 5:
                self.run.story.hold("reinforcing")  # the run is not to end before the chaos, its driver's kill included
            if self.started_again() or not self.run.is_training():
                continue
            if drivers and time.monotonic() > began + drivers[0]:
                del drivers[0]
                self.run.kill()
                self.done["kill_the_driver"] += 1
                continue
            (fault,) = self.random.choices([*self.faults], [*self.faults.values()])
            self.done[fault.__name__] += fault()
        self.run.story.let_go("reinforcing")

    def finish(self) -> None:
        """Let the run come to its end undisturbed."""
        until = time.monotonic() + PATIENCE_S
        while self.run.exit_code != 0:
            assert time.monotonic() < until, f"no end {PATIENCE_S:.0f} s after the last fault: {self.run.output}"
            time.sleep(0.5)
            self.run.look()
            self.let_stopped_go_on()
            self.started_again()

    def started_again(self) -> bool:
        """Start the run again if it has ended early; any other end than a fault's is a failure."""
        code = self.run.exit_code
        if code in (None, 0):
            return False
        assert code in (75, -signal.SIGKILL), self.run.output
        self.run.assert_gone()
        self.run.start()
        self.done["starts"] += 1
        return True

    def let_stopped_go_on(self) -> None:
        for when, pid in list(self.stopped):
            if time.monotonic() > when:
                self.stopped.remove((when, pid))
                if is_alive(pid):
                    os.kill(pid, signal.SIGCONT)

    def kill_an_engine(self) -> bool:
        return self.break_engine(self.run.pids("engine"), kill)

    def kill_a_core(self) -> bool:
        return self.break_engine(self.run.pids("engine", "core"), kill)

    def stop_an_engine(self) -> bool:
        return self.break_engine(self.run.pids("engine"), stop)

    def break_engine(self, pids: list[int], blow: Callable[[int], None]) -> bool:
        rows = len(self.run.rows())
        if self.engine_faults[rows] == MOST_ENGINE_FAULTS:
            return False
        self.engine_faults[rows] += 1
        return self.strike(pids, blow)

    def stop_a_rank_for_a_while(self) -> bool:
        return not self.stopped and self.strike(self.run.pids("rank"), self.stop_for_a_while)

    def stop_for_a_while(self, pid: int) -> None:
        stop(pid)
        self.stopped.append((time.monotonic() + 3, pid))

    def kill_a_rank(self) -> bool:
        return self.strike(self.run.pids("rank"), kill)

    def strike(self, pids: list[int], blow: Callable[[int], None]) -> bool:
        if not pids:
            return False
        try:
            blow(self.random.choice(pids))
        except ProcessLookupError:  # it has just ended
            return False
        return True


@pytest.mark.timeout(SECONDS + 2 * PATIENCE_S + 600)
def test_whatever_is_killed_the_run_ends_with_the_same_weights(tmp_path: Path, request: pytest.FixtureRequest):
    undisturbed = (
        request.getfixturevalue("undisturbed")
        if ITERATIONS == UNDISTURBED_ITERATIONS
        else undisturbed_run(tmp_path / "undisturbed", ITERATIONS)
    )
    settings = ["rollout.restarts=1000", "learner.restarts=1000", "rollout.probe_s=3"]
    run = TrainingRun(tmp_path / "chaos", ITERATIONS, *settings, decode_s=1.0)
    chaos = Chaos(run, SEED)
    began = time.monotonic()
    try:
        run.start()
        run.wait_for("the first rollouts", lambda: run.story.events("sampling"))
        chaos.go_on(SECONDS)
        chaos.finish()
        run.assert_gone()
    finally:
        run.close()
        print(f"chaos of seed {SEED}, {time.monotonic() - began:.0f} s: {dict(chaos.done)}")
    figure(f"chaos for {SECONDS:.0f} s, {chaos.done.total()} faults and restarts", time.monotonic() - began)
    assert chaos.done["kill_the_driver"] and chaos.done.total() >= 5
    assert_same_training(run, undisturbed)
    assert one_version_one_set_of_weights(run.story.events())
    assert [row["iteration"] for row in run.metrics()] == list(range(1, ITERATIONS + 1))
