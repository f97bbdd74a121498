"""The loop: sample; reinforce what carries a signal; patch the policy when too much carries none.

Reads like Algorithm 1 and knows nothing of Ray: everything outside comes in through the ports of `int_ray.ports`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.checkpoint import Checkpoints
from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.errors import Resumable
from int_ray.intervention_round import InterventionRound, RoundResult
from int_ray.metrics import SetScore, evaluate_set, rollout_metrics
from int_ray.ports import Ports
from int_ray.problems import ProblemBatches
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
        self.batches = ProblemBatches(problems.train, config.rollout.batch_size, config.run.seed)
        self.mixed = ProblemBatches(problems.mixed, config.rollout.mixed, config.run.seed)
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
            stops = self.outage is not None and self.config.oracle.on_outage == "stop"
            if stops or state.iteration % self.config.run.checkpoint_every == 0 or self.is_last(state):
                await self.checkpoint(state)
            if stops:
                raise OracleOutage(f"the oracle cannot be asked ({self.outage}) and oracle.on_outage = stop")
            if self.is_due(state) and not self.is_last(state):
                await self.evaluate(state)
        await self.evaluate(state)
        return state

    async def iterate(self, state: RunState) -> RunState:
        """One iteration: sample, reinforce, and after a stall an intervention round and a patch."""
        started = time.monotonic()
        state = replace(state, iteration=state.iteration + 1)
        collecting = self.config.schedule == "paper" and state.iteration == 1  # Algorithm 1, line 1
        groups, mixed = await self.sample(state, collecting=collecting)
        metrics = rollout_metrics(groups)
        if mixed:
            metrics["mixed/reward"] = rollout_metrics(mixed)["rollout/reward"]
        if not collecting:
            state = await self.apply(state, await self.reinforce(spread(mixed, among=groups)), metrics)
        before = self.trigger.state()
        if self.trigger.observe(groups, state.intervention_rounds) is Decision.INTERVENE:
            state = await self.apply(*await self.intervene(state), metrics)
            if self.outage is not None:
                self.trigger.restore(before)  # so that the next iteration asks again
        state = replace(state, trigger=self.trigger.state())
        self.report(state, metrics | {"time/iteration_s": time.monotonic() - started})
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
        """Take trigger and window of a resumed run from its state and its rollout files."""
        if state.trigger:
            self.trigger.restore(state.trigger)
        first = max(1, state.window_start, state.iteration - self.config.trigger.patience + 1)
        problems = {problem.id: problem for problem in self.problems.train}
        for iteration in range(first, state.iteration + 1):
            self.window.add(self.folder.read_rollouts(iteration, problems))

    async def sample(self, state: RunState, *, collecting: bool) -> tuple[list[RolloutGroup], list[RolloutGroup]]:
        """Groups of training problems, and of the mixed-in ones; graded and written down."""
        index = state.iteration - 1
        problems = self.problems.train if collecting else self.batches.batch(index)
        mixed = () if collecting else self.mixed.batch(index)
        self.progress.phase("sampling", len(problems) + len(mixed))
        groups = await self.ports.rollouts.sample(
            [*problems, *mixed], self.config.rollout.n, Purpose.TRAIN, state.iteration
        )
        self.folder.rollouts(state.iteration, groups)
        trained, solvable = groups[: len(problems)], groups[len(problems) :]
        if self.config.schedule != "paper" or self.outage is None:  # else the whole training set waits for the oracle
            self.window.add(trained)
        return trained, solvable

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
        self.progress.say(
            f"Iteration {state.iteration}/{self.config.run.iterations}: "
            f"reward {metrics['rollout/reward']:.3f}, unsolved {metrics['rollout/unsolved']:.0%}, "
            f"no signal {metrics['rollout/zero_advantage']:.0%}, policy v{state.policy_version}, "
            f"{metrics['time/iteration_s']:.0f} s"
        )

    def is_last(self, state: RunState) -> bool:
        """Whether the run is over."""
        return state.iteration >= self.config.run.iterations

    def is_due(self, state: RunState) -> bool:
        """Whether an evaluation between the first and the last one is due."""
        every = self.config.evaluate.every
        return every > 0 and state.iteration % every == 0
