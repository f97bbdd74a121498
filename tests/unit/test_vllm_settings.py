"""What a rollout engine sets before vLLM is imported: nothing reaches outside, cores are shared out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.vllm_settings import TRANSFER_BACKENDS, WORKER_EXTENSIONS, engine_arguments, engine_environment
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.training_config import LearnerConfig


def environment(path: str = "org/model", num_engines: int = 1, device: str = "cpu") -> dict[str, str]:
    rollout = RolloutConfig(max_tokens=8, num_engines=num_engines, startup_deadline_s=70.4)
    return engine_environment(
        ModelConfig(path=path, max_length=16), rollout, LearnerConfig.model_validate({"device": device})
    )


@pytest.mark.parametrize(("cores", "num_engines", "threads"), [(2, 1, "1"), (8, 1, "7"), (9, 4, "2"), (2, 4, "1")])
def test_engines_share_the_cores_but_one(monkeypatch: pytest.MonkeyPatch, cores: int, num_engines: int, threads: str):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert environment(num_engines=num_engines)["OMP_NUM_THREADS"] == threads


def test_usage_statistics_are_off_and_the_hub_only_for_hub_models(tmp_path: Path):
    assert environment()["VLLM_NO_USAGE_STATS"] == "1"
    assert environment(str(tmp_path))["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment("org/model")


def test_gpu_engines_keep_compilation_and_their_threads():
    assert not {"TORCH_COMPILE_DISABLE", "OMP_NUM_THREADS"} & environment(device="cuda").keys()


def test_vllm_waits_for_its_engine_as_long_as_the_config_says():
    assert environment()["VLLM_ENGINE_READY_TIMEOUT_S"] == "70"


def test_every_way_to_sync_weights_has_a_backend():
    choices = {"shm", "nccl", "ipc"}
    assert set(TRANSFER_BACKENDS) == set(WORKER_EXTENSIONS) == choices


def arguments(**learner: object) -> dict[str, object]:
    rollout = RolloutConfig(max_tokens=8, staleness=1, tensor_parallel_size=2)
    return engine_arguments(
        ModelConfig(path="org/model", max_length=16), rollout, LearnerConfig.model_validate(learner)
    )


def test_engines_that_share_a_gpu_can_sleep_and_others_need_not():
    assert arguments(device="cuda", weight_sync="ipc")["enable_sleep_mode"]
    assert not arguments(device="cuda", weight_sync="nccl")["enable_sleep_mode"]


def test_an_engine_on_several_gpus_runs_its_own_workers_and_the_canary_goes_first():
    found = arguments(device="cuda")
    assert (found["tensor_parallel_size"], found["distributed_executor_backend"]) == (2, "mp")
    assert found["scheduling_policy"] == "priority"
