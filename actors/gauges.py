"""A run's live figures: for Prometheus through Ray's metrics, and as curves in `trace.json`, where `watch` finds it.

Nothing that runs knows of it: it looks at fleet, ledger, trace and journal, and is a logger of metrics rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from ray.util.metrics import Gauge

from actors.engine_client import Engine, EngineGroup
from actors.fleet import Fleet
from actors.trace import Trace, traced
from int_ray.arms import run_name
from int_ray.oracles.spending import Ledger
from int_ray.report.live import Tail
from int_ray.report.run_files import Event
from int_ray.side_by_side import beside
from int_ray.timeline import LEARNER, UPKEEP

PREFIX = "int_ray_"  # Ray puts `ray_` before it
REFRESH_S = 5.0
# Column of metrics.jsonl -> figure; of the last iteration.
FROM_ROWS = {
    "rollout/reward": "reward",
    "rollout/unsolved": "unsolved_ratio",
    "rollout/zero_advantage": "zero_advantage_ratio",
    "rollout/staleness_mean": "staleness_mean",
    "rollout/staleness_max": "staleness_max",
    "sync/seconds": "weight_sync_seconds",
    "time/iteration_s": "iteration_seconds",
}
# Event of journal.jsonl -> figure that counts it; those of a resumed run's earlier processes, too.
FROM_EVENTS = {"learner_rebuilt": "learner_restarts", "checkpoint_failed": "checkpoints_failed"}
# Every figure, and what Prometheus is told about it. All have one label, the run's name.
FIGURES = {
    "iteration": "Iterations that are done",
    "reward": "Mean reward of the iteration's rollouts",
    "unsolved_ratio": "Share of problems without a right rollout",
    "zero_advantage_ratio": "Share of groups that are all right or all wrong",
    "staleness_mean": "Policy versions that trained tokens are behind, mean",
    "staleness_max": "Policy versions that trained tokens are behind, largest",
    "weight_sync_seconds": "Length of the last weight sync",
    "iteration_seconds": "Length of the last iteration",
    "policy_version": "Version of the weights that all engines run",
    "engines": "Rollout engines at work",
    "engines_lost": "Rollout engines that died or hung",
    "engines_joined": "Rollout engines that came after the start, in the place of lost ones or beside them",
    "samples_in_flight": "Samples that engines were asked for and have not returned",
    "requests_waiting": "Requests that no engine has room for",
    "tokens_per_second": "Sampled tokens, all purposes, since the last refresh",
    "rollouts_per_second": "Sampled rollouts, all purposes, since the last refresh",
    "learner_step_seconds": "Length of the last reinforce phase, or of the patch before the first one",
    "learner_restarts": "Times that a lost learner went back to a checkpoint since the run began",
    "checkpoints_failed": "Checkpoints that could not be written since the run began",
    "oracle_calls": "Calls of language models as oracle since the run began",
    "oracle_tokens": "Tokens that these calls have read and written",
    "oracle_cost": "What they cost, in the currency of oracle.prices",
}
# Those that are 0 once the run has ended.
LOAD = ("engines", "samples_in_flight", "requests_waiting", "tokens_per_second", "rollouts_per_second")


class Gauges:
    """Implements Logger. `live` keeps the figures fresh."""

    def __init__(self, folder: Path, fleet: Fleet, ledger: Ledger, trace: Trace) -> None:
        """Of the run in `folder`. From now on what the fleet's engines sample is counted and in the trace."""
        self.fleet = fleet
        self.ledger = ledger
        self.trace = trace
        self.tokens = self.rollouts = 0  # sampled so far
        self._engines = 0  # that there ever were
        self._before = (time.monotonic(), 0, 0)  # of the last refresh: time, tokens, rollouts
        self._journal = Tail(folder / "journal.jsonl")
        self._counted = dict.fromkeys(FROM_EVENTS.values(), 0)
        self._gauges = {
            name: Gauge(PREFIX + name, description, ("run",)).set_default_tags({"run": run_name(folder)})
            for name, description in FIGURES.items()
        }
        fleet.wrap_engines(self._watched)
        self._first_engines = self._engines

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """The figures of an iteration; those of an evaluation have names of their own and are left out."""
        known = {figure: values[column] for column, figure in FROM_ROWS.items() if column in values}
        if known:
            self._set({"iteration": iteration, **known})

    def close(self) -> None:
        """Nothing is open."""

    @asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        """Refresh the figures until the block ends."""
        try:
            async with beside(self._keep_fresh()):
                yield
        finally:
            self.refresh()
            self._set(dict.fromkeys(LOAD, 0))  # Ray would go on showing the last ones

    async def _keep_fresh(self) -> None:
        while True:
            with self.trace.span(UPKEEP, "live figures"):
                self.refresh()
            await asyncio.sleep(REFRESH_S)

    def refresh(self) -> None:
        """Look at everything, and tell Ray and the trace."""
        figures = self._load() | self._speed() | self._events() | self._oracle()
        phases = [name for name in ("reinforce", "patch") if (LEARNER, name) in self.trace.seconds]
        if phases:
            figures["learner_step_seconds"] = self.trace.seconds[LEARNER, phases[0]]
        self._set(figures)
        self.trace.figures(figures)

    def _load(self) -> dict[str, float]:
        members = self.fleet.members
        return {
            "policy_version": self.fleet.policy_version,
            "engines": len(members),
            "engines_lost": self.fleet.lost,
            "engines_joined": self._engines - self._first_engines,
            "samples_in_flight": sum(member.samples for member in members),
            "requests_waiting": self.fleet.waiting,
        }

    def _speed(self) -> dict[str, float]:
        now = (time.monotonic(), self.tokens, self.rollouts)
        seconds, tokens, rollouts = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        return {
            "tokens_per_second": tokens / seconds if seconds else 0.0,
            "rollouts_per_second": rollouts / seconds if seconds else 0.0,
        }

    def _events(self) -> dict[str, float]:
        with suppress(OSError):  # a disk that fails: what is not read now is read the next time
            for line in self._journal.lines():
                with suppress(ValidationError):  # torn by a crash
                    figure = FROM_EVENTS.get(Event.model_validate_json(line).event)
                    if figure is not None:
                        self._counted[figure] += 1
        return dict[str, float](self._counted)

    def _oracle(self) -> dict[str, float]:
        spend = self.ledger.spend
        return {
            "oracle_calls": spend.calls,
            "oracle_tokens": spend.input_tokens + spend.output_tokens,
            "oracle_cost": spend.cost,
        }

    def _set(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._gauges[name].set(value)

    def _watched(self, engine: Engine, name: str) -> Engine:
        self._engines += 1
        return cast(Engine, _WatchedEngine(traced(engine, self.trace, name, "sample_group"), self))


class _WatchedEngine:
    """Stands in for an engine; what it samples is counted."""

    def __init__(self, engine: Engine, gauges: Gauges) -> None:
        self._engine = engine
        self._gauges = gauges

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def sample_group(self, *arguments: Any) -> EngineGroup:
        """See Engine."""
        group = await self._engine.sample_group(*arguments)
        self._gauges.tokens += len(group.token_ids)
        self._gauges.rollouts += len(group.texts)
        return group
