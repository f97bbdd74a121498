"""`summary.json`: the figures that a person sees at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.run_folder import RunFolder
from int_ray.types import RunState

ROUND_COUNTS = ("problems", "attempts", "tested", "kept")


def summarise(folder: RunFolder, state: RunState, seconds: float, phases: Mapping[str, float]) -> dict[str, Any]:
    """Evaluation before and after, the last iteration, the rounds, and where the time of this process went."""
    rows = folder.metric_rows()
    rounds = [row for row in rows if "intervention/problems" in row]
    counts = {f"interventions_{name}": int(sum(row[f"intervention/{name}"] for row in rounds)) for name in ROUND_COUNTS}
    return {
        "run": {
            "iterations": state.iteration,
            "policy_version": state.policy_version,
            "intervention_rounds": state.intervention_rounds,
            **counts,
            "last_reward": rows[-1]["rollout/reward"],
            "last_unsolved": rows[-1]["rollout/unsolved"],
            "wall_time_s": round(seconds),
        },
        "evaluation": _before_and_after(folder.scores()),
        "seconds": {name: round(value, 1) for name, value in phases.items()},
    }


def _before_and_after(scores: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Set -> figure -> value with interval, of the first and of the last evaluation."""
    if not scores:
        return {}
    base, end = scores[min(scores)], scores[max(scores)]
    return {name: {"base": base[name]["figures"], "end": end[name]["figures"]} for name in end if name in base}
