"""The project's own trainer around random weights, alone in its process group. Needs torch and transformers alone."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from benchmarks.workloads import HEAD_CHUNK
from int_ray.compute.loading import make_policy, make_reference
from int_ray.compute.sharding import join_ranks
from int_ray.compute.trainer import LearnerSettings, Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Qwen3Config

    from int_ray.compute.optimization import Optimization
    from int_ray.types import TrainingSample

TEMPERATURE = 0.6
CLIP = (0.2, 0.35)


@dataclass(frozen=True)
class Setup:
    """What differs between the figures; the rest is as in the paper or the default. Names are those of the settings."""

    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    micro_batch_tokens: int = 16_384
    head_chunk: int | None = None  # the default of the device
    activation_checkpointing: str = "none"
    compile: bool = False
    device: str = "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products: bf16 on CUDA."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def settings(self) -> LearnerSettings:
        """In the form that the trainer reads; plain namespaces, since pydantic may be missing."""
        optimizer = {
            "learning_rate": 1e-6,
            "lr_schedule": "constant",
            "min_lr_rate": 0.1,
            "warmup_ratio": 0.0,
            "weight_decay": 0.0,
            "betas": (0.9, 0.999),
            "max_grad_norm": 1.0,
        }
        reinforce = {
            "clip_low": CLIP[0],
            "clip_high": CLIP[1],
            "kl_coef": self.kl_coef,
            "kl_reference": "base",
            "entropy_coef": self.entropy_coef,
            "zero_advantage": "keep",
            "old_logprobs": "learner",
            "importance_cap": None,
            "loss_mean": "token",
            "optimizer": SimpleNamespace(**optimizer),
        }
        learner = {
            "num_ranks": 1,
            "device": self.device,
            "micro_batch_tokens": self.micro_batch_tokens,
            "attention": "auto",
            "head_chunk": self.head_chunk or HEAD_CHUNK[self.device],
            "activation_checkpointing": self.activation_checkpointing,
            "compile": self.compile,
            "offload_reference": False,
            "startup_deadline_s": 600.0,
            "collective_timeout_s": 600.0,
            "deadline_s": 600.0,
        }
        model = {"dtype": str(self.dtype).removeprefix("torch.")}
        patch = {"optimizer": reinforce["optimizer"]}
        parts: list[Any] = [SimpleNamespace(**part) for part in (model, learner, patch, reinforce)]
        return LearnerSettings(*parts, temperature=TEMPERATURE, reinforce_updates=1_000_000, seed=0)


def make_trainer(config: Qwen3Config, setup: Setup) -> Trainer:
    """A trainer of random fp32 weights, and of a reference with the same ones if the KL term needs it."""
    settings = setup.settings()
    mesh = _mesh(settings)
    policy = make_policy(random_model(config, setup.device), settings.learner, setup.dtype, mesh)
    reference = None
    if setup.kl_coef:
        reference = make_reference(random_model(config, setup.device), settings.learner, setup.dtype, mesh)
    return Trainer(policy, reference, settings, mesh)


def random_model(config: Qwen3Config, device: str, seed: int = 0) -> PreTrainedModel:
    """fp32 weights; the same for the same seed and device."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with torch.device(device):
        # A copy: models write into their configuration how they attend.
        return AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float32)


class KeepGradients:
    """Stands where the trainer has its optimizer: the gradients stay, for timing without it and for comparing."""

    def update(self, loss: float) -> float:
        """The norm is not asked for."""
        return 1.0


def trainer_step(trainer: Trainer, samples: Sequence[TrainingSample]) -> Callable[[], torch.Tensor]:
    """The first update of a phase but for the optimizer: adds to the gradients and returns the loss."""

    def step() -> torch.Tensor:
        trainer.optimization = cast("Optimization", KeepGradients())
        return torch.tensor(trainer.reinforce([samples]).metrics["reinforce/loss"])

    return step


def cleared(step: Callable[[], object], model: torch.nn.Module) -> Callable[[], None]:
    """The step, from empty gradients."""

    def clear_and_step() -> None:
        model.zero_grad()
        step()

    return clear_and_step


def _mesh(settings: LearnerSettings) -> DeviceMesh:
    """Of one rank; a process joins its group once."""
    if dist.is_initialized():
        return init_device_mesh(settings.learner.device, (1,))
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return join_ranks(settings.learner, 0, f"file://{Path(folder) / 'group'}")
