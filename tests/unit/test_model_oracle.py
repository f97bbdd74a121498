"""The oracle that is a language model: replies, provenance, one payment per answer, outages. In virtual time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.virtual_time import run
from int_ray.errors import RunError
from int_ray.journal import read_json_lines
from int_ray.oracle_config import GeminiConfig, OracleConfig, PolicyOracleConfig
from int_ray.oracles.answer_cache import AnswerCache
from int_ray.oracles.chat import OUTAGES, UNKNOWN_BILL, Answer, ChatRequest, Fault, Message
from int_ray.oracles.model_oracle import ModelOracle, merge
from int_ray.oracles.prompts import PROMPTS, prompt_hash
from int_ray.oracles.spending import Ledger, Spend
from int_ray.types import Attempt, OracleReply, Proposal, Source
from tests import factories
from tests.fake_chat import FakeModel, FakeTemplate, answer, fault
from tests.fakes import FakeProgress

PRICES = {"fake-model": {"input": 1.0, "output": 10.0}}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def oracle(folder: Path, model: FakeModel, *, kind: str = "gemini", template: Any = None, **config: Any) -> ModelOracle:
    """An oracle with the files of `folder`, as a new process would open them."""
    folder.mkdir(exist_ok=True)
    values = OracleConfig.model_validate({"prices": PRICES, "gemini": {"max_output_tokens": 50}} | config)
    ledger = Ledger(folder / "oracle_calls.jsonl", values.budget, values.prices)
    cache = AnswerCache(folder / "oracle_answers.jsonl")
    return ModelOracle(kind, model, template or FakeTemplate(), values, ledger, cache, FakeProgress())


def spend(item: ModelOracle) -> Spend:
    return item.chat.ledger.spend


def story(item: ModelOracle) -> list[str]:
    assert isinstance(item.progress, FakeProgress)
    return item.progress.story


def attempts(count: int) -> list[Attempt]:
    """Different attempts at different problems."""
    return [factories.attempt(f"12+5={18 + index}\n\n", "15\n\n", index=index) for index in range(count)]


def ask(item: ModelOracle, count: int = 1) -> list[OracleReply]:
    return run(item.intervene(attempts(count)))


def by_problem(**says: Answer | Fault) -> FakeModel:
    """Answers by the problem that a prompt of FakeTemplate names."""
    return FakeModel(lambda request: says[request.messages[-1].content.partition(" ")[2].partition("|")[0]])


def test_a_proposal_says_where_it_comes_from(tmp_path: Path):
    (reply,) = ask(oracle(tmp_path, FakeModel([answer()])))
    prompt = FakeTemplate().compose(attempts(1)[0], solve_first=False, structured=True, max_attempt_tokens=24000)
    source = Source("gemini", "fake-model", "fake-1", prompt_hash(prompt), 0, 100, 20, 0.0003)
    assert reply == OracleReply((Proposal(1, "12+5=17", source=source),), log="log of 12+5=17", source=source)


@pytest.mark.parametrize(
    ("said", "failure", "tokens", "cost"),
    [
        (answer("none"), "no_error", (100, 20), 0.0003),
        (answer("nonsense"), "no_json", (100, 20), 0.0003),
        (fault("cut_off", input_tokens=100, output_tokens=50), "cut_off", (100, 50), 0.0006),
        (fault("empty", input_tokens=100, output_tokens=50), "empty", (100, 50), 0.0006),
        (fault("server_error"), "server_error", (0, 0), 0.0),
        (fault("bad_request"), "bad_request", (0, 0), 0.0),
    ],
)
def test_a_reply_without_proposals_says_so_too(
    tmp_path: Path, said: Answer | Fault, failure: str, tokens: tuple[int, int], cost: float
):
    prompt = FakeTemplate().compose(attempts(1)[0], solve_first=False, structured=True, max_attempt_tokens=24000)
    model = FakeModel([said])
    for cached in (False, failure in ("no_error", "no_json", "cut_off", "empty")):
        (reply,) = ask(oracle(tmp_path, model))
        assert reply.failure == failure
        assert reply.source is not None and reply.source.cost == pytest.approx(cost)
        source = Source("gemini", "fake-model", "fake-1", prompt_hash(prompt), 0, *tokens, reply.source.cost, cached)
        assert reply.source == source


def test_a_chat_that_failed_in_its_last_turn_names_the_cost_of_all_its_turns(tmp_path: Path):
    model = FakeModel([answer("I see: 14"), fault("cut_off", input_tokens=7, output_tokens=30)], cacheable=False)
    (reply,) = ask(oracle(tmp_path, model, kind="policy"))
    assert reply.source is not None
    assert (reply.source.input_tokens, reply.source.output_tokens) == (107, 50)


def test_an_answer_that_is_billed_but_empty_is_not_asked_for_again(tmp_path: Path):
    model = FakeModel([fault("empty", input_tokens=100, output_tokens=50)])
    for _ in range(2):
        assert ask(oracle(tmp_path, model))[0].failure == "empty"
    assert len(model.requests) == 1
    nothing = FakeModel([fault("empty", input_tokens=100), answer()])  # no candidates
    assert ask(oracle(tmp_path / "nothing", nothing))[0].failure is None
    assert len(nothing.requests) == 2


def test_the_policy_solves_first_and_then_compares_in_one_chat(tmp_path: Path):
    model = FakeModel([answer("I see: 14"), answer("2: 17-3=14")], cacheable=False)
    item = oracle(tmp_path, model, kind="policy", policy=PolicyOracleConfig(solve_first=True, max_tokens=30))
    (reply,) = ask(item)
    first, second = model.requests
    assert first.messages[0].content.startswith("solve p0")
    assert second.messages[:2] == (first.messages[0], Message("assistant", "I see: 14"))
    assert second.messages[2].content.startswith("compare p0")
    (proposal,) = reply.proposals
    assert proposal.source is not None
    assert (proposal.source.oracle, proposal.source.input_tokens, proposal.source.output_tokens) == ("policy", 200, 40)


def test_the_schema_goes_with_the_last_turn(tmp_path: Path):
    class TwoTurns(FakeTemplate):
        def compose(self, attempt: Attempt, *, solve_first: bool, structured: bool, max_attempt_tokens: int):
            return super().compose(attempt, solve_first=True, structured=structured, max_attempt_tokens=9)

    model = FakeModel([answer()])
    ask(oracle(tmp_path, model, template=TwoTurns()))
    assert [request.schema for request in model.requests] == [None, {"type": "object"}]
    model = FakeModel([answer()])
    ask(oracle(tmp_path / "off", model, template=TwoTurns(), gemini=GeminiConfig(structured=False)))
    assert [request.schema for request in model.requests] == [None, None]


def test_a_failed_turn_ends_its_chat(tmp_path: Path):
    model = FakeModel([fault("cut_off"), answer()], cacheable=False)
    (reply,) = ask(oracle(tmp_path, model, kind="policy"))
    assert (reply.failure, reply.proposals, len(model.requests)) == ("cut_off", (), 1)


def test_samples_of_one_attempt_are_one_reply(tmp_path: Path):
    answers = [answer("2: b"), fault("blocked"), answer("nonsense"), answer("none"), answer("1: a")]
    model = FakeModel(lambda request: answers[request.sample])
    (reply,) = ask(oracle(tmp_path, model, samples=5))
    assert [(proposal.location, proposal.content) for proposal in reply.proposals] == [(2, "b"), (1, "a")]
    assert [proposal.source and proposal.source.sample for proposal in reply.proposals] == [0, 4]
    assert (reply.failure, reply.faults, reply.log) == (None, ("blocked", "no_json", "no_error"), "log of b")
    assert reply.source is not None and (reply.source.input_tokens, reply.source.output_tokens) == (400, 80)


@pytest.mark.parametrize(
    ("failures", "failure", "faults"),
    [
        (["timeout"], "timeout", ()),
        (["timeout", "no_json", "timeout"], "timeout", ("no_json", "timeout")),
        (["timeout", "no_error", "no_json"], "no_error", ("timeout", "no_json")),
        (["no_error", "no_error"], "no_error", ("no_error",)),
    ],
)
def test_without_any_proposal_no_error_counts_more_than_a_fault(
    failures: list[str], failure: str, faults: tuple[str, ...]
):
    reply = merge([OracleReply(failure=name) for name in failures])
    assert reply == OracleReply(failure=failure, faults=faults)


def test_refused_entries_and_altered_prompts_are_counted(tmp_path: Path):
    class Picky(FakeTemplate):
        notes = ("attempt_trimmed",)

        def read(self, attempt: Attempt, text: str) -> OracleReply:
            return replace(super().read(attempt, text), faults=("location_out_of_range",))

    (reply,) = ask(oracle(tmp_path, FakeModel([answer()]), template=Picky()))
    assert reply.faults == ("attempt_trimmed", "location_out_of_range")
    assert len(reply.proposals) == 1


def test_one_bad_reply_spoils_no_other(tmp_path: Path):
    model = by_problem(
        p0=answer("1: a"), p1=answer("<html>"), p2=fault("blocked"), p3=answer("none"), p4=answer("1: e")
    )
    replies = ask(oracle(tmp_path, model), 5)
    assert [reply.failure for reply in replies] == [None, "no_json", "blocked", "no_error", None]
    assert [len(reply.proposals) for reply in replies] == [1, 0, 0, 0, 1]


def test_a_second_question_labels_the_error(tmp_path: Path):
    def say(request: ChatRequest) -> Answer | Fault:
        question = request.messages[-1].content
        if question == "category? log of b":
            return answer("execution")
        if question == "category? log of c":
            return fault("blocked")
        return answer("who knows") if question.startswith("category") else answer(f"1: {'abcd'[int(question[9])]}")

    silent = FakeModel([answer("none")])
    assert ask(oracle(tmp_path / "silent", silent, categorize=True))[0].category is None
    assert len(silent.requests) == 1  # no proposal, no error to label
    replies = ask(oracle(tmp_path, FakeModel(say), categorize=True), 3)
    assert [reply.category for reply in replies] == [None, "execution", None]
    assert [reply.faults for reply in replies] == [("category: unclear",), (), ("category: blocked",)]
    assert all(len(reply.proposals) == 1 for reply in replies)


def test_with_the_real_prompt_and_parser(tmp_path: Path):
    entries = [{"location": 1, "content": "12+5=17"}]
    text = json.dumps({"verification_log": "step 1 is wrong", "first_error": 1, "replacements": entries})
    model = FakeModel([answer(text)])
    (reply,) = ask(oracle(tmp_path, model, template=PROMPTS["math"]()))
    (proposal,) = reply.proposals
    assert (proposal.location, proposal.content, proposal.first_error) == (1, "12+5=17", 1)
    assert proposal.source is not None and proposal.source.prompt.startswith("math-")
    assert "12+5=18" in model.requests[0].messages[0].content


def test_an_answer_is_paid_once_in_all_processes_of_a_run(tmp_path: Path):
    model = by_problem(
        p0=answer("1: a"), p1=answer("unreadable"), p2=fault("cut_off", output_tokens=50), p3=answer("none")
    )
    first = ask(oracle(tmp_path, model), 4)
    silent = FakeModel([answer("2: something else")])
    again = oracle(tmp_path, silent)
    replies = ask(again, 4)
    assert len(model.requests) == 4 and silent.requests == []
    (before,), (after,) = first[0].proposals, replies[0].proposals
    assert before.source is not None and after.source is not None
    assert after.source == replace(before.source, cached=True)  # with what it had cost
    assert [reply.failure for reply in replies] == [None, "no_json", "cut_off", "no_error"]
    assert (spend(again).calls, spend(again).cached) == (4, 4)


def test_call_and_answer_are_on_disk_before_they_are_made_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []

    class Telling(FakeTemplate):
        def read(self, attempt: Attempt, text: str) -> OracleReply:
            events.append("read")
            return super().read(attempt, text)

    def say(request: ChatRequest) -> Answer:
        events.append("asked")
        return answer()

    def sync(_: int) -> None:
        for name in ("oracle_calls", "oracle_answers"):
            lines = read_json_lines(tmp_path / f"{name}.jsonl")
            events.extend(line["event"] for line in lines if line["event"] not in events)

    monkeypatch.setattr("os.fsync", sync)
    ask(oracle(tmp_path, FakeModel(say), template=Telling()))
    assert events == ["started", "asked", "answer", "ended", "read"]


@pytest.mark.parametrize(
    "change",
    [{"gemini": GeminiConfig(structured=False)}, {"max_attempt_tokens": 100}],
)
def test_another_prompt_is_another_question(tmp_path: Path, change: dict[str, Any]):
    ask(oracle(tmp_path, FakeModel([answer()])))
    again = FakeModel([answer()])
    ask(oracle(tmp_path, again, **change))
    assert len(again.requests) == 1


def test_a_model_with_other_settings_or_another_name_is_asked_anew(tmp_path: Path):
    ask(oracle(tmp_path, FakeModel([answer()])))
    cooler, other = FakeModel([answer()]), FakeModel([answer()], name="other-model")
    cooler.settings = {"temperature": 0.0}
    ask(oracle(tmp_path, cooler))
    ask(oracle(tmp_path, other))
    assert (len(cooler.requests), len(other.requests)) == (1, 1)


def test_more_samples_pay_only_for_the_new_ones(tmp_path: Path):
    ask(oracle(tmp_path, FakeModel([answer()]), samples=2))
    model = FakeModel([answer()])
    ask(oracle(tmp_path, model, samples=5))
    assert sorted(request.sample for request in model.requests) == [2, 3, 4]


def test_equal_questions_at_the_same_time_are_paid_once(tmp_path: Path):
    model = FakeModel([answer()])
    item = oracle(tmp_path, model)
    replies = run(item.intervene(attempts(1) * 5))
    assert len(model.requests) == 1 and spend(item).cached == 4
    assert [reply.proposals[0].source and reply.proposals[0].source.cached for reply in replies] == [False, *[True] * 4]


def test_passing_faults_are_asked_again(tmp_path: Path):
    limits = {"tries": 2}
    assert ask(oracle(tmp_path, FakeModel([fault("timeout")]), limits=limits))[0].failure == "timeout"
    item = oracle(tmp_path, FakeModel([answer()]), limits=limits)
    assert ask(item)[0].failure is None
    assert spend(item).calls == 3 and spend(item).faults == Counter(timeout=2)


def test_the_policy_is_asked_anew_since_it_changes(tmp_path: Path):
    model = FakeModel([answer()], cacheable=False)
    for _ in range(2):
        ask(oracle(tmp_path, model, kind="policy", policy=PolicyOracleConfig(solve_first=False)))
    assert len(model.requests) == 2
    assert read_json_lines(tmp_path / "oracle_answers.jsonl") == []


def test_so_many_requests_are_in_flight_at_most(tmp_path: Path):
    model = FakeModel([answer()])
    ask(oracle(tmp_path, model, concurrency=3), 10)
    assert (model.most_in_flight, len(model.requests)) == (3, 10)
    assert max(model.started_at) == 3  # four waves of a second each


def test_a_spent_budget_is_an_outage_that_a_person_hears_of_once(tmp_path: Path):
    model = FakeModel([answer()])
    item = oracle(tmp_path, model, budget={"calls": 3})
    replies = ask(item, 8)
    assert Counter(reply.failure for reply in replies) == {None: 3, "over_budget": 5}
    assert "over_budget" in OUTAGES
    assert story(item) == [
        "The oracle gemini (fake-model) cannot be asked now: over_budget: "
        "one more call could exceed oracle.budget.calls = 3"
    ]
    resumed = oracle(tmp_path, model, budget={"calls": 3})
    assert Counter(reply.failure for reply in ask(resumed, 8)) == {None: 3, "over_budget": 5}
    assert len(model.requests) == 3


def test_refusals_for_want_of_budget_do_not_wait_for_turns(tmp_path: Path):
    item = oracle(
        tmp_path, FakeModel([answer()]), budget={"calls": 1}, limits={"requests_per_minute": 1}, concurrency=2
    )

    async def timed() -> float:
        await item.intervene(attempts(200))
        return asyncio.get_running_loop().time()

    assert run(timed()) < 200


def test_one_problem_may_spend_its_own_budget_only(tmp_path: Path):
    item = oracle(tmp_path, FakeModel([answer()]), budget={"calls_per_problem": 2}, samples=3)
    replies = ask(item, 2)
    assert [(len(reply.proposals), reply.faults) for reply in replies] == [(2, ("over_problem_budget",))] * 2
    assert "over_problem_budget" not in OUTAGES and story(item) == []


def test_a_server_that_is_down_is_left_alone(tmp_path: Path):
    model = FakeModel([fault("connection")], takes_s=0)
    item = oracle(tmp_path, model, concurrency=1, limits={"tries": 2, "breaker_failures": 3})
    replies = ask(item, 10)
    assert [reply.failure for reply in replies] == ["connection"] * 3 + ["circuit_open"] * 7
    assert len(model.requests) == 6
    assert len(story(item)) == 1 and "circuit_open" in story(item)[0] and "connection happened" in story(item)[0]
    assert all(not reply.proposals for reply in replies)


def test_the_first_refused_request_of_a_round_is_told_with_its_reason(tmp_path: Path):
    model = FakeModel(lambda request: Fault("bad_request", f"HTTP 400: no {request.messages[0].content.split('|')[0]}"))
    item = oracle(tmp_path, model)

    async def two_rounds() -> None:
        for _ in range(2):
            assert [reply.failure for reply in await item.intervene(attempts(3))] == ["bad_request"] * 3

    run(two_rounds())
    line = "The oracle gemini (fake-model) refused a request: bad_request: HTTP 400: no compare p0"
    assert story(item) == [line, line]
    ended = [call for call in read_json_lines(tmp_path / "oracle_calls.jsonl") if call["event"] == "ended"]
    assert ended[1]["detail"] == "HTTP 400: no compare p1"


def test_without_credit_nothing_more_is_asked(tmp_path: Path):
    model = FakeModel([fault("no_credit")])
    item = oracle(tmp_path, model, concurrency=1)
    assert all(reply.failure in OUTAGES for reply in ask(item, 5))
    assert len(model.requests) == 1
    assert len(story(item)) == 1 and "no_credit happened" in story(item)[0]


def test_a_key_that_is_revoked_in_the_middle_stops_all_calls(tmp_path: Path):
    model = FakeModel([answer(), answer(), fault("unauthorized")])
    replies = ask(oracle(tmp_path, model, concurrency=1), 6)
    assert [reply.failure for reply in replies] == [None, None, *["unauthorized"] * 4]
    assert len(model.requests) == 3 and "unauthorized" in OUTAGES


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("unauthorized", "oracle.gemini.api_key_env must name"),
        ("forbidden", "oracle.gemini.api_key_env must name"),
        ("unknown_model", "oracle.gemini.model"),
    ],
)
def test_a_refused_key_or_model_ends_the_run_before_it_begins(tmp_path: Path, name: Any, advice: str):
    item = oracle(tmp_path, FakeModel([answer()], checks=[fault("timeout"), fault(name)]))
    with pytest.raises(RunError, match=advice) as error:
        run(item.check())
    assert "\n" not in str(error.value) and "fake-model" in str(error.value)


@pytest.mark.parametrize("checks", [[None], [fault("server_error"), fault("timeout"), None]])
def test_a_server_that_answers_the_check_in_the_end_is_fine(tmp_path: Path, checks: Sequence[Fault | None]):
    item = oracle(tmp_path, FakeModel([answer()], checks=checks))
    run(item.check())
    assert story(item) == [] and spend(item) == Spend()


def test_a_server_that_is_down_at_the_check_is_told_about(tmp_path: Path):
    item = oracle(tmp_path, FakeModel([answer()], checks=[fault("connection")]))
    run(item.check())
    assert len(story(item)) == 1 and "connection happened" in story(item)[0]


async def until_killed(item: ModelOracle, everything: Sequence[Attempt], seconds: float) -> None:
    """What a process does that is killed after so many seconds."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await item.intervene(everything)
            await asyncio.sleep(seconds)


FAULTS = [
    "rate_limited",
    "server_error",
    "timeout",
    "unreachable",
    "connection",
    "not_json",
    "empty",
    "blocked",
    "cut_off",
    "bad_request",
]
RESULTS = st.one_of(
    st.builds(answer, st.sampled_from(["1: a", "none", "junk", "2: \ud800"]), st.integers(0, 90), st.integers(0, 50)),
    st.builds(fault, st.sampled_from(FAULTS), input_tokens=st.integers(0, 90), output_tokens=st.integers(0, 50)),
)


@settings(max_examples=40)
@given(
    results=st.lists(RESULTS, min_size=1, max_size=30),
    asked=st.lists(st.integers(0, 3), max_size=8),
    samples=st.integers(1, 3),
    killed_after_s=st.lists(st.floats(0.0, 8.0), max_size=3),
    budget=st.fixed_dictionaries({}, optional={"calls": st.integers(1, 12), "tokens": st.integers(100, 3000)}),
)
def test_whatever_happens_the_bill_adds_up_and_nothing_is_paid_twice(
    tmp_path_factory: pytest.TempPathFactory,
    results: list[Answer | Fault],
    asked: list[int],
    samples: int,
    killed_after_s: list[float],
    budget: dict[str, int],
):
    """A run that is killed a few times and resumed; the model's own count of what it did is the truth."""
    folder = tmp_path_factory.mktemp("run")
    left, paid, given = list(results), Counter[tuple[str, int]](), []

    def say(request: ChatRequest) -> Answer | Fault:
        result = left.pop(0) if len(left) > 1 else left[0]
        given.append(result)
        if isinstance(result, Answer) or result.is_final:
            paid[request.messages[-1].content, request.sample] += 1
        return result

    model = FakeModel(say)
    config: dict[str, Any] = {"samples": samples, "concurrency": 4, "budget": budget, "limits": {"tries": 3}}
    everything = [attempts(4)[index] for index in asked]
    for seconds in killed_after_s:
        run(until_killed(oracle(folder, model, **config), everything, seconds))
    item = oracle(folder, model, **config)
    replies = run(item.intervene(everything))

    assert len(replies) == len(everything)
    assert all((reply.failure is None) == bool(reply.proposals) for reply in replies)
    assert max(paid.values(), default=0) <= 1
    bill = spend(item)
    assert bill.calls == len(model.requests)
    broken_off = bill.faults["broken_off"]
    assert bill.calls - broken_off == len(given)
    faults = Counter(result.name for result in given if isinstance(result, Fault))
    assert bill.faults == faults + Counter(broken_off=broken_off)
    told = [result for result in given if isinstance(result, Answer) or result.name not in UNKNOWN_BILL]
    assert bill.unknown == broken_off + len(given) - len(told)
    assert (bill.input_tokens, bill.output_tokens) == (
        sum(result.input_tokens for result in told),
        sum(result.output_tokens for result in told),
    )
    assert bill.cost == pytest.approx((bill.input_tokens + 10 * bill.output_tokens) / 1e6)
    assert bill == spend(oracle(folder, model))
    assert bill.calls <= budget.get("calls", 10**9)
    assert bill.input_tokens + bill.output_tokens + bill.unknown_tokens <= budget.get("tokens", 10**9)
