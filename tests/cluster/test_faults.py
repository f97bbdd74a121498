"""One training run that everything happens to: whatever is killed, it ends with the weights of an undisturbed one.

Real Ray, coordinator, FSDP2 ranks, shared memory and checkpoints; engines are stand-ins with the real interface. Every
fault is a signal to a pid, at a moment that is held still for it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from actors.checkpoint import Checkpoints
from int_ray.oracles.spending import read_spend
from tests.damaged_checkpoints import UNPICKLED, flip_a_bit, put_a_pickle, truncate
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
from tests.holds import Hold
from tests.small_disk import fill, mounted

pytestmark = pytest.mark.timeout(1500)


ANSWERED = 3  # questions, before the driver is killed


def kill_the_driver_between_answers(run: TrainingRun) -> None:
    """The oracle has been paid for some, and is about to answer once more."""
    answer, asked, is_killed = run.oracle.answer, itertools.count(1), threading.Event()

    def held(prompt: str) -> str:
        if next(asked) > ANSWERED:
            assert is_killed.wait(600)
        return answer(prompt)

    run.oracle.answer = held
    run.wait_for("a question", lambda: len(run.oracle.questions) > ANSWERED)
    run.kill()
    run.assert_gone()
    is_killed.set()
    run.oracle.answer = answer


def faults_of_a_round(run: TrainingRun) -> None:
    """An engine dies while it continues interventions, then a rank in the patch: there is no checkpoint yet."""
    hold = Hold(run, "continuing")
    kill(hold.pid)
    hold.let_go()
    hold = Hold(run, "patching")
    kill(hold.pid)
    hold.recovered("kill -9 of a learner rank in a patch", "patching", newcomers=2)


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


def fill_the_disk(run: TrainingRun) -> None:
    """It trains on, although nothing is written; then it is killed, so that all records are written again."""
    hold = Hold(run, "reinforcing")
    ballast = fill(run.folder)
    hold.let_go()
    run.wait_for("two iterations without a checkpoint", lambda: run.output.count("could not be written") >= 2)
    run.kill()
    run.assert_gone()
    ballast.unlink()


def two_checkpoints(run: TrainingRun) -> None:
    """One of them by the present process: a bad one that it has found has another name by then."""

    def are_there() -> bool:
        events = [one["event"] for one in run.journal()]
        if events.count("started") < run.starts or "checkpoint" not in events[-1 - events[::-1].index("started") :]:
            return False
        return len(list(run.folder.glob("checkpoints/iteration_??????"))) == 2

    run.wait_for("two checkpoints", are_there)


def damage_the_newest(run: TrainingRun, harm: Callable[[Path], None]) -> None:
    """The run has ended; the checkpoint before is a good one."""
    folder = run.folder / "checkpoints"
    *_, before, newest = Checkpoints(folder, 2).complete_folders()
    harm(newest)
    found, _, (mistake,) = Checkpoints(folder, 2).latest()
    assert found == before and str(newest) in str(mistake)


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
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str | None]]:
    """For a run on a small disk; and why it is none."""
    folder = tmp_path_factory.mktemp("battered")
    with mounted(folder / "run", 128) as why_not:
        yield folder, why_not


def all_of_it(run: TrainingRun, *, small_disk: bool) -> None:
    """One fault after the other, in five processes, until the run has come to its end nevertheless."""
    run.start()
    kill_the_driver_between_answers(run)

    run.start()
    faults_of_a_round(run)
    two_checkpoints(run)
    engine_faults(run)
    kill_the_gcs(run)
    damage_the_newest(run, flip_a_bit)

    run.start()
    kill_a_receiver(run)
    rank_faults(run)
    two_checkpoints(run)
    if small_disk:
        fill_the_disk(run)
    else:
        run.kill()
        run.assert_gone()
    damage_the_newest(run, truncate)

    run.start("rollout.restarts=1")
    two_checkpoints(run)
    kill_all_engines(run)
    damage_the_newest(run, put_a_pickle)

    started = time.time()
    run.start()
    run.wait_for("the first update", lambda: run.story.events("reinforcing")[-1]["time"] > started)
    figure("a new process goes on after kill -9 of the driver, the GCS or all engines", time.time() - started)
    run.end()


@pytest.fixture(scope="module")
def battered(undisturbed: TrainingRun, place: tuple[Path, str | None]) -> Iterator[TrainingRun]:
    folder, no_small_disk = place
    run = TrainingRun(
        folder,
        undisturbed.iterations,
        "rollout.probe_s=10",
        "learner.collective_timeout_s=30",
        "learner.restarts=20",
        decode_s=0.5,  # so that it is not over before everything has happened
    )
    with closing(run):
        all_of_it(run, small_disk=no_small_disk is None)
        yield run


def test_every_problem_is_trained_once_and_the_weights_are_those_of_an_undisturbed_run(
    battered: TrainingRun, undisturbed: TrainingRun
):
    assert_same_training(battered, undisturbed)


def test_the_oracle_was_paid_as_in_an_undisturbed_run_but_for_the_answer_that_no_process_has_heard(
    battered: TrainingRun, undisturbed: TrainingRun
):
    asked, bill = len(battered.oracle.questions), read_spend(battered.folder / "oracle_calls.jsonl")
    expected = read_spend(undisturbed.folder / "oracle_calls.jsonl")
    assert expected.calls == len(undisturbed.oracle.questions) > ANSWERED
    assert asked == bill.calls == expected.calls + 1 and bill.unknown == 1
    assert (bill.input_tokens, bill.output_tokens) == (expected.input_tokens, expected.output_tokens)
    assert bill.cached >= expected.calls  # of the iteration that was repeated


def test_every_engine_sampled_with_the_whole_weights_of_its_version(battered: TrainingRun):
    assert len({event["version"] for event in battered.story.events("sampling")}) > 2
    assert one_version_one_set_of_weights(battered.story.events())


def test_what_happened_is_written_down(battered: TrainingRun):
    names = [event["event"] for event in battered.journal()]
    assert names.count("started") == 5 and names.count("learner_rebuilt") >= 2 and names[-1] == "finished"
    assert battered.said().count("is lost (") >= 6  # engines and learners


def test_damaged_and_hostile_checkpoints_were_passed_over_and_never_unpickled(battered: TrainingRun):
    said = battered.said()
    assert said.count("differs from the manifest") == 2 and said.count("is no safetensors file") == 1
    assert not (battered.folder / "checkpoints" / UNPICKLED).exists()


def test_a_full_disk_cost_a_checkpoint_and_not_the_run(battered: TrainingRun, place: tuple[Path, str | None]):
    if place[1] is not None:
        pytest.skip(place[1])
    said = battered.said()
    assert "could not be written ([Errno 28]" in said and said.count("No room in") == 1


def test_nothing_is_left(battered: TrainingRun):
    battered.assert_gone()
    assert len(battered.family) > 20
