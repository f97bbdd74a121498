"""Retries, pace and circuit breaker, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from benchmarks.virtual_time import now, run
from int_ray.oracle_config import LimitsConfig
from int_ray.oracles.chat import Answer, Fault
from int_ray.oracles.patience import Patience
from tests.fake_chat import answer, fault


class Server:
    """Gives what it is told to, in turn (the last for ever), each after `takes_s`; remembers when it was asked."""

    def __init__(self, results: Iterable[Answer | Fault], takes_s: float = 0.0):
        self.results = list(results)
        self.takes_s = takes_s
        self.asked_at: list[float] = []
        self.tries: list[int] = []

    async def __call__(self, nth_try: int) -> Answer | Fault:
        self.asked_at.append(now())
        self.tries.append(nth_try)
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        await asyncio.sleep(self.takes_s)
        return result


def name(result: Answer | Fault) -> str:
    return result.name if isinstance(result, Fault) else "answered"


def limits(**values: Any) -> LimitsConfig:
    return LimitsConfig(
        **({"tries": 5, "longest_wait_s": 60, "breaker_failures": 3, "breaker_cooldown_s": 100} | values)
    )


@pytest.mark.parametrize(
    "passing", ["rate_limited", "server_error", "timeout", "connection", "not_json", "empty", "option_refused"]
)
def test_what_may_pass_is_tried_again(passing: Any):
    server = Server([fault(passing), fault(passing), answer()])
    assert run(Patience(limits()).ask(server)) == answer()
    assert server.tries == [1, 2, 3]


@pytest.mark.parametrize(
    "lasting",
    ["blocked", "cut_off", "unauthorized", "forbidden", "unknown_model", "no_credit", "bad_request", "over_budget"],
)
def test_what_will_not_pass_is_not(lasting: Any):
    server = Server([fault(lasting)])
    assert run(Patience(limits()).ask(server)) == fault(lasting)
    assert server.tries == [1]


def test_the_last_fault_is_told_after_all_tries():
    server = Server([fault("timeout"), fault("server_error"), fault("connection")])
    assert run(Patience(limits(tries=3)).ask(server)) == fault("connection")
    assert server.tries == [1, 2, 3]


def test_pauses_are_random_below_a_bound_that_doubles_up_to_the_longest():
    pauses = []
    for _ in range(100):
        server = Server([fault("server_error")])
        run(Patience(limits(tries=6, longest_wait_s=6)).ask(server))
        pauses.append([later - earlier for earlier, later in zip(server.asked_at, server.asked_at[1:], strict=False)])
    for pause, bound in zip(zip(*pauses, strict=True), [1, 2, 4, 6, 6], strict=True):
        assert 0 <= min(pause) < 0.25 * bound
        assert 0.75 * bound < max(pause) <= bound


def test_retry_after_is_honoured():
    for _ in range(20):
        server = Server([fault("rate_limited", retry_after_s=30), answer()])
        assert run(Patience(limits()).ask(server)) == answer()
        assert 30 <= server.asked_at[1] <= 31


def test_a_longer_retry_after_than_allowed_ends_the_tries_and_is_honoured_by_all_requests():
    async def story() -> None:
        patience, server = Patience(limits()), Server([fault("rate_limited", retry_after_s=3600), answer()])
        assert name(await patience.ask(server)) == "rate_limited"
        assert server.tries == [1]
        await asyncio.sleep(3599)
        assert name(await patience.ask(server)) == "circuit_open"
        await asyncio.sleep(1)
        assert await patience.ask(server) == answer()
        assert server.asked_at == [0, 3600]

    run(story())


def test_requests_are_paced_retries_included():
    async def story() -> None:
        patience, server = Patience(limits(requests_per_minute=30)), Server([fault("empty"), answer()])
        await asyncio.gather(*(patience.ask(server) for _ in range(4)))
        assert len(server.asked_at) == 5
        assert [later - earlier for earlier, later in zip(server.asked_at, server.asked_at[1:], strict=False)] == [
            2
        ] * 4

    run(story())


def test_after_failures_in_a_row_nothing_is_sent_until_a_trial_succeeds():
    async def story() -> None:
        down = Server([fault("connection")])
        patience = Patience(limits(tries=2))
        for _ in range(3):
            assert name(await patience.ask(down)) == "connection"
        assert len(down.asked_at) == 6
        refused = await patience.ask(down)
        assert isinstance(refused, Fault) and refused.name == "circuit_open" and "connection" in refused.detail
        await asyncio.sleep(100)
        assert name(await patience.ask(down)) == "connection"  # the trial is one try
        assert len(down.asked_at) == 7
        assert name(await patience.ask(down)) == "circuit_open"  # it rests again
        await asyncio.sleep(100)
        up = Server([answer()])
        assert await patience.ask(up) == answer()
        assert await patience.ask(up) == answer()
        assert len(down.asked_at) == 7

    run(story())


@pytest.mark.parametrize("trial", [answer(), fault("server_error")])
def test_one_trial_decides_for_all_that_wait(trial: Answer | Fault):
    async def story() -> None:
        patience = Patience(limits(tries=1))
        for _ in range(3):
            await patience.ask(Server([fault("server_error")]))
        await asyncio.sleep(100)
        server = Server([trial], takes_s=20)
        started = now()
        results = await asyncio.gather(*(patience.ask(server) for _ in range(10)))
        if isinstance(trial, Answer):
            assert results == [answer()] * 10
            assert sorted(time - started for time in server.asked_at) == [0, *[20] * 9]
        else:
            assert [name(result) for result in results] == ["server_error", *["circuit_open"] * 9]
            assert len(server.asked_at) == 1

    run(story())


def test_an_open_breaker_ends_the_tries_of_those_that_are_under_way():
    async def story() -> None:
        patience, server = Patience(limits(tries=50, breaker_failures=1)), Server([fault("server_error")])
        others = [asyncio.create_task(patience.ask(server)) for _ in range(5)]
        await asyncio.sleep(5)
        assert name(await patience.ask(Server([fault("unauthorized")]))) == "unauthorized"
        asked = len(server.asked_at)
        assert [name(result) for result in await asyncio.gather(*others)] == ["unauthorized"] * 5
        assert len(server.asked_at) == asked

    run(story())


def test_a_fatal_fault_opens_for_good():
    async def story() -> None:
        patience, up = Patience(limits()), Server([answer()], takes_s=5)
        slow = asyncio.create_task(patience.ask(up))
        await asyncio.sleep(1)
        await patience.ask(Server([fault("unauthorized", input_tokens=7)]))
        assert await slow == answer()  # sent before
        await asyncio.sleep(1e6)
        assert await patience.ask(up) == fault("unauthorized")
        assert len(up.asked_at) == 1

    run(story())


@pytest.mark.parametrize("refusal", ["forbidden", "unknown_model"])
def test_one_refusal_ends_nothing_and_many_in_a_row_only_for_a_while(refusal: Any):
    async def story() -> None:
        patience = Patience(limits())
        server = Server([fault(refusal), answer(), *[fault(refusal)] * 3, answer()])
        assert [name(await patience.ask(server)) for _ in range(5)] == [refusal, "answered", *[refusal] * 3]
        assert name(await patience.ask(server)) == "circuit_open"
        await asyncio.sleep(100)
        assert await patience.ask(server) == answer()
        assert server.asked_at == [0, 0, 0, 0, 0, 100]

    run(story())


def test_an_unpaid_bill_stops_all_requests_for_a_while():
    async def story() -> None:
        patience, server = Patience(limits()), Server([fault("no_credit"), fault("no_credit"), answer()])
        assert name(await patience.ask(server)) == "no_credit"
        refused = await patience.ask(server)
        assert isinstance(refused, Fault) and refused.name == "circuit_open" and "no_credit" in refused.detail
        await asyncio.sleep(100)
        assert name(await patience.ask(server)) == "no_credit"
        await asyncio.sleep(100)
        assert await patience.ask(server) == answer()
        assert server.asked_at == [0, 100, 200]

    run(story())


@pytest.mark.parametrize("between", [answer(), fault("cut_off"), fault("blocked"), fault("bad_request")])
def test_only_failures_in_a_row_open_the_breaker(between: Answer | Fault):
    async def story() -> None:
        patience = Patience(limits(tries=1))
        results = [fault("timeout"), fault("timeout"), between, fault("timeout"), fault("timeout"), answer()]
        server = Server(results)
        assert [await patience.ask(server) for _ in range(6)] == results

    run(story())


def test_refused_calls_say_nothing_about_the_server():
    async def story() -> None:
        patience = Patience(limits(tries=1))
        server = Server(
            [fault("timeout"), fault("over_budget"), fault("timeout"), fault("over_budget"), fault("timeout")]
        )
        for _ in range(5):
            await patience.ask(server)
        assert name(await patience.ask(server)) == "circuit_open"

    run(story())
