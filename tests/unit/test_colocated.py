"""Learner and engine on one GPU: who sleeps, works and wakes, in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from actors.colocated import ColocatedLearner, LearnerInTurn
from actors.engine_client import EngineGroup, Part
from actors.failures import EngineDiedError, FleetLostError
from actors.fleet import Fleet
from actors.weight_sync import EngineWeightSync
from int_ray.training_config import LearnerConfig
from int_ray.types import Logprobs, TokenIds, Update, UpdateBatches
from tests.fakes import FakeProgress

PROMPT = np.array([1, 2], np.int32)


class Story:
    """Engine, learner and sender in one, who write down what happens."""

    dtype = "float32"

    def __init__(self, updates: int = 1) -> None:
        self.said: list[str] = []
        self.updates = updates
        self.never_wakes: Part | None = None
        self.lines = FakeProgress()
        fleet = self.fleet = Fleet([cast(Any, self)], 8, self.lines)
        self.learner = ColocatedLearner(cast(Any, Work(self)), fleet, 0.5)
        self.sync = EngineWeightSync(
            fleet, self.learner, lambda _: cast(Any, self), PROMPT, 0.6, LearnerConfig(weight_sync="ipc")
        )

    async def sleep(self) -> None:
        self.said.append("sleep")

    def kill(self) -> None:
        self.said.append("kill")

    async def wake(self, part: Part) -> None:
        self.said.append(f"wake {part}")
        if part == self.never_wakes:
            await asyncio.Event().wait()

    async def pause(self) -> None:
        self.said.append("pause")

    async def resume(self, policy_version: int) -> None:
        if "kill" in self.said:
            raise EngineDiedError("killed")
        self.said.append(f"resume {policy_version}")

    async def canary(self, prompt_ids: TokenIds, seed: int) -> EngineGroup:
        ids = np.array([3], np.int32)
        return EngineGroup(ids, np.zeros(1, np.float32), np.array([0, 1]), ("",), (True,), seed, seed)


class Work:
    """The learner's side."""

    starts = 1

    def __init__(self, story: Story) -> None:
        self.story = story

    async def patch(self, batches: UpdateBatches) -> Update:
        self.story.said.append("patch")
        return Update(self.story.updates)

    async def reinforce(self, batches: UpdateBatches) -> Update:
        self.story.said.append("reinforce")
        return Update(self.story.updates)

    async def open_weight_sender(self, sender: object) -> None:
        self.story.said.append("open")

    async def send_weights(self) -> None:
        self.story.said.append("send")

    async def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        assert self.story.fleet.turn.locked()  # no engine starts on the GPU meanwhile
        self.story.said.append("logprobs_of")
        return [np.zeros(len(ids), np.float32) for ids in sequences]

    async def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        return np.zeros(len(token_ids), np.float32)


def run(*steps: Awaitable[Update | Mapping[str, float] | list[Logprobs]]) -> None:
    async def in_turn() -> None:
        for step in steps:
            await step

    asyncio.run(in_turn())


def test_the_engine_sleeps_while_the_learner_works_and_wakes_around_the_send():
    story = Story()
    run(story.sync.publish(0), story.learner.patch([]), story.sync.publish(1), story.learner.reinforce([]))
    first = ["pause", "open", "send", "resume 0"]  # nobody has slept yet
    second = ["sleep", "patch", "pause", "wake weights", "send", "wake kv_cache", "resume 1"]
    assert story.said == [*first, *second, "sleep", "reinforce"]


def test_an_update_that_changes_nothing_wakes_the_engine_again():
    story = Story(updates=0)
    run(story.learner.reinforce([]), story.learner.reinforce([]))
    assert story.said == ["sleep", "reinforce", "wake weights", "wake kv_cache"] * 2


def test_the_engine_sleeps_while_an_evaluation_asks_for_log_probs():
    story = Story()
    run(story.learner.logprobs_of([PROMPT], 1.0), story.learner.logprobs_of([PROMPT], 1.0))
    assert story.said == ["sleep", "logprobs_of", "wake weights", "wake kv_cache"] * 2


def test_log_probs_wake_no_engine_that_waits_for_new_weights():
    story = Story()
    run(story.learner.patch([]), story.learner.logprobs_of([PROMPT], 1.0), story.sync.publish(1))
    assert story.said[:3] == ["sleep", "patch", "logprobs_of"] and story.said.count("wake weights") == 1
    assert story.said.index("pause") < story.said.index("wake weights") < story.said.index("send")


def test_log_probs_take_their_turn_beside_engines_of_their_own_too():
    story = Story()
    run(LearnerInTurn(cast(Any, Work(story)), story.fleet).logprobs_of([PROMPT], 1.0))
    assert story.said == ["logprobs_of"] and not story.fleet.turn.locked()


def test_two_updates_in_a_row_put_the_engine_to_sleep_once():
    story = Story()
    run(story.learner.patch([]), story.learner.reinforce([]), story.sync.publish(1))
    assert story.said.count("sleep") == 1 and story.said.count("wake kv_cache") == 1


def test_an_engine_that_does_not_fall_asleep_is_killed_and_the_learner_goes_on(monkeypatch: pytest.MonkeyPatch):
    story = Story()
    monkeypatch.setattr(story, "sleep", lambda: asyncio.sleep(60))
    run(story.learner.patch([]))
    assert story.said == ["kill", "patch"] and not story.fleet.members
    (line,) = story.lines.story
    assert "waited 0.5 s (learner.deadline_s) for it to fall asleep" in line


@pytest.mark.parametrize(
    ("late", "waking", "what"),
    [
        ("weights", ["wake weights", "kill", "send"], "wake its weights"),
        ("kv_cache", ["wake weights", "send", "wake kv_cache", "kill"], "wake its cache"),
    ],
)
def test_a_publish_ends_without_an_engine_that_does_not_wake_and_who_wants_one_is_told(
    late: Part, waking: list[str], what: str
):
    async def least_busy() -> None:
        async with story.fleet.least_busy(1):
            pass

    story = Story()
    story.never_wakes = late
    run(story.learner.patch([]), asyncio.wait_for(story.sync.publish(1), 30))  # raises nothing
    assert story.said == ["sleep", "patch", "pause", "open", *waking] and not story.fleet.members
    (line,) = story.lines.story
    assert f"waited 0.5 s (learner.deadline_s) for it to {what}" in line
    with pytest.raises(FleetLostError, match="no rollout engine is left"):
        asyncio.run(least_busy())
