"""Numbers about rollouts, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from int_ray.metrics import (
    estimate_mean,
    evaluate_set,
    pass_at_k,
    rollout_metrics,
    staleness_metrics,
    unsolved_ratio,
    zero_advantage_ratio,
)
from tests.factories import completion, group


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_success(n: int) -> None:
    for correct in range(n + 1):
        for k in range(1, n + 1):
            hits = [min(chosen) < correct for chosen in combinations(range(n), k)]
            assert pass_at_k(n, correct, k) == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_of_too_few_rollouts_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="there are 4"):
        pass_at_k(4, 1, k)


@pytest.mark.parametrize("values", [[0.5], [1.0, 1.0, 1.0], [0.0, 0.0]])
def test_values_that_are_all_equal_give_a_point(values: list[float]) -> None:
    estimate = estimate_mean(values, seed=0)
    assert (estimate.mean, estimate.low, estimate.high) == (values[0],) * 3


def test_the_interval_is_that_of_the_mean_and_depends_on_the_seed_alone() -> None:
    values = [0.0] * 200 + [1.0] * 200
    estimate = estimate_mean(values, seed=3)
    assert estimate.mean == 0.5
    # 1.96 standard errors of a mean of 400 coin flips
    assert estimate.low == pytest.approx(0.5 - 0.049, abs=0.01)
    assert estimate.high == pytest.approx(0.5 + 0.049, abs=0.01)
    assert estimate == estimate_mean(values, seed=3)


def test_undetermined_groups_are_on_neither_side_of_the_unsolved_ratio() -> None:
    assert unsolved_ratio([group("www"), group("cww"), group("wwx"), group("cxx")]) == pytest.approx(1 / 3)
    assert unsolved_ratio([group("wx")]) == 0
    assert unsolved_ratio([]) == 0


def test_all_right_and_all_wrong_groups_have_zero_advantage() -> None:
    assert zero_advantage_ratio([group("ccc"), group("wut"), group("cw"), group("cx")]) == 0.75


def test_rollout_metrics() -> None:
    metrics = rollout_metrics([group("cwut"), group("wwwx")])
    assert metrics["rollout/reward"] == pytest.approx(1 / 7)
    assert metrics["rollout/unsolved"] == 0
    assert metrics["rollout/zero_advantage"] == 0.5
    assert metrics["outcome/wrong"] == 0.5
    assert metrics["outcome/timeout"] == 0.125
    assert metrics["outcome/error"] == 0
    assert metrics["rollout/response_tokens"] == len("12+5=18\n\n18-3=15\n\n\\boxed{15}") + 1


def test_no_rollouts_no_nan() -> None:
    assert set(rollout_metrics([]).values()) == {0.0}


def test_a_set_is_scored() -> None:
    score = evaluate_set([group("cwww"), group("wwww"), group("cccx"), group("cccc")], ks=(1, 2), seed=0)
    assert score.num_problems == 4
    assert score.pass_at[1].mean == pytest.approx((0.25 + 0 + 0.75 + 1) / 4)
    assert score.pass_at[2].mean == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert score.pass_at[1].low < score.pass_at[1].mean < score.pass_at[1].high
    assert score.unsolved.mean == 0.25
    assert score.ungraded == 1 / 16


def test_a_score_is_json() -> None:
    read = json.loads(json.dumps(evaluate_set([group("cw")], ks=(1,), seed=0).as_dict()))
    assert read["figures"]["pass@1"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert read["figures"]["unsolved"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_an_undetermined_problem_is_neither_solved_nor_unsolved() -> None:
    score = evaluate_set([group("wx"), group("ww"), group("cw")], ks=(1,), seed=0)
    assert score.unsolved.mean == 0.5
    assert score.pass_at[1].mean == pytest.approx(0.5 / 3)


def test_an_empty_set_has_no_score() -> None:
    with pytest.raises(ValueError, match="without problems"):
        evaluate_set([], ks=(1,), seed=0)


def test_staleness_counts_tokens_and_follows_a_switch_of_weights() -> None:
    young, old = group("c", version=3), group("c", version=1)
    (rollout,) = old.rollouts
    length = len(rollout.completion.token_ids)  # that of both
    switched = replace(rollout, completion=replace(rollout.completion, switches=(length - 4, length - 1)))
    old = replace(old, rollouts=(switched,))  # of versions 1, then 2 for three tokens, then 3 for one
    metrics = staleness_metrics([young, old], policy_version=3)
    assert metrics["rollout/staleness_max"] == 2
    assert metrics["rollout/staleness_mean"] == pytest.approx((2 * (length - 4) + 1 * 3) / (2 * length))


def test_a_response_without_tokens_is_not_stale() -> None:
    empty = replace(group("t").rollouts[0], completion=completion("", finished=False))
    assert set(staleness_metrics([replace(group(""), rollouts=(empty,))], policy_version=5).values()) == {0.0}
