"""The loop: sample; reinforce what carries a signal; patch the policy when too much carries none.

Reads like Algorithm 1 and knows nothing of Ray: everything outside comes in through the ports of `int_ray.ports`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from actors.drift import Drift
from actors.garbage import rare_collections
from actors.intervening import Intervening, PatchRound
from actors.pipeline import Batch, build_pipeline
from actors.recovery import Recovery
from actors.run_folder import RunFolder
from actors.summary import iteration_line
from actors.updates import Updates
from int_ray.config import Config
from int_ray.errors import LearnerError, Resumable, RunError
from int_ray.metrics import SetScore, evaluate_set, rollout_metrics, staleness_metrics
from int_ray.ports import Ports
from int_ray.samples import reinforce_batches, spread
from int_ray.trigger import Trigger
from int_ray.types import ProblemSets, Purpose, RolloutGroup, RunState, Update, UpdateBatches


class OracleOutage(Resumable):
    """The oracle is down or its budget is spent, and the config says to stop then."""


class Coordinator:
    """Runs the training; one call of `run` per process."""

    def __init__(
        self,
        config: Config,
        problems: ProblemSets,
        ports: Ports,
        patch_round: PatchRound,
        trigger: Trigger,
        folder: RunFolder,
    ) -> None:
        self.config = config
        self.problems = problems
        self.pipeline = build_pipeline(config, problems, ports.rollouts)
        self.ports = ports
        self.progress = ports.progress
        self.updates = Updates(ports.learner, folder, config.learner.max_skipped_updates)
        self.intervening = Intervening(config, patch_round, trigger, self.updates, folder, ports.progress)
        self.drift = Drift(ports.learner, folder) if config.evaluate.drift else None
        self.folder = folder
        self.recovery = Recovery(config, ports.learner, folder, ports.progress)
        self.stop = asyncio.Event()  # set it, and the run saves and raises Stopped
        self.saves_each = asyncio.Event()  # set it, and every iteration is saved
        self.boundary = RunState()  # where the run stood the last time that an iteration had ended

    async def run(self, state: RunState, checkpoint: Path | None = None) -> RunState:
        """Train from `state` to the last iteration; evaluate before and after. `checkpoint` is where `state` is from.

        Raises Resumable where the run is to end before.
        """
        self.recovery.begin(checkpoint)
        self.boundary = state
        with rare_collections():
            training, asked = asyncio.create_task(self._run(state)), asyncio.create_task(self.stop.wait())
            try:
                await asyncio.wait({training, asked}, return_when=asyncio.FIRST_COMPLETED)
                if not training.done():
                    await self.recovery.stop(training, self.boundary, weights_changed=self.updates.since_boundary)
                return await training
            finally:
                for task in (training, asked):
                    task.cancel()
                await asyncio.gather(training, asked, return_exceptions=True)

    async def _run(self, state: RunState) -> RunState:
        """Go back to the last checkpoint and on from there as often as the learner is lost, within learner.restarts."""
        while True:
            try:
                return await self.train_from(state)
            except LearnerError as error:
                if self.stop.is_set():
                    await self.recovery.leave_without(error)
                self.boundary = state = await self.recovery.rebuild(error)
                self.updates.since_boundary = False
            except RunError:
                await self.recovery.settle()  # what is being written is worth the wait
                raise

    async def train_from(self, state: RunState) -> RunState:
        """From weights and state of a checkpoint, or of a fresh start, to the end."""
        self.restore(state)
        async with aclosing(self.pipeline):
            await self.publish(state)
            is_due = state.iteration == 0 or not self.folder.scores() or self.is_due(state)
            if is_due and not self.is_last(state):  # what is known of it by now is not sampled again
                await self.evaluate(state)
            if state.iteration == 0 and self.problems.interventions:
                state = await self.patch_given(state)
            while not self.is_last(state):
                self.boundary = state = await self.iterate(state)
                self.updates.since_boundary = False
                await self.look_back(state)
            await self.evaluate(state)
            await self.recovery.finish(state)
        return state

    async def look_back(self, state: RunState) -> None:
        """Between two iterations: save and evaluate when it is time. Raises Resumable if something ends the run."""
        asked_in_vain = state.outage is not None and self.intervening.asked_in == state.iteration
        outage = asked_in_vain and self.config.oracle.on_outage == "stop"
        is_time = state.iteration % self.config.run.checkpoint_every == 0 or self.is_last(state)
        if is_time or outage or self.stop.is_set() or self.saves_each.is_set():
            await self.recovery.save(state)
        if self.stop.is_set():
            await self.recovery.leave(state)
        if outage:
            await self.recovery.settle()
            raise OracleOutage(f"the oracle cannot be asked ({state.outage}) and oracle.on_outage = stop")
        if self.is_due(state) and not self.is_last(state):
            await self.evaluate(state)

    async def iterate(self, state: RunState) -> RunState:
        """One iteration: sample, reinforce, and after a stall an intervention round and a patch."""
        started = time.monotonic()
        state = replace(state, iteration=state.iteration + 1)
        collecting = self.config.schedule == "paper" and state.iteration == 1  # Algorithm 1, line 1
        batch = await self.sample(state, collecting=collecting)
        # In threads, as samples and files are: thousands of rollouts would keep the loop from feeding the engines.
        metrics = await asyncio.to_thread(rollout_metrics, batch.groups)
        if batch.mixed:
            metrics["mixed/reward"] = rollout_metrics(batch.mixed)["rollout/reward"]
        if collecting:
            await self.write_down(state, batch.all)
        else:
            state = await self.train(state, batch, metrics)
        if self.intervening.is_time(state, batch.groups):
            state = await self.drain(state, batch, metrics)
            state = await self.apply(*await self.intervening.intervene(state), metrics)
        state = await self.pipeline.advance(replace(state, trigger=self.intervening.trigger.state()))
        self.report(state, metrics | {"time/iteration_s": time.monotonic() - started})
        return state

    async def train(
        self, state: RunState, batch: Batch, metrics: dict[str, float], before: Sequence[RolloutGroup] = ()
    ) -> RunState:
        """Reinforce with a batch and publish; adds its numbers to `metrics`.

        The rollouts, and those that the iteration was trained on before, are written down while the learner works.
        """
        metrics |= await asyncio.to_thread(staleness_metrics, batch.all, state.policy_version)
        groups = spread(batch.mixed, among=batch.groups)
        longest = self.config.rollout.max_tokens
        batches = await asyncio.to_thread(reinforce_batches, groups, self.config.reinforce, longest)
        (state, update), _ = await asyncio.gather(
            self.reinforce(state, batches), self.write_down(state, [*before, *batch.all])
        )
        return await self.apply(state, update, metrics)

    async def write_down(self, state: RunState, groups: Sequence[RolloutGroup]) -> None:
        """All groups of an iteration into the run folder."""
        await asyncio.to_thread(self.folder.rollouts, state.iteration, groups)

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
        self.intervening.remember_more(state, rest.groups)
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
        """Take data position, trigger and window from a state and its rollout files, and forget all else."""
        self.pipeline = build_pipeline(self.config, self.problems, self.ports.rollouts)
        self.pipeline.restore(state)
        self.intervening.restore(state, self.problems.train)
        self.folder.groups.restart(state.policy_version)

    async def patch_given(self, state: RunState) -> RunState:
        """Patch with the interventions of a file, before the first iteration."""
        metrics: dict[str, float] = {}
        state = await self.apply(*await self.intervening.patch_given(state, self.problems.interventions), metrics)
        self.folder.journal.write("patched", iteration=0, **metrics)
        return state

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
        self.intervening.remember(state, batch.groups)
        return batch

    async def reinforce(self, state: RunState, batches: UpdateBatches) -> tuple[RunState, Update]:
        """GRPO on the groups whose rewards differ (section 4.3, line 12)."""
        if not batches:
            return state, Update(0, skipped="no group carries a signal")
        self.progress.phase("reinforcing")
        return await self.updates.reinforce(state, batches)

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
            if self.drift is not None:
                await self.drift.measure(state, name, groups)
            figures = ", ".join(f"{figure} {value.mean:.3f}" for figure, value in scores[name].figures().items())
            when = f"After iteration {state.iteration}" if state.iteration else "Before training"
            self.progress.say(f"{when}, {name}: {figures}")
        return scores

    def report(self, state: RunState, metrics: Mapping[str, float]) -> None:
        """Metrics to the run folder, one line to the person."""
        self.folder.metrics(state.iteration, metrics)
        self.progress.say(iteration_line(state, metrics, self.config))

    def is_last(self, state: RunState) -> bool:
        """Whether the run is over."""
        return state.iteration >= self.config.run.iterations

    def is_due(self, state: RunState) -> bool:
        """Whether an evaluation between the first and the last one is due."""
        evaluate = self.config.evaluate
        just_patched = state.window_start == state.iteration + 1
        return (evaluate.every > 0 and state.iteration % evaluate.every == 0) or (evaluate.after_patch and just_patched)
