"""One training run that everything happens to: whatever is killed, it ends with the weights of an undisturbed one.

Real Ray, coordinator, FSDP2 ranks, shared memory and checkpoints; engines are stand-ins with the real interface. Every
fault is a signal to a pid, at a moment that is held still for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from tests.faults import (
    TrainingRun,
    assert_same_training,
    figure,
    is_alive,
    kill,
    one_version_one_set_of_weights,
    stop,
    wait_until,
)

pytestmark = pytest.mark.timeout(1500)


class Hold:
    """A moment of a run: `pid` is a process at the beginning of an event, where it waits until the hold is let go."""

    def __init__(self, run: TrainingRun, event: str) -> None:
        self.run, self.event = run, event
        before = len(run.story.events("held"))
        run.story.hold(event)

        def held() -> list[int]:
            told = run.story.events("held")[before:]
            return [one["pid"] for one in told if one["at"] == event and is_alive(one["pid"], one["time"])]

        run.wait_for(f"a process at {event}", held)
        self.pid = held()[0]
        self.since = time.time()
        self.before = {told["pid"] for told in run.story.events() if told["event"] in ("engine", "rank")}

    def let_go(self) -> None:
        self.run.story.let_go(self.event)

    def recovered(self, fault: str, event: str, newcomers: int) -> None:
        """Let go, and wait until so many processes that were started after the fault have told `event`."""
        self.let_go()
        events = self.run.story.events

        def new() -> set[int]:
            born = {told["pid"] for told in events() if told["event"] in ("engine", "rank")}
            return {told["pid"] for told in events(event)} & (born - self.before)

        self.run.wait_for(f"recovery from: {fault}", lambda: len(new()) >= newcomers)
        figure(fault, time.time() - self.since)


def engine_faults(run: TrainingRun) -> None:
    hold = Hold(run, "sampling")
    kill(hold.pid)
    hold.recovered("kill -9 of a rollout engine while it samples", "sampling", newcomers=1)

    hold = Hold(run, "sampling")
    stop(hold.pid)
    hold.recovered("SIGSTOP of a rollout engine while it samples", "sampling", newcomers=1)
    wait_until("the stopped engine's end", lambda: not is_alive(hold.pid))

    hold = Hold(run, "sampling")
    (core,) = (told["core"] for told in run.story.events("engine") if told["pid"] == hold.pid)
    kill(core)
    hold.recovered("kill -9 of an engine's own process", "sampling", newcomers=1)
    wait_until("the end of the engine without its process", lambda: not is_alive(hold.pid))


def kill_the_gcs(run: TrainingRun) -> None:
    hold = Hold(run, "reinforcing")
    assert run.process is not None
    (gcs,) = (child for child in psutil.Process(run.process.pid).children() if child.name().startswith("gcs_server"))
    kill(gcs.pid)
    run.end(code=None)
    figure("kill -9 of the GCS in an update: until the run has ended, with nothing left", time.time() - hold.since)
    assert run.exit_code != 0
    hold.let_go()


def kill_a_receiver(run: TrainingRun) -> None:
    """While it reads new weights."""
    hold = Hold(run, "receiving")
    kill(hold.pid)
    hold.recovered("kill -9 of a rollout engine while it takes new weights", "sampling", newcomers=1)


def rank_faults(run: TrainingRun) -> None:
    hold = Hold(run, "reinforcing")
    kill(hold.pid)
    hold.recovered("kill -9 of a learner rank in an update", "reinforcing", newcomers=2)

    hold = Hold(run, "reinforcing")
    stop(hold.pid)
    hold.recovered("SIGSTOP of a learner rank in an update", "reinforcing", newcomers=2)
    wait_until("the stopped rank's end", lambda: not is_alive(hold.pid))


def kill_all_engines(run: TrainingRun) -> None:
    hold = Hold(run, "sampling")
    for pid in run.pids("engine"):
        kill(pid)
    hold.let_go()
    run.end(code=75)
    figure("the last rollout engine is killed, none may be started: until the run has ended", time.time() - hold.since)
    assert "the last rollout engine is lost" in run.output and "rollout.restarts" in run.output
    assert "--resume auto" in run.output and "Traceback" not in run.output, run.output


@pytest.fixture(scope="module")
def battered(undisturbed: TrainingRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingRun]:
    """All of it, one after the other, until the run has come to its end nevertheless."""
    run = TrainingRun(
        tmp_path_factory.mktemp("battered"),
        undisturbed.iterations,
        "rollout.probe_s=10",
        "learner.collective_timeout_s=30",
        "learner.restarts=20",
        decode_s=0.5,  # so that it is not over before everything has happened
    )
    try:
        run.start()
        engine_faults(run)
        kill_the_gcs(run)
        run.start()
        kill_a_receiver(run)
        rank_faults(run)
        run.kill()
        run.assert_gone()
        run.start("rollout.restarts=1")
        kill_all_engines(run)
        started = time.time()
        run.start()
        run.wait_for("the first update", lambda: run.story.events("reinforcing")[-1]["time"] > started)
        figure("a new process goes on after kill -9 of the driver, the GCS or all engines", time.time() - started)
        run.end()
        yield run
    finally:
        run.close()


def test_every_problem_is_trained_once_and_the_weights_are_those_of_an_undisturbed_run(
    battered: TrainingRun, undisturbed: TrainingRun
):
    assert_same_training(battered, undisturbed)


def test_every_engine_sampled_with_the_whole_weights_of_its_version(battered: TrainingRun):
    assert len({event["version"] for event in battered.story.events("sampling")}) > 2
    assert one_version_one_set_of_weights(battered.story.events())


def test_what_happened_is_written_down(battered: TrainingRun):
    names = [event["event"] for event in battered.journal()]
    assert names.count("started") == 4 and names.count("learner_rebuilt") >= 2 and names[-1] == "finished"
    said = "".join(path.read_text() for path in sorted(battered.story.folder.glob("output_*.txt")))
    assert said.count("is lost (") >= 6  # engines and learners


def test_nothing_is_left(battered: TrainingRun):
    battered.assert_gone()
    assert len(battered.family) > 20
