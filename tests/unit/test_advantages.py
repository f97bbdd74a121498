from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from int_ray.advantages import group_advantages, overlong_penalties


def test_advantage_is_reward_minus_mean() -> None:
    assert group_advantages(np.array([1.0, 0.0, 0.0, 1.0, 0.0]), std=False) == pytest.approx(
        [0.6, -0.4, -0.4, 0.6, -0.4]
    )


def test_advantage_over_the_sample_deviation() -> None:
    # Deviations +-1/2 over four rewards: the sample variance is 1/3.
    expected = 0.5 / (np.sqrt(1 / 3) + 1e-6)
    assert group_advantages(np.array([1.0, 0.0, 0.0, 1.0]), std=True) == pytest.approx(
        [expected, -expected, -expected, expected]
    )


@pytest.mark.parametrize("std", [True, False])
@pytest.mark.parametrize("rewards", [[0.0, 0.0, 0.0], [1.0, 1.0], [1.0]])
def test_equal_rewards_have_no_advantage(rewards: list[float], std: bool) -> None:
    assert group_advantages(np.array(rewards), std=std).tolist() == [0.0] * len(rewards)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=32), st.booleans())
def test_advantages_sum_to_zero_and_keep_the_order(rewards: list[int], std: bool) -> None:
    advantages = group_advantages(np.array(rewards), std=std)
    assert advantages.sum() == pytest.approx(0, abs=1e-9)
    assert all(
        advantage > 0 for advantage, reward in zip(advantages, rewards, strict=True) if reward > np.mean(rewards)
    )


def test_overlong_penalty_grows_over_the_buffer() -> None:
    penalties = overlong_penalties(np.array([10, 80, 85, 90, 100]), max_tokens=100, buffer=20, factor=0.5)
    assert penalties.tolist() == pytest.approx([0.0, 0.0, -0.125, -0.25, -0.5])


def test_no_buffer_no_penalty() -> None:
    assert overlong_penalties(np.array([100, 200]), max_tokens=100, buffer=0, factor=1.0).tolist() == [0.0, 0.0]


def test_overlong_penalty_equals_openrlhf() -> None:
    from openrlhf.trainer.ppo_utils.length_penalty import apply_overlong_penalty

    lengths = np.random.default_rng(0).integers(1, 130, size=200)
    experience = SimpleNamespace(response_length=torch.tensor(lengths), rewards=torch.zeros(200, dtype=torch.float64))
    apply_overlong_penalty([experience], max_new_tokens=100, overlong_buffer_len=32, overlong_penalty_factor=0.7)
    np.testing.assert_allclose(overlong_penalties(lengths, 100, 32, 0.7), experience.rewards.numpy(), atol=1e-12)
