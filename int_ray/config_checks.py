"""Checks that need more than one field, and the arithmetic that a person wants to see before a run."""

from __future__ import annotations

import math

from int_ray.config import Config, OptimizerConfig


def cross_field_errors(config: Config) -> list[str]:
    """One line per contradiction between settings; empty when they fit together."""
    return [message for broken, message in _checks(config) if broken]


def _checks(config: Config) -> list[tuple[bool, str]]:
    rollout, reinforce, learner, model = config.rollout, config.reinforce, config.learner, config.model
    too_large_k = [k for k in config.evaluate.k if k > config.evaluate.n]
    return [
        (
            rollout.batch_size % reinforce.mini_batch_size != 0,
            f"reinforce.mini_batch_size: {reinforce.mini_batch_size} does not divide rollout.batch_size = "
            f"{rollout.batch_size}; choose a divisor",
        ),
        (
            rollout.max_tokens >= model.max_length,
            f"rollout.max_tokens: {rollout.max_tokens} leaves no room for a prompt in model.max_length = "
            f"{model.max_length}",
        ),
        (
            learner.micro_batch_tokens < model.max_length,
            f"learner.micro_batch_tokens: {learner.micro_batch_tokens} is smaller than one sequence of "
            f"model.max_length = {model.max_length}",
        ),
        (
            reinforce.overlong_buffer > rollout.max_tokens,
            f"reinforce.overlong_buffer: {reinforce.overlong_buffer} exceeds rollout.max_tokens = {rollout.max_tokens}",
        ),
        (
            bool(too_large_k),
            f"evaluate.k: {too_large_k} exceed evaluate.n = {config.evaluate.n}; pass@k needs n >= k",
        ),
        (
            learner.device == "cpu" and learner.weight_sync != "shm",
            f"learner.weight_sync: {learner.weight_sync} needs GPUs; learner.device is cpu, so choose shm",
        ),
        (
            learner.device == "cuda" and learner.weight_sync == "shm",
            "learner.weight_sync: shm is for learner.device = cpu; choose nccl (separate GPUs) or ipc (the same GPU)",
        ),
        (
            learner.device == "cpu" and rollout.tensor_parallel_size > 1,
            f"rollout.tensor_parallel_size: {rollout.tensor_parallel_size} needs GPUs; learner.device is cpu",
        ),
        (
            config.trigger.hysteresis >= config.trigger.threshold,
            f"trigger.hysteresis: {config.trigger.hysteresis} must be below trigger.threshold = "
            f"{config.trigger.threshold}",
        ),
        *(
            (
                optimizer.lr_schedule == "constant" and optimizer.min_lr_rate != OptimizerConfig().min_lr_rate,
                f"{name}.optimizer.min_lr_rate: has no effect with lr_schedule = constant",
            )
            for name, optimizer in (("patch", config.patch.optimizer), ("reinforce", reinforce.optimizer))
        ),
    ]


def batch_arithmetic(config: Config) -> list[tuple[str, str]]:
    """What one iteration and one intervention round cost, as rows for a table."""
    rollout, mini = config.rollout, config.reinforce.mini_batch_size
    engines = f"{rollout.num_engines} x {rollout.tensor_parallel_size} device(s)"
    return [
        ("rollouts per iteration", f"{rollout.batch_size} problems x {rollout.n} = {rollout.batch_size * rollout.n}"),
        ("GRPO updates per iteration", f"{rollout.batch_size} / {mini} = {rollout.batch_size // mini} at most"),
        ("samples per GRPO update", f"{mini} problems x {rollout.n} = {mini * rollout.n} at most"),
        ("longest response", f"{rollout.max_tokens} of {config.model.max_length} tokens"),
        ("attempts shown per unsolved problem", str(config.oracle.attempts)),
        ("continuations per intervention", str(config.patch.continuations)),
        ("SFT updates per round", f"{config.patch.epochs} epochs x ceil(interventions / {config.patch.batch_size})"),
        ("iterations", str(config.run.iterations)),
        ("rollout engines", engines),
        ("learner ranks", f"{config.learner.num_ranks} on {config.learner.device}"),
        ("weight sync", config.learner.weight_sync),
    ]


def reinforce_updates(config: Config) -> int:
    """Most GRPO updates of a whole run; the horizon of its learning-rate schedule."""
    return config.run.iterations * math.ceil(config.rollout.batch_size / config.reinforce.mini_batch_size)
