"""The loop: sample; reinforce what carries a signal; patch the policy when too much carries none.

Reads like Algorithm 1 and knows nothing of Ray: everything outside comes in through the ports of `int_ray.ports`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from actors.checkpoint import Checkpoints
from actors.garbage import rare_collections
from actors.pipeline import Batch, build_pipeline
from actors.run_folder import RunFolder
from actors.summary import iteration_line
from int_ray.config import Config
from int_ray.errors import Resumable
from int_ray.intervention_round import InterventionRound, RoundResult
from int_ray.metrics import SetScore, evaluate_set, rollout_metrics, staleness_metrics
from int_ray.ports import Ports
from int_ray.samples import patch_batches, reinforce_batches, spread
from int_ray.trigger import Decision, Trigger
from int_ray.types import ProblemSets, Purpose, RolloutGroup, RunState, Update
from int_ray.unsolved_window import UnsolvedWindow


class OracleOutage(Resumable):
    """The oracle is down or its budget is spent, and the config says to stop then."""


class Coordinator:
    """Runs the training; one call of `run` per process."""

    def __init__(
        self,
        config: Config,
        problems: ProblemSets,
        ports: Ports,
        intervention_round: InterventionRound,
        trigger: Trigger,
        folder: RunFolder,
    ) -> None:
        self.config = config
        self.problems = problems
        self.pipeline = build_pipeline(config, problems, ports.rollouts)
        self.ports = ports
        self.progress = ports.progress
        self.round = intervention_round
        self.trigger = trigger
        self.folder = folder
        self.outage: str | None = None  # why the oracle could not be asked in the last round
        self.window = UnsolvedWindow(config.trigger.patience)
        self.checkpoints = Checkpoints(folder.path / "checkpoints", config.run.keep_checkpoints)

    async def run(self, state: RunState) -> RunState:
        """Train from `state` to the last iteration; evaluate before and after."""
        with rare_collections():
            return await self._run(state)

    async def _run(self, state: RunState) -> RunState:
        async with aclosing(self.pipeline):
            self.restore(state)
            await self.publish(state)
            if state.iteration == 0 or not self.folder.scores():
                await self.evaluate(state)
            if state.iteration == 0 and self.problems.interventions:
                metrics: dict[str, float] = {}
                state = await self.apply(*await self.patch_given(state), metrics)
                self.folder.journal.write("patched", iteration=0, **metrics)
            while not self.is_last(state):
                state = await self.iterate(state)
                await self.look_back(state)
            await self.evaluate(state)
        return state

    async def look_back(self, state: RunState) -> None:
        """Between two iterations: save and evaluate when it is time. Raises OracleOutage if that is to end the run."""
        stops = self.outage is not None and self.config.oracle.on_outage == "stop"
        if stops or state.iteration % self.config.run.checkpoint_every == 0 or self.is_last(state):
            await self.checkpoint(state)
        if stops:
            raise OracleOutage(f"the oracle cannot be asked ({self.outage}) and oracle.on_outage = stop")
        if self.is_due(state) and not self.is_last(state):
            await self.evaluate(state)

    async def iterate(self, state: RunState) -> RunState:
        """One iteration: sample, reinforce, and after a stall an intervention round and a patch."""
        started = time.monotonic()
        state = replace(state, iteration=state.iteration + 1)
        collecting = self.config.schedule == "paper" and state.iteration == 1  # Algorithm 1, line 1
        batch = await self.sample(state, collecting=collecting)
        metrics = rollout_metrics(batch.groups)
        if batch.mixed:
            metrics["mixed/reward"] = rollout_metrics(batch.mixed)["rollout/reward"]
        if collecting:
            await self.write_down(state, batch.all)
        else:
            state = await self.train(state, batch, metrics)
        before = self.trigger.state()
        if self.trigger.observe(batch.groups, state.intervention_rounds) is Decision.INTERVENE:
            state = await self.drain(state, batch, metrics)
            state = await self.apply(*await self.intervene(state), metrics)
            if self.outage is not None:
                self.trigger.restore(before)  # so that the next iteration asks again
        state = await self.pipeline.advance(replace(state, trigger=self.trigger.state()))
        self.report(state, metrics | {"time/iteration_s": time.monotonic() - started})
        return state

    async def train(
        self, state: RunState, batch: Batch, metrics: dict[str, float], before: Sequence[RolloutGroup] = ()
    ) -> RunState:
        """Reinforce with a batch and publish; adds its numbers to `metrics`.

        The rollouts, and those that the iteration was trained on before, are written down while the learner works.
        """
        metrics |= staleness_metrics(batch.all, state.policy_version)
        update, _ = await asyncio.gather(
            self.reinforce(spread(batch.mixed, among=batch.groups)), self.write_down(state, [*before, *batch.all])
        )
        return await self.apply(state, update, metrics)

    async def write_down(self, state: RunState, groups: Sequence[RolloutGroup]) -> None:
        """All groups of an iteration into the run folder."""
        self.folder.rollouts(state.iteration, groups)

    async def drain(self, state: RunState, batch: Batch, metrics: dict[str, float]) -> RunState:
        """Train on what is still being sampled as well, so that the patch leaves nothing behind that is older.

        The trigger has decided without these groups; the window, the rollout file and metrics `drained/...` have them.
        """
        if not self.config.rollout.staleness:
            return state
        self.progress.phase("draining")
        rest = await self.pipeline.drain(state)
        if not rest.all:
            return state
        if self.asks_about_the_latest():
            self.window.extend(rest.groups)
        own = rollout_metrics(rest.groups)
        state = await self.train(state, rest, own, before=batch.all)
        metrics |= {f"drained/{name}": value for name, value in own.items()}
        return state

    async def apply(self, state: RunState, update: Update, metrics: dict[str, float]) -> RunState:
        """Publish what a phase has learned, or note why it learned nothing; adds its numbers to `metrics`."""
        metrics |= update.metrics
        if not update.changed_weights:
            self.folder.journal.write("no_update", iteration=state.iteration, reason=update.skipped)
            return state
        state = replace(state, policy_version=state.policy_version + 1)
        metrics |= await self.publish(state)
        return state

    def restore(self, state: RunState) -> None:
        """Take data position, trigger and window of a resumed run from its state and its rollout files."""
        self.pipeline.restore(state)
        if state.trigger:
            self.trigger.restore(state.trigger)
        first = max(1, state.window_start, state.iteration - self.config.trigger.patience + 1)
        for iteration in range(first, state.iteration + 1):
            self.window.add(self.folder.read_rollouts(iteration, self.problems.train))

    async def sample(self, state: RunState, *, collecting: bool) -> Batch:
        """Groups of training problems, and of the mixed-in ones; graded."""
        rollout = self.config.rollout
        if collecting:
            problems = self.problems.train
            self.progress.phase("sampling", len(problems))
            batch = Batch(await self.ports.rollouts.sample(problems, rollout.n, Purpose.TRAIN, state.iteration), [])
        else:
            self.progress.phase("sampling", None if rollout.staleness else rollout.batch_size + rollout.mixed)
            batch = await self.pipeline.take(state)
        if self.asks_about_the_latest():
            self.window.add(batch.groups)
        return batch

    def asks_about_the_latest(self) -> bool:
        """False while the whole training set, sampled before (schedule: paper), waits for an oracle that was down."""
        return self.config.schedule != "paper" or self.outage is None

    async def reinforce(self, groups: Sequence[RolloutGroup]) -> Update:
        """GRPO on the groups whose rewards differ (section 4.3, line 12)."""
        batches = reinforce_batches(groups, self.config.reinforce, self.config.rollout.max_tokens)
        if not batches:
            return Update(0, skipped="no group carries a signal")
        self.progress.phase("reinforcing")
        return await self.ports.learner.reinforce(batches)

    async def intervene(self, state: RunState) -> tuple[RunState, Update]:
        """Ask about every problem that stayed unsolved, clone what helps (sections 4.1-4.2, lines 2-11)."""
        self.outage = None
        unsolved = self.window.stayed_unsolved()
        if not unsolved:
            return state, Update(0, skipped="no problem stayed unsolved")
        period = "the last iteration" if len(self.window) == 1 else f"the last {len(self.window)} iterations"
        self.progress.say(f"{len(unsolved)} problems had no right rollout in {period}: asking the oracle about them")
        result = await self.round.run(unsolved, state.iteration)
        self.outage = result.outage
        if result.outage is None:  # an oracle that is down costs no round
            state = replace(state, intervention_rounds=state.intervention_rounds + 1)
        return await self.patch(state, result)

    async def patch_given(self, state: RunState) -> tuple[RunState, Update]:
        """Clone interventions that come from a file (patch.interventions); untested ones are tested first."""
        given = self.problems.interventions
        self.progress.say(f"Patching with {len(given)} interventions of {self.config.patch.interventions}")
        return await self.patch(state, await self.round.run_given(given, state.iteration))

    async def patch(self, state: RunState, result: RoundResult) -> tuple[RunState, Update]:
        """Clone prefix and intervention of what helps (section 4.2, line 11)."""
        self.folder.interventions(state.iteration, result)
        self.folder.journal.write(
            "intervention_round", iteration=state.iteration, outage=result.outage, **result.metrics()
        )
        self.progress.say(result.story())
        if not result.kept:
            return state, Update(0, result.metrics(), skipped="no intervention helps")
        self.progress.phase("patching")
        batches = patch_batches(result.kept, self.config.patch, self.config.run.seed + state.iteration)
        update = await self.ports.learner.patch(batches)
        self.progress.say(f"Patched the policy with {len(result.kept)} interventions; {update.num_updates} updates")
        self.window.clear()  # what failed before the patch says nothing about the patched policy
        state = replace(state, window_start=state.iteration + 1)
        return state, replace(update, metrics={**result.metrics(), **update.metrics})

    async def publish(self, state: RunState) -> Mapping[str, float]:
        """From here on every rollout is sampled with, and stamped with, this policy version."""
        self.progress.phase("syncing weights")
        return await self.ports.weights.publish(state.policy_version)

    async def evaluate(self, state: RunState) -> dict[str, SetScore]:
        """pass@k on every evaluation set, always with the same seeds, so that two evaluations differ by the weights."""
        scores = {}
        for name, problems in self.problems.evaluation.items():
            self.progress.phase(f"evaluating {name}", len(problems))
            groups = await self.ports.rollouts.sample(problems, self.config.evaluate.n, Purpose.EVALUATE, 0)
            scores[name] = evaluate_set(groups, self.config.evaluate.k, self.config.run.seed)
            self.folder.evaluation(state.iteration, name, groups, scores[name])
            figures = ", ".join(f"{figure} {value.mean:.3f}" for figure, value in scores[name].figures().items())
            when = f"After iteration {state.iteration}" if state.iteration else "Before training"
            self.progress.say(f"{when}, {name}: {figures}")
        return scores

    async def checkpoint(self, state: RunState) -> None:
        """Save everything that a resumed run needs."""
        self.progress.phase("saving")
        path = await self.checkpoints.save(state, self.ports.learner)
        self.folder.journal.write("checkpoint", iteration=state.iteration, path=path.name)

    def report(self, state: RunState, metrics: Mapping[str, float]) -> None:
        """Metrics to the run folder, one line to the person."""
        self.folder.metrics(state.iteration, metrics)
        self.progress.say(iteration_line(state, metrics, self.config))

    def is_last(self, state: RunState) -> bool:
        """Whether the run is over."""
        return state.iteration >= self.config.run.iterations

    def is_due(self, state: RunState) -> bool:
        """Whether an evaluation between the first and the last one is due."""
        every = self.config.evaluate.every
        return every > 0 and state.iteration % every == 0
