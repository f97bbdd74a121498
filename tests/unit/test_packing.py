"""Samples -> packed micro-batches: lossless, within the budget, in step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from int_ray.compute.packing import loss_count, pack, plan_micro_batches
from int_ray.types import TrainingSample


def sample(length: int, trained: int, **changes: object) -> TrainingSample:
    """Token ids 1..length of which the last `trained` are trained."""
    mask = np.zeros(length, np.uint8)
    mask[length - trained :] = 1
    return TrainingSample(np.arange(1, length + 1, dtype=np.int32), mask, **changes)  # pyright: ignore


def test_plan_of_one_rank_is_first_fit_longest_first() -> None:
    # 9 and 3 fill 12 tokens; 6, 5 and 1 as well; 2 and 2 are left.
    assert plan_micro_batches([2, 6, 9, 5, 3, 2, 1], 1, 12) == [[[2, 4], [1, 3, 6], [0, 5]]]


@given(
    lengths=st.lists(st.integers(1, 50), max_size=40),
    num_ranks=st.integers(1, 5),
    budget=st.integers(50, 200),
)
def test_plan_properties(lengths: list[int], num_ranks: int, budget: int) -> None:
    plan = plan_micro_batches(lengths, num_ranks, budget)
    flat = [index for rank in plan for micro_batch in rank for index in micro_batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert len(plan) == num_ranks
    assert len({len(rank) for rank in plan}) == 1 and plan[0]
    assert all(sum(lengths[index] for index in micro_batch) <= budget for rank in plan for micro_batch in rank)
    assert plan == plan_micro_batches(lengths, num_ranks, budget)


def test_ranks_get_about_the_same_number_of_tokens() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.8, size=512).astype(int) + 1
    plan = plan_micro_batches(lengths.tolist(), 8, int(lengths.max()))
    tokens = [sum(int(lengths[index]) for micro_batch in rank for index in micro_batch) for rank in plan]
    assert max(tokens) <= 1.01 * np.mean(tokens)


def test_balancing_loads_one_file_of_openrlhf_and_not_the_package() -> None:
    script = (
        "import sys; from int_ray.compute.packing import plan_micro_batches; "
        "plan_micro_batches(list(range(1, 40)), 4, 100); print('openrlhf' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_fewer_samples_than_ranks_leave_empty_micro_batches() -> None:
    assert plan_micro_batches([4], 3, 8) == [[[0]], [[]], [[]]]


def test_no_samples_are_one_empty_micro_batch() -> None:
    assert plan_micro_batches([], 2, 8) == [[[]], [[]]]


def test_a_sample_over_the_budget_is_named() -> None:
    with pytest.raises(ValueError, match=r"sample 1 has 9 tokens, more than learner.micro_batch_tokens = 8"):
        plan_micro_batches([8, 9], 2, 8)


def test_pack_puts_documents_one_after_the_other() -> None:
    logprobs = np.array([0.0, -1.0, -2.0], np.float32)
    batch = pack([sample(3, 2, advantage=0.5, rollout_logprobs=logprobs), sample(2, 1, advantage=-0.5)])
    assert batch.token_ids.tolist() == [1, 2, 3, 1, 2]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]
    assert batch.boundaries.tolist() == [0, 3, 5]
    assert batch.longest == 3
    assert batch.rows.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [2, 3, 2]
    assert batch.advantages.tolist() == [0.5, 0.5, -0.5]
    assert batch.rollout_logprobs[:2].tolist() == [-1.0, -2.0]
    assert batch.rollout_logprobs[2].isnan()
    assert (batch.token_ids.dtype, batch.boundaries.dtype) == (torch.int64, torch.int32)


@pytest.mark.parametrize(("mean", "weights"), [("token", [1, 1, 1]), ("sequence", [0.5, 0.5, 1])])
def test_weights_of_the_mean(mean: str, weights: list[float]) -> None:
    batch = pack([sample(3, 2), sample(4, 0), sample(2, 1)], mean)  # pyright: ignore
    assert batch.weights.tolist() == weights


def test_nothing_packs_to_one_token_that_trains_nothing() -> None:
    batch = pack([])
    assert batch.token_ids.tolist() == [0]
    assert batch.boundaries.tolist() == [0, 1]
    assert len(batch.rows) == len(batch.targets) == len(batch.weights) == 0


@pytest.mark.parametrize(("mean", "count"), [("token", 5), ("sequence", 2)])
def test_loss_count(mean: str, count: int) -> None:
    assert loss_count([sample(6, 2), sample(4, 3), sample(3, 0)], mean) == count  # pyright: ignore


def test_loss_count_refuses_what_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="no sample of this update"):
        loss_count([sample(3, 0)], "token")
    with pytest.raises(ValueError, match="first token"):
        loss_count([sample(3, 3)], "token")
