"""The trainer's step against the same work by hand, against TRL's, and against itself without skipping dead groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import torch

from benchmarks.bare import BareStep, use_document_attention
from benchmarks.measure import Figure, Scale, at_least, at_most, paired
from benchmarks.trainers import CLIP, TEMPERATURE, Setup, cleared, make_trainer, random_model, trainer_step
from benchmarks.trl_step import TrlStep
from benchmarks.workloads import (
    QWEN3_VOCABULARY,
    lengths_that_sum_to,
    lognormal_lengths,
    qwen3_config,
    training_samples,
)

PROMPT = 32  # tokens, of every sample
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
Pairs = list[tuple[float, float]]


def run(scale: Scale) -> list[Figure]:
    """One rank, all cores, fp32. The optimizer's step is left out on both sides."""
    return [*_over_torch(scale), _over_trl(scale), _dead_groups(scale)]


def _over_torch(scale: Scale) -> list[Figure]:
    """2,048 packed tokens (1,024 with the large vocabulary) of a model with 8 layers and hidden size 512."""
    model, tokens, pairs = _sizes(scale)
    large = model | {"vocabulary": QWEN3_VOCABULARY if scale is Scale.FULL else 2 * model["vocabulary"]}
    cases: list[tuple[str, dict[str, int], int, Setup, float]] = [
        ("", model, tokens, Setup(), 0.97),
        ("_with_entropy", model, tokens, Setup(entropy_coef=0.001), 0.97),
        ("_large_vocabulary", large, tokens // 2, Setup(), 0.97),
        ("_with_reference", model, tokens, Setup(kl_coef=0.001), 0.72),
    ]
    return [
        at_least(
            f"learner.tokens_per_s_over_torch{name}",
            against_torch(shape, count, setup, pairs),
            goal,
            limit="0.75: one forward pass more" if setup.kl_coef else "1.0",
        )
        for name, shape, count, setup, goal in cases
    ]


def _over_trl(scale: Scale) -> Figure:
    model, tokens, pairs = _sizes(scale)
    lengths = trl_lengths(tokens)
    fill = sum(lengths) / len(lengths) / max(lengths)
    return at_least(
        "learner.speed_over_trl",
        against_trl(model, lengths, min(pairs, 3)),  # far from its goal
        round(0.95 / fill, 2),
        limit=f"{1 / fill:.2f}: longest over mean length, for what grows with the tokens",
    )


def trl_lengths(tokens: int) -> list[int]:
    """Of 16 samples, lognormal with sigma 0.8, about `tokens` in all; each with a prompt and something to train."""
    completions = lognormal_lengths(16, tokens / 16 - PROMPT, 0.8, tokens)
    return [PROMPT + length for length in completions]


def _dead_groups(scale: Scale) -> Figure:
    model, tokens, pairs = _sizes(scale)
    return at_most(
        "learner.time_at_75_percent_dead",
        against_no_skipping(model, 2 * tokens, pairs),
        0.27,
        limit="0.25",
    )


def _sizes(scale: Scale) -> tuple[dict[str, int], int, int]:
    """Shape of the model, tokens of a step, pairs."""
    if scale is Scale.FULL:
        return {"hidden": 512, "layers": 8, "vocabulary": 8192}, 2048, 5
    return {"hidden": 64, "layers": 2, "vocabulary": 512}, 768, 1


def against_torch(shape: dict[str, int], tokens: int, setup: Setup, pairs: int) -> Pairs:
    """Seconds of (the trainer's step, the bare step). Both yield the same loss and gradients.

    It is the gradients that tell: with a ratio of 1 and no entropy term, the loss is the mean advantage of any model.
    """
    config = qwen3_config(**shape)
    samples = training_samples(lengths_that_sum_to(tokens, tokens / 8, 0.8, tokens // 2), PROMPT, shape["vocabulary"])
    trainer = make_trainer(config, setup)
    model = random_model(config, "cpu")
    use_document_attention(model)
    bare = BareStep(model, samples, TEMPERATURE, trainer.settings.reinforce.entropy_coef)
    ours = trainer_step(trainer, samples)
    _require_equal(ours, bare, trainer.policy.model, model)
    return paired(cleared(ours, trainer.policy.model), cleared(bare, model), pairs)


def against_trl(shape: dict[str, int], lengths: list[int], pairs: int) -> Pairs:
    """Seconds of (the trainer's step, TRL's), both with a reference pass. Both yield the same loss and gradients."""
    config = qwen3_config(**shape)
    samples = training_samples(lengths, PROMPT, shape["vocabulary"])
    trainer = make_trainer(config, Setup(kl_coef=0.001))
    model, reference = (random_model(config, "cpu") for _ in range(2))
    trl = TrlStep(model, reference, samples, PROMPT, beta=0.001, clip=CLIP, temperature=TEMPERATURE)
    ours = trainer_step(trainer, samples)
    for policy in (trainer.policy.model, model):  # away from the reference, or there is no KL term to compare
        _shift(policy)
    _require_equal(ours, trl, trainer.policy.model, model)
    return paired(cleared(ours, trainer.policy.model), cleared(trl, model), pairs)


def against_no_skipping(shape: dict[str, int], tokens: int, pairs: int) -> Pairs:
    """Seconds of a step where three of four groups have no advantage: (as it is, with every sample computed)."""
    lengths = lengths_that_sum_to(tokens // 8, tokens / 32, 0.8, tokens // 8)  # of one group; all are alike
    groups = [training_samples(lengths, PROMPT, shape["vocabulary"], seed) for seed in range(8)]
    samples = [
        replace(sample, advantage=sample.advantage if index % 4 == 0 else 0.0)
        for index, group in enumerate(groups)
        for sample in group
    ]
    trainer = make_trainer(qwen3_config(**shape), Setup(micro_batch_tokens=tokens // 4))
    skipping = trainer_step(trainer, samples)

    def computing_all() -> torch.Tensor:
        with patch("int_ray.compute.trainer._effective", lambda batch, config: list(batch)):
            return skipping()

    model = trainer.policy.model
    _require_equal(skipping, computing_all, model, model)
    return paired(cleared(skipping, model), cleared(computing_all, model), pairs)


def _shift(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


def _require_equal(
    ours: Callable[[], torch.Tensor],
    theirs: Callable[[], torch.Tensor],
    our_model: torch.nn.Module,
    their_model: torch.nn.Module,
) -> None:
    """Raises AssertionError if loss or gradients differ: their times would not be comparable."""
    losses, gradients = [], []
    for step, model in ((ours, our_model), (theirs, their_model)):
        model.zero_grad()
        losses.append(step())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=LOSS_TOLERANCE)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=GRADIENT_TOLERANCE)
