"""What can be checked about the oracle before Ray starts: one clear line per mistake."""

from __future__ import annotations

import difflib
import os

from int_ray.config import Config
from int_ray.config_file import ConfigError
from int_ray.data.problems import LoadedProblems
from int_ray.data_config import source_names
from int_ray.oracle_config import OracleKindName
from int_ray.oracles import CHECKERS
from int_ray.oracles.api import address_mistakes, api_mistakes
from int_ray.oracles.recorded import load_recorded
from int_ray.oracles.teacher import SolvingChecker


def kinds_asked(config: Config) -> tuple[OracleKindName, ...]:
    """The kind and its fallbacks, each once, in the order in which they are asked; none in plain RL."""
    return () if config.schedule == "never" else tuple(dict.fromkeys((config.oracle.kind, *config.oracle.fallback)))


def oracle_mistakes(config: Config, train: LoadedProblems) -> list[str]:
    """What keeps the oracles that the config names from working at all."""
    kinds = kinds_asked(config)
    is_local = not (config.run.ray_address or os.environ.get("RAY_ADDRESS"))  # elsewhere keys are only on the workers
    mistakes = address_mistakes(config.oracle)
    if kinds:
        mistakes += api_mistakes(config.oracle, with_keys=is_local)
    if "exact" in kinds:
        mistakes += _checker_mistakes(config, train)
    if "recorded" in kinds:
        mistakes += _recorded_mistakes(config)
    return mistakes


def _checker_mistakes(config: Config, train: LoadedProblems) -> list[str]:
    mistakes = []
    name = config.oracle.checker
    if name not in CHECKERS:
        close = difflib.get_close_matches(name, CHECKERS, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(CHECKERS)
        mistakes.append(
            f"oracle.checker: no checker named {name!r} is registered{meant} (there are: {known}; "
            "--plugin imports a module that registers more)"
        )
    elif config.patch.clone == "solutions" and not isinstance(CHECKERS[name](), SolvingChecker):
        mistakes.append(f"patch.clone: solutions: the checker {name!r} has no `solve(problem)` and writes none")
    if name == "chains" and not any(problem.solution for problem in train.problems):
        mistakes.append(
            f"problems.columns.solution: no row of {source_names(config.problems.train)} has a solution, which "
            "oracle.kind = exact compares with"
        )
    return mistakes


def _recorded_mistakes(config: Config) -> list[str]:
    if config.oracle.recorded is None:
        return ["oracle.recorded: oracle.kind = recorded needs a file of interventions; set oracle.recorded=FILE"]
    try:
        load_recorded(config.oracle.recorded)
    except ConfigError as error:
        return list(error.problems)
    return []
