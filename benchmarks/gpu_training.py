"""Figures of whole training steps on one GPU: use of its arithmetic, its memory, and what packing saves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from benchmarks.bare import BareStep, use_document_attention
from benchmarks.flops import train_flops
from benchmarks.gpu_machine import Machine
from benchmarks.measure import Figure, alternated, at_least, at_most
from benchmarks.trainers import TEMPERATURE, Setup, cleared, make_trainer, random_model, trainer_step
from benchmarks.workloads import lognormal_lengths, training_samples
from int_ray.compute.packing import pack
from int_ray.compute.trainer import Trainer
from int_ray.types import TrainingSample

LOGPROB_TOLERANCE = 0.05  # mean over tokens, of bf16


def packed_8k(machine: Machine) -> list[Figure]:
    """Use of the arithmetic at 8k packed tokens: documents of 1k to 8k, nothing recomputed, optimizer included."""
    drawn = lognormal_lengths(24, mean=machine.tokens(3), sigma=0.6, longest=machine.tokens(8))
    lengths = [max(machine.tokens(1), length) for length in drawn]
    trainer = _trainer(machine, _setup_8k(machine))
    seconds = _step_seconds(machine, trainer, lengths, rounds=10, warm_up=3)
    return _use_of_arithmetic(machine, "8k", 0.45, lengths, seconds)


def long_document(machine: Machine) -> list[Figure]:
    """The same for two documents of 32k, one per micro-batch, every layer recomputed; and the memory that it takes."""
    length = machine.tokens(32)
    setup = Setup(
        micro_batch_tokens=length, activation_checkpointing="full", compile=not machine.is_toy, device=machine.device
    )
    _trainer.cache_clear()  # whose memory would count
    machine.free()
    trainer = make_trainer(machine.config, setup)
    seconds = _step_seconds(machine, trainer, [length] * 2, rounds=5, warm_up=2)
    samples = _samples(machine, [length])
    peak = machine.peak_bytes(lambda: trainer.reinforce([samples]))
    note = "fp32 weights, gradients and moments are 16 bytes a parameter; logits of every token would be 20 GB a copy"
    memory = at_most("gpu.peak_memory_32k_gb", peak / 1e9, 48, limit="32: state, bf16 weights, checkpoints", note=note)
    return [*_use_of_arithmetic(machine, "32k", 0.38, [length] * 2, seconds), memory]


def over_torch(machine: Machine) -> list[Figure]:
    """One 8k document against the same by hand in plain bf16, compiled as well; no optimizer on either side.

    Both must find the same log-probs, as far as bf16 goes.
    """
    samples = _samples(machine, [machine.tokens(8)])
    trainer = _trainer(machine, _setup_8k(machine))
    ours = cleared(trainer_step(trainer, samples), trainer.policy)
    model = random_model(machine.config, machine.device)
    use_document_attention(model)
    if not machine.is_toy:
        model = model.bfloat16()
        layers: Any = model.base_model.layers
        for layer in layers:
            layer.compile()
    bare = BareStep(model, samples, TEMPERATURE, entropy_coef=0.0)
    _require_equal_logprobs(trainer, bare, samples)
    steps = (ours, cleared(bare, model))
    try:
        pairs = alternated(*(partial(machine.seconds, step, 3) for step in steps), pairs=machine.rounds(4))
    finally:
        trainer.optimization = None  # the step had put something else there
    return [at_least("gpu.tokens_per_s_over_torch_8k", pairs, 0.97, limit="1.0")]


def _require_equal_logprobs(trainer: Trainer, bare: BareStep, samples: Sequence[TrainingSample]) -> None:
    """Raises AssertionError if the two would not train on the same. Log-probs of random weights spread by about 1."""
    with torch.no_grad():
        theirs, _ = bare.score()
    ours = trainer.policy.logprobs(pack(samples).to(theirs.device), TEMPERATURE)
    difference = (ours - theirs).abs().mean().item()
    assert difference < LOGPROB_TOLERANCE, f"mean difference of log-probs: {difference:.3g}"


def packed_over_padded(machine: Machine) -> list[Figure]:
    """The trainer on lognormal lengths, and on the same samples padded to the longest."""
    trainer = _trainer(machine, _setup_8k(machine))
    lengths = lognormal_lengths(16, mean=machine.tokens(2), sigma=0.8, longest=machine.tokens(8))
    samples = _samples(machine, lengths)
    padded = [_padded(sample, max(lengths)) for sample in samples]
    seconds = [machine.seconds(lambda batch=batch: trainer.reinforce([batch]), 2) for batch in (samples, padded)]
    longest_over_mean = max(lengths) * len(lengths) / sum(lengths)
    goal = round(0.9 * longest_over_mean, 2)
    limit = f"{longest_over_mean:.2f}: longest over mean length"
    return [at_least("gpu.packed_over_padded", [(seconds[0], seconds[1])], goal, limit=limit)]


def reference_share(machine: Machine) -> list[Figure]:
    """Share of a step that the KL reference takes."""
    lengths = [machine.tokens(8)] * 4
    without = _step_seconds(machine, _trainer(machine, _setup_8k(machine)), lengths, rounds=3)
    trainer = _trainer(machine, _setup_8k(machine, kl_coef=0.001))
    share = 1 - without / _step_seconds(machine, trainer, lengths, rounds=3)
    return [at_most("gpu.reference_share", share, 0.26, limit="0.25: one forward pass of four equal parts")]


def _setup_8k(machine: Machine, kl_coef: float = 0.0) -> Setup:
    """Memory is plenty at this size: nothing is recomputed, neither layers nor logits."""
    tokens = machine.tokens(8)
    return Setup(
        kl_coef=kl_coef,
        micro_batch_tokens=tokens,
        head_chunk=tokens,
        compile=not machine.is_toy,
        device=machine.device,
    )


@lru_cache(maxsize=1)
def _trainer(machine: Machine, setup: Setup) -> Trainer:
    """The latest one is kept, since compiling takes longer than measuring."""
    machine.free()
    return make_trainer(machine.config, setup)


def _step_seconds(machine: Machine, trainer: Trainer, lengths: Sequence[int], rounds: int, warm_up: int = 1) -> float:
    """Of one update with its optimizer step."""
    samples = _samples(machine, lengths)
    return machine.seconds(lambda: trainer.reinforce([samples]), rounds, warm_up)


def _samples(machine: Machine, lengths: Sequence[int]) -> list[TrainingSample]:
    """Every token but a document's first is trained."""
    return training_samples(lengths, 1, machine.config.vocab_size)


def _padded(sample: TrainingSample, width: int) -> TrainingSample:
    """The same sample with tokens behind it that are computed and not trained."""
    behind = (0, width - len(sample.token_ids))
    return TrainingSample(np.pad(sample.token_ids, behind), np.pad(sample.loss_mask, behind), sample.advantage)


def _use_of_arithmetic(
    machine: Machine, name: str, goal: float, lengths: Sequence[int], seconds: float
) -> list[Figure]:
    """Tokens per second, and the share of the device's peak where that is known."""
    speed = sum(lengths) / seconds
    figures = [Figure(f"gpu.tokens_per_s_{name}", speed, goal="", reached=True)]
    if machine.peak_flops is not None:
        share = train_flops(machine.config, lengths, sum(lengths) - len(lengths)) / seconds / machine.peak_flops
        figures.append(at_least(f"gpu.mfu_{name}", share, goal, limit="1.0", note=f"{speed:,.0f} tokens/s"))
    return figures
