"""One real vLLM engine: seeds, prefixes, limits, and what is left of it when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from actors.engine_client import EngineGroup, RemoteEngine
from actors.engine_spawning import close_engines, spawn_engines
from actors.failures import EngineDiedError
from int_ray.types import TokenIds
from tests.e2e.conftest import (
    LONG_PROMPT,
    NO_PREFIX,
    PROMPT,
    Pair,
    answer,
    learner_config,
    model_config,
    random_batches,
    rollout_config,
    run,
    sampling,
)

END = 1  # the end token of the chains tokenizer


def sample(pair: Pair, *, seed: int = 7, n: int = 4, prefix: TokenIds = NO_PREFIX, max_tokens: int = 20) -> EngineGroup:
    return pair.call("sample_group", PROMPT, prefix, sampling(n, seed, max_tokens))


def assert_same(first: EngineGroup, second: EngineGroup) -> None:
    np.testing.assert_array_equal(first.token_ids, second.token_ids)
    np.testing.assert_array_equal(first.rollout_logprobs, second.rollout_logprobs)


def test_same_seed_gives_the_same_samples_and_another_seed_others(tied: Pair):
    assert_same(sample(tied), sample(tied))
    assert not np.array_equal(sample(tied, seed=8).token_ids[:20], sample(tied).token_ids[:20])


def test_samples_do_not_depend_on_what_else_is_decoded(tied: Pair):
    async def in_company() -> EngineGroup:
        others = [
            answer(tied.engine, "sample_group", LONG_PROMPT[: 9 * i], NO_PREFIX, sampling(3, i, 30))
            for i in range(1, 20)
        ]
        wanted = answer(tied.engine, "sample_group", PROMPT, NO_PREFIX, sampling(4, 7, 20))
        return (await asyncio.gather(*others[:10], wanted, *others[10:]))[10]

    assert_same(run(in_company()), sample(tied))


def test_sample_i_is_the_single_sample_of_seed_plus_i(tied: Pair):
    third = sample(tied, seed=7, n=4).completions()[2]
    alone = sample(tied, seed=9, n=1).completions()[0]
    assert third.seed == alone.seed == 9
    np.testing.assert_array_equal(third.token_ids, alone.token_ids)


def test_resuming_from_a_prefix_is_continuing_its_ids(tied: Pair):
    prefix = sample(tied, n=1).token_ids[:6]
    joined = tied.call("sample_group", np.concatenate([PROMPT, prefix]), NO_PREFIX, sampling(4, 7, 20))
    assert_same(sample(tied, prefix=prefix), joined)


def test_samples_end_at_the_end_token_or_at_the_limit(tied: Pair):
    group = sample(tied, n=64, max_tokens=30)
    completions = group.completions()
    assert len(completions) == 64 and {one.finished for one in completions} == {True, False}
    for one in completions:
        assert one.finished == (one.token_ids[-1] == END)
        assert len(one.token_ids) == len(one.rollout_logprobs) and (one.finished or len(one.token_ids) == 30)
        assert "<|" not in one.text
    assert group.token_ids.dtype == np.int32 and group.rollout_logprobs.dtype == np.float32


@pytest.mark.parametrize(("prefix", "max_tokens"), [(NO_PREFIX, 0), (NO_PREFIX, -3), (np.full(380, 9, np.int32), 10)])
def test_no_room_for_a_continuation_gives_empty_unfinished_samples(tied: Pair, prefix: TokenIds, max_tokens: int):
    completions = sample(tied, prefix=prefix, max_tokens=max_tokens).completions()
    assert [(len(one.token_ids), one.finished, one.text) for one in completions] == [(0, False, "")] * 4


def test_context_limit_cuts_the_continuation(tied: Pair):
    group = sample(tied, prefix=np.full(375, 9, np.int32), max_tokens=100)
    assert max(len(one.token_ids) for one in group.completions()) == 5


class Doomed:
    """An engine and its processes: the actor's own and vLLM's."""

    def __init__(self, engine: RemoteEngine) -> None:
        self.engine = engine
        pid: Any = ray.get(engine.handle.__ray_call__.remote(lambda _: os.getpid()))
        self.actor = psutil.Process(pid)
        self.children = self.actor.children(recursive=True)

    def core(self) -> psutil.Process:
        """vLLM's process. By its size, as titles can come late; the other child is multiprocessing's tracker."""
        return max(self.children, key=lambda child: child.memory_info().rss)

    def assert_gone(self) -> None:
        _, alive = psutil.wait_procs([self.actor, *self.children], timeout=60)
        assert not alive, alive


@pytest.fixture(scope="module")
def doomed(tied: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Doomed]]:
    """Two engines that start from a checkpoint of the learner; the tests end them."""
    folder: Path = tmp_path_factory.mktemp("saved")
    tied.change_weights(seed=5)
    tied.save(folder)
    engines = run(spawn_engines(model_config(folder), rollout_config(num_engines=2), learner_config(1)))
    yield [Doomed(engine) for engine in engines]


def test_a_checkpoint_of_the_learner_starts_an_engine_with_its_logprobs(doomed: list[Doomed], tied: Pair):
    group = run(answer(doomed[0].engine, "sample_group", PROMPT, NO_PREFIX, sampling(8, 3, 30)))
    assert tied.error(PROMPT, group) <= 1e-3


def test_an_engine_that_joins_gets_the_weights_of_the_others_while_they_sample(doomed: list[Doomed], tied: Pair):
    async def join() -> None:
        fleet = tied.sync.fleet
        await tied.learner.patch(random_batches(seed=6))
        await tied.sync.publish(20)
        undisturbed = await tied.engine.sample_group(PROMPT, NO_PREFIX, sampling(16, 4, 40))
        running = asyncio.create_task(tied.engine.sample_group(PROMPT, NO_PREFIX, sampling(16, 4, 40)))
        recruit = fleet.recruit(doomed[0].engine)
        await tied.sync.refresh()
        group, disturbed = await recruit.engine.sample_group(PROMPT, NO_PREFIX, sampling(8, 3, 30)), await running
        fleet.retire(recruit)  # later syncs find it dead
        assert recruit in fleet.members and group.policy_version == 20
        assert tied.sync.fleet.policy_version == 20 and not disturbed.switches
        np.testing.assert_array_equal(disturbed.token_ids, undisturbed.token_ids)
        groups.append(group)

    groups: list[EngineGroup] = []
    run(join())
    assert tied.error(PROMPT, groups[0]) <= 1e-3


def test_an_engine_gives_a_sign_of_life_unless_its_process_is_stopped(doomed: list[Doomed]):
    async def probe() -> None:
        engine = doomed[0].engine
        async with asyncio.timeout(60):
            await engine.probe()
            running = asyncio.create_task(engine.sample_group(PROMPT, NO_PREFIX, sampling(64, 0, 300)))
            await asyncio.sleep(0.2)
            await engine.probe()
            await engine.pause()
            await engine.probe()
            await engine.resume(20)
            await running
        doomed[0].core().send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.probe(), 3)
        finally:
            doomed[0].core().send_signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            await engine.probe()

    run(probe())


def test_a_request_that_is_given_up_is_no_sign_of_life_and_ends_no_probe(doomed: list[Doomed]):
    async def probe() -> None:
        engine, core = doomed[0].engine, doomed[0].core()
        running = asyncio.create_task(engine.sample_group(PROMPT, NO_PREFIX, sampling(64, 0, 300)))
        await asyncio.sleep(0.5)
        core.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(0.5)  # what it had decoded is counted
            probing = asyncio.create_task(engine.probe())
            await asyncio.sleep(0.3)
            running.cancel()
            assert not (await asyncio.wait([probing], timeout=2))[0]
        finally:
            core.send_signal(signal.SIGCONT)
        await asyncio.wait_for(probing, 60)

    run(probe())


def test_a_dead_vllm_process_is_one_clear_error_and_closing_leaves_nothing(doomed: list[Doomed]):
    doomed[0].core().send_signal(signal.SIGKILL)
    with pytest.raises(EngineDiedError, match="vLLM's engine process died"):
        run(answer(doomed[0].engine, "canary", PROMPT, 0))
    run(close_engines([doomed[0].engine]))
    doomed[0].assert_gone()


def test_a_killed_actor_takes_vllm_with_it(doomed: list[Doomed]):
    assert len(doomed[1].children) >= 2
    doomed[1].actor.send_signal(signal.SIGKILL)
    doomed[1].assert_gone()
