"""What a person is told: a line per iteration, and `summary.json` with the figures of a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.oracles.spending import read_spend
from int_ray.report.run_files import read_run
from int_ray.timeline import Lost, idleness, overhead, read_spans
from int_ray.types import RunState

ROUND_COUNTS = ("problems", "attempts", "tested", "kept")


def iteration_line(state: RunState, metrics: Mapping[str, float], config: Config) -> str:
    """How an iteration went."""
    parts = [
        f"reward {metrics['rollout/reward']:.3f}",
        f"unsolved {metrics['rollout/unsolved']:.0%}",
        f"no signal {metrics['rollout/zero_advantage']:.0%}",
        f"policy v{state.policy_version}",
    ]
    if config.rollout.staleness and "rollout/staleness_max" in metrics:  # not where nothing is reinforced
        mean, most = metrics["rollout/staleness_mean"], metrics["rollout/staleness_max"]
        parts.append(f"staleness {mean:.1f} (max {most:.0f})")
    parts.append(f"{metrics['time/iteration_s']:.0f} s")
    return f"Iteration {state.iteration}/{config.run.iterations}: {', '.join(parts)}"


def summarise(folder: RunFolder, state: RunState, seconds: float, phases: Mapping[str, float]) -> dict[str, Any]:
    """Evaluation before and after, the last iteration, the rounds, the bill, and where this process's time went."""
    run = read_run(folder.path)
    spans = read_spans(folder.path / "trace.json")
    rounds, last = run.rounds.values(), run.rows[-1] if run.rows else None  # a full disk may have refused every row
    counts = {f"interventions_{name}": sum(getattr(event, name) for event in rounds) for name in ROUND_COUNTS}
    return {
        "run": {
            "iterations": state.iteration,
            "policy_version": state.policy_version,
            "intervention_rounds": run.num_answered,
            "interventions_from": run.origin,
            **counts,
            "last_reward": last and last.reward,
            "last_unsolved": last and last.unsolved,
            "lost_checkpoints": run.lost_checkpoints,
            "wall_time_s": round(seconds),
        },
        "oracle": _spent(folder.path / "oracle_calls.jsonl"),
        "evaluation": _before_and_after(folder.scores()),
        "seconds": {name: round(value, 1) for name, value in phases.items()},
        "idle": _lost(idleness(spans)),
        "overhead": _lost(overhead(spans)),
    }


def _lost(lost: Lost) -> dict[str, Any]:
    """Time that was lost, start-up left out, and what went on meanwhile."""
    causes = {cause: round(seconds, 2) for cause, seconds in lost.by_cause.items()}
    return {"share": round(lost.share, 4), "of_seconds": round(lost.seconds, 1), "seconds": causes}


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
