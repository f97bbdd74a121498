"""What a GPU will hold, before anything starts: arithmetic on the model's shape, and a warning where it cannot fit.

State is exact. Activations are an estimate for decoder layers with gated MLPs and a fused attention kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from int_ray.config import Config, ModelConfig

GB = 1e9
PROCESS = 1.0 * GB  # CUDA context, kernels and communication buffers of one process
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """A dense decoder with gated MLPs.

    Example, Qwen3-1.7B: `Shape(28, 2048, 16, 8, 128, 6144, 151936, tied=True)`
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def layer_parameters(self) -> int:
        """Of one layer, its norms left out."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.layers * self.layer_parameters + (1 if self.tied else 2) * self.vocabulary * self.hidden


def read_shape(model: ModelConfig) -> Shape | None:
    """From the checkpoint's config.json; None if it is no dense decoder, of which alone the arithmetic holds."""
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(model.path, revision=model.revision).get_text_config()
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    experts = ("num_experts", "num_local_experts", "n_routed_experts")
    if any(getattr(found, name, None) is None for name in names) or any(getattr(found, name, None) for name in experts):
        return None
    heads = found.num_attention_heads
    return Shape(
        layers=found.num_hidden_layers,
        hidden=found.hidden_size,
        heads=heads,
        kv_heads=getattr(found, "num_key_value_heads", None) or heads,
        head_size=getattr(found, "head_dim", None) or found.hidden_size // heads,
        intermediate=found.intermediate_size,
        vocabulary=found.vocab_size,
        tied=found.tie_word_embeddings,
    )


@dataclass(frozen=True)
class GpuPlan:
    """One kind of GPU at its fullest in one phase of the run."""

    phase: str  # "learner, training"
    parts: Mapping[str, float]  # what -> bytes
    advice: str  # what makes it smaller

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    def story(self) -> str:
        """Example: `each engine GPU: about 5.0 GB (engine weights 3.4, ...)`."""
        parts = ", ".join(f"{what} {size / GB:.1f}" for what, size in self.parts.items())
        return f"{self.phase}: about {self.total / GB:.1f} GB ({parts})"


def memory_plans(config: Config, shape: Shape, gpu_bytes: float | None) -> list[GpuPlan]:
    """What GPUs hold in training and in sampling; `gpu_bytes` is the size of one, if it is known. Empty on CPU."""
    if config.learner.device == "cpu":
        return []
    state, engine = _state(config, shape), _engine(config, shape, gpu_bytes)
    training = state | _working(config, shape) | {"process": PROCESS}
    trains = "learner.activation_checkpointing=full or fewer learner.micro_batch_tokens"
    if config.learner.weight_sync != "ipc":
        return [
            GpuPlan("each learner GPU, training", training, f"{trains}, or more learner.num_ranks"),
            GpuPlan("each engine GPU", engine, "more rollout.tensor_parallel_size or a smaller model.max_length"),
        ]
    asleep = {"sleeping engine": PROCESS} if config.rollout.sleep else engine
    sampling = state | {"process": PROCESS} | engine
    taken, least = sum(state.values()) + PROCESS, sum(_least_engine(config, shape).values())
    return [
        GpuPlan("shared GPU, training", training | asleep, f"{trains}, or a lower rollout.gpu_memory_utilization"),
        GpuPlan("shared GPU, sampling", sampling, _smaller_engine(taken, least, gpu_bytes)),
    ]


def _smaller_engine(taken: float, least: float, gpu_bytes: float | None) -> str:
    """What leaves room for `taken` bytes beside an engine of at least `least`."""
    if gpu_bytes is None or taken + least > gpu_bytes:
        return "a smaller model or weight_sync: nccl with more GPUs"
    return f"rollout.gpu_memory_utilization={math.floor(100 * (1 - taken / gpu_bytes)) / 100:g}"


def _state(config: Config, shape: Shape) -> dict[str, float]:
    """What a learner rank always keeps of its shard: fp32 masters, Adam's two moments, the KL reference."""
    shard = shape.parameters / config.learner.num_ranks
    state = {"fp32 masters": 4 * shard, "Adam moments": 8 * shard}
    if config.reinforce.kl_coef > 0 and not config.learner.offload_reference:
        state["reference"] = BYTES[config.model.dtype] * shard
    return state


def _working(config: Config, shape: Shape) -> dict[str, float]:
    """What an optimizer update needs on top."""
    learner, width = config.learner, BYTES[config.model.dtype]
    embeddings = (1 if shape.tied else 2) * shape.vocabulary * shape.hidden
    return {
        # In fp32, and whole on every rank: ranks exchange them after the last micro-batch only.
        "gradients": 4 * shape.parameters,
        # The layer that is computed, the one that is fetched meanwhile, and what all of them share.
        "gathered weights": width * (2 * shape.layer_parameters + embeddings),
        "activations": learner.micro_batch_tokens * activation_bytes(shape, learner.activation_checkpointing, width),
        # Logits, probabilities and their gradient of one chunk in fp32; the weight's gradient.
        "head": 4 * (3 * learner.head_chunk * shape.vocabulary + shape.vocabulary * shape.hidden),
    }


def activation_bytes(shape: Shape, mode: Literal["none", "selective", "full"], width: int = 2) -> float:
    """Per token, what the backward pass finds of all layers; with checkpointing also one layer made anew.

    `width`: bytes of the dtype that is computed in. Norms are computed, and keep their input, in fp32.
    """
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layer_input = width * shape.hidden
    products = width * (queries + 2 * keys + 2 * shape.hidden + 2 * shape.intermediate)  # of matrices
    attention = width * queries
    norms = 2 * (4 + 2 * width) * shape.hidden
    rotated = 2 * width * (queries + keys)  # normalised, then rotated queries and keys
    gate = 2 * width * shape.intermediate  # activated gate, and its product with the other half
    everything = products + attention + norms + rotated + gate
    if mode == "none":
        return shape.layers * everything
    kept = layer_input + (products + attention if mode == "selective" else 0)
    return shape.layers * kept + everything


def _engine(config: Config, shape: Shape, gpu_bytes: float | None) -> dict[str, float]:
    """vLLM takes its share of the GPU whatever it needs; where the GPU's size is not known, the least that it needs."""
    least = _least_engine(config, shape)
    if gpu_bytes is None:
        return least
    weights, sequence, process = least.values()
    cache = config.rollout.gpu_memory_utilization * gpu_bytes - weights - process
    return {"engine weights": weights, "KV cache": max(cache, sequence), "engine process": process}


def _least_engine(config: Config, shape: Shape) -> dict[str, float]:
    """What an engine cannot start without."""
    parallel, width = config.rollout.tensor_parallel_size, BYTES[config.model.dtype]
    # A head of keys and values is not split: with more GPUs than heads, several hold the same one.
    cache = kv_cache_bytes(shape, width) * config.model.max_length / min(parallel, shape.kv_heads)
    weights = width * shape.parameters / parallel
    return {"engine weights": weights, "KV cache of one longest sequence": cache, "engine process": PROCESS}


def kv_cache_bytes(shape: Shape, width: int = 2) -> int:
    """Keys and values of one token."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * width


def warnings(plans: Sequence[GpuPlan], gpu_bytes: float) -> list[str]:
    """One line for each phase that does not fit."""
    return [
        f"{plan.phase}: needs about {plan.total / GB:.0f} GB, the GPU has {gpu_bytes / GB:.0f} GB; try {plan.advice}"
        for plan in plans
        if plan.total > gpu_bytes
    ]


def engine_warnings(config: Config, shape: Shape, gpu_bytes: float) -> list[str]:
    """One line if an engine would fit on the GPU, but cannot start in the share that it may take of it."""
    utilization, least = config.rollout.gpu_memory_utilization, sum(_least_engine(config, shape).values())
    share = utilization * gpu_bytes
    if config.learner.device == "cpu" or not share < least <= gpu_bytes:
        return []
    return [
        f"each engine: needs at least {least / GB:.1f} GB for its weights and one sequence of model.max_length, but "
        f"rollout.gpu_memory_utilization = {utilization:g} leaves it {share / GB:.1f} GB; raise it to more than "
        f"{least / gpu_bytes:.2f}, or try a smaller model.max_length or more rollout.tensor_parallel_size"
    ]
