"""What can be checked about model and data before Ray starts: each problem is one clear line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from int_ray.config import Config, ModelConfig
from int_ray.config_file import ConfigError
from int_ray.problems import DataError, LoadedProblems, load_problems, may_be_hub_name
from int_ray.prompts import encode_prompt
from int_ray.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Head sizes of vLLM's CPU attention kernel; it dies at the first request on others.
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


@dataclass(frozen=True)
class Inputs:
    """Everything from outside that a run trains on and is judged by."""

    tokenizer: PreTrainedTokenizerBase
    problems: LoadedProblems
    evaluation_sets: dict[str, LoadedProblems]


def load_inputs(config: Config) -> Inputs:
    """Load tokenizer and problems, and check that the model can be served. Raises ConfigError."""
    tokenizer = load_tokenizer(config.model)
    check_architecture(config)
    mistakes: list[str] = []
    loaded: dict[str, LoadedProblems] = {}
    sources = {
        "problems.train": config.problems.train,
        **{f"evaluate.sets.{name}": source for name, source in config.evaluate.sets.items()},
    }

    def too_long(problem: Problem) -> bool:
        room = config.model.max_length - config.rollout.max_tokens
        return len(encode_prompt(tokenizer, problem, config.model.chat_template_kwargs)) > room

    for key, source in sources.items():
        try:
            loaded[key] = load_problems(source, config.problems, too_long=too_long)
        except DataError as error:
            mistakes.append(f"{key}: {error}")
    if mistakes:
        raise ConfigError(mistakes)
    problems = loaded.pop("problems.train")
    return Inputs(tokenizer, problems, {key.removeprefix("evaluate.sets."): value for key, value in loaded.items()})


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a chat template. Raises ConfigError naming what is missing."""
    if is_local(model.path) and not Path(model.path, "config.json").is_file():
        raise ConfigError([f"model.path: {model.path} is not a model folder: it has no config.json"])
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


def _no_tokenizer(model: ModelConfig, reason: str) -> ConfigError:
    return ConfigError(
        [f"model.path: no tokenizer could be loaded from {model.path}; save one beside the model ({reason})"]
    )


def check_architecture(config: Config) -> None:
    """Head size and context length against what the engine supports. Raises ConfigError."""
    from transformers import AutoConfig

    try:
        architecture = AutoConfig.from_pretrained(config.model.path, revision=config.model.revision)
    except (OSError, ValueError) as error:
        raise ConfigError([f"model.path: cannot read the configuration of {config.model.path}: {error}"]) from None
    heads = architecture.num_attention_heads
    head_size = getattr(architecture, "head_dim", None) or architecture.hidden_size // heads
    mistakes = []
    if config.learner.device == "cpu" and head_size not in CPU_HEAD_SIZES:
        mistakes.append(
            f"model.path: {config.model.path} has attention heads of {head_size}; the CPU engine supports "
            f"{', '.join(map(str, CPU_HEAD_SIZES))}"
        )
    limit = architecture.max_position_embeddings
    if config.model.max_length > limit:
        mistakes.append(f"model.max_length: {config.model.max_length} exceeds the model's own limit of {limit}")
    if mistakes:
        raise ConfigError(mistakes)


def is_local(path: str) -> bool:
    """Whether a model path or data source means the file system rather than a hub name."""
    return Path(path).exists() or not may_be_hub_name(path)


def hub_names(config: Config) -> list[str]:
    """Names that only a hub can resolve; a dry run reports them as not checked."""
    names = [config.model.path, config.problems.train, *config.evaluate.sets.values()]
    return [name for name in names if not is_local(name)]
