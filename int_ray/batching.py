"""Samples of one optimizer update -> padded micro-batches, the same number of them on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, cast

import torch

from int_ray.types import TrainingSample

MicroBatches = list[list[int]]  # sample indices per micro-batch; an empty one keeps the ranks in step


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """Right-padded samples. Padding needs no attention mask: under causal attention no token looks to its right."""

    token_ids: torch.Tensor  # [B, T], int64
    mask: torch.Tensor  # [B, T], bool: trained tokens
    advantages: torch.Tensor  # [B], float32
    rollout_logprobs: torch.Tensor  # [B, T], float32, NaN where unknown

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
        return TrainingBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def plan_micro_batches(lengths: Sequence[int], num_ranks: int, token_budget: int) -> list[MicroBatches]:
    """Per rank its micro-batches, each of at most `token_budget` padded tokens. Deterministic.

    Ranks get about the same number of tokens and exactly the same number of micro-batches, some of them empty:
    FSDP's collectives must match. Raises ValueError for a sample that is longer than the budget.
    """
    for index, length in enumerate(lengths):
        if length > token_budget:
            raise ValueError(
                f"sample {index} has {length} tokens, more than learner.micro_batch_tokens = {token_budget}: "
                "raise it to the longest sequence or lower rollout.max_tokens"
            )
    plan = [_fill(indices, lengths, token_budget) for indices in _balance(lengths, num_ranks)]
    most = max(len(micro_batches) for micro_batches in plan)
    return [micro_batches + [[] for _ in range(most - len(micro_batches))] for micro_batches in plan]


def _balance(lengths: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Sample indices per rank, balanced in tokens."""
    if num_ranks == 1 or len(lengths) <= num_ranks:
        return [list(range(rank, len(lengths), num_ranks)) for rank in range(num_ranks)]
    from openrlhf.utils.seqlen_balancing import get_seqlen_balanced_partitions  # seconds to import

    return cast(list[list[int]], get_seqlen_balanced_partitions(list(lengths), num_ranks, equal_size=False))


def _fill(indices: Sequence[int], lengths: Sequence[int], token_budget: int) -> MicroBatches:
    """Longest first, so that neighbours in a micro-batch have similar lengths and little padding."""
    micro_batches: MicroBatches = []
    for index in sorted(indices, key=lambda index: (-lengths[index], index)):
        # The first of a micro-batch is its longest: it sets the padded width.
        if micro_batches and lengths[micro_batches[-1][0]] * (len(micro_batches[-1]) + 1) <= token_budget:
            micro_batches[-1].append(index)
        else:
            micro_batches.append([index])
    return micro_batches


def loss_count(samples: Sequence[TrainingSample], mean: Literal["token", "sequence"]) -> int:
    """What a mean over these samples divides by: their trained tokens, or the samples that have any.

    Raises ValueError when there is nothing to train on or a sample trains its first token, which has no context.
    """
    tokens = [int(sample.loss_mask.sum()) for sample in samples]
    if not any(tokens):
        raise ValueError("no sample of this update has a token to train on")
    if any(sample.loss_mask[0] for sample in samples):
        raise ValueError("the first token of a sample has no context and cannot be trained: mask it")
    return sum(tokens) if mean == "token" else sum(count > 0 for count in tokens)


def collate(samples: Sequence[TrainingSample], pad_id: int) -> TrainingBatch:
    """Pad to the longest sample. No samples give one row of padding that trains nothing."""
    shape = (max(1, len(samples)), max([len(sample.token_ids) for sample in samples], default=2))
    batch = TrainingBatch(
        token_ids=torch.full(shape, pad_id, dtype=torch.int64),
        mask=torch.zeros(shape, dtype=torch.bool),
        advantages=torch.zeros(shape[0]),
        rollout_logprobs=torch.full(shape, torch.nan),
    )
    for row, sample in enumerate(samples):
        length = len(sample.token_ids)
        batch.token_ids[row, :length] = torch.tensor(sample.token_ids)
        batch.mask[row, :length] = torch.tensor(sample.loss_mask).bool()
        batch.advantages[row] = sample.advantage
        if sample.rollout_logprobs is not None:
            batch.rollout_logprobs[row, :length] = torch.tensor(sample.rollout_logprobs)
    return batch
