from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import bootstrap

from int_ray.resampling import aligned, estimate


def test_only_what_all_have_is_compared_and_in_the_same_order():
    left = {1: {"b": 1.0, "a": 0.5, "c": 9.0}, 0: {"a": 0.0, "b": 0.25}, 7: {"a": 1.0}}
    right = {0: {"b": 0.0, "a": 1.0}, 1: {"a": 0.0, "b": 0.5}}
    ours, theirs = aligned(left, right)
    assert ours.tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert theirs.tolist() == [[1.0, 0.0], [0.0, 0.5]]


@pytest.mark.parametrize("other", [{}, {5: {"a": 1.0}}, {0: {"z": 1.0}}, {0: {}}])
def test_nothing_in_common_is_empty(other: dict):
    assert all(table.size == 0 for table in aligned({0: {"a": 1.0}}, other))


def test_two_seeds_that_disagree_leave_everything_open():
    # Of two seeds a resample has the first twice (1/4), both (1/2) or the second twice: means 1, 0.5 and 0.
    found = estimate([np.array([[1.0, 1.0], [0.0, 0.0]])])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_two_problems_of_one_seed_leave_everything_open():
    found = estimate([np.array([[1.0, 0.0]])])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_more_seeds_on_the_same_problems_are_no_more_problems():
    # Every seed solves the same two of four problems. 4 draws of them have at most one success in 5 of 16 cases:
    # however many seeds agree, the interval reaches down to 1/4 at least.
    assert estimate([np.repeat([[1.0, 1.0, 0.0, 0.0]], 50, axis=0)]).low <= 0.25


def test_sets_have_the_same_weight_whatever_their_size():
    assert estimate([np.ones((1, 9)), np.zeros((1, 1))]).mean == 0.5


def test_one_seed_agrees_with_scipy():
    values = np.random.default_rng(3).random(64)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    ours = estimate([values[None]])
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_seeds_alone_agree_with_scipy():
    values = np.random.default_rng(4).normal(size=12)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    ours = estimate([values[:, None]])
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_means_of_resamples_agree_with_drawing_them_one_by_one():
    values = np.random.default_rng(5).random((3, 8))
    rng, means = np.random.default_rng(6), []
    for _ in range(20_000):
        seeds, problems = rng.integers(3, size=3), rng.integers(8, size=8)
        means.append(values[np.ix_(seeds, problems)].mean())
    ours = estimate([values])
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.02)


@given(arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(0, 1)), st.floats(-1, 1))
@settings(max_examples=30)
def test_an_interval_holds_its_mean_and_moves_with_the_values(values: np.ndarray, shift: float):
    found, moved = estimate([values]), estimate([values + shift])
    assert values.min() - 1e-9 <= found.low <= found.mean + 1e-9 and found.mean <= found.high + 1e-9 <= 1 + 1e-8
    assert (moved.low, moved.high) == pytest.approx((found.low + shift, found.high + shift))
    assert found == estimate([values])


def test_no_difference_has_no_width():
    found = estimate([np.zeros((3, 4))])
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("sets", [[], [np.zeros((0, 3))], [np.ones((1, 1)), np.zeros((1, 0))]])
def test_of_nothing_there_is_no_estimate(sets: list):
    with pytest.raises(ValueError, match="nothing was measured"):
        estimate(sets)
