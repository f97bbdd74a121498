"""The configuration tree. An unknown key or a value that does not fit its type is an error, never a warning.

Values named after a table are the paper's (Table 3: RL; Tables 4 and 5: SFT; appendix E: decoding).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt
from pydantic_core import PydanticCustomError

from int_ray.compare_config import CompareConfig
from int_ray.config_section import Section
from int_ray.data_config import EvaluationSources, ProblemsConfig
from int_ray.oracle_config import OracleConfig
from int_ray.training_config import LearnerConfig, PatchConfig, ReinforceConfig


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
    instruction: str = Field(
        default="",
        description="What follows every question after a blank line, such as 'Put the final answer into \\boxed{}.': "
        "the rewards read the last box of a response.",
    )
    thinking_end: str | None = Field(default=None, description="Text that closes the thinking part, such as </think>.")


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
    max_engines: PositiveInt | None = Field(
        default=None,
        description="Engines that join while the run goes on, as the cluster has room for them or can add it, up to so "
        "many in all; null: num_engines. Needs device: cuda and weight_sync: nccl.",
    )
    restarts: int = Field(
        default=10,
        ge=0,
        description="Engines that may be lost over a run, or fail to start, and are replaced; one that leaves with a "
        "drained node does not count.",
    )
    probe_s: PositiveFloat = Field(
        default=60.0,
        description="An engine that is silent for so long is asked for a sign of life; without one for as long again "
        "it is killed and replaced.",
    )
    tensor_parallel_size: PositiveInt = Field(default=1, description="GPUs per engine.")
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    kv_cache_gb: PositiveFloat = Field(default=1.0, description="KV cache of a CPU engine.")
    max_num_seqs: PositiveInt = Field(default=256, description="Sequences decoded at once per engine.")
    sleep: bool = Field(
        default=True, description="weight_sync: ipc: engines give their GPU memory back while the learner works."
    )
    startup_deadline_s: PositiveFloat = 900.0
    deadline_s: PositiveFloat = Field(
        default=3600.0,
        description="Longest wait for one group's rollouts, from when an engine has taken it. Then the engine is "
        "killed and replaced, and another one samples the group; one that two engines were lost to is left out.",
    )


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


DecodingName = Literal["e3", "qwen3_4b"]
OTHER_DATA = ("train", "mixed", "interventions")  # what a run folder calls the rest of the data


def _set_name(name: str) -> str:
    if name in OTHER_DATA or not re.fullmatch(r"\w[\w.-]*", name):
        raise PydanticCustomError(
            "set_name", "choose a name of letters, digits, '_', '.' and '-', other than " + ", ".join(OTHER_DATA)
        )
    return name


def _checkpoint_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise PydanticCustomError("checkpoint_name", "choose a name of letters, digits, '_', '.' and '-'")
    return name


SetName = Annotated[str, AfterValidator(_set_name)]
CheckpointName = Annotated[str, AfterValidator(_checkpoint_name)]


class EvaluateConfig(Section):
    """Held-out problems, evaluated before the first iteration and after the last, and by `int-ray evaluate`."""

    sets: dict[SetName, EvaluationSources] = Field(
        default_factory=dict,
        description="Name (part of file names) -> source or sources, read like problems.train, or the name of a "
        "ready-made set, such as benchmark:aime_2025.",
    )
    n: PositiveInt = Field(default=32, description="Rollouts per problem.")
    k: tuple[PositiveInt, ...] = Field(default=(1, 8), description="pass@k to report; none may exceed n.")
    every: int = Field(default=0, ge=0, description="Also every so many iterations; 0: only before and after.")
    after_patch: bool = Field(default=False, description="Also right after each patch, before RL goes on.")
    drift: bool = Field(
        default=False,
        description="Also how far the policy has moved from the base model: KL on one response of the base to each "
        "problem, and the policy's own entropy.",
    )
    # The rest is for `int-ray evaluate`; evaluations of a run in training decode as its rollouts do.
    checkpoints: dict[CheckpointName, str] = Field(
        default_factory=dict,
        description="Name -> model folder, such as runs/x/checkpoints/iteration_000030, or hub name; "
        "default: model.path alone.",
    )
    decoding: DecodingName | None = Field(
        default=None, description="Settings of the paper (appendix E, section 6.1) for those below that are null."
    )
    temperature: PositiveFloat | None = Field(default=None, description="null: as evaluate.decoding or rollout says.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    max_tokens: PositiveInt | None = None


class HardSetConfig(Section):
    """`int-ray hard-set`: which problems of problems.train count as hard (section 6.1: none of 32 rollouts right)."""

    n: PositiveInt = Field(default=32, description="Rollouts without one success that make a problem hard.")
    test: int = Field(default=64, ge=0, description="Hard problems held out for evaluation; at most half of them.")
    oracle_solves: bool = Field(
        default=False,
        description="Keep only what the oracle (oracle.kind: gemini or openai) solves in one attempt of its own.",
    )


class AblateConfig(Section):
    """`int-ray ablate`: Table 1 on the problems of problems.train."""

    n: PositiveInt = Field(
        default=32, description="Rollouts per problem in every row. The paper does not give its number."
    )


LoggerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class RunConfig(Section):
    """The run itself."""

    folder: Path = Field(description="New folder for everything the run writes.")
    iterations: PositiveInt = 150
    seed: int = Field(default=0, ge=0)
    checkpoint_every: PositiveInt = Field(default=10, description="Iterations.")
    keep_checkpoints: PositiveInt = Field(default=2, description="Older ones are deleted.")
    keep_best: str | None = Field(
        default=None,
        description="Also keep the checkpoint whose evaluation had the highest figure, such as hard_test/pass@8; of "
        "those iterations that are saved (checkpoint_every) and evaluated (evaluate.every).",
    )
    storage: str | None = Field(
        default=None,
        description="URL of a folder, such as s3://bucket/run, that gets a copy of the run with each checkpoint. "
        "--resume auto fetches it where run.folder has no journal. Credentials: as the store's own tools find them.",
    )
    storage_deadline_s: PositiveFloat = Field(
        default=3600.0, description="Longest that the next checkpoint waits for the last one to arrive in run.storage."
    )
    stop_deadline_s: PositiveFloat = Field(
        default=120.0, description="Longest that a run goes on after SIGTERM, to end an update and to save."
    )
    stall_warning_s: PositiveFloat = Field(
        default=600.0, description="Without any progress for so long, a line says who is waited for; then again."
    )
    stall_abort_s: PositiveFloat | None = Field(
        default=None,
        description="Without any progress for so long the run writes stacks-*.txt and stops, to be resumed; "
        "null: three times the longest of the deadlines in the sections rollout, learner and oracle.",
    )
    loggers: tuple[LoggerName, ...] = Field(
        default=("tensorboard",),
        description="Where numbers go beside metrics.jsonl. All but tensorboard need `pip install 'int-ray[NAME]'` and "
        "the service's own environment variables.",
    )
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
    hard_set: HardSetConfig = HardSetConfig()
    ablate: AblateConfig = AblateConfig()
    compare: CompareConfig = CompareConfig()
    run: RunConfig
