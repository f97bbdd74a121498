"""The runs of `int-ray compare`: an ordinary config for each arm and seed, and what they must have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from int_ray.config import Config
from int_ray.config_file import ConfigError, load_config

Method = Literal["standard_rl", "distillation", "int"]  # what is compared in section 6

# What arms may differ in. All else is what engines and learner were started with, or how the arms are judged.
FREE = (
    "schedule",
    "trigger",
    "oracle",
    "patch",
    "reinforce",
    "problems.train",
    "problems.mixed",
    "rollout.batch_size",
    "rollout.mixed",
    "rollout.n",
    "run.iterations",
    "run.checkpoint_every",
)
SEED_FOLDER = re.compile(r"seed-(\d+)")
OWN = ("run.folder", "run.seed", "run.storage", "compare")  # what `int-ray compare` sets


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed, in `FOLDER/seed-SEED/ARM`, and its copy (run.storage) in a folder of the same name."""

    arm: str
    seed: int
    config: Config


def arm_runs(path: str, overrides: Sequence[str], experiment: Config) -> list[ArmRun]:
    """All runs, seed by seed. Raises ConfigError with one line per mistake."""
    arms = experiment.compare.arms
    if len(arms) < 2:
        raise ConfigError(["compare.arms: name at least two arms and their settings; configs/compare.yaml has three"])
    mistakes = [
        f"compare.arms.{arm}: {override}: int-ray compare sets that itself; leave it out"
        for arm, settings in arms.items()
        for override in settings
        if is_below(override.partition("=")[0], OWN)
    ]
    runs: list[ArmRun] = []
    first = experiment.run.seed
    for seed in range(first, first + experiment.compare.seeds):
        for arm, settings in arms.items():
            try:
                own = _own_settings(experiment, arm, seed)
                runs.append(ArmRun(arm, seed, load_config(path, [*overrides, *settings, *own])))
            except ConfigError as error:
                mistakes += [f"compare.arms.{arm}: {line}" for line in error.problems if seed == first]
    if not mistakes:
        mistakes = [*_misnamed(runs[: len(arms)]), *_conflicts(runs[: len(arms)])]
    if mistakes:
        raise ConfigError(mistakes)
    return runs


def run_name(folder: Path) -> str:
    """What figures call a run: its folder's name, with the seed before it where `int-ray compare` gave it one."""
    seed = folder.resolve().parent.name
    return f"{seed}/{folder.name}" if SEED_FOLDER.fullmatch(seed) else folder.name


def _own_settings(experiment: Config, arm: str, seed: int) -> list[str]:
    """Seed and folders; and one file of paid answers for all, so that no question is paid twice."""
    folder, storage, place = experiment.run.folder, experiment.run.storage, f"seed-{seed}/{arm}"
    cache = experiment.oracle.cache or folder / "oracle_answers.jsonl"
    copy = [] if storage is None else [f"run.storage={storage.rstrip('/')}/{place}"]
    return [f"run.folder={folder}/{place}", *copy, f"run.seed={seed}", f"oracle.cache={cache}", "compare={}"]


def method_of(schedule: str, clone: str) -> Method:
    """What a run with these settings (schedule, patch.clone) is in the paper's comparison."""
    if schedule == "never":
        return "standard_rl"
    return "distillation" if clone == "solutions" else "int"


def _misnamed(runs: Sequence[ArmRun]) -> Iterator[str]:
    """Arms that have the name of one method and the settings of another."""
    for run in runs:
        method = method_of(run.config.schedule, run.config.patch.clone)
        if run.arm in get_args(Method) and run.arm != method:
            yield f"compare.arms.{run.arm}: with its settings it is {method} (schedule, patch.clone); name it otherwise"


def _conflicts(runs: Sequence[ArmRun]) -> Iterator[str]:
    """Settings that differ from those of the first arm and must not."""
    first, *others = [(run.arm, leaves(run.config.model_dump(mode="json"))) for run in runs]
    for name, settings in others:
        for key in sorted(first[1].keys() | settings.keys()):
            was, is_ = first[1].get(key), settings.get(key)
            if was != is_ and not is_below(key, (*FREE, *OWN)):
                yield (
                    f"compare.arms.{name}: {key}: {is_!r}, but {first[0]} has {was!r}; arms share engines, learner and "
                    "evaluation, so set it for all of them"
                )


def is_below(key: str, sections: Sequence[str]) -> bool:
    """Whether a setting is one of these, or inside of one."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its whole name, such as `run.seed`."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        inner = leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else None
        found |= {f"{prefix}{name}": value} if inner is None else inner
    return found
