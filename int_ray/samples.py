"""What the learner trains on: tested interventions or solutions -> SFT samples, rollout groups -> GRPO samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from int_ray.advantages import group_advantages, overlong_penalties
from int_ray.training_config import PatchConfig, ReinforceConfig
from int_ray.types import Outcome, RolloutGroup, TestedIntervention, TokenIds, TrainingSample


def patch_batches(tested: Sequence[TestedIntervention], config: PatchConfig, seed: int) -> list[list[TrainingSample]]:
    """What is cloned of tested interventions, as `sft_batches` (section 4.2)."""
    return sft_batches([patch_sample(item, config) for item in tested], config, seed)


def sft_batches(samples: Sequence[TrainingSample], config: PatchConfig, seed: int) -> list[list[TrainingSample]]:
    """One batch per optimizer update, all epochs one after the other, each in an order of its own.

    The last batch of an epoch may be smaller.
    """
    orders = np.random.default_rng(seed)
    return [
        [samples[index] for index in order[start : start + config.batch_size]]
        for order in (orders.permutation(len(samples)) for _ in range(config.epochs))
        for start in range(0, len(samples), config.batch_size)
    ]


def patch_sample(tested: TestedIntervention, config: PatchConfig) -> TrainingSample:
    """Prompt, prefix and intervention. Ends mid-solution, without an end token, unless a suffix is cloned (Table 1)."""
    intervention = tested.intervention
    parts = [
        (intervention.attempt.prompt_ids, 0),
        (intervention.prefix_ids, int(config.clone_prefix)),
        (intervention.intervention_ids, 1),
    ]
    if config.clone_suffix:
        parts.append((_successful_suffix(tested), 1))
    return TrainingSample(
        token_ids=np.concatenate([ids for ids, _ in parts]),
        loss_mask=np.concatenate([np.full(len(ids), trained, np.uint8) for ids, trained in parts]),
    )


def _successful_suffix(tested: TestedIntervention) -> TokenIds:
    """The first right continuation as sampled, end token included; no token if none is right."""
    rollouts = tested.continuations.rollouts if tested.continuations else ()
    right = (rollout.completion.token_ids for rollout in rollouts if rollout.outcome is Outcome.CORRECT)
    return next(right, np.array([], np.int32))


def spread(groups: Sequence[RolloutGroup], among: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """All groups, the first ones evenly distributed among the others, so that every update gets its share of both."""
    placed = [((index + 0.5) / len(part), group) for part in (groups, among) for index, group in enumerate(part)]
    return [group for _, group in sorted(placed, key=lambda item: item[0])]


def reinforce_batches(
    groups: Sequence[RolloutGroup], config: ReinforceConfig, max_tokens: int
) -> list[list[TrainingSample]]:
    """One batch per optimizer update: `mini_batch_size` problems each, the last one maybe fewer (section 4.3).

    Rollouts that the grader could not judge are left out, and so are groups of equal outcomes with
    `zero_advantage: drop`. No batch if nothing could move the weights. `max_tokens` is the longest response, for the
    overlong penalty.
    """
    drop = config.zero_advantage == "drop"
    kept = [group for group in groups if group.graded and not (drop and group.has_zero_advantage)]
    samples = [_group_samples(group, config, max_tokens) for group in kept]
    regularized = config.kl_coef > 0 or config.entropy_coef > 0
    if not regularized and not any(sample.advantage for sample in chain.from_iterable(samples)):
        return []
    size = config.mini_batch_size
    return [list(chain.from_iterable(samples[start : start + size])) for start in range(0, len(samples), size)]


def _group_samples(group: RolloutGroup, config: ReinforceConfig, max_tokens: int) -> list[TrainingSample]:
    """One sample per judged rollout of a group, with its advantage."""
    context = np.concatenate([group.prompt_ids, group.prefix_ids])
    lengths = np.array([len(group.prefix_ids) + len(rollout.completion.token_ids) for rollout in group.graded])
    rewards = np.array([rollout.reward for rollout in group.graded])
    rewards += overlong_penalties(lengths, max_tokens, config.overlong_buffer, config.overlong_penalty)
    advantages = group_advantages(rewards, std=config.advantage_std)
    return [
        TrainingSample(
            token_ids=np.concatenate([context, rollout.completion.token_ids]),
            loss_mask=np.repeat(np.array([0, 1], np.uint8), [len(context), len(rollout.completion.token_ids)]),
            advantage=float(advantage),
            rollout_logprobs=np.concatenate([np.zeros(len(context), np.float32), rollout.completion.rollout_logprobs]),
        )
        for rollout, advantage in zip(group.graded, advantages, strict=True)
    ]
