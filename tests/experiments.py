"""An experiment of several arms and seeds, written by the trainer's own writers from made-up outcomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from actors.run_folder import RunFolder
from int_ray.config_file import dump_config, load_config
from int_ray.metrics import evaluate_set
from tests.factories import group
from tests.run_folders import ROOT, intervention_round

METHODS: Mapping[str, Sequence[str]] = {
    "standard_rl": ("schedule=never",),
    "distillation": ("schedule=paper", "patch.clone=solutions"),
    "int": ("schedule=paper",),
}
SOLVED = {"intervention/problems": 3, "intervention/tested": 3, "intervention/kept": 2}
Evaluations = Mapping[int, Mapping[str, Sequence[str]]]  # iteration -> set -> outcomes of each problem


def write_arm_run(
    path: Path,
    method: str,
    seed: int,
    evaluations: Evaluations,
    rewards: Sequence[float] = (0.0, 0.0),
    *,
    kl: Mapping[int, Sequence[float]] | None = None,
    overrides: Sequence[str] = (),
    text: str = "step",
    ending: str | None = "finished",
) -> Path:
    """One run; outcomes in the letters of factories.group, problems numbered in order.

    Arms but standard_rl have a round and a patch in iteration 1. `kl` is the drift of each problem after an
    iteration, in nats per token.
    """
    settings = [
        *METHODS[method],
        f"run.seed={seed}",
        f"run.folder={path}",
        f"run.iterations={len(rewards)}",
        *overrides,
    ]
    config = load_config(ROOT / "configs/quickstart.yaml", settings)
    folder = RunFolder(path)
    (path / "config.yaml").write_text(dump_config(config))
    folder.journal.write("started", iteration=0, schedule=config.schedule)
    for iteration, reward in enumerate((0.0, *rewards)):
        if iteration:
            unsolved = 1 - reward
            shares = {"rollout/reward": reward, "rollout/unsolved": unsolved, "rollout/zero_advantage": unsolved}
            folder.metrics(iteration, shares)
        if iteration == 1 and method == "int":
            result = intervention_round(text)
            folder.interventions(1, result)
            folder.journal.write("intervention_round", iteration=1, outage=None, **result.metrics())
        if iteration == 1 and method == "distillation":
            folder.journal.write("intervention_round", iteration=1, outage=None, **SOLVED)
        for name, problems in evaluations.get(iteration, {}).items():
            groups = [group(outcomes, index=index) for index, outcomes in enumerate(problems)]
            folder.evaluation(iteration, name, groups, evaluate_set(groups, (1, 2), 0))
        if kl is not None and iteration in kl:
            folder.journal.write("drift", iteration=iteration, set="easy", kl=mean(kl[iteration]), entropy=0.5)
            lines = [json.dumps({"problem_id": f"p{index}", "kl": one}) for index, one in enumerate(kl[iteration])]
            file = path / "drift" / f"iteration_{iteration:06d}" / "easy.jsonl"
            file.parent.mkdir(parents=True)
            file.write_text("\n".join(lines) + "\n")
    if ending is not None:
        folder.journal.write(ending, seconds={"sampling": 1.0})
    folder.close()
    return path


def write_solutions(path: Path, tokens: Mapping[str, int]) -> None:
    """The oracle's full solutions of a distillation run."""
    (path / "solutions").mkdir()
    lines = [
        json.dumps({"problem_id": problem, "kept": True, "num_tokens": length}) for problem, length in tokens.items()
    ]
    (path / "solutions/iteration_000001.jsonl").write_text("\n".join(lines) + "\n")
