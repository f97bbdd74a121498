"""The runs of `int-ray compare`: an ordinary config for each arm and seed, and what they must have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from int_ray.config import Config
from int_ray.config_file import ConfigError, load_config

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
OWN = ("run.folder", "run.seed", "compare")  # what `int-ray compare` sets


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed, in `FOLDER/seed-SEED/ARM`."""

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
        mistakes = list(_conflicts(runs[: len(arms)]))
    if mistakes:
        raise ConfigError(mistakes)
    return runs


def _own_settings(experiment: Config, arm: str, seed: int) -> list[str]:
    """Seed and folder; and one file of paid answers for all, so that no question is paid twice."""
    folder = experiment.run.folder
    cache = experiment.oracle.cache or folder / "oracle_answers.jsonl"
    return [f"run.folder={folder}/seed-{seed}/{arm}", f"run.seed={seed}", f"oracle.cache={cache}", "compare={}"]


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
