"""The memory plan, by hand, for Qwen3-1.7B's shape."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from int_ray.config import Config
from int_ray.memory_plan import (
    GB,
    Shape,
    activation_bytes,
    engine_warnings,
    kv_cache_bytes,
    memory_plans,
    read_shape,
    warnings,
)
from launch.memory import gpu_bytes, memory_lines
from tests.factories import tiny_checkpoint

QWEN = Shape(28, 2048, 16, 8, 128, 6144, 151936, tied=True)


def config(path: str = "model", **sections: Any) -> Config:
    return Config.model_validate(
        {
            "model": {"path": path, "max_length": 16384},
            "problems": {"train": "train.jsonl"},
            "rollout": {"max_tokens": 8192} | sections.pop("rollout", {}),
            "run": {"folder": "runs/x"},
        }
        | sections
    )


def test_parameters_and_the_cache_of_a_token():
    # 2048 * 128 * 48 + 3 * 2048 * 6144 a layer; 28 of them and 151936 * 2048
    assert QWEN.layer_parameters == 50_331_648
    assert QWEN.parameters == 1_720_451_072
    assert kv_cache_bytes(QWEN) == 114_688


def test_the_state_of_one_rank_is_16_bytes_a_parameter():
    [learner, _] = memory_plans(config(), QWEN, None)
    state = sum(learner.parts[what] for what in ("fp32 masters", "gradients", "Adam moments"))
    assert state / GB == pytest.approx(27.5, abs=0.05)
    assert learner.parts["reference"] / GB == pytest.approx(3.44, abs=0.01)


def test_ranks_share_the_state_but_not_the_activations():
    one, four = (memory_plans(config(learner={"num_ranks": ranks}), QWEN, None)[0].parts for ranks in (1, 4))
    assert four["Adam moments"] == one["Adam moments"] / 4
    assert four["activations"] == one["activations"]


@pytest.mark.parametrize("changes", [{"reinforce": {"kl_coef": 0}}, {"learner": {"offload_reference": True}}])
def test_no_reference_takes_no_room(changes: dict):
    [learner, _] = memory_plans(config(**changes), QWEN, None)
    assert "reference" not in learner.parts


def test_activations_of_a_token_by_hand():
    """A shape with hidden 2, one head of 2, intermediate 3: what each mode keeps, in bytes."""
    shape = Shape(10, 2, 1, 1, 2, 3, 100, tied=True)
    products = 2 * (2 + 2 * 2 + 2 * 2 + 2 * 3)
    everything = products + 2 * 2 + 2 * 8 * 2 + 2 * 2 * 4 + 2 * 2 * 3
    assert activation_bytes(shape, "none") == 10 * everything
    assert activation_bytes(shape, "full") == 10 * 2 * 2 + everything
    assert activation_bytes(shape, "selective") == 10 * (2 * 2 + products + 2 * 2) + everything


def test_a_32k_document_with_full_checkpointing_stays_below_48_gb_and_without_it_does_not_fit():
    plans = {
        mode: memory_plans(
            config(learner={"micro_batch_tokens": 32768, "activation_checkpointing": mode}, reinforce={"kl_coef": 0}),
            QWEN,
            None,
        )[0]
        for mode in ("none", "full")
    }
    assert 36 < plans["full"].total / GB < 48
    assert warnings([plans["none"]], 80 * GB)[0].startswith("each learner GPU, training: needs about")
    assert warnings([plans["full"]], 80 * GB) == []


def test_an_engine_takes_its_share_of_a_gpu_and_splits_weights_over_several():
    [_, engine] = memory_plans(config(rollout={"gpu_memory_utilization": 0.5}), QWEN, 80 * GB)
    assert engine.total == pytest.approx(40 * GB)
    [_, least] = memory_plans(config(rollout={"tensor_parallel_size": 2}), QWEN, None)
    assert least.parts["engine weights"] == QWEN.parameters
    assert least.parts["KV cache of one longest sequence"] == 114_688 * 16384 / 2


def test_gpus_beyond_the_heads_of_keys_hold_the_same_ones():
    [_, engine] = memory_plans(config(rollout={"tensor_parallel_size": 16}), QWEN, None)
    assert engine.parts["KV cache of one longest sequence"] == 114_688 * 16384 / 8


def test_an_engine_that_cannot_start_in_its_share():
    """Weights 3.44 GB, one sequence 1.88 GB, process 1 GB: 6.32 GB of 8 GB."""
    small, enough = (config(rollout={"gpu_memory_utilization": share}) for share in (0.78, 0.80))
    (line,) = engine_warnings(small, QWEN, 8 * GB)
    assert (
        line.startswith("each engine: needs at least 6.3 GB") and "leaves it 6.2 GB; raise it to more than 0.79" in line
    )
    assert engine_warnings(enough, QWEN, 8 * GB) == []
    [_, engine] = memory_plans(small, QWEN, 6 * GB)
    assert warnings([engine], 6 * GB)[0].startswith("each engine GPU: needs about 6 GB")
    assert engine_warnings(small, QWEN, 6 * GB) == []  # it has been said


def test_a_shared_gpu_that_is_too_small_for_any_share():
    shared: dict[str, str] = {"weight_sync": "ipc"}
    [_, sampling] = memory_plans(config(learner=shared), QWEN, 30 * GB)  # 25.1 + 6.3 GB
    assert sampling.advice == "a smaller model or weight_sync: nccl with more GPUs"
    [_, sampling] = memory_plans(config(learner=shared), QWEN, 32 * GB)
    assert sampling.advice == "rollout.gpu_memory_utilization=0.21"


def test_a_shared_gpu_in_both_of_its_phases():
    changes: dict[str, Any] = {"learner": {"weight_sync": "ipc", "activation_checkpointing": "full"}}
    training, sampling = memory_plans(config(**changes), QWEN, 80 * GB)
    assert training.parts["sleeping engine"] == GB and "KV cache" not in training.parts
    assert "gradients" not in sampling.parts and "activations" not in sampling.parts
    # 85% of 80 GB beside 20.6 GB of masters and moments and 3.4 GB of the reference
    assert [warning.split(":")[0] for warning in warnings([training, sampling], 80 * GB)] == ["shared GPU, sampling"]
    # 80 - 20.65 - 3.44 - 1 GB is 0.686 of the GPU, and fits
    assert sampling.advice == "rollout.gpu_memory_utilization=0.68"
    fitting = memory_plans(config(**changes, rollout={"gpu_memory_utilization": 0.68}), QWEN, 80 * GB)
    assert warnings(fitting, 80 * GB) == []
    awake, _ = memory_plans(config(**changes, rollout={"sleep": False}), QWEN, 80 * GB)
    assert awake.parts["KV cache"] > 60 * GB


def test_a_run_on_the_cpu_has_no_plan():
    cpu: dict[str, str] = {"device": "cpu", "weight_sync": "shm"}
    assert memory_plans(config(learner=cpu), QWEN, None) == []
    assert memory_lines(config(learner=cpu)) == []


def test_shape_and_lines_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers import AutoModelForCausalLM

    path = tiny_checkpoint(tmp_path / "model")
    here = config(str(path))
    shape = read_shape(here.model)
    assert shape is not None
    model = AutoModelForCausalLM.from_pretrained(path)
    norms = sum(parameter.numel() for name, parameter in model.named_parameters() if "norm" in name)
    assert shape.parameters == model.num_parameters() - norms
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 1\necho 2\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpu_bytes() == 2.0**20
    lines = memory_lines(here)
    assert lines[0].startswith("GPU memory, each learner GPU, training: about")
    assert lines[-1].startswith("WARNING: ") and "the GPU has 0 GB" in lines[-1]
