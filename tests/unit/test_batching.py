from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from int_ray.batching import collate, loss_count, plan_micro_batches
from int_ray.types import TrainingSample


def sample(length: int, trained: int, **changes: object) -> TrainingSample:
    """Token ids 1..length of which the last `trained` are trained."""
    mask = np.zeros(length, np.uint8)
    mask[length - trained :] = 1
    return TrainingSample(np.arange(1, length + 1, dtype=np.int32), mask, **changes)  # pyright: ignore


def test_plan_of_one_rank_fills_micro_batches_longest_first() -> None:
    # 9 stands alone within 12 padded tokens; 6 + 5 pad to 12; 3 and three of 2 and 1 pad to 12.
    assert plan_micro_batches([2, 6, 9, 5, 3, 2, 1], 1, 12) == [[[2], [1, 3], [4, 0, 5, 6]]]


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
    assert len({len(rank) for rank in plan}) == 1
    for micro_batch in (micro_batch for rank in plan for micro_batch in rank if micro_batch):
        assert max(lengths[index] for index in micro_batch) * len(micro_batch) <= budget
    assert plan == plan_micro_batches(lengths, num_ranks, budget)


def test_ranks_get_about_the_same_number_of_tokens() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.8, size=512).astype(int) + 1
    plan = plan_micro_batches(lengths.tolist(), 8, int(lengths.max()))
    tokens = [sum(int(lengths[index]) for micro_batch in rank for index in micro_batch) for rank in plan]
    assert max(tokens) <= 1.01 * np.mean(tokens)


def test_fewer_samples_than_ranks_leave_empty_micro_batches() -> None:
    assert plan_micro_batches([4], 3, 8) == [[[0]], [[]], [[]]]


def test_a_sample_over_the_budget_is_named() -> None:
    with pytest.raises(ValueError, match=r"sample 1 has 9 tokens, more than learner.micro_batch_tokens = 8"):
        plan_micro_batches([8, 9], 2, 8)


def test_collate_pads_to_the_right() -> None:
    logprobs = np.array([0.0, -1.0, -2.0], np.float32)
    batch = collate([sample(3, 2, advantage=0.5, rollout_logprobs=logprobs), sample(2, 1, advantage=-0.5)], pad_id=99)
    assert batch.token_ids.tolist() == [[1, 2, 3], [1, 2, 99]]
    assert batch.mask.tolist() == [[False, True, True], [False, True, False]]
    assert batch.advantages.tolist() == [0.5, -0.5]
    assert batch.rollout_logprobs[0].tolist() == [0.0, -1.0, -2.0]
    assert batch.rollout_logprobs[1].isnan().all()


def test_collate_of_nothing_trains_nothing() -> None:
    batch = collate([], pad_id=7)
    assert batch.token_ids.tolist() == [[7, 7]]
    assert not batch.mask.any()


def test_collated_dtypes() -> None:
    batch = collate([sample(3, 1)], pad_id=0).to("cpu")
    assert (batch.token_ids.dtype, batch.mask.dtype) == (torch.int64, torch.bool)


@pytest.mark.parametrize(("mean", "count"), [("token", 5), ("sequence", 2)])
def test_loss_count(mean: str, count: int) -> None:
    assert loss_count([sample(6, 2), sample(4, 3), sample(3, 0)], mean) == count  # pyright: ignore


def test_loss_count_refuses_what_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="no sample of this update"):
        loss_count([sample(3, 0)], "token")
    with pytest.raises(ValueError, match="first token"):
        loss_count([sample(3, 3)], "token")
