"""A small run folder with everything in it, made by the trainer's own writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from actors.run_folder import RunFolder
from int_ray.config_file import dump_config, load_config
from int_ray.intervention_round import RoundResult
from int_ray.interventions import Refusal
from int_ray.metrics import evaluate_set
from int_ray.types import (
    Attempt,
    Intervention,
    OracleReply,
    Outcome,
    Proposal,
    Rollout,
    RolloutGroup,
    TestedIntervention,
)
from tests.factories import attempt, completion, group

ROOT = Path(__file__).parents[1]
STUCK_THEN_FREED = (1.0, 1.0, 1.0, 0.5, 0.25, 0.0)
BEFORE_AND_AFTER: Mapping[str, Sequence[str]] = {"hard": ("wwww", "ccww"), "easy": ("cccc", "cccc")}


def write_run(
    path: Path,
    unsolved: Sequence[float] = STUCK_THEN_FREED,
    patched_after: Sequence[int] = (3,),
    evaluations: Mapping[str, Sequence[str]] = BEFORE_AND_AFTER,
    ending: str | None = "finished",
    text: str = "the step",
) -> Path:
    """A run with the given unsolved share of each iteration; the mean reward is what is left of 1.

    `evaluations` has one group per evaluation of each set, in the letters of factories.group: the first before, the
    last after training. `text` is in every question, step and replacement.
    """
    schedule = "plateau" if patched_after else "never"
    config = load_config(ROOT / "configs/quickstart.yaml", [f"schedule={schedule}", f"run.iterations={len(unsolved)}"])
    folder = RunFolder(path)
    (path / "config.yaml").write_text(dump_config(config))
    folder.journal.write("started", iteration=0, schedule=schedule)
    _evaluate(folder, 0, {name: groups[0] for name, groups in evaluations.items()})
    for iteration, share in enumerate(unsolved, start=1):
        rollouts = {"rollout/reward": 1 - share, "rollout/unsolved": share, "rollout/zero_advantage": share}
        folder.metrics(iteration, rollouts)
        if iteration in patched_after:
            result = intervention_round(text)
            folder.interventions(iteration, result)
            folder.journal.write("intervention_round", iteration=iteration, **result.metrics())
    _evaluate(folder, len(unsolved), {name: groups[-1] for name, groups in evaluations.items() if len(groups) > 1})
    if ending is not None:
        folder.journal.write(ending, seconds={"sampling": 6.0, "evaluating hard": 2.0, "evaluating easy": 2.0})
    folder.close()
    return path


def intervention_round(text: str) -> RoundResult:
    """Two interventions that helped, one that did not, and one that a guard refused."""
    tested = [tested_intervention(index, "cwcw" if index < 2 else "wwww", text) for index in range(3)]
    refusal = Refusal(failed_attempt(3, text), "leaks_answer", Proposal(2, f"14, since {text}"), OracleReply())
    return RoundResult(4, 4, tuple(tested), tuple(tested[:2]), refused=(refusal,))


def failed_attempt(index: int, text: str) -> Attempt:
    """Three steps, the second one wrong."""
    found = attempt("12+5=17\n\n", f"17-3=15 {text}\n\n", "\\boxed{15}", index=index)
    return replace(found, problem=replace(found.problem, question=f"{found.problem.question} {text}"))


def tested_intervention(index: int, outcomes: str, text: str) -> TestedIntervention:
    """A replacement of the second step, with one continuation per letter."""
    failed = failed_attempt(index, text)
    ids = np.array([5, 6], np.int32)
    intervention = Intervention(failed, Proposal(2, f"17-3=14 {text}"), ids, ids)
    continuations = tuple(
        Rollout(completion(f"\\boxed{{{14 if letter == 'c' else 15}}}", seed=seed), verdict, 0)
        for seed, letter in enumerate(outcomes)
        for verdict in [Outcome.CORRECT if letter == "c" else Outcome.WRONG]
    )
    return TestedIntervention(intervention, RolloutGroup(failed.problem, failed.prompt_ids, ids, continuations))


def _evaluate(folder: RunFolder, iteration: int, groups: Mapping[str, str]) -> None:
    for name, outcomes in groups.items():
        folder.evaluation(iteration, name, [group(outcomes)], evaluate_set([group(outcomes)], (1, 2), 0))
