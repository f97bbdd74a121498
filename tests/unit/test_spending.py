"""Budgets hold whatever runs at the same time, and the file of calls tells the same as the memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.virtual_time import run
from int_ray.journal import read_json_lines
from int_ray.oracle_config import BudgetConfig, GeminiConfig, OpenAIConfig, OracleConfig, Price
from int_ray.oracles.chat import Answer, Fault, FaultName
from int_ray.oracles.spending import Call, Ledger, Spend, budget_errors
from tests.fake_chat import answer, fault

PRICES = {"pro": Price(input=1.25, output=10.0)}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def ledger(path: Path, **budget: Any) -> Ledger:
    return Ledger(path, BudgetConfig(**budget), PRICES)


def call(
    problem: str = "p0", read: int = 1000, written: int = 1000, *, oracle: str = "gemini", nth_try: int = 1
) -> Call:
    cost = (1.25 * read + 10.0 * written) / 1e6
    return Call(oracle, "pro", problem, f"key of {problem}", read, written, cost, nth_try)


async def make(book: Ledger, planned: Call, result: Answer | Fault, takes_s: float = 1.0) -> str:
    """The whole life of a call; how it ended."""
    reserved = await book.reserve(planned)
    if isinstance(reserved, Fault):
        return reserved.name
    book.start(reserved)
    await asyncio.sleep(takes_s)
    book.end(reserved, result)
    return "made"


def test_what_calls_cost_by_hand(tmp_path: Path):
    async def story() -> None:
        book = ledger(tmp_path / "calls")
        await make(book, call(), answer("", 1_000_000, 100_000))
        await make(book, call(nth_try=2), fault("cut_off", input_tokens=2_000_000, output_tokens=0))
        await make(book, call("p1"), fault("timeout"))  # 2000 tokens and 0.01125, if it was billed after all
        found = call("p1", 10, 20)
        book.found(found)
        expected = Spend(3, 3_000_000, 100_000, 1.25 + 1.0 + 2.5, 1, 1, 2000, 0.01125)
        expected.faults.update(cut_off=1, timeout=1)
        assert book.spend == expected
        assert book.spend.metrics() == {
            "oracle/calls": 3,
            "oracle/input_tokens": 3_000_000,
            "oracle/output_tokens": 100_000,
            "oracle/cost": 4.75,
            "oracle/cached": 1,
            "oracle/unknown": 1,
            "oracle/unknown_tokens": 2000,
            "oracle/unknown_cost": 0.01125,
            "oracle/fault/cut_off": 1,
            "oracle/fault/timeout": 1,
        }
        assert book.spend.story() == (
            "3 calls, 3,000,000 tokens read, 100,000 written; cost 4.750; 1 answers from the cache; "
            "1 calls with an unknown bill, 2,000 tokens and 0.011 at most; faults: 1 cut_off, 1 timeout"
        )
        assert ledger(tmp_path / "calls").spend == expected

    run(story())


@pytest.mark.parametrize(
    ("budget", "made"),
    [
        ({"calls": 2}, 2),
        ({"calls_per_problem": 3}, 3),
        # A call reserves 2000 tokens and is billed 1000: the third one could end at 4000, the fourth at 5000.
        ({"tokens": 4000}, 3),
        ({"tokens": 3999}, 2),
        ({"tokens_per_problem": 4000}, 3),
        # It reserves 0.01125 and is billed 0.005625.
        ({"cost": 0.0225}, 3),
        ({"cost": 0.0224}, 2),
        ({"cost_per_problem": 0.0224}, 2),
        ({"calls": 5, "tokens": 100_000, "cost": 1.0, "calls_per_problem": 4}, 4),
        ({}, 6),
    ],
)
def test_a_call_that_could_exceed_a_budget_is_not_made(tmp_path: Path, budget: dict[str, Any], made: int):
    async def story() -> list[str]:
        book = ledger(tmp_path / "calls", **budget)
        return [await make(book, call(), answer("", 500, 500)) for _ in range(6)]

    name = "over_problem_budget" if any("problem" in limit for limit in budget) else "over_budget"
    assert run(story()) == ["made"] * made + [name] * (6 - made)


@pytest.mark.parametrize(
    ("name", "charged"),
    [
        ("timeout", 2000),
        ("connection", 2000),
        ("not_json", 2000),
        ("unreachable", 0),
        ("server_error", 0),
        ("rate_limited", 0),
    ],
)
def test_a_call_whose_bill_never_came_counts_with_its_bound(tmp_path: Path, name: FaultName, charged: int):
    async def story() -> None:
        book = ledger(tmp_path / "calls", tokens=6000)
        assert await make(book, call(), fault(name)) == "made"
        for again in (book, ledger(tmp_path / "calls", tokens=6000)):
            assert (again.spend.input_tokens, again.spend.output_tokens, again.spend.cost) == (0, 0, 0)
            assert (again.spend.unknown, again.spend.unknown_tokens) == (int(charged > 0), charged)
            assert again.refusal(call(read=6000 - charged, written=0)) is None
            assert again.refusal(call(read=6000 - charged, written=1)) is not None

    run(story())


def test_timeouts_alone_spend_a_budget(tmp_path: Path):
    async def story() -> list[str]:
        book = ledger(tmp_path / "calls", cost=0.03)  # a call is 0.01125 at most
        return [await make(book, call(), fault("timeout")) for _ in range(4)]

    assert run(story()) == ["made", "made", "over_budget", "over_budget"]


def test_the_file_says_why_a_call_failed(tmp_path: Path):
    detail = "HTTP 402: Insufficient credits"
    run(make(ledger(tmp_path / "calls"), call(), Fault("no_credit", detail)))
    started, ended = read_json_lines(tmp_path / "calls")
    assert (started["fault"], started["detail"]) == (None, "")
    assert (ended["fault"], ended["detail"]) == ("no_credit", detail)


def test_one_spent_problem_does_not_stop_the_others(tmp_path: Path):
    async def story() -> list[str]:
        book = ledger(tmp_path / "calls", calls_per_problem=1)
        return [await make(book, call(problem), answer()) for problem in ("p0", "p0", "p1")]

    assert run(story()) == ["made", "over_problem_budget", "made"]


def test_the_refusal_names_the_limit(tmp_path: Path):
    refusal = ledger(tmp_path / "calls", tokens_per_problem=10).refusal(call())
    assert refusal == Fault("over_problem_budget", "one more call could exceed oracle.budget.tokens_per_problem = 10")


def test_calls_wait_for_what_others_in_flight_leave_over(tmp_path: Path):
    """Ten calls reserve 2000 tokens each and are billed 1000: side by side five fit, one after another nine."""

    async def story() -> list[str]:
        book = ledger(tmp_path / "calls", tokens=10_000)
        return await asyncio.gather(*(make(book, call(), answer("", 500, 500)) for _ in range(10)))

    assert run(story()) == ["made"] * 9 + ["over_budget"]


def test_the_policy_is_written_down_but_held_to_no_budget(tmp_path: Path):
    async def story() -> None:
        book = ledger(tmp_path / "calls", calls=1, tokens_per_problem=2000)
        assert await make(book, call(), answer()) == "made"
        assert await make(book, call(), answer()) == "over_budget"
        policy = [make(book, call(oracle="policy"), answer()) for _ in range(5)]
        assert await asyncio.gather(*policy) == ["made"] * 5
        assert book.spend.calls == 6

    run(story())


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["p0", "p1", "p2"]),
        st.integers(1, 500),  # bound of what is read
        st.integers(1, 500),  # and of what is written
        st.floats(0, 1),  # billed share of the bounds
        st.floats(0, 10),  # seconds that it takes
        st.sampled_from([None, "timeout", "cut_off"]),
    ),
    max_size=25,
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "calls": st.integers(1, 10),
        "tokens": st.integers(1, 4000),
        "cost": st.floats(1e-4, 0.02),
        "calls_per_problem": st.integers(1, 5),
        "tokens_per_problem": st.integers(1, 2000),
        "cost_per_problem": st.floats(1e-4, 0.01),
    },
)


@settings(max_examples=50)
@given(calls=CALLS, limits=LIMITS)
def test_calls_side_by_side_never_overspend_and_add_up(
    tmp_path_factory: pytest.TempPathFactory, calls: list[Any], limits: dict[str, Any]
):
    path = tmp_path_factory.mktemp("ledger") / "calls"
    book = ledger(path, **limits)

    async def one(problem: str, read: int, written: int, share: float, takes_s: float, name: Any) -> str:
        tokens = {"input_tokens": int(share * read), "output_tokens": int(share * written)}
        result = Answer("", **tokens) if name is None else fault(name, **tokens)
        return await make(book, call(problem, read, written), result, takes_s)

    async def story() -> list[str]:
        return await asyncio.gather(*(one(*item) for item in calls))

    ends = run(story())
    bills = [line for line in read_json_lines(path) if line["event"] == "ended"]  # with bounds where unknown
    assert len(bills) == ends.count("made")
    for scope, suffix in (("all", ""), ("p0", "_per_problem"), ("p1", "_per_problem"), ("p2", "_per_problem")):
        mine = [bill for bill in bills if scope in ("all", bill["problem"])]
        totals = {
            "calls": len(mine),
            "tokens": sum(bill["input_tokens"] + bill["output_tokens"] for bill in mine),
            "cost": sum(bill["cost"] for bill in mine),
        }
        for name, total in totals.items():
            assert total <= limits.get(name + suffix, float("inf")) + 1e-12
        if scope == "all":
            spend = book.spend
            assert spend.calls == totals["calls"]
            assert spend.unknown == spend.faults["timeout"]
            assert spend.input_tokens + spend.output_tokens + spend.unknown_tokens == totals["tokens"]
            assert spend.cost + spend.unknown_cost == pytest.approx(totals["cost"])
            assert sum(spend.faults.values()) == sum(bill["fault"] is not None for bill in bills)
    assert ledger(path, **limits).spend == book.spend


def written_file(path: Path) -> bytes:
    """Three calls, two of them side by side, of which one never ends, and a cached answer."""

    async def story() -> None:
        book = ledger(path)
        await make(book, call("p0"), answer("", 400, 300))
        never = await book.reserve(call("p1"))
        assert isinstance(never, Call)
        book.start(never)
        await make(book, call("p0", nth_try=2), fault("empty", input_tokens=9))
        book.found(call("p0"))
        book.close()

    run(story())
    return path.read_bytes()


def test_cut_at_any_byte_the_file_still_holds_the_budget(tmp_path: Path):
    whole = written_file(tmp_path / "whole")
    for size in range(len(whole) + 1):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        lines = [json.loads(line) for line in whole[:size].splitlines() if line.endswith(b"}")]
        started = {line["number"] for line in lines if line["event"] == "started"}
        ended = {line["number"]: line for line in lines if line["event"] == "ended"}
        open_tokens = 2000 * len(started - set(ended))
        tokens = sum(line["input_tokens"] + line["output_tokens"] for line in ended.values())

        book = ledger(path, tokens=tokens + open_tokens + 100)
        assert (book.spend.calls, book.spend.unknown) == (len(started), len(started) - len(ended))
        assert (book.spend.faults["broken_off"], book.spend.unknown_tokens) == (book.spend.unknown, open_tokens)
        assert book.spend.input_tokens + book.spend.output_tokens == tokens
        assert book.refusal(call(read=50, written=50)) is None
        assert book.refusal(call(read=50, written=51)) is not None

        if size % 20 and whole[size - 1 : size] != b"\n":
            continue  # writing on is tried at some sizes only, for speed
        assert run(make(book, call(read=50, written=50), answer("", 50, 50))) == "made"
        again = ledger(path)
        assert (again.spend.calls, again.spend.unknown) == (book.spend.calls, book.spend.unknown)
        assert len({line["number"] for line in read_json_lines(path) if line["event"] == "started"}) == len(started) + 1


def test_damage_in_the_middle_hides_no_bill(tmp_path: Path):
    whole = written_file(tmp_path / "calls")
    lines = whole.splitlines(keepends=True)
    (tmp_path / "calls").write_bytes(b"".join([b"\xff{\n", *lines[1:]]))  # the first call's start
    book = ledger(tmp_path / "calls")
    assert book.unreadable == 1
    (tmp_path / "calls").write_bytes(whole)
    assert book.spend == ledger(tmp_path / "calls").spend


KINDS = tuple[Literal["exact", "gemini", "openai", "policy"], ...]


@pytest.mark.parametrize(
    ("kinds", "budget", "prices", "missing"),
    [
        (("gemini",), {"cost": 5.0}, {}, ["gemini-2.5-pro"]),
        (("gemini", "openai", "policy"), {"cost_per_problem": 0.1}, {}, ["gemini-2.5-pro", "o5"]),
        (("exact", "openai"), {"cost": 5.0}, {"o5": PRICES["pro"]}, []),
        (("openai",), {"cost": 5.0}, {"gpt": PRICES["pro"]}, ["o5"]),
        (("gemini",), {"calls": 5, "tokens_per_problem": 100_000}, {}, []),
        (("exact", "policy"), {"cost": 5.0}, {}, []),
    ],
)
def test_a_money_budget_needs_prices(
    kinds: KINDS, budget: dict[str, Any], prices: dict[str, Price], missing: list[str]
):
    config = OracleConfig(
        kind=kinds[0],
        fallback=kinds[1:],
        budget=BudgetConfig(**budget),
        prices=prices,
        gemini=GeminiConfig(),
        openai=OpenAIConfig(model="o5"),
    )
    errors = budget_errors(config)
    assert len(errors) == len(missing)
    for name, line in zip(missing, errors, strict=True):
        assert line.startswith("oracle.prices: ") and repr(name) in line


@pytest.mark.parametrize(
    ("kinds", "budget", "broken"),
    [
        (("gemini",), {"tokens": 32767}, ["tokens = 32767: gemini"]),
        (("gemini",), {"tokens": 32768}, []),
        (("openai", "gemini"), {"tokens_per_problem": 1000}, ["openai", "gemini"]),
        (("openai",), {"cost": 0.16}, ["cost = 0.16: openai"]),  # 16,384 tokens at 10 a million: 0.16384
        (("openai",), {"cost": 0.17, "cost_per_problem": 0.16}, ["cost_per_problem = 0.16: openai"]),
        (("openai",), {"cost": 0.17, "tokens": 16384, "calls": 1}, []),
        (("exact", "policy"), {"tokens": 1, "cost": 0.001}, []),
    ],
)
def test_a_budget_below_one_answer_is_refused(kinds: KINDS, budget: dict[str, Any], broken: list[str]):
    config = OracleConfig(
        kind=kinds[0],
        fallback=kinds[1:],
        budget=BudgetConfig(**budget),
        prices={"o5": PRICES["pro"], "gemini-2.5-pro": PRICES["pro"]},
        openai=OpenAIConfig(model="o5"),
    )
    errors = budget_errors(config)
    assert len(errors) == len(broken)
    for expected, line in zip(broken, errors, strict=True):
        limit, _, kind = expected.rpartition(": ")
        assert line.startswith(f"oracle.budget.{limit}") and f"oracle.{kind}.max_output_tokens" in line
