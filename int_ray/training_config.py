"""The configuration of what changes the weights: patch, reinforce and the learner that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from int_ray.config_section import Section


class OptimizerConfig(Section):
    """AdamW and its schedule. Tables 3-5: learning rate 1e-6; SFT with cosine to 0.1 and warm-up 0.1."""

    learning_rate: PositiveFloat = 1e-6
    lr_schedule: Literal["constant", "cosine_with_min_lr"] = Field(
        default="constant", description="The horizon of reinforce is every update that the run's iterations could make."
    )
    min_lr_rate: float = Field(default=0.1, ge=0, le=1, description="Floor as a share of learning_rate.")
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1, description="Share of the phase's updates.")
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: PositiveFloat = 1.0


class PatchOptimizerConfig(OptimizerConfig):
    """The same with the schedule of Tables 4 and 5."""

    lr_schedule: Literal["constant", "cosine_with_min_lr"] = "cosine_with_min_lr"
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1, description="Share of the phase's updates.")


class PatchConfig(Section):
    """The SFT on prefix + intervention (section 4.2). Table 4: batch 64, 16 epochs for e3-1.7B."""

    clone: Literal["interventions", "solutions"] = Field(
        default="interventions",
        description="solutions: one whole right solution by the oracle per unsolved problem, the baseline of section 5 "
        "(oracle.kind: exact, gemini or openai).",
    )
    continuations: PositiveInt = Field(default=32, description="K continuations that test an intervention.")
    filter: bool = Field(default=True, description="Keep only interventions with at least one right continuation.")
    interventions: Path | None = Field(
        default=None, description="File of `int-ray collect` to patch with before the first iteration."
    )
    clone_prefix: bool = True
    clone_suffix: bool = Field(
        default=False, description="Also clone a successful continuation, as sampled (Table 1, + suffix)."
    )
    batch_size: PositiveInt = 64
    epochs: PositiveInt = 16
    optimizer: PatchOptimizerConfig = PatchOptimizerConfig()


class ReinforceConfig(Section):
    """GRPO with clip-higher and KL in the loss (Table 3)."""

    mini_batch_size: PositiveInt = Field(default=16, description="Problems per optimizer update.")
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.35
    kl_coef: float = Field(default=0.001, ge=0, description="Weight of the k3 estimate of KL(policy || reference).")
    kl_reference: Literal["patched", "base"] = Field(
        default="patched", description="What the reference is after a patch."
    )
    entropy_coef: float = Field(default=0.0, ge=0)
    zero_advantage: Literal["keep", "drop"] = Field(
        default="keep",
        description="Groups whose outcomes are all equal. keep: they count in the mean and bring their KL and entropy "
        "terms; with both coefficients 0, samples without an advantage are not computed, which changes no weight: "
        "metrics but the loss are means over the computed tokens. drop: such groups leave the batch, and updates are "
        "formed of the others.",
    )
    old_logprobs: Literal["learner", "engine"] = Field(
        default="learner",
        description="The ratio's denominator. learner: recomputed, where the training pass does not have it anyhow; "
        "engine: as sampled, which saves that pass and needs top_p = 1 and top_k = 0.",
    )
    importance_cap: PositiveFloat | None = Field(
        default=None,
        description="Truncated importance sampling: tokens are weighted by min(cap, p_learner / p_engine). "
        "Needs top_p = 1 and top_k = 0.",
    )
    loss_mean: Literal["token", "sequence"] = "token"
    advantage_std: bool = Field(
        default=True,
        description="Divide by the group's standard deviation: verl's default. Section 3's formula has no division.",
    )
    overlong_buffer: int = Field(
        default=0, ge=0, description="Tokens before max_tokens over which a penalty grows to 1; 0: off."
    )
    overlong_penalty: float = Field(default=1.0, ge=0, description="The penalty at max_tokens.")
    optimizer: OptimizerConfig = OptimizerConfig()


class LearnerConfig(Section):
    """The FSDP2 group that owns the weights."""

    num_ranks: PositiveInt = 1
    device: Literal["cpu", "cuda"] = Field(default="cuda", description="cpu: gloo; cuda: nccl.")
    micro_batch_tokens: PositiveInt = Field(default=16384, description="Packed tokens per forward pass and rank.")
    attention: Literal["auto", "flash_attention_2", "varlen", "sdpa"] = Field(
        default="auto",
        description="Of packed sequences. flash_attention_2: package flash-attn; varlen: torch on CUDA; sdpa: one call "
        "per sequence, everywhere; auto: the first of them that fits device and dtype.",
    )
    head_chunk: PositiveInt = Field(
        default_factory=lambda before: 128 if before.get("device") == "cpu" else 1024,
        description="Tokens whose logits exist at once; default: 1024 for device = cuda, where small products are "
        "slow, 128 for cpu.",
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        default="none", description="selective: all but matrix products and attention is recomputed; full: every layer."
    )
    compile: bool = Field(default=False, description="torch.compile, layer by layer.")
    offload_reference: bool = Field(default=False, description="The KL reference waits in CPU memory (device: cuda).")
    weight_sync: Literal["shm", "nccl", "ipc"] = Field(
        default="nccl",
        description="shm: one machine, CPU; nccl: learner and engines on different GPUs; ipc: on the same GPU.",
    )
    canary_tolerance: PositiveFloat | None = Field(
        default=None,
        description="Largest mean difference of an engine's log-probs from the learner's after a sync; "
        "default: 1e-3 for model.dtype = float32, 0.1 for bfloat16.",
    )
    startup_deadline_s: PositiveFloat = 900.0
    deadline_s: PositiveFloat = Field(
        default=3600.0, description="Longest wait for one patch, reinforce, save or sync."
    )
    collective_timeout_s: PositiveFloat = Field(
        default=600.0, description="Longest wait of a rank for the others; deadline_s if that is shorter."
    )
    restarts: int = Field(
        default=2, ge=0, description="How often a run starts a lost learner anew, from the last checkpoint."
    )
    max_skipped_updates: PositiveInt = Field(
        default=3, description="Updates in a row whose loss or gradient is not finite that end the run."
    )
