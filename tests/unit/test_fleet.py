"""Who gets which engine: the least busy one, in turn, within bounds, as long as any is left; groups across versions."""

from __future__ import annotations

import asyncio
from collections import Counter
from unittest.mock import Mock

import numpy as np
import pytest

from actors.engine_client import EngineGroup, RemoteEngine
from actors.engine_spawning import close_engines
from actors.failures import EngineDiedError, FleetLostError
from actors.fleet import Fleet
from tests.fakes import FakeProgress


def fleet(num_engines: int, most_samples: int = 100) -> Fleet:
    """Engines that nobody calls."""
    return Fleet([Mock(spec=RemoteEngine) for _ in range(num_engines)], most_samples, FakeProgress())


async def hold(engines: Fleet, samples: int, release: asyncio.Event, got: list[str]) -> None:
    """Take an engine, say which one, keep it until `release`."""
    async with engines.least_busy(samples) as member:
        got.append(member.name)
        await release.wait()


async def settle() -> None:
    """Let every task come to its next wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_each_request_goes_to_the_engine_with_the_fewest_samples():
    async def run() -> list[str]:
        engines, release, got = fleet(3), asyncio.Event(), []
        tasks = [asyncio.create_task(hold(engines, samples, release, got)) for samples in (5, 1, 2, 1, 1)]
        await settle()
        release.set()
        await asyncio.gather(*tasks)
        return got

    # 5 to engine 0, 1 to 1, 2 to 2; then 1 has the least (1), and after that 2 came to two samples before 1 did.
    assert [int(name[-1]) for name in asyncio.run(run())] == [0, 1, 2, 1, 2]


def test_who_waits_is_served_in_order_and_within_the_bound():
    async def run() -> None:
        engines, got = fleet(2, most_samples=8), []
        releases = [asyncio.Event() for _ in range(7)]
        tasks = [asyncio.create_task(hold(engines, 4, release, got)) for release in releases]
        await settle()
        assert Counter(got) == {"rollout engine 0": 2, "rollout engine 1": 2}  # 8 samples each
        releases[1].set()
        await settle()
        assert len(got) == 5 and got[4] == got[1]
        for release in releases:
            release.set()
        await asyncio.gather(*tasks)
        assert len(got) == 7 and all(member.samples == 0 for member in engines.members)

    asyncio.run(run())


def test_giving_up_in_the_line_or_at_the_very_turn_leaves_nothing_taken():
    async def run() -> None:
        engines, release, got = fleet(1, most_samples=1), asyncio.Event(), []
        first, second, third = (asyncio.create_task(hold(engines, 1, release, got)) for _ in range(3))
        await settle()
        second.cancel()
        await settle()
        release.set()
        await asyncio.sleep(0)
        assert first.done() and engines.members[0].samples == 1
        third.cancel()  # it has been given the engine, and has not run since
        await asyncio.gather(second, third, return_exceptions=True)
        assert got == ["rollout engine 0"] and engines.members[0].samples == 0
        await asyncio.wait_for(hold(engines, 1, release, got), 1)

    asyncio.run(run())


def test_a_lost_engine_gets_nothing_more_and_the_last_one_ends_the_waiting():
    async def run() -> None:
        engines, release, got = fleet(2, most_samples=1), asyncio.Event(), []
        tasks = [asyncio.create_task(hold(engines, 1, release, got)) for _ in range(4)]
        await settle()
        first, second = engines.members
        engines.lose(first, EngineDiedError("gone"))
        assert engines.members == [second] and got == [first.name, second.name]
        first.engine.kill.assert_called_once_with()  # pyright: ignore[reportAttributeAccessIssue]
        engines.lose(second, EngineDiedError("gone too"))
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        end = "no rollout engine is left: gone too"
        assert [str(result) for result in results] == ["None", "None", end, end]
        with pytest.raises(FleetLostError, match=end):
            await hold(engines, 1, release, got)

    asyncio.run(run())


def test_switches_are_per_sample_and_a_sample_that_had_not_begun_is_of_the_later_version_altogether():
    # Lengths 3, 2, 4 and 1. At version 6 they had 2, 2 (ended), 0 and 0 tokens; at version 7: 3 (ended), -, 1, 0.
    switches = (np.array([2, 99, 0, 0]), np.array([99, 99, 1, 0]))
    group = EngineGroup(
        np.arange(10, dtype=np.int32),
        np.zeros(10, np.float32),
        np.array([0, 3, 5, 9, 10]),
        ("",) * 4,
        (True,) * 4,
        50,
        5,
        switches,
    )
    assert group.policy_versions() == [5, 5, 6, 7]
    assert [one.switches for one in group.completions()] == [(2,), (), (1,), ()]


def test_without_a_change_of_weights_there_are_no_switches():
    group = EngineGroup(
        np.arange(3, dtype=np.int32), np.zeros(3, np.float32), np.array([0, 3, 3]), ("", ""), (True, False), 0, 4
    )
    assert group.policy_versions() == [4, 4] and [one.switches for one in group.completions()] == [(), ()]


def test_a_fleet_without_engines_is_closed_too():
    asyncio.run(close_engines([]))


def test_who_waits_while_the_last_engine_leaves_is_told_that_none_will_come():
    async def run() -> None:
        engines, release, got = fleet(1), asyncio.Event(), []
        engines.is_kept = True
        first = asyncio.create_task(hold(engines, 1, release, got))
        await settle()
        engines.retire(engines.members[0])
        waiting = asyncio.create_task(hold(engines, 1, release, got))
        await settle()
        assert not waiting.done()
        engines.give_up("nobody replaces them")
        with pytest.raises(FleetLostError, match="nobody replaces them"):
            await asyncio.wait_for(waiting, 5)
        with pytest.raises(FleetLostError, match="nobody replaces them"):
            await asyncio.wait_for(hold(engines, 1, release, got), 5)
        release.set()
        await first

    asyncio.run(run())


def test_an_engine_that_is_to_leave_before_it_has_the_weights_gets_no_work():
    async def run() -> None:
        engines, release, got = fleet(1), asyncio.Event(), []
        async with engines.turn:  # the learner changes its weights: no keeper takes an engine out now
            recruit = engines.recruit(Mock(spec=RemoteEngine))
            engines.retire(recruit)
        engines.admit([recruit])
        tasks = [asyncio.create_task(hold(engines, 1, release, got)) for _ in range(4)]
        await settle()
        engines.lose(recruit, EngineDiedError("its node is drained"))
        tasks += [asyncio.create_task(hold(engines, 1, release, got)) for _ in range(4)]
        await settle()
        release.set()
        await asyncio.gather(*tasks)
        assert got == ["rollout engine 0"] * 8 and engines.lost == 0
        assert [member.name for member in engines.everyone] == ["rollout engine 0"]

    asyncio.run(run())
