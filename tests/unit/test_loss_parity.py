"""Our losses equal those of TRL 1.16 and OpenRLHF 0.11.2, run from their own code on random batches."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.trl_step import grpo_loss_of, grpo_trainer, one_process
from int_ray.compute.head import token_logprobs
from int_ray.losses.grpo import GrpoInputs, grpo_loss, k3
from int_ray.losses.sft import sft_loss
from int_ray.training_config import ReinforceConfig
from tests.factories import tiny_checkpoint

ROWS, PROMPT, WIDTH, TEMPERATURE = 7, 3, 12, 0.6
CONFIG = ReinforceConfig(clip_low=0.2, clip_high=0.35, kl_coef=0.05, entropy_coef=0.02)


class Batch:
    """Random policy, old and reference log-probs of the same random tokens; masks are right-padded responses."""

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.token_ids = torch.randint(5, 262, (ROWS, WIDTH), generator=generator)
        lengths = torch.randint(PROMPT + 1, WIDTH + 1, (ROWS, 1), generator=generator)
        positions = torch.arange(WIDTH)
        self.attention = positions < lengths
        self.mask = self.attention & (positions >= PROMPT)
        self.policy_logprobs, self.entropy = (part.requires_grad_() for part in score(model, self.token_ids))
        self.old_logprobs = self.policy_logprobs.detach() + 0.3 * torch.randn(ROWS, WIDTH, generator=generator)
        self.ref_logprobs = self.policy_logprobs.detach() + 0.3 * torch.randn(ROWS, WIDTH, generator=generator)
        self.advantages = torch.randn(ROWS, generator=generator)

    def grpo(self, config: ReinforceConfig, count: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Our loss and metric means, from the trained tokens one after the other."""
        tokens = self.mask.sum(1, keepdim=True)
        weights = torch.ones_like(tokens) if config.loss_mean == "token" else 1 / tokens
        inputs = GrpoInputs(
            self.policy_logprobs[self.mask],
            self.entropy[self.mask],
            self.old_logprobs[self.mask],
            self.ref_logprobs[self.mask] if config.kl_coef > 0 else None,
            torch.full_like(self.old_logprobs[self.mask], torch.nan),
            self.advantages[:, None].expand_as(self.mask)[self.mask],
            weights.float().expand_as(self.mask)[self.mask],
        )
        loss, metrics = grpo_loss(inputs, config, count)
        return loss, {name: (parts[0] / parts[1]).item() for name, parts in metrics.items()}


def score(
    model: PreTrainedModel, token_ids: torch.Tensor, temperature: float = TEMPERATURE, *, train: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our head's log-probs and entropies of padded rows, 0 at the first position. [B, T] each"""
    with torch.set_grad_enabled(train):
        hidden = model.get_decoder()(input_ids=token_ids).last_hidden_state[:, :-1]
        parts = token_logprobs(hidden.flatten(0, 1), model.lm_head.weight, token_ids[:, 1:].flatten(), temperature, 16)
        logprobs, entropy = (pad(part.view(len(token_ids), -1), (1, 0)) for part in parts)
    return logprobs, entropy


def assert_same(batch: Batch, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Losses to 1e-5, and so their gradients."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    leaves = (batch.policy_logprobs, batch.entropy)
    pairs = (torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True) for loss in (ours, theirs))
    torch.testing.assert_close(*pairs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint(tmp_path_factory.mktemp("model")), dtype=torch.float32)


def trl_grpo_loss(batch: Batch, loss_type: str, config: ReinforceConfig) -> tuple[torch.Tensor, dict[str, float]]:
    """GRPOTrainer's loss and metrics of the batch's log-probs."""
    clip = config.clip_low, config.clip_high
    trainer = grpo_trainer(config.kl_coef, clip, entropy_coef=config.entropy_coef, loss_type=loss_type)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        batch.policy_logprobs[:, PROMPT:],
        batch.entropy[:, PROMPT:],
        None,
    )
    inputs = {
        "prompt_ids": batch.token_ids[:, :PROMPT],
        "prompt_mask": batch.attention[:, :PROMPT].long(),
        "completion_ids": batch.token_ids[:, PROMPT:],
        "completion_mask": batch.mask[:, PROMPT:].long(),
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old_logprobs[:, PROMPT:],
        "ref_per_token_logps": batch.ref_logprobs[:, PROMPT:],
        "num_items_in_batch": batch.mask.sum(),
    }
    loss = grpo_loss_of(trainer, inputs, model=None)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss_type", ["bnpo", "dapo"])
def test_token_mean_equals_trl(model: PreTrainedModel, loss_type: str, seed: int) -> None:
    batch = Batch(model, seed)
    loss, metrics = batch.grpo(CONFIG, int(batch.mask.sum()))
    expected, trl_metrics = trl_grpo_loss(batch, loss_type, CONFIG)
    assert_same(batch, loss, expected)
    assert metrics["ref_kl"] == pytest.approx(trl_metrics["kl"], abs=1e-5)
    assert metrics["entropy"] == pytest.approx(trl_metrics["entropy"], abs=1e-5)
    assert metrics["clip_fraction"] == pytest.approx(trl_metrics["clip_ratio/region_mean"], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_sequence_mean_equals_trl(model: PreTrainedModel, seed: int) -> None:
    batch = Batch(model, seed)
    # TRL takes the entropy bonus over tokens in every loss type; ours is part of the objective, so it stays out here.
    config = CONFIG.model_copy(update={"loss_mean": "sequence", "entropy_coef": 0.0})
    loss, _ = batch.grpo(config, ROWS)
    assert_same(batch, loss, trl_grpo_loss(batch, "grpo", config)[0])


def test_trl_parity_sees_a_difference(model: PreTrainedModel) -> None:
    batch = Batch(model, seed=0)
    loss, _ = batch.grpo(CONFIG.model_copy(update={"clip_high": 0.2}), int(batch.mask.sum()))
    assert (loss - trl_grpo_loss(batch, "bnpo", CONFIG)[0]).abs() > 1e-3


def test_token_logprobs_and_entropy_equal_trl(model: PreTrainedModel) -> None:
    from trl.trainer.utils import selective_log_softmax_and_entropy

    batch = Batch(model, seed=0)
    logits = model(input_ids=batch.token_ids).logits[:, :-1]
    logprobs, entropy = selective_log_softmax_and_entropy(logits, batch.token_ids[:, 1:], temperature=TEMPERATURE)
    torch.testing.assert_close(batch.policy_logprobs[:, 1:], logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.entropy[:, 1:], entropy, rtol=0, atol=1e-5)


def test_sft_loss_and_its_gradients_equal_trl(tmp_path: Path) -> None:
    from trl.trainer.sft_trainer import SFTTrainer
    from trl.trainer.utils import add_fused_lm_head

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(tmp_path), dtype=torch.float32)
    batch = Batch(model, seed=0)
    weights = list(model.parameters())
    logprobs, _ = score(model, batch.token_ids, 1.0, train=True)
    loss, _ = sft_loss(logprobs[batch.mask], int(batch.mask.sum()))
    gradients = torch.autograd.grad(loss, weights)

    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
        accelerator=SimpleNamespace(**vars(one_process()), parallelism_config=None),
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": batch.token_ids,
        "attention_mask": batch.attention.long(),
        "labels": batch.token_ids.where(batch.mask, -100),
    }
    expected: Any = SFTTrainer.compute_loss(trainer, model, inputs)  # pyright: ignore
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture
def openrlhf_models(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """openrlhf.models.loss and .utils, with empty modules in place of their CUDA-only imports."""
    for name in ("deepspeed", "flash_attn"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    # The package's own __init__ imports the whole actor model; only its path is needed here.
    import openrlhf

    package = ModuleType("openrlhf.models")
    package.__path__ = [str(Path(openrlhf.__path__[0]) / "models")]
    monkeypatch.setitem(sys.modules, "openrlhf.models", package)
    for name in ("loss", "utils"):
        monkeypatch.delitem(sys.modules, f"openrlhf.models.{name}", raising=False)
    from openrlhf.models import loss, utils

    return loss, utils


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mean", ["token", "sequence"])
def test_policy_loss_equals_openrlhf(
    model: PreTrainedModel, openrlhf_models: tuple[ModuleType, ModuleType], mean: str, seed: int
) -> None:
    batch, (losses, _) = Batch(model, seed), openrlhf_models
    config = CONFIG.model_copy(update={"kl_coef": 0.0, "entropy_coef": 0.0, "loss_mean": mean})
    count = int(batch.mask.sum()) if mean == "token" else ROWS
    loss, metrics = batch.grpo(config, count)
    policy_loss = losses.PolicyLoss(config.clip_low, config.clip_high, token_level_loss=mean == "token")
    expected, clip_ratio, approx_kl, *_ = policy_loss(
        batch.policy_logprobs, batch.old_logprobs, batch.advantages[:, None], batch.mask.float()
    )
    assert_same(batch, loss, expected)
    assert metrics["clip_fraction"] == pytest.approx(clip_ratio.item(), abs=1e-6)
    assert metrics["approx_kl"] == pytest.approx(approx_kl.item(), abs=1e-5)


def test_k3_equals_openrlhf(model: PreTrainedModel, openrlhf_models: tuple[ModuleType, ModuleType]) -> None:
    batch, (_, utils) = Batch(model, seed=0), openrlhf_models
    expected = utils.compute_approx_kl(batch.policy_logprobs, batch.ref_logprobs, kl_estimator="k3")
    torch.testing.assert_close(k3(batch.policy_logprobs, batch.ref_logprobs), expected, rtol=0, atol=1e-5)


def test_sft_loss_equals_openrlhf(model: PreTrainedModel, openrlhf_models: tuple[ModuleType, ModuleType]) -> None:
    batch, (losses, _) = Batch(model, seed=0), openrlhf_models
    logits = model(input_ids=batch.token_ids).logits
    logprobs, _ = score(model, batch.token_ids, 1.0)
    count = int(batch.mask.sum())
    loss, _ = sft_loss(logprobs[batch.mask], count)
    torch.testing.assert_close(loss, losses.SFTLoss()(logprobs, batch.mask, batch_num_tokens=count), rtol=0, atol=1e-5)
    labels = batch.token_ids.where(batch.mask, -100)
    torch.testing.assert_close(loss, losses.GPTLMLoss()(logits, labels), rtol=0, atol=1e-5)
