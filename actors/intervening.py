"""When too much stays unsolved: ask the oracle, and patch the policy with what helps (sections 4.1-4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actors.run_folder import RunFolder
from actors.updates import Updates
from int_ray.config import Config
from int_ray.distillation_round import DistillationResult, DistillationRound
from int_ray.intervention_round import InterventionRound, RoundResult
from int_ray.ports import Progress
from int_ray.samples import sft_batches
from int_ray.trigger import Decision, Trigger
from int_ray.types import Problem, RolloutGroup, RunState, TestedIntervention, Update
from int_ray.unsolved_window import UnsolvedWindow

PatchRound = InterventionRound | DistillationRound


class Intervening:
    """Remembers what stayed unsolved, decides when to ask about it, and patches."""

    def __init__(
        self,
        config: Config,
        patch_round: PatchRound,
        trigger: Trigger,
        updates: Updates,
        folder: RunFolder,
        progress: Progress,
    ) -> None:
        self.config = config
        self.round = patch_round
        self.trigger = trigger
        self.updates = updates
        self.folder = folder
        self.progress = progress
        self.window = UnsolvedWindow(config.trigger.patience)
        self.asked_in = 0  # the last iteration that asked the oracle
        self._untouched = trigger.state()

    def restore(self, state: RunState, problems: Sequence[Problem]) -> None:
        """Take trigger and window from a state and from the rollout files."""
        self.trigger.restore(state.trigger or self._untouched)
        self.window.clear()
        first = max(1, state.window_start, state.iteration - self.config.trigger.patience + 1)
        iterations = range(first, state.iteration + 1) if self._remembers(state) else [1]
        for iteration in iterations:
            self.window.add(self.folder.read_rollouts(iteration, problems))

    def remember(self, state: RunState, groups: Sequence[RolloutGroup]) -> None:
        """The groups of a new iteration."""
        if self._remembers(state):
            self.window.add(groups)

    def remember_more(self, state: RunState, groups: Sequence[RolloutGroup]) -> None:
        """More groups of the same iteration."""
        if self._remembers(state):
            self.window.extend(groups)

    def _remembers(self, state: RunState) -> bool:
        """False while the whole training set, sampled before (schedule: paper), waits for an oracle that was down."""
        return self.config.schedule != "paper" or state.outage is None

    def is_time(self, state: RunState, groups: Sequence[RolloutGroup]) -> bool:
        """Whether the iteration that sampled these groups is to ask the oracle."""
        self._before = self.trigger.state()
        return self.trigger.observe(groups, state.intervention_rounds) is Decision.INTERVENE

    async def intervene(self, state: RunState) -> tuple[RunState, Update]:
        """Ask about every problem that stayed unsolved, clone what helps (Algorithm 1, lines 2-11)."""
        self.asked_in = state.iteration
        unsolved = self.window.stayed_unsolved()
        if not unsolved:
            return replace(state, outage=None), Update(0, skipped="no problem stayed unsolved")
        period = "the last iteration" if len(self.window) == 1 else f"the last {len(self.window)} iterations"
        self.progress.say(f"{len(unsolved)} problems had no right rollout in {period}: asking the oracle about them")
        result = await self.round.run(unsolved, state.iteration)
        state = replace(state, outage=result.outage)
        if result.outage is None:  # an oracle that is down costs no round
            state = replace(state, intervention_rounds=state.intervention_rounds + 1)
        else:
            self.trigger.restore(self._before)  # so that the next iteration asks again
        return await self._patch(state, result)

    async def patch_given(self, state: RunState, given: Sequence[TestedIntervention]) -> tuple[RunState, Update]:
        """Clone interventions that come from a file (patch.interventions); untested ones are tested first."""
        assert isinstance(self.round, InterventionRound)  # checked with the config
        self.progress.say(f"Patching with {len(given)} interventions of {self.config.patch.interventions}")
        return await self._patch(state, await self.round.run_given(given, state.iteration))

    async def _patch(self, state: RunState, result: RoundResult | DistillationResult) -> tuple[RunState, Update]:
        """Clone prefix and intervention of what helps (section 4.2, line 11), or whole solutions (patch.clone)."""
        self.folder.round(state.iteration, result)
        self.folder.journal.write(
            "intervention_round", iteration=state.iteration, outage=result.outage, **result.metrics()
        )
        self.progress.say(result.story())
        if not result.kept:
            return state, Update(0, result.metrics(), skipped=f"no {result.cloned} to clone")
        self.progress.phase("patching")
        samples = result.samples(self.config.patch)
        batches = sft_batches(samples, self.config.patch, self.config.run.seed + state.iteration)
        state, update = await self.updates.patch(state, batches)
        self.progress.say(f"Patched the policy with {len(result.kept)} {result.cloned}; {update.num_updates} updates")
        self.window.clear()  # what failed before the patch says nothing about the patched policy
        state = replace(state, window_start=state.iteration + 1)
        return state, replace(update, metrics={**result.metrics(), **update.metrics})
