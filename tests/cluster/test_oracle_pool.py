from __future__ import annotations

import asyncio

import pytest

from actors.oracle_pool import OracleError, OraclePool
from int_ray.oracle_config import OracleConfig
from int_ray.oracles import StepOracle
from int_ray.types import OracleReply, Proposal, Source
from tests.factories import attempt
from tests.fake_oracles import AsyncEcho, Echo, Scripted
from tests.fakes import FakeProgress

pytestmark = pytest.mark.usefixtures("ray_cluster")


def ask(oracle: StepOracle, *indices: int) -> list[OracleReply]:
    pool = OraclePool("exact", oracle, OracleConfig(deadline_s=5.0, workers=2), FakeProgress())

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
    (reply,) = ask(Echo(), 3)
    assert reply.failure == "worker_died"


def test_an_oracle_that_its_workers_cannot_import_is_an_error_at_the_start():
    class Inner(Echo):
        def __reduce__(self) -> tuple:
            return __import__, ("no_such_module",)

    with pytest.raises(OracleError, match=r"did not start: .*no_such_module"):
        ask(Inner(), 0)
