"""The benchmarks of the learner compute what they say, compare equal work, and notice who is slower."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks import head, learner, packing
from benchmarks.flops import forward_flops, peak_flops, train_flops
from benchmarks.fresh import in_fresh_process
from benchmarks.head import naive_logprobs
from benchmarks.measure import Scale, at_least
from benchmarks.trainers import Setup
from benchmarks.workloads import (
    QWEN3_VOCABULARY,
    lengths_that_sum_to,
    lognormal_lengths,
    qwen3_config,
    training_samples,
)
from int_ray.compute.head import token_logprobs
from int_ray.training_config import LearnerConfig, ReinforceConfig

ROOT = Path(__file__).parents[2]
SHAPE = {"hidden": 32, "layers": 1, "vocabulary": 64}
# What the GPU suite must do without.
ABSENT = ("pydantic", "ray", "vllm", "rich", "pytest", "openrlhf", "trl", "datasets", "typer")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benchmarks join a process group; leave it again. One thread: waiting ones slow down a busy machine."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    torch.set_num_threads(threads)


def test_flops_by_hand():
    config = qwen3_config(4, 2, 10, heads=2, head_dim=3)  # one key head, an MLP of 12
    # Weights of a layer: queries and output 4 x 6 each, keys and values 4 x 3 each, MLP 3 x (4 x 12).
    matrices = 2 * (24 + 24 + 12 + 12 + 144) * 5
    attention = 4 * 2 * 3 * (1 + 2 + 3 + 1 + 2)  # documents of 3 and 2 tokens
    assert forward_flops(config, [3, 2], 3) == 2 * (matrices + attention) + 2 * 4 * 10 * 3
    assert train_flops(config, [3, 2], 3) == 3 * forward_flops(config, [3, 2], 3)


def test_flops_of_qwen3_1_7b():
    config = qwen3_config(2048, 28, QWEN3_VOCABULARY, heads=16, head_dim=128)
    for tokens, per_token in ((8192, 13.1e9), (32768, 21.6e9)):
        assert train_flops(config, [tokens], tokens) / tokens == pytest.approx(per_token, rel=0.01)


def test_peak_of_known_and_unknown_devices():
    assert peak_flops("NVIDIA H200") == peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("CPU") is None


def test_workloads():
    assert sum(lengths_that_sum_to(2048, 256, 0.8, 1024)) == 2048
    lengths = lognormal_lengths(20_000, 1000, 0.8, 10**6)
    assert sum(lengths) / len(lengths) == pytest.approx(1000, rel=0.05)
    sample = training_samples([20], prompt=5, vocabulary=7)[0]
    assert sample.loss_mask.tolist() == [0] * 5 + [1] * 15


def test_settings_are_those_of_the_configuration():
    settings = Setup(kl_coef=0.001, compile=True).settings()
    reinforce = vars(settings.reinforce) | {"optimizer": vars(settings.reinforce.optimizer)}
    assert ReinforceConfig.model_validate(reinforce).kl_coef == 0.001
    assert LearnerConfig.model_validate(vars(settings.learner)).compile
    for device in ("cpu", "cuda"):
        chunk = Setup(device=device).settings().learner.head_chunk
        assert LearnerConfig.model_validate({"device": device}).head_chunk == chunk


def test_naive_head_computes_the_same():
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 8), torch.randn(50, 8)
    targets = torch.randint(0, 50, (9,))
    torch.testing.assert_close(
        naive_logprobs(hidden, weight, targets, 0.6), token_logprobs(hidden, weight, targets, 0.6, chunk=4)
    )


def test_head_figures():
    memory, seconds = head.run(Scale.TINY)
    assert 0 < memory.value < 1
    assert math.isfinite(seconds.value)


def test_packing_figures():
    waste, imbalance, milliseconds = packing.run(Scale.TINY)
    assert waste.reached
    assert imbalance.reached
    assert math.isfinite(milliseconds.value)


def test_packing_counts_what_idle_ranks_compute():
    assert packing.processed_tokens([[[0, 1]], [[]]], [5, 7]) == 5 + 7 + 1


def test_learner_figures_compare_equal_work(alone: None):
    figures = {figure.name: figure for figure in learner.run(Scale.TINY)}  # checks losses and gradients itself
    assert len(figures) == 6
    assert all(math.isfinite(figure.value) and figure.value > 0 for figure in figures.values())


def test_lognormal_lengths_leave_much_to_pad():
    lengths = learner.trl_lengths(2048)
    assert sum(lengths) / len(lengths) < 0.7 * max(lengths)


def test_a_different_loss_is_noticed(alone: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learner, "TEMPERATURE", 0.9)  # of the bare step alone
    with pytest.raises(AssertionError, match="not close"):
        learner.against_torch(SHAPE, 128, Setup(), pairs=1)


def test_a_slow_trainer_is_noticed(alone: None, monkeypatch: pytest.MonkeyPatch):
    step = learner.trainer_step

    def slow_step(*arguments: object) -> Callable[[], torch.Tensor]:
        work = step(*arguments)  # pyright: ignore[reportArgumentType]
        return lambda: (time.sleep(1), work())[1]

    monkeypatch.setattr(learner, "trainer_step", slow_step)
    pairs = learner.against_torch(SHAPE, 128, Setup(), pairs=1)
    assert all(ours > 1 for ours, _ in pairs)
    assert at_least("speed", pairs, 0.97).value < 0.97


def test_a_failing_child_says_why():
    assert in_fresh_process(math.sqrt, 4) == 2
    with pytest.raises(RuntimeError, match=r"math:sqrt.* failed: ValueError: math domain error"):
        in_fresh_process(math.sqrt, -1)


def test_gpu_suite_runs_without_the_other_packages():
    blocked = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))"
    script = f"{blocked}; import runpy; runpy.run_module('benchmarks.gpu', run_name='__main__')"
    command = [sys.executable, "-W", "ignore", "-c", script]
    environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["toy"]
    assert not result["failures"]
    assert len(result["figures"]) == 9
    assert all(math.isfinite(figure["value"]) for figure in result["figures"])
