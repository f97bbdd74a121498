"""The whole loop against in-process fakes: no Ray, no model, milliseconds."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from actors.coordinator import Coordinator, OracleOutage
from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.config_file import parse_config
from int_ray.data.batches import ProblemBatches
from int_ray.intervention_records import read_intervention
from int_ray.intervention_round import InterventionRound
from int_ray.ports import Ports
from int_ray.segmentation import Segmenter
from int_ray.trigger import build_trigger
from int_ray.types import ProblemSets, Purpose, RunState
from tests.factories import problem
from tests.fakes import FakeGrader, FakeLearner, FakeOracle, FakePolicy, FakeProgress, FakeRollouts, FakeWeightSync


@dataclass
class World:
    coordinator: Coordinator
    policy: FakePolicy
    rollouts: FakeRollouts
    oracle: FakeOracle
    learner: FakeLearner
    weights: FakeWeightSync
    progress: FakeProgress
    folder: RunFolder

    def run(self, state: RunState | None = None) -> RunState:
        return asyncio.run(self.coordinator.run(state or RunState()))

    def asked(self) -> list[tuple[str, int]]:
        return [(item.problem.id, item.rollout.completion.seed) for item in self.oracle.asked]

    def metrics(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder.path / "metrics.jsonl").read_text().splitlines()]

    def rounds(self) -> list[dict]:
        lines = (self.folder.path / "journal.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == "intervention_round"]


def config(folder: Path, mixed: int = 0, staleness: int = 0, **sections: Any) -> Config:
    return parse_config(
        {
            "schedule": sections.pop("schedule", "plateau"),
            "model": {"path": "unused", "max_length": 256},
            "problems": {"train": "unused", "reward": "exact", "mixed": "unused" if mixed else None},
            "rollout": {
                "batch_size": 4,
                "n": 4,
                "max_tokens": 128,
                "mixed": mixed,
                "staleness": staleness,
                "top_p": 1.0 if staleness else 0.95,
            },
            "oracle": {"attempts": 2} | sections.pop("oracle", {}),
            "trigger": {"patience": 2, "cooldown": 1} | sections.pop("trigger", {}),
            "patch": {"continuations": 4, "epochs": 1},
            "reinforce": {
                "mini_batch_size": 2,
                "zero_advantage": "drop",
                "importance_cap": 2.0 if staleness else None,
            },
            "evaluate": {"n": 4, "k": [1, 2]} | sections.pop("evaluate", {}),
            "run": {"folder": str(folder), "iterations": 6, "checkpoint_every": 3},
        }
    )


def build(folder: Path, policy: FakePolicy | None = None, *, oracle_down: str | None = None, **sections: Any) -> World:
    settings = config(folder, **sections)
    policy = policy or FakePolicy()
    problems = [problem(index) for index in range(8)]
    rollouts, oracle, progress = FakeRollouts(policy), FakeOracle(failure=oracle_down), FakeProgress()
    learner, weights = FakeLearner(policy, [item.id for item in problems]), FakeWeightSync(policy)
    ports = Ports(rollouts, FakeGrader(), oracle, progress, learner, weights)
    segmenter = Segmenter(lambda ids: "".join(map(chr, ids)), ("wait",))
    round_ = InterventionRound(
        ports,
        segmenter,
        lambda text: list(map(ord, text)),
        settings.oracle,
        settings.patch,
        settings.rollout.max_tokens,
    )
    run_folder = RunFolder(folder)
    trigger = build_trigger(settings.schedule, settings.trigger)
    solvable = [problem(index) for index in range(20, 24)]
    sets = ProblemSets(problems, {"hard": problems[:2]}, solvable if settings.rollout.mixed else ())
    coordinator = Coordinator(settings, sets, ports, round_, trigger, run_folder)
    return World(coordinator, policy, rollouts, oracle, learner, weights, progress, run_folder)


def test_stall_then_patch_then_reinforce(tmp_path: Path):
    world = build(tmp_path)
    state = world.run()
    # Two stalled iterations, a patch in the second; the third has a signal; then everything is solved.
    assert world.learner.phases == ["patch", "reinforce"]
    assert (state.iteration, state.policy_version, state.intervention_rounds) == (6, 2, 1)
    assert world.weights.versions == [0, 1, 2]
    assert world.rounds()[0]["intervention/problems"] == 8  # both batches of the window
    rows = world.metrics()
    assert [row["rollout/reward"] for row in rows] == [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_every_kept_intervention_is_written_down_with_its_test(tmp_path: Path):
    world = build(tmp_path)
    world.run()
    (path,) = (tmp_path / "interventions").iterdir()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [record for record in records if record.get("kept")]
    assert len(kept) == 8  # the two attempts of a problem differ after step 1 only: one is a duplicate
    assert (kept[0]["location"], kept[0]["content"], kept[0]["success_rate"]) == (1, "12+5=17", 0.5)
    assert kept[0]["replaced"].startswith("12+5=18")
    assert [record["reason"] for record in records if record["status"] == "refused"] == ["duplicate"] * 8


def test_a_second_round_when_the_first_does_not_help(tmp_path: Path):
    world = build(tmp_path, FakePolicy(responds_to_interventions=False))
    state = world.run()
    assert world.learner.phases == []
    assert state.intervention_rounds == 3  # patience 2, cooldown 1: iterations 2, 4 and 6
    assert state.policy_version == 0
    assert all(round_["intervention/kept"] == 0 for round_ in world.rounds())


def test_the_number_of_rounds_is_limited(tmp_path: Path):
    world = build(tmp_path, FakePolicy(responds_to_interventions=False), trigger={"max_rounds": 1})
    assert world.run().intervention_rounds == 1


def test_a_round_reinforces_the_groups_that_have_a_signal(tmp_path: Path):
    half = {f"p{index}": 0.5 * (index % 2) for index in range(8)}
    world = build(tmp_path, FakePolicy(skill=half), trigger={"patience": 1, "threshold": 0.2})
    world.run()
    assert world.learner.phases[:2] == ["reinforce", "patch"]  # both in the first iteration
    asked = {attempt.problem.id for attempt in world.oracle.asked}
    assert asked and all(half[problem_id] == 0 for problem_id in asked)
    assert world.weights.versions[:2] == [0, 1]  # one sync for both


def test_mixed_in_problems_are_reinforced_but_never_count_as_a_stall(tmp_path: Path):
    skill = {f"p{index}": 0.0 for index in range(8)} | {f"p{index}": 0.5 for index in range(20, 24)}
    world = build(tmp_path, FakePolicy(skill=skill), mixed=2)
    world.run()
    assert [count for purpose, count, _ in world.rollouts.calls if purpose is Purpose.TRAIN] == [6] * 6
    assert world.learner.phases[0] == "reinforce"  # the mixed-in ones have a signal
    first = world.metrics()[0]
    assert (first["rollout/unsolved"], first["rollout/reward"], first["mixed/reward"]) == (1.0, 0.0, 0.5)


def test_mixed_in_problems_never_reach_the_oracle(tmp_path: Path):
    world = build(tmp_path, FakePolicy(), mixed=2)  # nothing is solved, mixed-in problems neither
    world.run()
    assert {attempt.problem.id for attempt in world.oracle.asked} == {f"p{index}" for index in range(8)}


def test_nothing_to_do_when_all_is_solved(tmp_path: Path):
    policy = FakePolicy(skill={f"p{index}": 1.0 for index in range(8)})
    world = build(tmp_path, policy)
    state = world.run()
    assert world.learner.phases == [] and world.oracle.asked == []
    assert (state.policy_version, world.weights.versions) == (0, [0])


def test_an_oracle_that_is_down_does_not_stop_the_run(tmp_path: Path):
    world = build(tmp_path, oracle_down="timeout")
    state = world.run()
    assert state.iteration == 6 and world.learner.phases == []
    assert world.rounds()[0]["intervention/refused"] == world.rounds()[0]["intervention/attempts"]
    assert any("timeout" in line for line in world.progress.story)


def test_an_outage_is_asked_again_as_soon_as_it_is_over(tmp_path: Path):
    world = build(tmp_path, oracle_down="circuit_open")
    state = asyncio.run(world.coordinator.iterate(RunState()))
    state = asyncio.run(world.coordinator.iterate(state))
    assert world.oracle.asked and not world.learner.phases
    assert [event["outage"] for event in world.rounds()] == ["circuit_open"]
    world.oracle.failure = None
    asyncio.run(world.coordinator.iterate(state))  # no cooldown after a round that could ask nothing
    assert "patch" in world.learner.phases


def test_an_outage_stops_the_run_resumably_if_the_config_says_so(tmp_path: Path):
    world = build(tmp_path, oracle_down="over_budget", oracle={"on_outage": "stop"})
    with pytest.raises(OracleOutage, match=r"over_budget.*on_outage"):
        world.run()
    state = RunState(**json.loads((tmp_path / "checkpoints" / "iteration_000002" / "state.json").read_text()))
    resumed = build(tmp_path, oracle={"on_outage": "stop"})
    resumed.run(state)
    assert resumed.rounds()[-1]["iteration"] == 3  # asks at once


def test_given_interventions_patch_before_the_first_iteration(tmp_path: Path):
    collecting = build(tmp_path / "first")
    collecting.run()
    (path,) = (tmp_path / "first" / "interventions").iterdir()
    kept = [record for record in map(json.loads, path.read_text().splitlines()) if record["kept"]]
    world = build(tmp_path / "second")
    given = [read_intervention(record) for record in kept]
    untested = replace(given[0], continuations=None)
    world.coordinator.problems = replace(world.coordinator.problems, interventions=[*given[1:], untested])
    state = world.run()
    assert world.learner.phases[0] == "patch" and world.weights.versions[:2] == [0, 1]
    assert world.rollouts.calls[0][0] is Purpose.EVALUATE  # the base, before anything changes
    assert (Purpose.TEST_INTERVENTION, 1, 0) in world.rollouts.calls  # only the untested one
    assert world.rounds()[0]["intervention/kept"] == len(kept)
    assert state.intervention_rounds == 0 and state.iteration == 6


def test_never_is_plain_rl(tmp_path: Path):
    world = build(tmp_path, schedule="never")
    assert world.run().intervention_rounds == 0
    assert world.oracle.asked == []


def test_the_paper_collects_on_all_problems_first(tmp_path: Path):
    world = build(tmp_path, schedule="paper")
    world.run()
    sampled = [count for purpose, count, _ in world.rollouts.calls if purpose is Purpose.TRAIN]
    assert sampled == [8, 4, 4, 4, 4, 4]
    assert world.learner.phases == ["patch", "reinforce"]


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path):
    first = build(tmp_path)
    first.run()
    checkpoint = tmp_path / "checkpoints" / "iteration_000003"
    state = RunState(**json.loads((checkpoint / "state.json").read_text()))
    assert (state.iteration, state.policy_version) == (3, 2)
    second = build(tmp_path, first.policy)
    assert second.run(state).iteration == 6
    assert second.weights.versions == [2]
    assert [round_ for purpose, _, round_ in second.rollouts.calls if purpose is Purpose.TRAIN] == [4, 5, 6]


def test_a_resumed_run_asks_about_the_same_problems(tmp_path: Path):
    whole = build(tmp_path / "whole", trigger={"patience": 3})
    whole.run()
    first = build(tmp_path / "halves", trigger={"patience": 3})
    state = asyncio.run(first.coordinator.iterate(RunState()))
    state = asyncio.run(first.coordinator.iterate(state))
    resumed = build(tmp_path / "halves", trigger={"patience": 3})
    resumed.run(state)
    assert whole.asked() == resumed.asked() != []


def test_evaluation_before_and_after_uses_the_same_seeds(tmp_path: Path):
    world = build(tmp_path)
    world.run()
    evaluations = [call for call in world.rollouts.calls if call[0] is Purpose.EVALUATE]
    assert evaluations == [(Purpose.EVALUATE, 2, 0)] * 2
    assert sorted(world.folder.scores()) == [0, 6]


def test_sampling_ahead_reinforces_what_older_policies_sampled_and_says_how_old(tmp_path: Path):
    world = build(tmp_path, FakePolicy({f"p{index}": 0.5 for index in range(8)}), staleness=2)
    state = world.run()
    assert state.iteration == 6 and world.learner.phases[0] == "reinforce"
    sampled = [call for call in world.rollouts.calls if call[0] is Purpose.TRAIN]
    assert sampled == [(Purpose.TRAIN, 1, number + 2) for number in range(24)]  # one by one, none in vain
    rows = world.metrics()
    assert [row["rollout/staleness_max"] for row in rows] == [0, 1, 2, 2, 1, 0]
    assert any(", staleness 2.0 (max 2), " in line for line in world.progress.story)


def test_a_patch_first_reinforces_all_that_was_sampled_ahead(tmp_path: Path):
    world = build(tmp_path, staleness=2)
    order: list[tuple[str, int]] = []
    round_ = world.coordinator.intervening.round
    round_.run = watched(round_.run, lambda: order.append(("round", sampled())))
    world.coordinator.train = watched(world.coordinator.train, lambda: order.append(("train", sampled())))

    def sampled() -> int:
        return sum(purpose is Purpose.TRAIN for purpose, _, _ in world.rollouts.calls)

    world.run()
    # The trigger fires in iteration 2, when four batches of four have been submitted: no other comes before the round.
    assert order[:4] == [("train", 12), ("train", 16), ("train", 16), ("round", 16)]
    files = sorted((tmp_path / "rollouts").iterdir())
    assert [len(path.read_text().splitlines()) for path in files] == [4, 12, 4, 4, 4, 4]
    second = world.metrics()[1]
    assert (second["rollout/unsolved"], second["drained/rollout/unsolved"]) == (1.0, 1.0)
    third = world.metrics()[2]
    assert (third["rollout/reward"], third["rollout/staleness_max"]) == (0.5, 0)  # all by the patched policy


def watched(method: Any, before: Any) -> Any:
    async def wrapper(*arguments: Any, **named: Any) -> Any:
        before()
        return await method(*arguments, **named)

    return wrapper


def test_a_resumed_run_samples_again_what_was_not_trained_on(tmp_path: Path):
    first = build(tmp_path, schedule="never", staleness=1)
    first.run()
    state = RunState(**json.loads((tmp_path / "checkpoints" / "iteration_000003" / "state.json").read_text()))
    assert (state.submitted, state.pending) == (20, list(range(12, 20)))
    second = build(tmp_path, first.policy, schedule="never", staleness=1)
    assert second.run(state).pending == []
    assert [round_ for purpose, _, round_ in second.rollouts.calls if purpose is Purpose.TRAIN] == list(range(14, 26))


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_checkpoint_of_a_run_that_knew_no_staleness_is_resumed(tmp_path: Path, staleness: int):
    world = build(tmp_path, staleness=staleness)
    old = {"iteration": 4, "policy_version": 1, "intervention_rounds": 0, "window_start": 0, "trigger": {}}
    assert world.run(RunState(**old)).iteration == 6
    (path,) = (tmp_path / "rollouts").glob("*05.jsonl")
    asked = [json.loads(line)["problem_id"] for line in path.read_text().splitlines()]
    assert asked == [item.id for item in ProblemBatches([problem(index) for index in range(8)], 4, 0).batch(4)]


def test_the_paper_with_sampling_ahead_still_collects_first(tmp_path: Path):
    world = build(tmp_path, schedule="paper", staleness=2)
    assert world.run().iteration == 6
    sampled = [count for purpose, count, _ in world.rollouts.calls if purpose is Purpose.TRAIN]
    assert sampled == [8] + [1] * 20
    assert [row.get("rollout/staleness_max") for row in world.metrics()] == [None, 0, 1, 2, 2, 1]


def test_the_patched_policy_is_evaluated_before_rl_goes_on(tmp_path: Path):
    world = build(tmp_path, schedule="paper", evaluate={"after_patch": True, "drift": True})
    world.run()
    events = list(map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines()))
    assert [event["iteration"] for event in events if event["event"] == "evaluated"] == [0, 1, 6]
    # The fake learner's log-probs fall by 1 with every phase: the patch, then one that reinforces.
    drifts = [(event["iteration"], event["kl"], event["entropy"]) for event in events if event["event"] == "drift"]
    assert drifts == [(0, 0.0, 1.0), (1, 1.0, 2.0), (6, 2.0, 3.0)]
    lines = (tmp_path / "drift" / "iteration_000001" / "hard.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"problem_id": name, "kl": 1.0} for name in ("p0", "p1")]


def test_a_resumed_run_measures_drift_from_the_same_base(tmp_path: Path):
    world = build(tmp_path, schedule="paper", evaluate={"drift": True})
    state = world.run()
    again = build(tmp_path, world.policy, schedule="paper", evaluate={"drift": True})
    again.learner.phases.extend(["patch", "reinforce", "reinforce"])
    asyncio.run(again.coordinator.evaluate(state))
    events = map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines())
    assert [event["kl"] for event in events if event["event"] == "drift"] == [0.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("skill", "helps", "oracle_says", "reasons"),
    [
        (1.0, True, None, {"no group carries a signal"}),
        (0.0, False, None, {"no group carries a signal", "no interventions to clone"}),
        (0.0, True, "no_error", {"no group carries a signal", "no interventions to clone"}),
    ],
    ids=["all right", "all wrong", "no proposal"],
)
def test_what_leaves_nothing_to_train_on_is_named_and_every_number_is_finite(
    tmp_path: Path, skill: float, helps: bool, oracle_says: str | None, reasons: set[str]
):
    policy = FakePolicy({f"p{index}": skill for index in range(8)}, responds_to_interventions=helps)
    world = build(tmp_path, policy, oracle_down=oracle_says)
    assert world.run().iteration == 6 and world.learner.phases == []
    events = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert {event["reason"] for event in events if event["event"] == "no_update"} == reasons
    assert all(math.isfinite(value) for row in world.metrics() for value in row.values())
