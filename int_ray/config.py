"""The configuration tree. An unknown key or a value that does not fit its type is an error, never a warning.

Values named after a table are the paper's (Table 3: RL; Tables 4 and 5: SFT; appendix E: decoding).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt
from pydantic_core import PydanticCustomError

from int_ray.config_section import Section
from int_ray.oracle_config import OracleConfig


class ModelConfig(Section):
    """The policy's starting point."""

    path: str = Field(
        description="Local folder or hub name of a Hugging Face checkpoint with tokenizer and chat template."
    )
    revision: str | None = Field(default=None, description="Hub revision to pin.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="The engines' dtype; the learner keeps fp32 masters."
    )
    max_length: PositiveInt = Field(description="Context in tokens: prompt and response together.")
    chat_template_kwargs: dict[str, bool | str | int] = Field(
        default_factory=dict, description="Extra arguments of the chat template, such as {enable_thinking: true}."
    )
    thinking_end: str | None = Field(default=None, description="Text that closes the thinking part, such as </think>.")


class Columns(Section):
    """Which column of the data holds what."""

    id: str | None = Field(default=None, description="Row id; default: the row number.")
    question: str = "problem"
    answer: str = "answer"
    solution: str | None = Field(default="solution", description="Reference solution for the oracle; may be absent.")


class ProblemsConfig(Section):
    """Training problems and how their answers are judged."""

    train: str = Field(description="JSONL or Parquet file, or the name of a Hugging Face dataset.")
    mixed: str | None = Field(
        default=None,
        description="Problems that the policy can solve, read like train: rollout.mixed of them join every RL batch, "
        "so that they stay solved. They never feed the trigger, the oracle or the stall figures.",
    )
    split: str = Field(default="train", description="Split of a Hugging Face dataset.")
    columns: Columns = Columns()
    reward: Literal["exact", "math"] = Field(
        default="math", description="exact: same text in the box; math: math-verify."
    )
    grader_workers: PositiveInt = Field(default=2, description="Killable grading processes (reward: math).")
    grader_timeout_s: PositiveFloat = 10.0


class RolloutConfig(Section):
    """Sampling. Table 3: batch 32, n 16, T 0.6, top-p 0.95 for e3-1.7B."""

    batch_size: PositiveInt = Field(default=32, description="Training problems per iteration.")
    mixed: int = Field(default=0, ge=0, description="Problems of problems.mixed per iteration, beside batch_size.")
    n: int = Field(default=16, ge=2, description="Rollouts per problem; a group needs two to have an advantage.")
    temperature: PositiveFloat = 0.6
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, description="0: no limit.")
    max_tokens: PositiveInt = Field(description="Longest response in tokens, prefix of a resumed one included.")
    staleness: int = Field(
        default=0,
        ge=0,
        description="Policy versions that a trained token may be behind. 0: sample, then train; 1: one step off; "
        "more: a bounded queue. Above 0 needs reinforce.importance_cap.",
    )
    num_engines: PositiveInt = 1
    tensor_parallel_size: PositiveInt = Field(default=1, description="GPUs per engine.")
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    kv_cache_gb: PositiveFloat = Field(default=1.0, description="KV cache of a CPU engine.")
    max_num_seqs: PositiveInt = Field(default=256, description="Sequences decoded at once per engine.")
    sleep: bool = Field(
        default=True, description="weight_sync: ipc: engines give their GPU memory back while the learner works."
    )
    startup_deadline_s: PositiveFloat = 900.0
    deadline_s: PositiveFloat = Field(default=3600.0, description="Longest wait for one group's rollouts.")


class TriggerConfig(Section):
    """When to intervene (schedule: plateau)."""

    signal: Literal["unsolved", "zero_advantage"] = "unsolved"
    threshold: float = Field(
        default=0.8, gt=0, le=1, description="Share of groups without a signal that counts as a stall."
    )
    hysteresis: float = Field(
        default=0.05, ge=0, lt=1, description="The count is forgotten below threshold - hysteresis."
    )
    patience: PositiveInt = Field(
        default=3, description="Stalled iterations before the oracle is asked; also the window."
    )
    cooldown: int = Field(default=5, ge=0, description="Iterations after a round in which no other starts.")
    max_rounds: int = Field(default=3, ge=0)


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
        description="Groups whose rewards are all equal. keep: they count in the mean and bring their KL and entropy "
        "terms; with both coefficients 0 they are not computed, which changes nothing. drop: they leave the batch, and "
        "updates are formed of the others.",
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
    head_chunk: PositiveInt = Field(default=1024, description="Tokens whose logits exist at once.")
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        default="none", description="selective: all but matrix products is recomputed; full: every layer."
    )
    compile: bool = Field(default=False, description="torch.compile, layer by layer.")
    offload_reference: bool = Field(default=False, description="The KL reference waits in CPU memory (device: cuda).")
    weight_sync: Literal["shm", "nccl", "ipc"] = Field(
        default="nccl",
        description="shm: one machine, CPU; nccl: learner and engines on different GPUs; ipc: on the same GPU.",
    )
    canary_tolerance: PositiveFloat | None = Field(
        default=None,
        description="Largest log-prob difference between engine and learner after a sync; "
        "default: 1e-3 for model.dtype = float32, 0.1 for bfloat16.",
    )
    startup_deadline_s: PositiveFloat = 900.0
    deadline_s: PositiveFloat = Field(
        default=3600.0, description="Longest wait for one patch, reinforce, save or sync."
    )


OTHER_DATA = ("train", "mixed", "interventions")  # what a run folder calls the rest of the data


def _set_name(name: str) -> str:
    if name in OTHER_DATA or not re.fullmatch(r"[\w.-]+", name):
        raise PydanticCustomError(
            "set_name", "choose a name of letters, digits, '_', '.' and '-', other than " + ", ".join(OTHER_DATA)
        )
    return name


class EvaluateConfig(Section):
    """Held-out problems, evaluated before the first iteration and after the last."""

    sets: dict[Annotated[str, AfterValidator(_set_name)], str] = Field(
        default_factory=dict,
        description="Name (part of file names) -> file or dataset, read like problems.train.",
    )
    n: PositiveInt = Field(default=32, description="Rollouts per problem.")
    k: tuple[PositiveInt, ...] = Field(default=(1, 8), description="pass@k to report; none may exceed n.")
    every: int = Field(default=0, ge=0, description="Also every so many iterations; 0: only before and after.")


class RunConfig(Section):
    """The run itself."""

    folder: Path = Field(description="New folder for everything the run writes.")
    iterations: PositiveInt = 150
    seed: int = Field(default=0, ge=0)
    checkpoint_every: PositiveInt = Field(default=10, description="Iterations.")
    keep_checkpoints: PositiveInt = Field(default=2, description="Older ones are deleted.")
    ray_address: str | None = Field(
        default=None, description="Address of a Ray cluster; default: RAY_ADDRESS, else a local one."
    )


class Config(Section):
    """Everything a run needs. See configs/*.yaml."""

    schedule: Literal["paper", "plateau", "never"] = Field(
        default="plateau",
        description="paper: collect once, patch, then RL; plateau: patch when RL stalls; never: plain RL.",
    )
    model: ModelConfig
    problems: ProblemsConfig
    rollout: RolloutConfig
    oracle: OracleConfig = OracleConfig()
    trigger: TriggerConfig = TriggerConfig()
    patch: PatchConfig = PatchConfig()
    reinforce: ReinforceConfig = ReinforceConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    run: RunConfig
