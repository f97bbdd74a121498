"""Monte Carlo: the search on made-up values, and the oracle with a policy whose success rates are known."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_ray.chains.world import Chain, draw_problem_chain, misadd, trace
from int_ray.oracle_config import MonteCarloConfig
from int_ray.oracles.exact import ExactOracle
from int_ray.oracles.monte_carlo import MonteCarloOracle, find_drop
from int_ray.segmentation import Segmenter
from int_ray.types import Attempt, Completion, OracleReply, Outcome, Problem, Rollout, RolloutGroup, Start, TokenIds
from tests.factories import completion
from tests.fakes import FakeProgress

Value = Callable[[int, int], float]  # (boundary, helpings) -> value

PROBLEM = Chain(12, (5, -3, 4, 6, -2)).problem("p")  # 12+5=17, 17-3=14, 14+4=18, 18+6=24, 24-2=22


def locate(value: Value, num_steps: int, min_drop: float = 0.5) -> tuple[int | None, list[tuple[int, ...]]]:
    """What a search finds when it sees these values, and where it looked."""
    search, looks = find_drop(num_steps, min_drop), []
    look = next(search)
    try:
        while True:
            looks.append(look.boundaries)
            look = search.send({boundary: value(boundary, look.helpings) for boundary in look.boundaries})
    except StopIteration as found:
        return found.value, looks


def table(*values: float) -> Value:
    return lambda boundary, _: values[boundary]


@pytest.mark.parametrize(
    ("values", "location"),
    [
        ((0.5, 0.0), 1),
        ((0.4, 0.5, 0.6, 0.0, 0.0), 3),
        ((0.4, 0.0, 0.0, 0.0, 0.0), 1),
        ((0.4, 0.6, 0.8, 1.0, 0.0), 4),
        ((1.0, 0.9, 0.4, 0.3, 0.0), 2),  # the first large drop, though the last one is larger
        ((1.0, 0.8, 0.6, 0.5, 0.4, 0.0), 5),  # little by little is no drop
        ((0.0, 0.1, 0.2, 0.0, 0.0), 3),  # no success from the start, but later
        ((0.0, 0.0, 0.0, 0.1, 0.0), 4),
        ((0.0, 0.0, 0.0), None),
        ((0.0,), None),  # an attempt without a step
    ],
)
def test_the_location_is_the_step_that_loses_the_value(values: tuple[float, ...], location: int | None):
    assert locate(table(*values), len(values) - 1)[0] == location


def test_min_drop_is_the_share_of_the_value_that_is_lost():
    values = table(0.8, 0.8, 0.5, 0.1, 0.0)
    assert locate(values, 4, min_drop=0.3)[0] == 2
    assert locate(values, 4, min_drop=0.5)[0] == 3
    assert locate(values, 4, min_drop=0.9)[0] == 4


@given(st.integers(1, 400).flatmap(lambda num: st.tuples(st.just(num), st.integers(1, num))), st.floats(0.01, 1.0))
def test_one_drop_is_found_with_logarithmically_many_looks(place: tuple[int, int], high: float):
    num_steps, location = place
    found, looks = locate(lambda boundary, _: high if boundary < location else 0.0, num_steps)
    assert found == location
    assert len(looks) <= 2 + math.ceil(math.log2(num_steps))


@given(st.lists(st.floats(0.0, 1.0), max_size=30), st.floats(0.01, 1.0))
def test_any_values_give_a_drop_or_nothing_to_compare(values: list[float], min_drop: float):
    values = [*values, 0.0]
    found, _ = locate(table(*values), len(values) - 1, min_drop)
    if found is None:
        assert not values[0]
    else:
        assert values[found - 1] > 0 and values[found] <= (1 - min_drop) * values[found - 1]


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_the_search_ends_whatever_chance_shows_it(num_steps: int, chance: random.Random):
    found, looks = locate(lambda boundary, _: chance.random() if boundary < num_steps else 0.0, num_steps)
    assert found is None or 1 <= found <= num_steps
    assert len(looks) < 10 * num_steps


def test_a_drop_that_a_second_helping_denies_is_not_believed():
    def value(boundary: int, helpings: int) -> float:
        unlucky = boundary == 2 and helpings == 1  # chance showed no success here at first
        return 0.5 if boundary < 4 and not unlucky else 0.0

    assert locate(value, 6)[0] == 4


def decode(token_ids: Sequence[int]) -> str:
    return "".join("<end>" if token == 1 else chr(token) for token in token_ids)


SEGMENTER = Segmenter(decode, ())


def attempt_at(problem: Problem, text: str, *, segmenter: Segmenter = SEGMENTER) -> Attempt:
    whole = completion(text)
    return Attempt(problem, np.array([3], np.int32), Rollout(whole, Outcome.WRONG, 0), segmenter.steps(whole.token_ids))


class Solver:
    """From a right prefix so many of `n` continuations are right; from a wrong one none is."""

    def __init__(self, share: float, *, seed: int | None = None, wrong: str = "0+0=0\n\n\\boxed{0}") -> None:
        self.share = share
        self.chance = None if seed is None else random.Random(seed)
        self.wrong = wrong
        self.calls: list[tuple[list[str], int, float, int]] = []  # prefixes, n, temperature, round

    async def continue_from(
        self, starts: Sequence[Start], n: int, temperature: float, round_: int
    ) -> list[RolloutGroup]:
        self.calls.append(([decode(start.prefix_ids.tolist()) for start in starts], n, temperature, round_))
        return [self._group(start, n) for start in starts]

    def _group(self, start: Start, n: int) -> RolloutGroup:
        said = decode(start.prefix_ids.tolist())
        is_right = start.problem.solution.startswith(said)
        num = round(self.share * n) if self.chance is None else sum(self.chance.random() < self.share for _ in range(n))
        texts = [start.problem.solution[len(said) :] if i < num and is_right else self.wrong for i in range(n)]
        rollouts = tuple(
            Rollout(completion(text), Outcome.WRONG if text == self.wrong else Outcome.CORRECT, 0) for text in texts
        )
        return RolloutGroup(start.problem, start.prompt_ids, start.prefix_ids, rollouts)

    async def write(
        self, prompts: Sequence[TokenIds], temperature: float, top_p: float, max_tokens: int, seed: int
    ) -> list[Completion]:
        raise AssertionError("not asked to write")


class Unjudged(Solver):
    """A solver whose failed continuations the verifier cannot judge."""

    async def continue_from(self, starts: Sequence[Start], n: int, temperature: float, round_: int):
        groups = await super().continue_from(starts, n, temperature, round_)
        return [replace(group, rollouts=tuple(map(self._regrade, group.rollouts))) for group in groups]

    def _regrade(self, rollout: Rollout) -> Rollout:
        return rollout if rollout.outcome is Outcome.CORRECT else replace(rollout, outcome=Outcome.TIMEOUT)


def build(policy: Solver, *, segmenter: Segmenter = SEGMENTER, n: int = 8) -> MonteCarloOracle:
    return MonteCarloOracle(policy, segmenter, MonteCarloConfig(continuations=n), 0.9, FakeProgress())


def ask(policy: Solver, *attempts: Attempt, segmenter: Segmenter = SEGMENTER, n: int = 8) -> list[OracleReply]:
    return asyncio.run(build(policy, segmenter=segmenter, n=n).intervene(attempts))


def proposed(reply: OracleReply) -> tuple[int, str]:
    (proposal,) = reply.proposals
    assert proposal.first_error == proposal.location and reply.failure is None
    return proposal.location, proposal.content


WRONG_AT_4 = "12+5=17\n\n17-3=14\n\n14+4=18\n\n18+6=25\n\n25-2=23\n\n\\boxed{23}"
WRONG_AT_2 = "12+5=17\n\n17-3=15\n\n15+4=19\n\n19+6=25\n\n25-2=23\n\n\\boxed{23}"
WRONG_BOX = PROBLEM.solution.replace("{22}", "{23}")


def test_the_first_step_of_a_success_from_before_the_drop_replaces_the_error():
    replies = ask(Solver(0.5), attempt_at(PROBLEM, WRONG_AT_4), attempt_at(PROBLEM, WRONG_AT_2))
    assert [proposed(reply) for reply in replies] == [(4, "18+6=24"), (2, "17-3=14")]


def test_what_it_saw_and_spent_is_in_the_reply():
    (reply,) = ask(Solver(0.5), attempt_at(PROBLEM, WRONG_AT_4))
    assert "0.50 after 0 steps" in reply.log and "0.00 after 4 steps" in reply.log
    source = reply.proposals[0].source
    assert source and source.oracle == "monte_carlo" and source.output_tokens > 0


def test_all_attempts_look_further_in_one_call_and_equal_prefixes_are_sampled_once():
    policy = Solver(0.5)
    other = Chain(50, (2, 3, 4, 5, 6)).problem("q")
    wrong_at_other = trace(Chain(50, (2, 3, 4, 5, 6)).steps()).replace("52+3=55", "52+3=56")
    attempts = [attempt_at(PROBLEM, text) for text in (WRONG_AT_4, WRONG_AT_2, WRONG_AT_4)]
    oracle = build(policy)
    asyncio.run(oracle.intervene([*attempts, attempt_at(other, wrong_at_other)]))
    first, *_ = policy.calls
    assert first == (["", ""], 8, 0.9, 0)  # the start of each problem, once
    assert [round_ for *_, round_ in policy.calls] == list(range(len(policy.calls)))
    assert len(policy.calls) <= 5  # the start, three halvings of six steps, the second helping
    for prefixes, *_ in policy.calls[1:]:
        assert len(prefixes) == len(set(prefixes))
    assert oracle.continuations == sum(8 * len(prefixes) for prefixes, *_ in policy.calls)
    assert oracle.located == 4
    assert isinstance(oracle.progress, FakeProgress) and oracle.progress.done == 4
    assert oracle.progress.story == [f"Monte Carlo: {oracle.continuations} continuations so far, 4 errors located"]


def test_continuations_that_pass_through_a_boundary_count_for_it():
    policy = Solver(1.0)  # all continuations from the start pass through every right boundary
    asyncio.run(build(policy).intervene([attempt_at(PROBLEM, WRONG_AT_4)]))
    right = "12+5=17\n\n17-3=14\n\n14+4=18\n\n"
    asked = [prefix for prefixes, *_ in policy.calls for prefix in prefixes]
    # Behind the error the policy must be put; before it, only for the second helping of the last boundary.
    assert [prefix for prefix in asked if "18+6=25" not in prefix] == ["", right]


def test_without_any_success_there_is_nothing_to_compare():
    policy = Solver(0.0)
    (reply,) = ask(policy, attempt_at(PROBLEM, WRONG_AT_4))
    assert reply.failure == "no_success_to_compare" and not reply.proposals
    assert len(policy.calls) == 2  # the start, then all boundaries at once


class LateSolver(Solver):
    """Solves nothing unless three right steps are given."""

    def _group(self, start: Start, n: int) -> RolloutGroup:
        self.share = 0.25 if decode(start.prefix_ids.tolist()).count("=") >= 3 else 0.0
        return super()._group(start, n)


def test_successes_from_late_boundaries_locate_an_error_too():
    (reply,) = ask(LateSolver(0.0), attempt_at(PROBLEM, WRONG_AT_4))
    assert proposed(reply) == (4, "18+6=24")
    (reply,) = ask(LateSolver(0.0), attempt_at(PROBLEM, WRONG_AT_2))
    assert reply.failure == "no_success_to_compare"


def test_a_wrong_box_alone_is_an_error_in_the_answer():
    assert ask(Solver(0.5), attempt_at(PROBLEM, WRONG_BOX))[0].failure == "error_in_answer"


class Hasty(Solver):
    """Every other success jumps to the answer."""

    def _group(self, start: Start, n: int) -> RolloutGroup:
        group = super()._group(start, n)
        hasty = completion(f"\\boxed{{{start.problem.answer}}}")
        return replace(
            group,
            rollouts=tuple(
                replace(rollout, completion=hasty) if rollout.reward and i % 2 == 0 else rollout
                for i, rollout in enumerate(group.rollouts)
            ),
        )


def test_the_answer_itself_is_never_proposed():
    assert proposed(ask(Hasty(0.5), attempt_at(PROBLEM, WRONG_AT_4))[0]) == (4, "18+6=24")


def test_what_follows_the_thinking_part_is_never_replaced():
    segmenter = Segmenter(decode, (), "</think>")
    problem = replace(PROBLEM, solution="12+5=17\n\n</think>so \\boxed{17}")
    attempt = attempt_at(problem, "12+5=17\n\n</think>so \\boxed{18}", segmenter=segmenter)
    assert ask(Solver(0.5), attempt, segmenter=segmenter)[0].failure == "error_in_answer"


class Stubborn(Solver):
    """Successes say the attempt's own step again, in other tokens."""

    def _group(self, start: Start, n: int) -> RolloutGroup:
        group = super()._group(start, n)
        said = decode(start.prefix_ids.tolist())
        own = WRONG_AT_4.removeprefix(said).replace("=", " = ")
        rollouts = tuple(
            replace(rollout, completion=completion(own)) if rollout.reward else rollout for rollout in group.rollouts
        )
        return replace(group, rollouts=rollouts)


def test_the_attempts_own_step_is_no_replacement():
    (reply,) = ask(Stubborn(0.5), attempt_at(PROBLEM, WRONG_AT_4.replace("=", " = ").replace(" = 17", "=17")))
    assert reply.failure == "no_other_step"


def test_what_the_verifier_cannot_judge_counts_for_nothing():
    (reply,) = ask(Unjudged(0.25), attempt_at(PROBLEM, WRONG_AT_4))
    assert "1.00 after 0 steps" in reply.log and proposed(reply) == (4, "18+6=24")


def test_a_step_with_several_paragraphs_is_cut_to_the_first():
    problem = replace(PROBLEM, solution=PROBLEM.solution.replace("18+6=24\n\n", "18+6=24\n \n24!\n\n"))
    assert proposed(ask(Solver(0.5), attempt_at(problem, WRONG_AT_4))[0]) == (4, "18+6=24")


def test_nothing_to_ask_about_is_no_call():
    policy = Solver(0.5)
    assert ask(policy) == [] and policy.calls == []


def test_with_the_noise_of_sixteen_continuations_it_mostly_agrees_with_the_exact_oracle():
    rng = random.Random(0)
    for share in (0.15, 0.3, 0.6, 0.9):
        chains = [draw_problem_chain(rng, range(1, 3)) for _ in range(100)]
        attempts = [attempt_at(chain.problem(f"p{i}"), trace(chain.steps(misadd))) for i, chain in enumerate(chains)]
        replies = ask(Solver(share, seed=1), *attempts, n=16)
        agree = 0
        for attempt, reply in zip(attempts, replies, strict=True):
            (expected,) = ExactOracle().propose(attempt).proposals
            agree += [(item.location, item.content) for item in reply.proposals] == [
                (expected.location, expected.content)
            ]
        assert agree >= (90 if share < 0.3 else 98), (share, agree)
