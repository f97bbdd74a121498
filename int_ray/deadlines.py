"""Checks of what makes a run elastic, and how its deadlines go together."""

from __future__ import annotations

from int_ray.config import Config


def elastic_errors(config: Config) -> list[str]:
    """One line per contradiction."""
    rollout, most, abort_s = config.rollout, config.rollout.max_engines, config.run.stall_abort_s
    tolerated_s = 2 * longest_deadline_s(config)  # a group may hang on two engines, one after the other
    errors = []
    if most is not None and most < rollout.num_engines:
        errors.append(f"rollout.max_engines: {most} is below rollout.num_engines = {rollout.num_engines}")
    if most is not None and config.learner.weight_sync != "nccl":
        errors.append(
            "rollout.max_engines: engines that join have GPUs of their own; set learner.weight_sync=nccl, or null"
        )
    if abort_s is not None and abort_s <= tolerated_s:
        errors.append(
            f"run.stall_abort_s: {abort_s:g} would end what may take {tolerated_s:g} s, twice the longest deadline of "
            "rollout, learner, oracle and storage; choose more"
        )
    return errors


def stall_abort_s(config: Config) -> float:
    """Seconds without progress that end a run; more than two waits in a row may take."""
    return config.run.stall_abort_s or 3 * longest_deadline_s(config)


def longest_deadline_s(config: Config) -> float:
    """Of anything that one piece of progress may wait for."""
    rollout, learner = config.rollout, config.learner
    started_s = max(rollout.startup_deadline_s, learner.startup_deadline_s)
    sent_s = 0.0 if config.run.storage is None else config.run.storage_deadline_s
    return max(rollout.deadline_s, learner.deadline_s, config.oracle.deadline_s, started_s, sent_s)
