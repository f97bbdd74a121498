"""What can be checked about model and data before Ray starts: each problem is one clear line, and all come at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from int_ray.config import Config, ModelConfig
from int_ray.config_file import ConfigError
from int_ray.data.problems import LoadedProblems, load_problems
from int_ray.data.rows import DataError, is_single_dataset, may_be_hub_name
from int_ray.data_config import SourceConfig, source_names
from int_ray.given_interventions import LoadedInterventions, load_interventions
from int_ray.model_checks import architecture_mistakes
from int_ray.oracle_checks import oracle_mistakes
from int_ray.prompts import encode_prompt
from int_ray.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAIN = "problems.train"
MIXED = "problems.mixed"
EVALUATION = "evaluate.sets."


@dataclass(frozen=True)
class Inputs:
    """Everything from outside that a run trains on and is judged by."""

    tokenizer: PreTrainedTokenizerBase
    problems: LoadedProblems
    mixed: LoadedProblems
    evaluation_sets: dict[str, LoadedProblems]
    interventions: LoadedInterventions


def load_inputs(config: Config) -> Inputs:
    """Load tokenizer and problems, and check that the model can be served. Raises ConfigError."""
    mistakes: list[str] = []
    tokenizer = _checked_model(config, mistakes)
    loaded = _checked_problems(config, sources(config), tokenizer, mistakes)
    interventions = _checked_interventions(config, tokenizer, mistakes)
    if mistakes or tokenizer is None:
        raise ConfigError(mistakes)
    evaluation_sets = {key.removeprefix(EVALUATION): item for key, item in loaded.items() if key.startswith(EVALUATION)}
    return Inputs(tokenizer, loaded[TRAIN], loaded.get(MIXED, LoadedProblems(())), evaluation_sets, interventions)


def require_kernels(config: Config) -> None:
    """What the learner needs beside the locked packages must be installed where it runs. Raises ConfigError."""
    if config.learner.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise ConfigError(
            [
                "learner.attention: flash_attention_2 needs the package flash-attn, which is not installed; install it "
                "or choose varlen"
            ]
        )


def check_local_inputs(config: Config) -> list[str]:
    """Check what lies on this machine; returns the names that only a hub can resolve. Raises ConfigError."""
    mistakes: list[str] = []
    tokenizer = _checked_model(config, mistakes) if is_local(config.model.path) else None
    local = {key: several for key, several in sources(config).items() if all(is_local(item.path) for item in several)}
    _checked_problems(config, local, tokenizer, mistakes)
    _checked_interventions(config, tokenizer, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    paths = [source.path for several in sources(config).values() for source in several]
    return [path for path in (config.model.path, *paths) if not is_local(path)]


def sources(config: Config) -> dict[str, Sequence[SourceConfig]]:
    """Config key -> its sources, for everything that has problems."""
    mixed = {} if config.problems.mixed is None else {MIXED: config.problems.mixed}
    sets = {EVALUATION + name: several for name, several in config.evaluate.sets.items()}
    return {TRAIN: config.problems.train, **mixed, **sets}


def is_local(path: str) -> bool:
    """Whether a model path or data source means the file system rather than a hub name."""
    return Path(path).exists() or not may_be_hub_name(path)


def _checked_model(config: Config, mistakes: list[str]) -> PreTrainedTokenizerBase | None:
    """The tokenizer; None, and one more mistake, if the model cannot be used."""
    try:
        tokenizer = load_tokenizer(config.model)
        mistakes += architecture_mistakes(config)
    except ConfigError as error:
        mistakes += error.problems
        return None
    return tokenizer


def _checked_problems(
    config: Config,
    wanted: Mapping[str, Sequence[SourceConfig]],
    tokenizer: PreTrainedTokenizerBase | None,
    mistakes: list[str],
) -> dict[str, LoadedProblems]:
    """Everything that can be used, by its config key; the rest are mistakes. Evaluation sets come first: what they ask
    is left out of the other data."""
    too_long = length_check(config, tokenizer, config.rollout.max_tokens)
    loaded: dict[str, LoadedProblems] = {}
    for key, several in sorted(wanted.items(), key=lambda item: not item[0].startswith(EVALUATION)):
        held_out = {} if key.startswith(EVALUATION) else _held_out(config, several, loaded)
        try:
            loaded[key] = load_problems(
                several, config.problems, too_long=too_long, distinct=key == TRAIN, held_out=held_out
            )
        except DataError as error:
            mistakes.append(f"{key}: {error}")
    if TRAIN in loaded:
        mistakes += _training_mistakes(config, loaded[TRAIN])
    if TRAIN in loaded and MIXED in loaded:
        mistakes += _mixed_mistakes(loaded[TRAIN], loaded[MIXED])
    return loaded


def length_check(
    config: Config, tokenizer: PreTrainedTokenizerBase | None, max_tokens: int
) -> Callable[[Problem], bool]:
    """Whether a problem's prompt leaves no room for a response of `max_tokens`; never without a tokenizer."""
    room = config.model.max_length - max_tokens
    if tokenizer is None:
        return lambda _: False

    def tokens(problem: Problem) -> int:
        return len(encode_prompt(tokenizer, problem, config.model.chat_template_kwargs, config.model.instruction))

    frame = tokens(Problem("", "x", ""))

    def too_long(problem: Problem) -> bool:
        # A letter is no more than a token: spares a million short questions the tokenizer, even if the template
        # repeats them.
        if problem.question.isascii() and frame + 2 * len(problem.question) <= room:
            return False
        return tokens(problem) > room

    return too_long


def _held_out(
    config: Config, several: Sequence[SourceConfig], loaded: Mapping[str, LoadedProblems]
) -> dict[str, Sequence[Problem]]:
    """The evaluation sets that these sources may not overlap with: all but those that share a source with them."""
    if not config.problems.decontaminate:
        return {}
    places = {_place(config, source) for source in several}
    return {
        key: loaded[key].problems
        for key, sources_ in sources(config).items()
        if key.startswith(EVALUATION) and key in loaded and places.isdisjoint(_place(config, item) for item in sources_)
    }


def _place(config: Config, source: SourceConfig) -> tuple[str, ...]:
    """Where the rows of a source lie. The same place in two settings is on purpose."""
    path = Path(source.path).expanduser()
    has_splits = not (path.is_file() or source.is_generated or is_single_dataset(path))
    split = (source.split or config.problems.split) if has_splits else ""
    return (str(path.resolve() if path.exists() else source.path), source.subset or "", split, str(source.options))


def _checked_interventions(
    config: Config, tokenizer: PreTrainedTokenizerBase | None, mistakes: list[str]
) -> LoadedInterventions:
    """Those of patch.interventions, if it is set."""
    path = config.patch.interventions
    if path is None or tokenizer is None:
        return LoadedInterventions(())
    try:
        return load_interventions(path, tokenizer, config)
    except ConfigError as error:
        mistakes += error.problems
        return LoadedInterventions(())


def _training_mistakes(config: Config, train: LoadedProblems) -> list[str]:
    names, count = source_names(config.problems.train), len(train.problems)
    mistakes = []
    if config.rollout.batch_size > count:
        mistakes.append(
            f"rollout.batch_size: {config.rollout.batch_size} exceeds the {count} usable problems of {names}; lower it"
        )
    mistakes += oracle_mistakes(config, train)
    return mistakes


def _mixed_mistakes(train: LoadedProblems, mixed: LoadedProblems) -> list[str]:
    smaller, larger = sorted((train.problems, mixed.problems), key=len)
    ids = {problem.id for problem in smaller}
    shared = sorted(problem.id for problem in larger if problem.id in ids)
    if not shared:
        return []
    example = f"such as {shared[0]!r}"
    return [f"{MIXED}: {len(shared)} ids are also ids of {TRAIN} ({example}); rename them, or set problems.columns.id"]


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a chat template. Raises ConfigError naming what is missing."""
    if is_local(model.path):
        _check_model_folder(Path(model.path))
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path, revision=model.revision)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _no_tokenizer(model, str(error).partition("\n")[0] or type(error).__name__) from None
    if not tokenizer.encode("1", add_special_tokens=False):  # transformers makes an empty one where files are missing
        raise _no_tokenizer(model, "its vocabulary is empty")
    if not tokenizer.chat_template:
        raise ConfigError(
            [f"model.path: the tokenizer in {model.path} has no chat template; add chat_template.jinja to the folder"]
        )
    return tokenizer


def _check_model_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError([f"model.path: {folder} is not a model folder: it has no config.json"])
    if not any(folder.glob("*.safetensors")):
        raise ConfigError([f"model.path: {folder} has no *.safetensors; save the model with save_pretrained"])


def _no_tokenizer(model: ModelConfig, reason: str) -> ConfigError:
    what_to_do = (
        "save one beside the model"
        if is_local(model.path)
        else "check the name and the network, or set the path to a local folder with model and tokenizer"
    )
    return ConfigError([f"model.path: no tokenizer could be loaded from {model.path}; {what_to_do} ({reason})"])
