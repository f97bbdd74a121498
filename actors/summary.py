"""`summary.json`: the figures that a person sees at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.run_folder import RunFolder
from int_ray.oracles.spending import read_spend
from int_ray.report.run_files import read_run
from int_ray.types import RunState

ROUND_COUNTS = ("problems", "attempts", "tested", "kept")


def summarise(folder: RunFolder, state: RunState, seconds: float, phases: Mapping[str, float]) -> dict[str, Any]:
    """Evaluation before and after, the last iteration, the rounds, the bill, and where this process's time went."""
    run = read_run(folder.path)
    rounds = run.rounds.values()
    counts = {f"interventions_{name}": sum(getattr(event, name) for event in rounds) for name in ROUND_COUNTS}
    return {
        "run": {
            "iterations": state.iteration,
            "policy_version": state.policy_version,
            "intervention_rounds": run.num_answered,
            "interventions_from": run.origin,
            **counts,
            "last_reward": run.rows[-1].reward,
            "last_unsolved": run.rows[-1].unsolved,
            "wall_time_s": round(seconds),
        },
        "oracle": _spent(folder.path / "oracle_calls.jsonl"),
        "evaluation": _before_and_after(folder.scores()),
        "seconds": {name: round(value, 1) for name, value in phases.items()},
    }


def _spent(path: Path) -> dict[str, Any]:
    """What a language model as oracle has cost since the run began; nothing if none was asked."""
    spend = read_spend(path)
    return {"spent": spend.story(), **spend.metrics()} if spend.calls or spend.cached else {}


def _before_and_after(scores: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Set -> figure -> value with interval, of the first and of the last evaluation."""
    if not scores:
        return {}
    base, end = scores[min(scores)], scores[max(scores)]
    return {name: {"base": base[name]["figures"], "end": end[name]["figures"]} for name in end if name in base}
