"""What can be checked before an evaluation starts: every checkpoint and every set, all mistakes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from int_ray.config import Config
from int_ray.config_file import ConfigError
from int_ray.data.problems import LoadedProblems, load_problems
from int_ray.data.rows import DataError
from int_ray.decoding import checkpoints, decoding, served
from int_ray.model_checks import architecture_mistakes
from int_ray.preflight import is_local, length_check, load_tokenizer
from int_ray.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EvaluationInputs:
    """Everything from outside that an evaluation needs."""

    tokenizers: dict[str, PreTrainedTokenizerBase]  # by the path of the checkpoint
    sets: dict[str, LoadedProblems]


def load_evaluation(config: Config) -> EvaluationInputs:
    """Load tokenizers and sets, and check that the checkpoints can be served. Raises ConfigError."""
    return _load(config, hub_too=True)


def check_evaluation(config: Config) -> list[str]:
    """Check what lies on this machine; returns the names that only a hub can resolve. Raises ConfigError."""
    _load(config, hub_too=False)
    paths = [source.path for sources in config.evaluate.sets.values() for source in sources]
    names = [*checkpoints(config).values(), *paths]
    return [name for name in names if not is_local(name)]


def _load(config: Config, *, hub_too: bool) -> EvaluationInputs:
    if mistakes := _setting_mistakes(config):
        raise ConfigError(mistakes)
    tokenizers = {}
    for name, path in checkpoints(config).items():
        if hub_too or is_local(path):
            try:
                settings = served(config, path)
                tokenizers[path] = load_tokenizer(settings.model)
                mistakes += architecture_mistakes(settings)
            except ConfigError as error:
                mistakes += [f"evaluate.checkpoints.{name}: {line}" for line in error.problems]
    sets = _load_sets(config, list(tokenizers.values()), hub_too, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    return EvaluationInputs(tokenizers, sets)


def _setting_mistakes(config: Config) -> list[str]:
    longest, context = decoding(config).max_tokens, config.model.max_length
    mistakes = []
    if not config.evaluate.sets:
        mistakes.append("evaluate.sets: there is nothing to evaluate on; set evaluate.sets.NAME=FILE")
    if longest >= context:
        mistakes.append(
            f"evaluate.max_tokens: {longest} leaves no room for a prompt in model.max_length = {context}; lower it, or "
            "raise model.max_length"
        )
    return mistakes


def _load_sets(
    config: Config, tokenizers: Sequence[PreTrainedTokenizerBase], hub_too: bool, mistakes: list[str]
) -> dict[str, LoadedProblems]:
    """Problems of every set; where the prompt leaves some checkpoint no room for the longest response, all do without
    the problem."""
    checks = [length_check(config, tokenizer, decoding(config).max_tokens) for tokenizer in tokenizers]

    def too_long(problem: Problem) -> bool:
        return any(check(problem) for check in checks)

    loaded = {}
    for name, sources in config.evaluate.sets.items():
        try:
            if hub_too or all(is_local(source.path) for source in sources):
                loaded[name] = load_problems(sources, config.problems, too_long=too_long)
        except DataError as error:
            mistakes.append(f"evaluate.sets.{name}: {error}")
    return loaded
