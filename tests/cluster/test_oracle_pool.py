from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from actors.oracle_pool import OraclePool
from actors.oracle_workers import OracleError
from int_ray.oracle_config import OracleConfig
from int_ray.oracles import StepOracle
from int_ray.types import OracleReply, Proposal, Source
from tests.factories import attempt
from tests.fake_oracles import AsyncEcho, Echo, Scripted
from tests.fakes import FakeProgress

pytestmark = pytest.mark.usefixtures("ray_cluster")


def ask(oracle: StepOracle, *indices: int, deadline_s: float = 5.0) -> list[OracleReply]:
    pool = OraclePool("exact", oracle, OracleConfig(deadline_s=deadline_s, workers=2), FakeProgress())

    async def start_and_ask() -> list[OracleReply]:
        await pool.ready()
        return await pool.intervene([attempt("a\n\n", "b", index=index) for index in indices])

    try:
        return asyncio.run(start_and_ask())
    finally:
        pool.close()


def test_replies_keep_the_order_of_the_attempts():
    replies = ask(AsyncEcho(), 0, 1, 2, 3, 4)
    assert [reply.proposals[0].content for reply in replies] == ["p0", "p1", "p2", "p3", "p4"]


def test_one_failure_is_named_and_spoils_no_other():
    replies = ask(Echo(), 0, 1, 2, 4)
    assert [reply.failure for reply in replies] == [None, "error: ValueError", "timeout", None]
    assert replies[3].proposals[0].content == "p4"


def test_every_reply_has_a_source():
    good, failed = ask(Echo(), 0, 1)
    assert good.source == failed.source == good.proposals[0].source == Source("exact")


def test_a_source_that_the_oracle_names_stays():
    teacher, sample = Source("own", "teacher"), Source("own", "teacher", sample=3)
    reply = OracleReply((Proposal(1, "a"), Proposal(1, "b", source=sample)), source=teacher)
    (heard,) = ask(Scripted(reply), 0)
    assert heard.source == teacher and [proposal.source for proposal in heard.proposals] == [teacher, sample]


def test_a_worker_that_dies_is_a_named_failure():
    (reply,) = ask(Echo(), 3, deadline_s=30.0)  # Ray may take a while to notice
    assert reply.failure == "worker_died"


async def pid_of(pool: OraclePool) -> int:
    worker: Any = pool.workers.all[0].actor
    return await worker.__ray_call__.remote(lambda _: os.getpid())


async def failure(pool: OraclePool, index: int, deadline_s: float) -> str | None:
    pool.config = OracleConfig(deadline_s=deadline_s)
    (reply,) = await pool.intervene([attempt("a\n\n", "b", index=index)])
    return reply.failure


async def until_answered(pool: OraclePool) -> None:
    until = time.monotonic() + 120
    while (failed := await failure(pool, 0, deadline_s=100.0)) is not None:
        assert failed == "worker_died" and time.monotonic() < until
        await asyncio.sleep(0.2)


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> Iterator[OraclePool]:
    """One worker that answers one attempt at a time."""
    monkeypatch.setattr("actors.oracle_pool.GRACE_S", 5.0)
    pool = OraclePool("exact", Echo(), OracleConfig(workers=1, concurrency=1), FakeProgress())
    yield pool
    pool.close()


def test_a_worker_that_is_stopped_starts_anew(single: OraclePool):
    async def stop_and_ask() -> None:
        await single.ready()
        os.kill(before := await pid_of(single), signal.SIGSTOP)
        assert await failure(single, 0, deadline_s=1.0) == "timeout"
        await until_answered(single)
        assert await pid_of(single) != before

    asyncio.run(asyncio.wait_for(stop_and_ask(), 200))


def test_a_worker_whose_calls_never_return_starts_anew_and_not_for_one_of_them(single: OraclePool):
    async def ask_what_hangs() -> None:
        await single.ready()
        before = await pid_of(single)
        assert await failure(single, 2, deadline_s=1.0) == "timeout"
        assert await failure(single, 0, deadline_s=30.0) is None
        assert await pid_of(single) == before
        assert await failure(single, 2, deadline_s=1.0) == "timeout"
        await until_answered(single)
        assert await pid_of(single) != before

    asyncio.run(asyncio.wait_for(ask_what_hangs(), 200))


def test_an_oracle_that_its_workers_cannot_import_is_an_error_at_the_start():
    class Inner(Echo):
        def __reduce__(self) -> tuple:
            return __import__, ("no_such_module",)

    with pytest.raises(OracleError, match=r"did not start: .*no_such_module"):
        ask(Inner(), 0)
