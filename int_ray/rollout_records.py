"""Rollouts as JSON: the texts for people, the ids for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from int_ray.types import Completion, Outcome, Problem, Rollout, RolloutGroup


def group_record(group: RolloutGroup) -> dict[str, Any]:
    """One line of rollouts/ or evaluations/ in a run folder."""
    return {
        "problem_id": group.problem.id,
        "question": group.problem.question,
        "answer": group.problem.answer,
        "prompt_ids": group.prompt_ids.tolist(),
        "prefix_ids": group.prefix_ids.tolist(),
        "rollouts": [rollout_record(rollout) for rollout in group.rollouts],
    }


def read_group(record: Mapping[str, Any], problem: Problem) -> RolloutGroup:
    """The group that `group_record` wrote; its log-probs are NaN, for unknown."""
    rollouts = tuple(map(read_rollout, record["rollouts"]))
    prompt_ids, prefix_ids = (np.array(record[name], np.int32) for name in ("prompt_ids", "prefix_ids"))
    return RolloutGroup(problem, prompt_ids, prefix_ids, rollouts)


def rollout_record(rollout: Rollout) -> dict[str, Any]:
    """A rollout without its log-probs."""
    return {
        "outcome": rollout.outcome,
        "policy_version": rollout.policy_version,
        "seed": rollout.completion.seed,
        "finished": rollout.completion.finished,
        "switches": list(rollout.completion.switches),
        "text": rollout.completion.text,
        "token_ids": rollout.completion.token_ids.tolist(),
    }


def read_rollout(record: Mapping[str, Any]) -> Rollout:
    """The rollout that `rollout_record` wrote; its log-probs are NaN, for unknown."""
    ids = np.array(record["token_ids"], np.int32)
    unknown = np.full(len(ids), np.nan, np.float32)
    switches = tuple(record.get("switches", ()))
    completion = Completion(ids, unknown, record["text"], record["finished"], record["seed"], switches)
    return Rollout(completion, Outcome(record["outcome"]), record["policy_version"])
