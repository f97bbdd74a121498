"""Training samples, by hand. In these tests a token is a character and 1 is the end token."""

from __future__ import annotations

import numpy as np
import pytest

from int_ray.samples import patch_batches, patch_sample, reinforce_batches, spread
from int_ray.training_config import PatchConfig, ReinforceConfig
from int_ray.types import Completion, Intervention, Outcome, Proposal, Rollout, RolloutGroup, TestedIntervention
from tests.factories import attempt, group, problem

END = 1


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def patchable(first: int = 10, outcomes: str = "wc") -> TestedIntervention:
    """Prompt 3 4, prefix `first` 11, intervention 20 21 22."""
    intervention = Intervention(attempt("a", "b"), Proposal(2, "c"), ids(first, 11), ids(20, 21, 22))
    return TestedIntervention(intervention, group(outcomes))


def rollout(length: int, outcome: Outcome) -> Rollout:
    completion = Completion(np.full(length, 7, np.int32), np.full(length, -0.25, np.float32), "7", True, 0)
    return Rollout(completion, outcome, 0)


@pytest.mark.parametrize(("clone_prefix", "mask"), [(True, [0, 0, 1, 1, 1, 1, 1]), (False, [0, 0, 0, 0, 1, 1, 1])])
def test_a_patch_trains_prefix_and_intervention_without_an_end_token(clone_prefix: bool, mask: list[int]) -> None:
    sample = patch_sample(patchable(), PatchConfig(clone_prefix=clone_prefix))
    assert sample.token_ids.tolist() == [3, 4, 10, 11, 20, 21, 22]
    assert sample.loss_mask.tolist() == mask
    assert (sample.token_ids.dtype, sample.loss_mask.dtype) == (np.int32, np.uint8)


def test_a_cloned_suffix_is_a_right_continuation_as_sampled_with_its_end_token() -> None:
    item = patchable(outcomes="wc")
    assert item.continuations is not None
    suffix = item.continuations.rollouts[1].completion.token_ids
    sample = patch_sample(item, PatchConfig(clone_suffix=True))
    assert sample.token_ids[7:].tolist() == suffix.tolist()
    assert sample.token_ids[-1] == END
    assert sample.loss_mask.tolist() == [0, 0] + [1] * (5 + len(suffix))


def test_without_a_right_continuation_there_is_no_suffix() -> None:
    config = PatchConfig(clone_suffix=True)
    assert len(patch_sample(patchable(outcomes="ww"), config).token_ids) == 7
    assert len(patch_sample(TestedIntervention(patchable().intervention, None), config).token_ids) == 7


def test_every_epoch_holds_every_intervention_once_in_an_order_of_its_own() -> None:
    items = [patchable(first) for first in range(30, 40)]
    batches = patch_batches(items, PatchConfig(batch_size=4, epochs=3), seed=5)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [[int(sample.token_ids[2]) for batch in batches[i : i + 3] for sample in batch] for i in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(30, 40))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_patch_batches_follow_from_the_seed() -> None:
    items = [patchable(first) for first in range(30, 40)]

    def order(seed: int) -> list[int]:
        batches = patch_batches(items, PatchConfig(batch_size=4, epochs=2), seed)
        return [int(sample.token_ids[2]) for batch in batches for sample in batch]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_nothing_to_patch_is_no_batch() -> None:
    assert patch_batches([], PatchConfig(), seed=0) == []


def test_dropping_leaves_groups_with_a_signal_and_judged_rollouts() -> None:
    config = ReinforceConfig(mini_batch_size=2, advantage_std=False, zero_advantage="drop")
    groups = [group("wwww"), group("cwxe"), group("cccc"), group("ccww"), group("cx"), group("wc")]
    batches = reinforce_batches(groups, config, max_tokens=100)
    advantages = [[sample.advantage for sample in batch] for batch in batches]
    assert advantages == [[0.5, -0.5, 0.5, 0.5, -0.5, -0.5], [-0.5, 0.5]]


def test_a_reinforced_rollout_is_trained_on_all_its_tokens() -> None:
    answers = (rollout(2, Outcome.CORRECT), rollout(3, Outcome.WRONG))
    groups = [RolloutGroup(problem(), ids(3, 4), ids(), answers)]
    [[right, wrong]] = reinforce_batches(groups, ReinforceConfig(), max_tokens=100)
    assert right.token_ids.tolist() == [3, 4, 7, 7]
    assert wrong.loss_mask.tolist() == [0, 0, 1, 1, 1]
    assert wrong.rollout_logprobs is not None
    assert wrong.rollout_logprobs.tolist() == [0, 0, -0.25, -0.25, -0.25]
    assert (right.token_ids.dtype, wrong.rollout_logprobs.dtype) == (np.int32, np.float32)


def test_a_prefix_that_was_given_is_not_trained() -> None:
    answers = (rollout(1, Outcome.CORRECT), rollout(1, Outcome.WRONG))
    [[sample, _]] = reinforce_batches([RolloutGroup(problem(), ids(3), ids(5, 6), answers)], ReinforceConfig(), 100)
    assert sample.token_ids.tolist() == [3, 5, 6, 7]
    assert sample.loss_mask.tolist() == [0, 0, 0, 1]


def test_advantages_are_divided_by_the_deviation_if_asked_for() -> None:
    [[right, wrong]] = reinforce_batches([group("cw")], ReinforceConfig(advantage_std=True), max_tokens=100)
    assert right.advantage == pytest.approx(0.5**0.5, abs=1e-4)
    assert wrong.advantage == pytest.approx(-(0.5**0.5), abs=1e-4)


def test_overlong_responses_lose_reward_in_the_buffer_only() -> None:
    answers = (rollout(10, Outcome.CORRECT), rollout(8, Outcome.WRONG), rollout(6, Outcome.WRONG))
    config = ReinforceConfig(overlong_buffer=4, overlong_penalty=1.0, advantage_std=False)
    [batch] = reinforce_batches([RolloutGroup(problem(), ids(3), ids(), answers)], config, max_tokens=10)
    # rewards 1 - 1, 0 - 0.5, 0 with the mean -1/6
    assert [sample.advantage for sample in batch] == pytest.approx([1 / 6, -1 / 3, 1 / 6])


def test_keeping_counts_every_judged_group() -> None:
    config = ReinforceConfig(mini_batch_size=2, advantage_std=False, zero_advantage="keep")
    groups = [group("ww"), group("xe"), group("cw"), group("cc")]
    batches = reinforce_batches(groups, config, max_tokens=100)
    advantages = [[sample.advantage for sample in batch] for batch in batches]
    assert advantages == [[0, 0, 0.5, -0.5], [0, 0]]


def test_without_any_signal_there_is_something_to_train_only_for_kl_or_entropy() -> None:
    dead = [group("ww"), group("cc")]
    plain = ReinforceConfig(kl_coef=0.0, entropy_coef=0.0)
    assert reinforce_batches(dead, plain, max_tokens=100) == []
    assert len(reinforce_batches([*dead, group("cw")], plain, max_tokens=100)) == 1
    for regularized in (ReinforceConfig(kl_coef=0.1), ReinforceConfig(kl_coef=0.0, entropy_coef=0.1)):
        assert len(reinforce_batches(dead, regularized, max_tokens=100)) == 1
        assert reinforce_batches([group("xx")], regularized, max_tokens=100) == []


def test_a_penalty_alone_is_a_signal_unless_such_groups_are_dropped() -> None:
    answers = (rollout(10, Outcome.WRONG), rollout(1, Outcome.WRONG))
    groups = [RolloutGroup(problem(), ids(3), ids(), answers)]
    keep = ReinforceConfig(overlong_buffer=4, kl_coef=0.0, advantage_std=False)
    [[long, short]] = reinforce_batches(groups, keep, max_tokens=10)
    assert (long.advantage, short.advantage) == (-0.5, 0.5)
    assert reinforce_batches(groups, keep.model_copy(update={"zero_advantage": "drop"}), max_tokens=10) == []


def test_spread_gives_every_part_its_share():
    hard, easy = [group("w", index=index) for index in range(6)], [group("c", index=index) for index in range(10, 12)]
    order = [item.problem.id for item in spread(easy, among=hard)]
    assert order == ["p0", "p10", "p1", "p2", "p3", "p11", "p4", "p5"]
    assert spread([], among=hard) == hard and spread(easy, among=[]) == easy
