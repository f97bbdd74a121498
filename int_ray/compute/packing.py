"""Samples of one optimizer update -> micro-batches without padding, the same number of them on every rank."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from int_ray.types import TrainingSample

MicroBatches = list[list[int]]  # sample indices per micro-batch; an empty one keeps the ranks in step
LossMean = Literal["token", "sequence"]


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """Sequences one after the other: T tokens of D documents, N of which are trained. Attention ends at boundaries."""

    token_ids: torch.Tensor  # [T], int64
    positions: torch.Tensor  # [T], int64, from 0 in every document
    boundaries: torch.Tensor  # [D + 1], int32: document d is tokens boundaries[d]:boundaries[d + 1]
    longest: int  # tokens of the longest document
    rows: torch.Tensor  # [N], int64: the token before each trained one, whose hidden state predicts it
    targets: torch.Tensor  # [N], int64: the trained tokens
    advantages: torch.Tensor  # [N], float32
    rollout_logprobs: torch.Tensor  # [N], float32, NaN where unknown
    weights: torch.Tensor  # [N], float32: 1 for a mean over tokens; 1 / trained tokens of its sample for sequences

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on another device."""
        tensors = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **tensors)


def pack(samples: Sequence[TrainingSample], mean: LossMean = "token") -> PackedBatch:
    """One document per sample. No samples give one token that trains nothing: a rank that waits for the others."""
    token_ids = [sample.token_ids for sample in samples] or [np.zeros(1, np.int32)]
    lengths = [len(ids) for ids in token_ids]
    starts = np.cumsum([0, *lengths])
    trained = [np.flatnonzero(sample.loss_mask) for sample in samples]
    counts = [len(indices) for indices in trained]
    targets = _joined([start + indices for start, indices in zip(starts[:-1], trained, strict=False)], np.int64)
    packed_ids = np.concatenate(token_ids).astype(np.int64)
    shares = [1.0 if mean == "token" else 1.0 / max(1, count) for count in counts]
    known = [_trained_logprobs(sample, indices) for sample, indices in zip(samples, trained, strict=True)]
    return PackedBatch(
        token_ids=torch.from_numpy(packed_ids),
        positions=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        boundaries=torch.from_numpy(starts.astype(np.int32)),
        longest=max(lengths),
        rows=torch.from_numpy(targets - 1),
        targets=torch.from_numpy(packed_ids[targets]),
        advantages=torch.from_numpy(np.repeat([sample.advantage for sample in samples], counts).astype(np.float32)),
        rollout_logprobs=torch.from_numpy(_joined(known, np.float32)),
        weights=torch.from_numpy(np.repeat(shares, counts).astype(np.float32)),
    )


def _trained_logprobs(sample: TrainingSample, trained: np.ndarray) -> np.ndarray:
    """The engine's log-probs of a sample's trained tokens, NaN if there are none."""
    if sample.rollout_logprobs is None:
        return np.full(len(trained), np.nan, np.float32)
    return sample.rollout_logprobs[trained]


def _joined(parts: Sequence[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def loss_count(samples: Sequence[TrainingSample], mean: LossMean) -> int:
    """What a mean over these samples divides by.

    Raises ValueError when there is nothing to train on or a sample trains its first token, which has no context.
    """
    count = trained_count(samples, mean)
    if not count:
        raise ValueError("no sample of this update has a token to train on")
    if any(sample.loss_mask[0] for sample in samples):
        raise ValueError("the first token of a sample has no context and cannot be trained: mask it")
    return count


def trained_count(samples: Sequence[TrainingSample], mean: LossMean) -> int:
    """The trained tokens of these samples, or the samples that have any."""
    tokens = [int(np.count_nonzero(sample.loss_mask)) for sample in samples]
    return sum(tokens) if mean == "token" else sum(count > 0 for count in tokens)


def plan_micro_batches(lengths: Sequence[int], num_ranks: int, token_budget: int) -> list[MicroBatches]:
    """Per rank its micro-batches, each of at most `token_budget` tokens. Deterministic.

    Ranks get about the same number of tokens and exactly the same number of micro-batches, at least one, some of them
    empty: FSDP's collectives must match. Raises ValueError for a sample that is longer than the budget.
    """
    for index, length in enumerate(lengths):
        if length > token_budget:
            raise ValueError(
                f"sample {index} has {length} tokens, more than learner.micro_batch_tokens = {token_budget}: "
                "raise it to the longest sequence or lower rollout.max_tokens"
            )
    plan = [_fill(indices, lengths, token_budget) for indices in _balance(lengths, num_ranks)]
    most = max(1, *(len(micro_batches) for micro_batches in plan))
    return [micro_batches + [[] for _ in range(most - len(micro_batches))] for micro_batches in plan]


def _balance(lengths: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Sample indices per rank, balanced in tokens."""
    if num_ranks == 1 or len(lengths) <= num_ranks:
        return [list(range(rank, len(lengths), num_ranks)) for rank in range(num_ranks)]
    return _partitioner()(list(lengths), num_ranks, equal_size=False)


@cache
def _partitioner() -> Callable[..., list[list[int]]]:
    """OpenRLHF's balanced partitions. Its file is loaded alone: the package takes seconds to import."""
    package = importlib.util.find_spec("openrlhf")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "learner.num_ranks above 1 needs the package openrlhf: pip install --no-deps openrlhf"
        )
    file = Path(package.submodule_search_locations[0]) / "utils" / "seqlen_balancing.py"
    spec = importlib.util.spec_from_file_location("seqlen_balancing", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_seqlen_balanced_partitions


def _fill(indices: Sequence[int], lengths: Sequence[int], token_budget: int) -> MicroBatches:
    """First fit, longest first."""
    micro_batches: MicroBatches = []
    room: list[int] = []  # per micro-batch
    for index in sorted(indices, key=lambda index: (-lengths[index], index)):
        place = next((place for place, left in enumerate(room) if left >= lengths[index]), None)
        if place is None:
            micro_batches.append([index])
            room.append(token_budget - lengths[index])
        else:
            micro_batches[place].append(index)
            room[place] -= lengths[index]
    return micro_batches
