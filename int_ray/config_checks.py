"""Checks that need more than one field, and the arithmetic that a person wants to see before a run."""

from __future__ import annotations

import math

from int_ray.config import Config
from int_ray.deadlines import elastic_errors
from int_ray.oracles.spending import budget_errors
from int_ray.training_config import OptimizerConfig

SOLVING_KINDS = ("exact", "gemini", "openai")  # kinds of oracle that can write whole solutions
Check = tuple[bool, str]  # whether it is broken, and the line that says so


def cross_field_errors(config: Config) -> list[str]:
    """One line per contradiction between settings; empty when they fit together."""
    checks = [
        *_size_checks(config),
        *_device_checks(config),
        *_learner_checks(config),
        *_pipeline_checks(config),
        *_schedule_checks(config),
        *_oracle_checks(config),
        *_run_checks(config),
    ]
    return [*(message for broken, message in checks if broken), *elastic_errors(config), *budget_errors(config.oracle)]


def _size_checks(config: Config) -> list[Check]:
    rollout, mini, context = config.rollout, config.reinforce.mini_batch_size, config.model.max_length
    too_large_k = [k for k in config.evaluate.k if k > config.evaluate.n]
    return [
        (
            rollout.batch_size % mini != 0,
            f"reinforce.mini_batch_size: {mini} does not divide rollout.batch_size = {rollout.batch_size}; "
            "choose a divisor",
        ),
        (
            rollout.max_tokens >= context,
            f"rollout.max_tokens: {rollout.max_tokens} leaves no room for a prompt in model.max_length = {context}",
        ),
        (
            config.learner.micro_batch_tokens < context,
            f"learner.micro_batch_tokens: {config.learner.micro_batch_tokens} is smaller than one sequence of "
            f"model.max_length = {context}",
        ),
        (
            config.reinforce.overlong_buffer > rollout.max_tokens,
            f"reinforce.overlong_buffer: {config.reinforce.overlong_buffer} exceeds rollout.max_tokens = "
            f"{rollout.max_tokens}",
        ),
        (
            (config.problems.mixed is None) != (rollout.mixed == 0),
            f"rollout.mixed: {rollout.mixed} with problems.mixed "
            f"{'absent' if config.problems.mixed is None else 'present'}; set both or neither",
        ),
        (
            bool(too_large_k),
            f"evaluate.k: {too_large_k} exceed evaluate.n = {config.evaluate.n}; pass@k needs n >= k",
        ),
    ]


def _device_checks(config: Config) -> list[Check]:
    device, sync, parallel = config.learner.device, config.learner.weight_sync, config.rollout.tensor_parallel_size
    num_ranks, num_engines = config.learner.num_ranks, config.rollout.num_engines
    return [
        (
            device == "cpu" and sync != "shm",
            f"learner.weight_sync: {sync} needs GPUs; learner.device is cpu, so choose shm",
        ),
        (
            device == "cuda" and sync == "shm",
            "learner.weight_sync: shm is for learner.device = cpu; choose nccl (separate GPUs) or ipc (the same GPU)",
        ),
        (
            sync == "ipc" and (num_ranks, num_engines, parallel) != (1, 1, 1),
            "learner.weight_sync: ipc shares one GPU between one rank and one engine; "
            f"learner.num_ranks = {num_ranks}, "
            f"rollout.num_engines = {num_engines} and rollout.tensor_parallel_size = {parallel} must be 1",
        ),
        (
            device == "cpu" and parallel > 1,
            f"rollout.tensor_parallel_size: {parallel} needs GPUs; learner.device is cpu",
        ),
    ]


def _learner_checks(config: Config) -> list[Check]:
    learner, dtype = config.learner, config.model.dtype
    packed_kernel = learner.attention in ("flash_attention_2", "varlen")
    return [
        (
            packed_kernel and (learner.device == "cpu" or dtype == "float32"),
            f"learner.attention: {learner.attention} needs learner.device = cuda and model.dtype = bfloat16; "
            "choose sdpa or auto",
        ),
        (
            learner.offload_reference and (learner.device == "cpu" or config.reinforce.kl_coef == 0),
            "learner.offload_reference: has no effect without a GPU and a KL reference (reinforce.kl_coef > 0)",
        ),
    ]


def _pipeline_checks(config: Config) -> list[Check]:
    rollout, reinforce = config.rollout, config.reinforce
    masked = rollout.top_p < 1 or rollout.top_k > 0
    of_engine = reinforce.old_logprobs == "engine"
    correction = "reinforce.old_logprobs=learner and " * of_engine + "reinforce.importance_cap, such as 2.0"
    trusting = {
        "reinforce.old_logprobs: engine": of_engine,
        f"reinforce.importance_cap: {reinforce.importance_cap}": reinforce.importance_cap is not None,
    }
    return [
        (
            rollout.staleness > 0 and config.learner.weight_sync == "ipc",
            f"rollout.staleness: {rollout.staleness} samples while the learner works, which weight_sync = ipc cannot: "
            "the two share one GPU and take turns; set it to 0, or choose nccl",
        ),
        (
            rollout.staleness > 0 and (of_engine or reinforce.importance_cap is None),
            f"rollout.staleness: {rollout.staleness} trains on tokens of older policies; set {correction}",
        ),
        (
            rollout.staleness == 0 and of_engine and reinforce.importance_cap is not None,
            "reinforce.importance_cap: has no effect with old_logprobs = engine, whose ratio corrects for the engine",
        ),
        *(
            (
                trusts and masked,
                f"{setting} trusts the engine's log-probs, which top_p = {rollout.top_p} and top_k = {rollout.top_k} "
                "change; set rollout.top_p=1 rollout.top_k=0",
            )
            for setting, trusts in trusting.items()
        ),
    ]


def _schedule_checks(config: Config) -> list[Check]:
    trigger = config.trigger
    optimizers = {"patch": config.patch.optimizer, "reinforce": config.reinforce.optimizer}
    return [
        (
            trigger.hysteresis >= trigger.threshold,
            f"trigger.hysteresis: {trigger.hysteresis} must be below trigger.threshold = {trigger.threshold}",
        ),
        *(
            (
                optimizer.lr_schedule == "constant" and optimizer.min_lr_rate != OptimizerConfig().min_lr_rate,
                f"{phase}.optimizer.min_lr_rate: has no effect with lr_schedule = constant",
            )
            for phase, optimizer in optimizers.items()
        ),
    ]


def _oracle_checks(config: Config) -> list[Check]:
    distills = config.schedule != "never" and config.patch.clone == "solutions"
    return [
        (
            distills and config.oracle.kind not in SOLVING_KINDS,
            f"patch.clone: oracle.kind = {config.oracle.kind} writes no whole solutions; choose one of "
            + ", ".join(SOLVING_KINDS),
        ),
        (
            distills and bool(config.oracle.fallback),
            "oracle.fallback: has no effect with patch.clone = solutions; set it to []",
        ),
        (
            distills and config.patch.interventions is not None,
            "patch.interventions: has no effect with patch.clone = solutions; set it to null",
        ),
        (
            config.oracle.categorize and config.oracle.prompt == "chains",
            "oracle.categorize: prompt: chains has no question about categories; set it to false, or use prompt: math",
        ),
    ]


def _run_checks(config: Config) -> list[Check]:
    evaluate, best, storage = config.evaluate, config.run.keep_best, config.run.storage
    figures = [f"{name}/pass@{k}" for name in evaluate.sets for k in evaluate.k]
    return [
        (
            best is not None and best not in figures,
            f"run.keep_best: {best!r} is no figure of this run's evaluations; choose one of {figures}",
        ),
        (
            best is not None and evaluate.every == 0,
            "run.keep_best: needs evaluations in between; set evaluate.every",
        ),
        (
            storage is not None and "://" not in storage,
            f"run.storage: {storage!r} is no URL, such as s3://bucket/run or file:///mnt/run",
        ),
        (
            storage is not None and "@" in storage,
            "run.storage: keep credentials out of the URL, which is written into the run folder",
        ),
    ]


def batch_arithmetic(config: Config) -> list[tuple[str, str]]:
    """What one iteration and one intervention round cost, as rows for a table."""
    rollout, mini = config.rollout, config.reinforce.mini_batch_size
    problems = rollout.batch_size + rollout.mixed
    engines = f"{rollout.num_engines} x {rollout.tensor_parallel_size} device(s)"
    return [
        ("rollouts per iteration", f"{problems} problems x {rollout.n} = {problems * rollout.n}"),
        ("GRPO updates per iteration", f"{problems} / {mini} = {math.ceil(problems / mini)} at most"),
        ("samples per GRPO update", f"{mini} problems x {rollout.n} = {mini * rollout.n} at most"),
        ("longest response", f"{rollout.max_tokens} of {config.model.max_length} tokens"),
        ("attempts shown per unsolved problem", str(config.oracle.attempts)),
        ("continuations per intervention", str(config.patch.continuations)),
        ("SFT updates per round", f"{config.patch.epochs} epochs x ceil(interventions / {config.patch.batch_size})"),
        ("iterations", str(config.run.iterations)),
        ("rollout engines", engines),
        ("learner ranks", f"{config.learner.num_ranks} on {config.learner.device}"),
        ("GPUs", str(num_gpus(config))),
        ("weight sync", config.learner.weight_sync),
    ]


def num_gpus(config: Config) -> int:
    """GPUs that a run needs."""
    if config.learner.device == "cpu":
        return 0
    if config.learner.weight_sync == "ipc":
        return 1
    return config.learner.num_ranks + engine_gpus(config)


def engine_gpus(config: Config) -> int:
    """GPUs that rollout engines need where no learner is."""
    return 0 if config.learner.device == "cpu" else config.rollout.num_engines * config.rollout.tensor_parallel_size


def reinforce_updates(config: Config) -> int:
    """Most GRPO updates of a whole run; the horizon of its learning-rate schedule.

    The drain before a round trains on up to `staleness` batches at once, which no iteration trains on afterwards.
    """
    rollout, mini = config.rollout, config.reinforce.mini_batch_size
    batch = rollout.batch_size + rollout.mixed
    drains = math.ceil(rollout.staleness * batch / mini) * config.trigger.max_rounds
    return config.run.iterations * math.ceil(batch / mini) + drains
