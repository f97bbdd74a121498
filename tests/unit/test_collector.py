"""Collecting against in-process fakes: chunks, a crash at any place, an oracle that goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.collector import Collected, Collector
from actors.run_folder import RunFolder
from int_ray.chains.tokenizer import build_tokenizer
from int_ray.config_file import parse_config
from int_ray.errors import Resumable
from int_ray.given_interventions import load_interventions
from int_ray.intervention_round import InterventionRound
from int_ray.ports import CollectingPorts
from int_ray.prompts import encode_text
from int_ray.segmentation import Segmenter
from int_ray.types import Attempt, Intervention, OracleReply, Problem, Purpose, RolloutGroup
from tests.factories import problem
from tests.fakes import FakeGrader, FakeOracle, FakePolicy, FakeProgress, FakeRollouts

TOKENIZER = build_tokenizer()


class Crash(BaseException):
    """The process dies."""


class Rollouts(FakeRollouts):
    """Different attempts for different problems; dies when asked about a problem of `deadly`, as often as it says."""

    def __init__(self, policy: FakePolicy, deadly: set[tuple[Purpose, str]]):
        super().__init__(policy)
        self.deadly = deadly
        self.asked: list[tuple[Purpose, str]] = []

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        self._note(purpose, problems)
        return await super().sample(problems, n, purpose, round_)

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        self._note(Purpose.TEST_INTERVENTION, [item.attempt.problem for item in interventions])
        return await super().resume_from(interventions, n, round_)

    def _note(self, purpose: Purpose, problems: Sequence[Problem]) -> None:
        for item in problems:
            if (purpose, item.id) in self.deadly:
                raise Crash
            self.asked.append((purpose, item.id))


class FailingOracle(FakeOracle):
    """Has nothing but a named failure to say about some problems."""

    def __init__(self, failures: dict[str, str]):
        super().__init__()
        self.failures = failures

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        replies = await super().intervene(attempts)
        failures = [self.failures.get(attempt.problem.id) for attempt in attempts]
        return [
            OracleReply(failure=failure) if failure else reply for failure, reply in zip(failures, replies, strict=True)
        ]


@dataclass
class World:
    collector: Collector
    rollouts: Rollouts
    oracle: FakeOracle
    progress: FakeProgress
    folder: RunFolder

    def run(self) -> Collected:
        return asyncio.run(self.collector.run())

    def events(self) -> list[dict[str, Any]]:
        lines = (self.folder.path / "journal.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == "collected"]

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder.path / "interventions.jsonl").read_text().splitlines()]


def build(
    folder: Path,
    *,
    solved: Sequence[str] = (),
    deadly: Sequence[tuple[Purpose, str]] = (),
    failures: dict[str, str] | None = None,
    **sections: Any,
) -> World:
    """Seven problems in chunks of three; two attempts each, of which the second only repeats the first's first step."""
    tree = {
        "model": {"path": "some/model", "max_length": 256},
        "problems": {"train": "hard.jsonl", "reward": "exact"},
        "rollout": {"batch_size": 3, "n": 4, "max_tokens": 128},
        "oracle": {"attempts": 2},
        "patch": {"continuations": 4},
        "reinforce": {"mini_batch_size": 3},
        "run": {"folder": str(folder)},
    }
    settings = parse_config({name: part | sections.get(name, {}) for name, part in tree.items()})
    policy = FakePolicy(dict.fromkeys(solved, 1.0))
    rollouts, oracle, progress = Rollouts(policy, set(deadly)), FailingOracle(failures or {}), FakeProgress()
    ports = CollectingPorts(rollouts, FakeGrader(), oracle, progress)
    round_ = InterventionRound(
        ports,
        Segmenter(lambda ids: "".join(map(chr, ids)), ("wait",)),
        partial(encode_text, TOKENIZER),
        settings.oracle,
        settings.patch,
        settings.rollout.max_tokens,
    )
    run_folder = RunFolder(folder)
    problems = [problem(index) for index in range(7)]
    collector = Collector(settings, problems, ports, round_, run_folder, TOKENIZER)
    return World(collector, rollouts, oracle, progress, run_folder)


def sampled(world: World) -> list[str]:
    return [problem_id for purpose, problem_id in world.rollouts.asked if purpose is Purpose.TRAIN]


def continued(world: World) -> list[str]:
    return [problem_id for purpose, problem_id in world.rollouts.asked if purpose is Purpose.TEST_INTERVENTION]


def test_every_unsolved_problem_is_collected_once(tmp_path: Path):
    world = build(tmp_path, solved=["p1"])
    collected = world.run()
    assert sampled(world) == [f"p{index}" for index in range(7)]
    assert {purpose for purpose, _ in world.rollouts.asked} == {Purpose.TRAIN, Purpose.TEST_INTERVENTION}
    assert {round_ for _, _, round_ in world.rollouts.calls} == {1}  # the seeds do not depend on the chunks
    assert {attempt.problem.id for attempt in world.oracle.asked} == {"p0", "p2", "p3", "p4", "p5", "p6"}
    rows = world.rows()
    assert [row["problem_id"] for row in rows] == ["p0", "p2", "p3", "p4", "p5", "p6"]
    assert all(row["num_correct"] == 2 and row["num_graded"] == 4 for row in rows)
    assert (collected.sampled, collected.unsolved, collected.attempts) == (7, 6, 12)
    assert (collected.tested, collected.kept, collected.refused) == (6, 6, {"duplicate": 6})
    assert (tmp_path / "interventions.parquet").exists()
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == [
        "iteration_000001.jsonl",
        "iteration_000002.jsonl",
        "iteration_000003.jsonl",
    ]


def test_what_is_collected_can_be_trained_on(tmp_path: Path):
    world = build(tmp_path)
    world.run()
    loaded = load_interventions(tmp_path / "interventions.jsonl", TOKENIZER, world.collector.config)
    assert len(loaded.items) == 7 and all(item.helps for item in loaded.items) and loaded.quarantined == ()
    assert loaded.items[0].continuations is not None and loaded.items[0].continuations.success_rate == 0.5


@pytest.mark.parametrize("purpose", [Purpose.TRAIN, Purpose.TEST_INTERVENTION])
def test_after_a_crash_nothing_finished_is_done_again(tmp_path: Path, purpose: Purpose):
    crashed = build(tmp_path, deadly=[(purpose, "p4")])
    with pytest.raises(Crash):
        crashed.run()
    crashed.folder.close()
    resumed = build(tmp_path)
    collected = resumed.run()
    again = purpose is Purpose.TRAIN  # the second chunk's rollouts were on disk if only its test crashed
    assert sampled(resumed) == (["p3", "p4", "p5", "p6"] if again else ["p6"])
    assert continued(resumed) == ["p3", "p4", "p5", "p6"]
    assert {attempt.problem.id for attempt in resumed.oracle.asked} == {"p3", "p4", "p5", "p6"}
    assert (collected.sampled, collected.kept) == (7, 7)
    undisturbed = build(tmp_path / "undisturbed")
    undisturbed.run()
    assert [without_hash(row) for row in resumed.rows()] == [without_hash(row) for row in undisturbed.rows()]


def without_hash(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"provenance": None}  # run.folder is part of the config


def test_torn_files_of_a_crash_are_sampled_again(tmp_path: Path):
    crashed = build(tmp_path, deadly=[(Purpose.TEST_INTERVENTION, "p0")])
    with pytest.raises(Crash):
        crashed.run()
    path = tmp_path / "rollouts" / "iteration_000001.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    resumed = build(tmp_path)
    resumed.run()
    assert sampled(resumed) == [f"p{index}" for index in range(7)]


def test_a_finished_collection_does_nothing_but_write_the_files_again(tmp_path: Path):
    first = build(tmp_path)
    first.run()
    rows = first.rows()
    (tmp_path / "interventions.jsonl").unlink()
    second = build(tmp_path)
    assert second.run() == first.collector.collected()
    assert second.rollouts.asked == [] and second.oracle.asked == []
    assert second.rows() == rows


@pytest.mark.parametrize("outage", ["over_budget", "circuit_open", "unauthorized"])
def test_an_outage_ends_the_collection_with_what_there_is(tmp_path: Path, outage: str):
    down = build(tmp_path, failures={"p4": outage, "p5": outage})
    with pytest.raises(Resumable, match=f"the oracle cannot be asked \\({outage}\\)"):
        down.run()
    assert sampled(down) == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert [row["problem_id"] for row in down.rows()] == ["p0", "p1", "p2", "p3"]
    assert [event["unanswered"] for event in down.events()] == [None, outage]
    up = build(tmp_path)
    assert up.run().refused == {"duplicate": 7}
    assert sampled(up) == ["p6"] and continued(up) == ["p3", "p4", "p5", "p6"]
    assert [row["problem_id"] for row in up.rows()] == [f"p{index}" for index in range(7)]


def test_other_failures_are_counted_and_final(tmp_path: Path):
    world = build(tmp_path, failures={"p0": "no_error", "p4": "blocked", "p6": "over_problem_budget"})
    collected = world.run()
    assert collected.refused == {"duplicate": 4, "no_error": 2, "blocked": 2, "over_problem_budget": 2}
    assert [event["unanswered"] for event in world.events()] == [None, None, None]
    assert [row["problem_id"] for row in world.rows()] == ["p1", "p2", "p3", "p5"]


def test_attempts_that_got_no_answer_are_asked_about_again(tmp_path: Path):
    down = build(tmp_path, failures={"p1": "timeout"})
    with pytest.raises(Resumable, match=r"the oracle cannot be asked \(timeout\)"):
        down.run()
    assert [event["unanswered"] for event in down.events()] == ["timeout", None, None]  # the other chunks went on
    up = build(tmp_path)
    up.run()
    assert sampled(up) == [] and {attempt.problem.id for attempt in up.oracle.asked} == {"p0", "p1", "p2"}
    assert [row["problem_id"] for row in up.rows()] == [f"p{index}" for index in range(7)]


BESIDE_GEMINI = {"kind": "gemini", "fallback": ["monte_carlo"], "budget": {"calls": 1}}


def test_with_a_fallback_a_spent_budget_does_not_end_the_collection(tmp_path: Path):
    world = build(tmp_path, failures={"p1": "over_budget", "p4": "over_budget"}, oracle=BESIDE_GEMINI)
    collected = world.run()
    assert sampled(world) == [f"p{index}" for index in range(7)]
    assert [row["problem_id"] for row in world.rows()] == ["p0", "p2", "p3", "p5", "p6"]
    assert collected.refused == {"duplicate": 5, "over_budget": 4}
    assert [event["unanswered"] for event in world.events()] == [None, None, None]


def test_with_a_fallback_a_chunk_about_which_nothing_got_through_stays_open(tmp_path: Path):
    first_chunk = {f"p{index}": "over_budget" for index in range(3)}
    down = build(tmp_path, failures=first_chunk, oracle=BESIDE_GEMINI)
    with pytest.raises(Resumable, match=r"the oracle cannot be asked \(over_budget\)"):
        down.run()
    assert [event["unanswered"] for event in down.events()] == ["over_budget", None, None]  # the other chunks went on
    up = build(tmp_path, oracle=BESIDE_GEMINI)
    up.run()
    assert {attempt.problem.id for attempt in up.oracle.asked} == {"p0", "p1", "p2"}
    assert [row["problem_id"] for row in up.rows()] == [f"p{index}" for index in range(7)]


def test_with_a_fallback_too_a_lost_reply_is_asked_for_again(tmp_path: Path):
    down = build(tmp_path, failures={"p1": "timeout"}, oracle=BESIDE_GEMINI)
    with pytest.raises(Resumable, match=r"the oracle cannot be asked \(timeout\)"):
        down.run()
    assert [event["unanswered"] for event in down.events()] == ["timeout", None, None]


def test_nothing_unsolved_is_an_empty_file(tmp_path: Path):
    world = build(tmp_path, solved=[f"p{index}" for index in range(7)])
    collected = world.run()
    assert (collected.unsolved, collected.kept) == (0, 0) and world.rows() == []
    assert world.oracle.asked == []


def test_each_row_has_the_config_that_it_was_collected_with(tmp_path: Path):
    crashed = build(tmp_path, deadly=[(Purpose.TRAIN, "p3")])
    with pytest.raises(Crash):
        crashed.run()
    resumed = build(tmp_path, oracle={"max_step_tokens": 100})
    resumed.run()
    hashes = [row["provenance"]["config_hash"] for row in resumed.rows()]
    assert hashes == [crashed.collector.origin.config_hash] * 3 + [resumed.collector.origin.config_hash] * 4
    assert hashes[0] != hashes[3]
