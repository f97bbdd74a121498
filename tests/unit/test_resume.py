"""A run that is killed at any moment and resumed ends as one that nothing happened to: weights, metrics, oracle bill.

Everything but the model is the real thing: the pool with its journal of groups, the round, checkpoints, run folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.checkpoint import CheckpointError, Checkpoints, verify
from actors.coordinator import Coordinator
from actors.engine_client import EngineGroup, Sampling
from actors.fleet import Fleet
from actors.recovery import LearnerLost
from actors.rollout_pool import RolloutPool
from actors.run_folder import RunFolder
from actors.storage import open_storage
from actors.updates import NotFinite
from int_ray.config import Config
from int_ray.config_file import parse_config
from int_ray.errors import LearnerError, RunError, Stopped
from int_ray.intervention_round import InterventionRound
from int_ray.ports import Ports
from int_ray.report.run_files import read_run
from int_ray.segmentation import Segmenter
from int_ray.trigger import build_trigger
from int_ray.types import Attempt, Logprobs, OracleReply, Problem, ProblemSets, Proposal, RunState, TokenIds, Update
from tests.factories import problem, weights_bytes, weights_text
from tests.fakes import FakeGrader, FakeProgress

PROBLEMS = [problem(index) for index in range(8)]
PATHS = {
    "plateau": {},
    "paper": {"schedule": "paper"},
    "outage": {"schedule": "paper", "oracle_down_until": 3},
    "sampling ahead": {"staleness": 1},
}


class Kill(BaseException):
    """kill -9, as far as a test can have it within its own process."""


@dataclass
class Calls:
    """Counts what the run asks of the outside, and ends it at a chosen call."""

    kill_at: int | None = None
    made: list[str] = field(default_factory=list)
    at: dict[int, Callable[[], Any]] = field(default_factory=dict)  # call -> what happens just before

    async def make(self, name: str) -> None:
        self.made.append(name)
        number = len(self.made)
        await asyncio.sleep(0)
        if number in self.at:
            self.at[number]()
        if number == self.kill_at:
            raise Kill


@dataclass
class Learner:
    """Its weights are a digest of all that it was trained on, in order."""

    calls: Calls
    weights: str = "base"
    not_finite: Callable[[str], tuple[int, ...]] = lambda phase: ()

    async def patch(self, batches: Any) -> Update:
        return await self._train("patch", batches)

    async def reinforce(self, batches: Any) -> Update:
        return await self._train("reinforce", batches)

    async def _train(self, phase: str, batches: Any) -> Update:
        await self.calls.make(phase)
        skipped = self.not_finite(phase)
        for index, batch in enumerate(batches):
            parts = [self.weights, phase]
            for item in batch:
                logprobs = None if item.rollout_logprobs is None else item.rollout_logprobs.tolist()
                parts += [item.token_ids.tolist(), item.loss_mask.tolist(), item.advantage, logprobs]
            if index not in skipped:
                self.weights = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        await self.calls.make(f"{phase} ends")
        number = int(self.weights[:6], 16) if self.weights != "base" else 0
        return Update(len(batches) - len(skipped), {f"{phase}/loss": float(number)}, None, skipped)

    async def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        raise NotImplementedError

    async def save(self, folder: Path) -> None:
        await self.calls.make("save")
        (folder / "model.safetensors").write_bytes(weights_bytes(self.weights))

    async def saved(self, folder: Path) -> None:
        await self.calls.make("saved")

    async def restart(self, folder: Path | None) -> None:
        await self.calls.make("restart")
        self.weights = "base" if folder is None else weights_text(folder / "model.safetensors")


@dataclass
class Engine:
    """Right or wrong by a digest of weights, problem and seed; always wrong with the weights of the base."""

    calls: Calls
    weights: str = "base"
    version: int = 0
    asked: list[int] = field(default_factory=list)

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        await self.calls.make("sample")
        weights, version = self.weights, self.version
        self.asked.append(sampling.seed)
        texts = [self._text(weights, prompt_ids, prefix_ids, sampling.seed + index) for index in range(sampling.n)]
        ids = [np.array(list(map(ord, text)), np.int32) for text in texts]
        offsets = np.cumsum([0, *map(len, ids)])
        logprobs = -np.random.default_rng(sampling.seed).random(offsets[-1]).astype(np.float32)
        return EngineGroup(
            np.concatenate(ids), logprobs, offsets, tuple(texts), (True,) * sampling.n, sampling.seed, version
        )

    def _text(self, weights: str, prompt_ids: TokenIds, prefix_ids: TokenIds, seed: int) -> str:
        parts = [weights, prompt_ids.tolist(), prefix_ids.tolist(), seed]
        draw = int(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:6], 16)
        is_right = draw % 2 and (weights != "base" or len(prefix_ids))
        return ("" if len(prefix_ids) else f"12+5={17 if is_right else 18 + draw % 50}\n\n") + (
            "17-3=14\n\n\\boxed{14}" if is_right else f"15\n\n\\boxed{{{15 + draw % 70}}}"
        )


@dataclass
class Sync:
    calls: Calls
    learner: Learner
    engine: Engine
    fleet: Fleet

    async def publish(self, policy_version: int) -> dict[str, float]:
        await self.calls.make("publish")
        self.engine.weights, self.engine.version = self.learner.weights, policy_version
        self.fleet.policy_version = policy_version
        return {"sync/seconds": 1.0}


@dataclass
class PaidOracle:
    """Corrects step 1, and has its answers in a file that outlives the process, as the real ones have."""

    calls: Calls
    paid: Path
    is_down: Callable[[], bool] = lambda: False

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        replies = []
        for attempt in attempts:
            await self.calls.make("ask")
            if self.is_down():
                replies.append(OracleReply(failure="circuit_open"))
                continue
            question = json.dumps([attempt.problem.id, attempt.rollout.completion.token_ids.tolist()])
            if question not in self.questions():
                with self.paid.open("a") as file:
                    file.write(question + "\n")
            replies.append(OracleReply((Proposal(1, "12+5=17"),)))
        return replies

    def questions(self) -> list[str]:
        return self.paid.read_text().splitlines() if self.paid.exists() else []


class World:
    """One process of a run."""

    def __init__(
        self,
        folder: Path,
        *,
        kill_at: int | None = None,
        schedule: str = "plateau",
        staleness: int = 0,
        oracle_down_until: int = 0,
        evaluate_every: int = 2,
        **run: Any,
    ) -> None:
        self.path = folder
        self.calls = Calls(kill_at)
        self.config = config(folder, schedule, staleness, evaluate_every, run)
        self.progress = FakeProgress()
        self.folder = RunFolder(folder, say=self.progress.say)
        found, self.state, _ = Checkpoints(folder / "checkpoints", 1).latest()
        self.checkpoint = found
        weights = "base" if found is None else weights_text(found / "model.safetensors")
        self.learner, self.engine = Learner(self.calls, weights), Engine(self.calls)
        fleet = Fleet([self.engine], 64, self.progress)  # pyright: ignore (an engine that is never lost)
        self.oracle = PaidOracle(self.calls, folder / "paid.txt")

        def encode(problem: Problem) -> TokenIds:
            return np.array(list(map(ord, problem.id)), np.int32)

        pool = RolloutPool(fleet, FakeGrader(), encode, self.config.rollout, 0, self.progress, self.folder.groups)
        sync = Sync(self.calls, self.learner, self.engine, fleet)
        ports = Ports(pool, FakeGrader(), self.oracle, self.progress, self.learner, sync)
        segmenter = Segmenter(lambda ids: "".join(map(chr, ids)), ("wait",))
        round_ = InterventionRound(
            ports, segmenter, lambda text: list(map(ord, text)), self.config.oracle, self.config.patch, 128
        )
        trigger = build_trigger(self.config.schedule, self.config.trigger)
        sets = ProblemSets(PROBLEMS, {"hard": PROBLEMS[:2]})
        self.coordinator = Coordinator(self.config, sets, ports, round_, trigger, self.folder)
        self.oracle.is_down = lambda: self.coordinator.intervening.asked_in < oracle_down_until

    def run(self) -> RunState:
        try:
            return asyncio.run(self.coordinator.run(self.state, self.checkpoint))
        except Kill:
            for thread in threading.enumerate():  # of a process that is killed nothing would write on
                if thread.name in ("complete", "send"):
                    thread.join(60)
            raise
        finally:
            self.folder.close()

    def metrics(self) -> dict[int, dict[str, float]]:
        rows = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return {row["iteration"]: {name: row[name] for name in row if not name.startswith("time/")} for row in rows}

    def outcome(self) -> dict[str, Any]:
        """What has to be equal, whatever happened on the way."""
        folders = [self.path / name for name in ("rollouts", "interventions", "evaluations")]
        return {
            "weights": self.learner.weights,
            "state": verify(max((self.path / "checkpoints").glob("iteration_??????"))),
            "metrics": self.metrics(),
            "files": {path.name: path.read_text() for folder in folders for path in sorted(folder.rglob("*.jsonl"))},
            "bill": sorted(self.oracle.questions()),
        }

    def events(self, name: str) -> list[dict]:
        lines = (self.path / "journal.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]


def config(folder: Path, schedule: str, staleness: int, evaluate_every: int, run: dict[str, Any]) -> Config:
    sampling = {"batch_size": 4, "n": 4, "max_tokens": 128, "staleness": staleness}
    learner = {name: run.pop(name) for name in ("restarts", "max_skipped_updates") if name in run}
    return parse_config(
        {
            "schedule": schedule,
            "model": {"path": "unused", "max_length": 256},
            "problems": {"train": "unused", "reward": "exact"},
            "rollout": sampling | ({"top_p": 1.0} if staleness else {}),
            "oracle": {"attempts": 2},
            "trigger": {"patience": 2, "cooldown": 1},
            "patch": {"continuations": 4, "epochs": 2, "batch_size": 4},
            "reinforce": {"mini_batch_size": 2, "zero_advantage": "drop", "importance_cap": 2.0 if staleness else None},
            "learner": learner,
            "evaluate": {"sets": {"hard": "unused"}, "n": 4, "k": [1, 2], "every": evaluate_every},
            "run": {"folder": str(folder), "iterations": 5, "checkpoint_every": 2} | run,
        }
    )


def straight(folder: Path, **options: Any) -> World:
    world = World(folder, **options)
    world.run()
    return world


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run that nothing happened to."""
    return straight(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("path", ["plateau", "paper", "outage"])
def test_a_run_killed_at_any_call_and_resumed_ends_the_same(tmp_path: Path, path: str):
    whole = straight(tmp_path / "whole", **PATHS[path])
    expected = whole.outcome()
    kinds = {"sample", "ask", "patch", "patch ends", "reinforce", "reinforce ends", "publish", "save", "saved"}
    calls = list(range(1, len(whole.calls.made) + 1, 3 if path == "plateau" else 7))
    calls += [whole.calls.made.index(kind) + 1 for kind in kinds - {whole.calls.made[call - 1] for call in calls}]
    assert {whole.calls.made[call - 1] for call in calls} == kinds
    for kill_at in calls:
        folder = tmp_path / str(kill_at)
        killed = World(folder, kill_at=kill_at, **PATHS[path])
        with pytest.raises(Kill):
            killed.run()
        resumed = straight(folder, **PATHS[path])
        assert resumed.outcome() == expected, f"killed at call {kill_at}, {whole.calls.made[kill_at - 1]}"


def test_a_closed_run_folder_leaves_no_thread(tmp_path: Path):
    before = set(threading.enumerate())
    assert straight(tmp_path).engine.asked
    left = set(threading.enumerate()) - before
    assert not [thread.name for thread in left if thread.name.startswith("groups")]


def test_finished_groups_are_never_sampled_again(tmp_path: Path, whole: World):
    for kill_at in (7, whole.calls.made.index("ask") + 1):  # in the first batch; after the second one
        killed = World(tmp_path / str(kill_at), kill_at=kill_at)
        with pytest.raises(Kill):
            killed.run()
        kept = sum(path.read_text().count("\n") for path in (killed.path / "groups").iterdir())
        resumed = straight(killed.path)
        assert 0 < kept == len(whole.engine.asked) - len(resumed.engine.asked)
        assert len(list((killed.path / "groups").iterdir())) == 1  # of the last checkpoint alone


def test_a_run_that_samples_ahead_is_resumed_with_every_problem_accounted_for(tmp_path: Path):
    whole = straight(tmp_path / "whole", staleness=1)
    for kill_at in range(3, len(whole.calls.made), 7):
        folder = tmp_path / str(kill_at)
        with pytest.raises(Kill):
            World(folder, staleness=1, kill_at=kill_at).run()
        resumed = straight(folder, staleness=1)
        assert resumed.outcome()["state"].pending == []
        batches = [path.read_text().splitlines() for path in sorted((folder / "rollouts").iterdir())]
        trained = [json.loads(line) for batch in batches for line in batch]
        assert len(batches) == 5 and len(trained) >= 20
        assert len({group["rollouts"][0]["seed"] for group in trained}) == len(trained)  # none twice
        counts = [sum(group["problem_id"] == item.id for group in trained) for item in PROBLEMS]
        assert max(counts) - min(counts) <= 1  # none left out


def lost(world: World, *calls: int) -> None:
    def lose() -> None:
        raise LearnerError("a learner rank died")

    world.calls.at |= dict.fromkeys(calls, lose)


def test_a_lost_learner_goes_back_to_the_last_checkpoint_and_ends_the_same(tmp_path: Path, whole: World):
    expected = whole.outcome()
    of_learner = [
        number for number, name in enumerate(whole.calls.made, start=1) if name not in ("sample", "ask", "saved")
    ]
    for call in of_learner:
        world = World(tmp_path / str(call))
        lost(world, call)
        world.run()
        assert world.outcome() == expected, f"lost at call {call}, {whole.calls.made[call - 1]}"
        assert [row.iteration for row in read_run(world.path).rows] == [1, 2, 3, 4, 5]
        (event,) = world.events("learner_rebuilt")
        assert event["reason"] == "a learner rank died" and world.calls.made.count("restart") == 1


def test_a_learner_that_is_lost_again_and_again_ends_the_run_resumably(tmp_path: Path, whole: World):
    world = World(tmp_path / "run", restarts=1)
    restart = whole.calls.made.index("reinforce") + 2
    lost(world, restart - 1, restart)  # in its work, and while it starts anew
    with pytest.raises(LearnerLost, match=r"a learner rank died \(learner.restarts = 1 are spent\)"):
        world.run()
    assert straight(tmp_path / "run").outcome() == whole.outcome()


def test_a_lost_learner_goes_back_past_a_damaged_checkpoint(tmp_path: Path, whole: World):
    world = World(tmp_path / "run")
    after_4 = max(number for number, name in enumerate(whole.calls.made, start=1) if name == "reinforce")
    newest = world.path / "checkpoints" / "iteration_000004"

    def damage_and_lose() -> None:
        until = time.monotonic() + 30
        while not newest.exists() and time.monotonic() < until:
            time.sleep(0.01)  # written by a thread
        (newest / "model.safetensors").write_text("flipped")
        raise LearnerError("a learner rank died")

    world.calls.at[after_4] = damage_and_lose
    world.run()
    assert world.outcome() == whole.outcome()
    assert [event["iteration"] for event in world.events("learner_rebuilt")] == [2]
    assert [event["iteration"] for event in world.events("checkpoint")] == [2, 4, 4, 5]
    assert any("Passed over" in line and "iteration_000004" in line for line in world.progress.story)
    assert newest.with_suffix(".corrupt").exists()


def test_a_run_that_began_elsewhere_never_falls_back_on_the_base_model(tmp_path: Path):
    elsewhere = straight(tmp_path / "other").path / "checkpoints" / "iteration_000004"
    world = World(tmp_path / "run")
    world.state, world.checkpoint = verify(elsewhere), elsewhere
    (elsewhere / "model.safetensors").write_text("flipped")
    lost(world, 1)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing or differs"):
        world.run()


def test_what_was_loaded_is_not_saved_again(tmp_path: Path, whole: World):
    for call in (1, 3):
        world = World(tmp_path / str(call), kill_at=whole.calls.made.index("saved") + 3)
        with pytest.raises(Kill):
            world.run()
        resumed = World(world.path)
        resumed.calls.at[call] = resumed.coordinator.stop.set
        with pytest.raises(Stopped, match="asked to stop after iteration 2"):
            resumed.run()
        assert "save" not in resumed.calls.made
        assert straight(world.path).outcome() == whole.outcome()


def test_a_state_from_another_folder_is_saved_in_this_one(tmp_path: Path):
    """Else `--resume auto` would find nothing here, and begin anew."""
    elsewhere = straight(tmp_path / "other").path / "checkpoints" / "iteration_000004"
    world = World(tmp_path / "run")
    world.state, world.checkpoint = verify(elsewhere), elsewhere
    world.calls.at[1] = world.coordinator.stop.set
    with pytest.raises(Stopped, match="asked to stop after iteration 4"):
        world.run()
    assert Checkpoints(world.path / "checkpoints", 1).latest()[1].iteration == 4


def test_every_iteration_is_saved_while_the_learners_node_is_leaving(tmp_path: Path):
    world = World(tmp_path)
    world.calls.at[2] = world.coordinator.saves_each.set
    world.run()
    assert [event["iteration"] for event in world.events("checkpoint")] == [1, 2, 3, 4, 5]


def test_a_request_to_stop_saves_and_the_resumed_run_ends_the_same(tmp_path: Path, whole: World):
    expected = whole.outcome()
    last = max(number for number, name in enumerate(whole.calls.made) if name == "reinforce")
    for call in range(2, last, 4):  # one that comes in the last iteration's training changes nothing any more
        world = World(tmp_path / str(call))
        world.calls.at[call] = world.coordinator.stop.set
        with pytest.raises(Stopped, match="asked to stop after iteration") as stopped:
            world.run()
        saved = world.events("checkpoint")[-1]["iteration"]
        assert str(stopped.value).endswith(f"iteration {saved}")
        resumed = straight(tmp_path / str(call))
        assert resumed.outcome() == expected, f"stopped at call {call}, {whole.calls.made[call - 1]}"


@pytest.mark.parametrize("call", ["publish", "reinforce"])  # between two iterations, in an update
@pytest.mark.parametrize("is_before", [False, True])
def test_a_request_to_stop_beside_a_lost_learner_saves_no_weights_of_another_iteration(
    tmp_path: Path, whole: World, call: str, is_before: bool
):
    made = whole.calls.made
    number = max(index for index, name in enumerate(made, start=1) if name == call)
    world = World(tmp_path / "run")
    lost(world, number)
    if is_before:
        stop_at = number - 1 if call == "publish" else number
        lose = world.calls.at[number]
        world.calls.at[stop_at] = world.coordinator.stop.set
        if stop_at == number:
            world.calls.at[number] = lambda: (world.coordinator.stop.set(), lose())
    else:
        restart = world.learner.restart

        async def restart_slowly(folder: Path | None) -> None:
            await restart(folder)
            world.coordinator.stop.set()
            await asyncio.sleep(30)

        world.learner.restart = restart_slowly
    with pytest.raises(Stopped, match=r"asked to stop, but a learner rank died; the last checkpoint is .*4"):
        world.run()
    assert [event["iteration"] for event in world.events("checkpoint")] == [2, 4]
    assert straight(tmp_path / "run").outcome() == whole.outcome()


def test_an_update_that_does_not_end_in_time_is_given_up(tmp_path: Path):
    world = World(tmp_path, stop_deadline_s=0.05)

    async def never(batches: Any) -> Update:
        world.coordinator.stop.set()
        return await asyncio.get_running_loop().create_future()

    world.learner.patch = never
    with pytest.raises(Stopped, match=r"could not save within 0.05 s.*there is no checkpoint"):
        world.run()


def test_updates_that_are_not_finite_are_kept_and_end_the_run_in_the_end(tmp_path: Path):
    world = World(tmp_path, max_skipped_updates=3)
    world.learner.not_finite = lambda phase: (0,) if phase == "patch" else (0, 1)
    with pytest.raises(NotFinite, match=r"\d updates in a row were skipped"):
        world.run()
    events = world.events("skipped_update")
    assert [event["phase"] for event in events[:2]] == ["patch", "reinforce"]
    from safetensors.numpy import load_file

    arrays = load_file(tmp_path / "skipped" / events[-1]["batch"])
    assert arrays["offsets"][-1] == len(arrays["token_ids"]) == len(arrays["loss_mask"])
    assert len(arrays["advantages"]) == len(arrays["offsets"]) - 1 == 8  # two problems of four rollouts


def failing(learner: Learner, times: int, error: OSError) -> None:
    inner: Callable[[Path], Awaitable[None]] = learner.saved
    left = [error] * times

    async def saved(folder: Path) -> None:
        await inner(folder)
        if left:
            raise left.pop()

    learner.saved = saved


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path: Path):
    expected = straight(tmp_path / "whole").outcome()
    world = World(tmp_path / "run")
    failing(world.learner, 1, OSError(28, "No space left on device"))
    world.run()
    assert world.outcome() == expected
    assert [event["iteration"] for event in world.events("checkpoint_failed")] == [2]
    assert [event["iteration"] for event in world.events("checkpoint")] == [4, 5]
    assert any("No space left on device" in line for line in world.progress.story)
    assert any("iteration 2 could not be written" in note for note in read_run(tmp_path / "run").notes)
    assert not list((tmp_path / "run" / "checkpoints").glob("*.partial*"))


def test_the_last_checkpoint_is_tried_twice(tmp_path: Path):
    world = World(tmp_path, checkpoint_every=5)
    failing(world.learner, 1, OSError(28, "No space left on device"))
    world.run()
    assert [event["iteration"] for event in world.events("checkpoint_failed")] == [5]
    assert [event["iteration"] for event in world.events("checkpoint")] == [5]
    assert read_run(tmp_path).lost_checkpoints == []


def test_a_run_without_its_last_checkpoint_is_not_finished(tmp_path: Path):
    world = World(tmp_path, checkpoint_every=5)
    failing(world.learner, 2, OSError(28, "No space left on device"))
    with pytest.raises(RunError, match=r"the last checkpoint could not be written: make room .*; there is no"):
        world.run()
    assert not world.events("finished") and read_run(tmp_path).lost_checkpoints == [5]


def test_a_learner_that_dies_over_the_last_checkpoint_is_rebuilt_and_the_rest_repeated(tmp_path: Path):
    expected = straight(tmp_path / "whole").outcome()
    world = World(tmp_path / "run")
    save = world.learner.save

    async def dying(folder: Path) -> None:
        if len(world.events("checkpoint_failed")) == 1 and not world.events("learner_rebuilt"):
            raise LearnerError("a learner rank died during save")
        await save(folder)

    world.learner.save = dying
    last = [number for number, name in enumerate(straight(tmp_path / "other").calls.made) if name == "saved"][-1]

    def no_word() -> None:
        raise TimeoutError("waited for learner rank 1 to write its part")

    world.calls.at[last + 1] = no_word
    world.run()
    assert world.outcome() == expected and len(world.events("learner_rebuilt")) == 1
    assert world.events("checkpoint")[-1]["iteration"] == 5


def test_a_resumed_evaluation_is_due_that_the_kill_prevented(tmp_path: Path, whole: World):
    second = whole.calls.made.index("saved") + 2
    with pytest.raises(Kill):
        World(tmp_path / "run", kill_at=second).run()
    assert sorted(straight(tmp_path / "run").folder.scores()) == sorted(whole.folder.scores()) == [0, 2, 4, 5]


def test_an_evaluation_never_takes_groups_of_other_weights(tmp_path: Path):
    """All evaluations have the same seeds: one that is not due any more leaves its groups behind."""
    expected = straight(tmp_path / "whole", evaluate_every=3).folder.scores()
    second_save = [number for number, name in enumerate(straight(tmp_path / "other").calls.made) if name == "save"][1]
    killed = World(tmp_path / "run", kill_at=second_save + 1)  # evaluated after iteration 2
    with pytest.raises(Kill):
        killed.run()
    scores = straight(killed.path, evaluate_every=3).folder.scores()
    assert 2 in scores and 3 in expected and {number: scores[number] for number in expected} == expected


def test_groups_of_other_weights_are_not_found(tmp_path: Path):
    straight(tmp_path)
    folder = RunFolder(tmp_path)
    folder.groups.restart(99)
    assert not list((tmp_path / "groups").iterdir())


def test_a_run_whose_disk_is_lost_goes_on_from_its_storage(tmp_path: Path, whole: World):
    url = f"memory://{tmp_path.name}/run"
    second = [number for number, name in enumerate(whole.calls.made, start=1) if name == "saved"][1]
    killed = World(tmp_path / "run", kill_at=second + 1, storage=url)
    with pytest.raises(Kill):
        killed.run()
    shutil.rmtree(killed.path)
    assert open_storage(url).fetch(killed.path) == "iteration_000002"
    assert straight(killed.path).outcome() == whole.outcome()


def test_a_store_that_cannot_be_reached_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World(tmp_path, storage=f"memory://{tmp_path.name}/run")
    assert world.coordinator.recovery.storage is not None
    monkeypatch.setattr(world.coordinator.recovery.storage, "_put", lambda *_: 1 / 0)
    world.run()
    assert len(world.events("checkpoint")) == len(world.events("checkpoint_not_sent")) == 3
    assert any("could not be sent" in line for line in world.progress.story)


def test_a_store_that_hangs_is_given_up_and_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World(tmp_path, storage=f"memory://{tmp_path.name}/run", storage_deadline_s=0.05)
    hang = threading.Event()
    assert world.coordinator.recovery.storage is not None
    monkeypatch.setattr(world.coordinator.recovery.storage, "_put", lambda *_: hang.wait())
    world.run()
    hang.set()
    reasons = [event["reason"] for event in world.events("checkpoint_not_sent")]
    assert "storage_deadline_s" in reasons[0] and reasons[1:] == ["the checkpoint before is still on its way"] * 2


def test_a_rebuild_does_not_wait_for_a_store_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: World):
    world = World(tmp_path / "run", storage=f"memory://{tmp_path.name}/run")
    hang = threading.Event()
    assert world.coordinator.recovery.storage is not None
    monkeypatch.setattr(world.coordinator.recovery.storage, "_put", lambda *_: hang.wait())
    lost(world, whole.calls.made.index("saved") + 3)
    restart = world.learner.restart

    async def restart_and_answer(folder: Path | None) -> None:
        hang.set()  # the store answers only once the learner is rebuilt
        await restart(folder)

    world.learner.restart = restart_and_answer
    world.run()
    assert world.outcome() == whole.outcome()


def test_a_request_to_stop_does_not_wait_for_a_store_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World(tmp_path, storage=f"memory://{tmp_path.name}/run", stop_deadline_s=0.5)
    hang = threading.Event()
    assert world.coordinator.recovery.storage is not None
    monkeypatch.setattr(world.coordinator.recovery.storage, "_put", lambda *_: hang.wait())
    world.calls.at[20] = world.coordinator.stop.set
    with pytest.raises(Stopped, match=r"could not send iteration_\d+ to memory.*the last checkpoint is"):
        world.run()
    hang.set()


def test_a_figure_that_an_evaluation_does_not_have_is_the_worst(tmp_path: Path):
    world = straight(tmp_path, keep_checkpoints=1, keep_best="hard/pass@1", checkpoint_every=1)
    for path in (tmp_path / "evaluations").glob("*/hard.score.json"):
        score = json.loads(path.read_text())
        del score["figures"]["pass@1"]  # evaluated with another evaluate.k
        path.write_text(json.dumps(score))
    assert world.coordinator.recovery._score(4) == -math.inf  # pyright: ignore


def test_the_checkpoint_with_the_best_evaluation_is_kept(tmp_path: Path):
    world = straight(tmp_path, keep_checkpoints=1, keep_best="hard/pass@1", checkpoint_every=1)
    figures = {number: scores["hard"]["figures"]["pass@1"]["mean"] for number, scores in world.folder.scores().items()}
    best = max((2, 4, 5), key=lambda number: figures[number])
    kept = [int(path.name.removeprefix("iteration_")) for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert {best, 5} <= set(kept) <= {2, 4, 5} and len(kept) <= 2
