"""The plan of micro-batches: how much of them is padding, how even the ranks are, how long planning takes."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence

from benchmarks.fresh import in_fresh_process
from benchmarks.measure import Figure, Scale, at_most, interquartile_range
from benchmarks.workloads import lognormal_lengths, training_samples
from int_ray.compute.packing import MicroBatches, pack, plan_micro_batches

SAMPLES, RANKS, BUDGET = 512, 8, 16_384


def run(scale: Scale) -> list[Figure]:
    """512 lognormal lengths (mean 1,800 tokens, sigma 0.8) on 8 ranks."""
    lengths = lognormal_lengths(SAMPLES, mean=1800, sigma=0.8, longest=BUDGET // 2)
    plan = plan_micro_batches(lengths, RANKS, BUDGET)
    rank_tokens = [sum(lengths[index] for micro_batch in rank for index in micro_batch) for rank in plan]
    arrival = [sum(lengths[rank::RANKS]) for rank in range(RANKS)]
    padded = 1 - sum(lengths) / (len(lengths) * max(lengths))
    starts = sorted(in_fresh_process(first_plan_ms, lengths) for _ in range(5 if scale is Scale.FULL else 1))
    return [
        at_most(
            "packing.waste",
            1 - sum(lengths) / processed_tokens(plan, lengths),
            0.01,
            limit="0",
            note=f"padding all to the longest would waste {padded:.2f}",
        ),
        at_most(
            "packing.rank_imbalance",
            max(rank_tokens) * RANKS / sum(rank_tokens),
            1.03,
            limit="1.0",
            note=f"dealt out in the order of arrival: {max(arrival) * RANKS / sum(arrival):.3f}",
        ),
        at_most(
            "packing.first_plan_ms",
            starts[len(starts) // 2],
            50,
            limit="0",
            spread=interquartile_range(starts),
            note="includes loading the partitioner",
        ),
    ]


def processed_tokens(plan: Sequence[MicroBatches], lengths: Sequence[int]) -> int:
    """What the ranks really send through the model: rows of the packed batches, the empty ones' included."""
    samples = training_samples(lengths, prompt=1, vocabulary=100)
    batches = (pack([samples[index] for index in micro_batch]) for rank in plan for micro_batch in rank)
    return sum(len(batch.token_ids) for batch in batches)


def first_plan_ms(lengths: list[int]) -> float:
    """Milliseconds of a process's first plan, loading the partitioner included.

    What was imported before is frozen, as a learner rank does: else the first full garbage collection may fall in here.
    """
    gc.collect()
    gc.freeze()
    started = time.perf_counter()
    plan_micro_batches(lengths, RANKS, BUDGET)
    return 1e3 * (time.perf_counter() - started)
