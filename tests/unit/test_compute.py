"""Packed policies against plain transformers, one sequence at a time; and what may not be needed to import them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config

from int_ray.compute.architecture import untrainable
from int_ray.compute.attention import packed_attention
from int_ray.compute.layers import _kept_operations  # pyright: ignore[reportPrivateUsage]
from int_ray.compute.loading import make_policy, make_reference
from int_ray.compute.packing import pack
from int_ray.compute.policy import Policy
from int_ray.training_config import LearnerConfig
from int_ray.types import TrainingSample
from tests.factories import tiny_checkpoint

ROOT = Path(__file__).parents[2]
TEMPERATURE = 0.6
Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceMesh]:
    meeting = tmp_path_factory.mktemp("mesh") / "meet"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


def load(checkpoint: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def config(**changes: object) -> LearnerConfig:
    return LearnerConfig.model_validate({"device": "cpu", "head_chunk": 8} | changes)


def samples() -> list[TrainingSample]:
    random = np.random.default_rng(0)
    lengths = (9, 2, 31, 1, 17)
    masks = [(np.arange(length) >= 1 + length // 4).astype(np.uint8) for length in lengths]
    return [TrainingSample(random.integers(5, 262, len(mask)).astype(np.int32), mask) for mask in masks]


def one_by_one(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor, Gradients]:
    """Log-probs, entropies and gradients of plain transformers."""
    logprobs, entropies = [], []
    for sample in samples():
        ids = torch.from_numpy(sample.token_ids.astype(np.int64))
        if len(ids) < 2:  # nothing to predict
            continue
        plain = torch.distributions.Categorical(logits=model(ids[None]).logits[0, :-1] / TEMPERATURE)
        trained = torch.from_numpy(sample.loss_mask[1:]).bool()
        logprobs.append(plain.log_prob(ids[1:])[trained])
        entropies.append(plain.entropy()[trained])
    return *(joined := (torch.cat(logprobs), torch.cat(entropies))), gradients(model, *joined)


def gradients(model: PreTrainedModel, logprobs: torch.Tensor, entropy: torch.Tensor) -> Gradients:
    scale = torch.linspace(-1, 1, len(logprobs))
    names = dict(model.named_parameters())
    found = torch.autograd.grad((scale * logprobs + 0.1 * entropy).sum(), list(names.values()))
    return dict(zip(names, found, strict=True))


def test_packed_equals_one_by_one(checkpoint: Path, mesh: DeviceMesh) -> None:
    model = load(checkpoint)
    policy = make_policy(model, config(), torch.float32, mesh)
    logprobs, entropy = policy(pack(samples()), TEMPERATURE)
    expected = one_by_one(load(checkpoint))
    torch.testing.assert_close(logprobs, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy, expected[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(gradients(model, logprobs, entropy), expected[2], rtol=1e-4, atol=1e-4)


def test_a_document_does_not_see_its_neighbours(checkpoint: Path, mesh: DeviceMesh) -> None:
    policy = make_policy(load(checkpoint), config(), torch.float32, mesh)
    first, *_, last = samples()
    alone = policy.logprobs(pack([last]), TEMPERATURE)
    beside = policy.logprobs(pack([first, last]), TEMPERATURE)
    torch.testing.assert_close(beside[-len(alone) :], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_activation_checkpointing_changes_no_gradient_and_no_name(
    checkpoint: Path, mesh: DeviceMesh, mode: str
) -> None:
    found = []
    for checkpointing in ("none", mode):
        model = load(checkpoint)
        policy = make_policy(model, config(activation_checkpointing=checkpointing), torch.float32, mesh)
        found.append(gradients(model, *policy(pack(samples()), TEMPERATURE)))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_full_checkpointing_keeps_less_than_selective_than_none(checkpoint: Path, mesh: DeviceMesh) -> None:
    """Bytes that the forward pass saves for the backward pass."""
    kept = {}
    for mode in ("none", "selective", "full"):
        policy = make_policy(load(checkpoint), config(activation_checkpointing=mode), torch.float32, mesh)
        saved: list[int] = []

        def count(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            policy(pack(samples()), TEMPERATURE)
        kept[mode] = sum(saved)
    assert kept["full"] < kept["none"] / 2
    assert kept["selective"] < kept["none"]


def test_a_reference_is_frozen(checkpoint: Path, mesh: DeviceMesh) -> None:
    reference = make_reference(load(checkpoint), config(), torch.float32, mesh)
    logprobs, _ = reference(pack(samples()), TEMPERATURE)
    assert not logprobs.requires_grad
    assert not any(parameter.requires_grad for parameter in reference.parameters())


def test_the_mask_is_none_whatever_is_packed(checkpoint: Path, mesh: DeviceMesh) -> None:
    model = load(checkpoint)
    policy = make_policy(model, config(), torch.float32, mesh)
    masks = []
    for layer in model.get_decoder().layers:
        layer.register_forward_pre_hook(lambda _, __, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True)
    policy(pack(samples()), TEMPERATURE)
    assert masks == [None, None]


def test_kernels_that_fit() -> None:
    assert packed_attention("auto", "cpu", torch.float32) == "int_ray_sdpa_packed"
    assert packed_attention("auto", "cuda", torch.float32) == "int_ray_sdpa_packed"
    assert packed_attention("varlen", "cuda", torch.bfloat16) == "int_ray_varlen_packed"


def flash_attn(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of this name, for one test."""
    (folder / "flash_attn.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "flash_attn", sys)  # so that whatever gets imported is forgotten again
    del sys.modules["flash_attn"]


def test_flash_attention_is_kept_by_checkpointing_once_it_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    define = "import torch; library = torch.library.Library('flash_attn', 'DEF')\n"
    flash_attn(tmp_path, define + "library.define('_flash_attn_varlen_forward(Tensor q) -> Tensor')", monkeypatch)
    before = len(_kept_operations())
    assert packed_attention("auto", "cuda", torch.bfloat16) == "int_ray_flash_packed"
    assert len(_kept_operations()) == before + 1


def test_a_broken_flash_attention_fails_when_it_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flash_attn(tmp_path, "raise ImportError('undefined symbol')", monkeypatch)
    with pytest.raises(ImportError, match="undefined symbol"):
        packed_attention("flash_attention_2", "cuda", torch.bfloat16)


def test_sliding_windows_are_refused() -> None:
    windowed = Qwen3Config(num_hidden_layers=2, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert untrainable(windowed) == [
        "model.path: qwen3 has sliding_attention; the learner knows full causal attention only"
    ]


def test_logits_that_are_changed_after_the_head_are_refused() -> None:
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    capped = LlamaForCausalLM(LlamaConfig(vocab_size=9, final_logit_softcapping=30.0, **tiny))
    with pytest.raises(
        ValueError, match="llama has final_logit_softcapping; the learner knows logits without changes only"
    ):
        Policy(capped, head_chunk=8)
    biased = LlamaForCausalLM(LlamaConfig(vocab_size=9, **tiny))
    biased.lm_head = torch.nn.Linear(8, 9, bias=True)
    with pytest.raises(ValueError, match="an output head that is not one matrix"):
        Policy(biased, head_chunk=8)


def test_computing_needs_neither_pydantic_nor_a_cluster() -> None:
    files = [*(ROOT / "int_ray" / "compute").glob("*.py"), *(ROOT / "int_ray" / "losses").glob("*.py")]
    modules = ["int_ray.types", *(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted(files))]
    absent = ["pydantic", "pydantic_core", "ray", "vllm", "openrlhf", "datasets", "pyarrow", "typer", "rich"]
    script = (
        "import importlib, sys; absent, modules = (argument.split(',') for argument in sys.argv[1:]); "
        "sys.modules.update(dict.fromkeys(absent)); list(map(importlib.import_module, modules))"
    )
    command = [sys.executable, "-c", script, ",".join(absent), ",".join(modules)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
