"""What the model's config.json tells before anything starts: whether engines can serve it and the learner train it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from int_ray.compute.architecture import untrainable
from int_ray.config import Config, ModelConfig
from int_ray.config_file import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Head sizes of vLLM's CPU attention kernel; it dies at the first request on others.
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def architecture_mistakes(config: Config) -> list[str]:
    """Head size and context length against what the engine supports. Raises ConfigError if they cannot be read."""
    path = config.model.path
    architecture = _read_architecture(config.model)
    head_size = getattr(architecture, "head_dim", None) or architecture.hidden_size // architecture.num_attention_heads
    limit = getattr(architecture, "max_position_embeddings", config.model.max_length)
    mistakes = []
    if config.learner.device == "cpu" and head_size not in CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, CPU_HEAD_SIZES))
        mistakes.append(f"model.path: {path} has attention heads of {head_size}; the CPU engine supports {sizes}")
    if config.model.max_length > limit:
        mistakes.append(f"model.max_length: {config.model.max_length} exceeds the model's own limit of {limit}")
    return mistakes


def require_trainable(config: Config) -> None:
    """The learner must know how to compute the model. Raises ConfigError."""
    if mistakes := untrainable(_read_architecture(config.model)):
        raise ConfigError(mistakes)


def _read_architecture(model: ModelConfig) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model.path, revision=model.revision).get_text_config()
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError([f"model.path: cannot read the configuration of {model.path}: {reason}"]) from None
