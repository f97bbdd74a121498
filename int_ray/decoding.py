"""How `int-ray evaluate` decodes: the user's own settings first, then the paper's under a name, then those of rollout.

Of the paper's, temperature, top-p and top-k are those of appendix E, and the output length is that of section 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from int_ray.config import Config, DecodingName


@dataclass(frozen=True, slots=True)
class Decoding:
    """What of the settings of sampling a score depends on."""

    temperature: float
    top_p: float
    top_k: int  # 0: no limit
    max_tokens: int

    def __str__(self) -> str:
        """Such as `temperature 0.6, top-p 0.95, top-k 20, at most 32768 tokens`."""
        top_k = f"top-k {self.top_k}" if self.top_k else "no top-k"
        return f"temperature {self.temperature:g}, top-p {self.top_p:g}, {top_k}, at most {self.max_tokens} tokens"


PRESETS: Mapping[DecodingName, Decoding] = {
    "e3": Decoding(temperature=0.6, top_p=0.95, top_k=20, max_tokens=32768),
    "qwen3_4b": Decoding(temperature=0.7, top_p=0.8, top_k=20, max_tokens=32768),
}


def checkpoints(config: Config) -> dict[str, str]:
    """Name -> path of everything that `int-ray evaluate` evaluates."""
    return dict(config.evaluate.checkpoints) or {"model": config.model.path}


def decoding(config: Config) -> Decoding:
    """What the config comes to."""
    own, rollout = config.evaluate, config.rollout
    rest = PRESETS[own.decoding] if own.decoding else rollout
    return Decoding(
        rest.temperature if own.temperature is None else own.temperature,
        rest.top_p if own.top_p is None else own.top_p,
        rest.top_k if own.top_k is None else own.top_k,
        rest.max_tokens if own.max_tokens is None else own.max_tokens,
    )


def served(config: Config, path: str) -> Config:
    """The config of engines that sample with a checkpoint's weights, decoding as evaluations do."""
    settings = decoding(config)
    revision = config.model.revision if path == config.model.path else None
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"path": path, "revision": revision}),
            "rollout": config.rollout.model_copy(update=asdict(settings)),
        }
    )
