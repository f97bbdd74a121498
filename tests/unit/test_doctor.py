"""`int-ray doctor`: what it finds on this machine, and on machines that lack something."""

from __future__ import annotations

import json
import os
import shutil
import socket
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from int_ray import preflight
from int_ray.config import Config
from int_ray.config_file import load_config
from launch import doctor_machine as machine
from launch import doctor_network as network
from launch.doctor import Finding
from tests.unit.test_cli import cli
from tests.wire_servers import OpenAIServer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def config(*overrides: str) -> Config:
    return load_config("configs/quickstart.yaml", overrides)


def test_the_machine_of_the_tests_is_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(network.psutil, "net_connections", lambda kind: [])
    result = cli("doctor", "configs/quickstart.yaml", f"run.folder={tmp_path / 'run'}")
    assert result.exit_code == 0, result.stdout
    assert "0 failed" in result.stdout and "/dev/shm" in result.stdout


def test_a_failure_is_exit_code_one(monkeypatch: pytest.MonkeyPatch):
    failure = Finding("fail", "disk", "full", "free some")
    monkeypatch.setattr("launch.doctor.examine", lambda config, ask_oracle: iter([failure]))
    result = cli("doctor")
    assert result.exit_code == 1 and "free some" in result.stdout and "1 failed" in result.stdout


def test_a_config_that_cannot_be_used_is_exit_code_two():
    assert cli("doctor", "configs/nothing.yaml").exit_code == 2


def compared(pins: str, **installed: str) -> dict[str, Finding]:
    found = machine.compare_versions(
        machine.lock_pins(pins), {k.replace("_", "-"): v for k, v in installed.items()}, "x"
    )
    return {finding.subject: finding for finding in found}


def test_versions_are_compared_with_the_lock_file():
    pins = "# comment\ntorch==2.13.0\nray==2.55.0\nRich==15.0.0  # why\n"
    found = compared(pins, torch="2.13.0+cu130", ray="2.54.0", rich="14.1.0")
    assert found["packages"].found == "1 of 3 as in x"
    assert found["ray"] == Finding("fail", "ray", "2.54.0", "install ray==2.55.0: make setup")
    assert found["other versions"].level == "warn" and "rich 14.1.0" in found["other versions"].found
    assert "not installed" in compared(pins, torch="2.13.0", rich="15.0.0")["ray"].found


def test_packages_for_cuda_break_a_cpu_environment():
    assert compared("torch==2.13.0+cpu", torch="2.13.0+cpu", torchvision="0.28")["CUDA packages"].level == "fail"
    assert "CUDA packages" not in compared("torch==2.13.0", torch="2.13.0", torchvision="0.28")


def test_without_a_checkout_the_packages_own_requirements_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(metadata, "requires", lambda name: ["ray[default]==1.0", 'vllm==0.1; extra == "gpu"'])
    found = {finding.subject: finding for finding in machine.check_versions()}
    assert found["ray"].level == "fail" and "vllm" not in found
    assert found["packages"].found == "0 of 1 as in int-ray's requirements"


def test_every_lock_line_can_be_read():
    for lock in ROOT.glob("requirements-*.lock"):
        assert all(isinstance(pin, Requirement) for pin in machine.lock_pins(lock.read_text()).values())


GPU = "NVIDIA H100, 81559 MiB, 580.65"
ON_GPUS = ("learner.device=cuda", "learner.weight_sync=nccl", "rollout.num_engines=2", "learner.num_ranks=2")


def test_missing_gpus_fail_only_where_they_are_needed_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda: [])
    assert machine.check_gpus(None).level == machine.check_gpus(config()).level == "ok"
    found = machine.check_gpus(config(*ON_GPUS))
    assert found.level == "fail" and "needs 4" in found.found
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert machine.check_gpus(config(*ON_GPUS)).level == "ok"


def test_gpus_that_pytorch_is_not_built_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda: [GPU])
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cpu")
    assert "built without CUDA" in machine.check_gpus(None).found


def test_gpus_without_pytorch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda: [GPU])
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    found = machine.check_gpus(None)
    assert found.level == "fail" and "PyTorch is not installed" in found.found


def test_attention_kernels(monkeypatch: pytest.MonkeyPatch):
    on_gpu = ("learner.device=cuda", "learner.weight_sync=nccl", "model.dtype=bfloat16")
    for installed, expected in ((None, "varlen"), (object(), "flash_attention_2")):
        monkeypatch.setattr(machine, "find_spec", lambda name, installed=installed: installed)
        assert machine.check_attention(config(*on_gpu)).found.startswith(expected)
        assert machine.check_attention(config()).found.startswith("sdpa")
    assert machine.check_attention(config(*on_gpu, "learner.attention=sdpa")).found == "sdpa, as configured"


def test_a_kernel_that_the_run_would_refuse_fails_here_too(monkeypatch: pytest.MonkeyPatch):
    settings = ("learner.device=cuda", "learner.weight_sync=nccl", "model.dtype=bfloat16")
    wanted = config(*settings, "learner.attention=flash_attention_2")
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    found = machine.check_attention(wanted)
    assert found.level == "fail" and "flash-attn, which is not installed" in found.advice
    monkeypatch.setattr(preflight, "find_spec", lambda name: object())
    assert machine.check_attention(wanted).level == "ok"


def sized(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


@pytest.mark.parametrize(("free", "level"), [(64e6, "fail"), (1e9, "warn"), (8e9, "ok")])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, free: float, level: str):
    sized(monkeypatch, free)
    assert machine.check_shared_memory().level == level


def test_disk_must_hold_the_checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    # 0.58M fp32 parameters x 12 bytes x (2 kept + the one that is being written)
    weights = (ROOT / "int_ray/chains/data/base/model.safetensors").stat().st_size
    assert machine.checkpoint_bytes(config()) == weights * 3 * 3
    assert machine.checkpoint_bytes(config("model.path=someone/model")) is None
    sized(monkeypatch, 1e6)
    found = machine.check_disk(config(f"run.folder={tmp_path}/new/run"))
    assert found.level == "fail" and "checkpoints need about" in found.found
    assert machine.check_disk(config("model.path=someone/model")).level == "warn"


def authentication(*overrides: str) -> list[Finding]:
    return list(network.check_authentication(config(*overrides)))


def test_authentication_of_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert authentication()[0].level == "ok"
    assert authentication("run.ray_address=10.0.0.1:6379")[0].level == "warn"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert authentication()[0].level == "fail"
    file = tmp_path / ".ray/auth_token"
    file.parent.mkdir()
    file.write_text("canary-token")
    file.chmod(0o644)
    cluster, mode = authentication()
    assert cluster.level == "ok" and "canary-token" not in str((cluster, mode))
    assert mode.advice == f"chmod 600 {file}"
    file.chmod(0o600)
    assert len(authentication()) == 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback(address: str, expected: bool):
    assert network.is_loopback(address) is expected


def test_open_ports_are_told(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as open_to_all, socket.socket() as closed:
        open_to_all.bind(("0.0.0.0", 0))
        closed.bind(("127.0.0.1", 0))
        open_to_all.listen()
        closed.listen()
        *_, others = network.check_listeners()
        assert f":{open_to_all.getsockname()[1]}" in others.found
        assert f":{closed.getsockname()[1]}" not in others.found
        monkeypatch.setattr(network, "_is_ray", lambda process: process.pid == os.getpid())
        found = [finding for finding in network.check_listeners() if str(open_to_all.getsockname()[1]) in finding.found]
    assert [finding.level for finding in found] == ["fail"] and f"pid {os.getpid()}" in found[0].advice


def test_the_oracles_key_and_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with OpenAIServer(lambda prompt: "", models=("m1",)) as server:
        keyed = ("oracle.kind=openai", "oracle.openai.model=m1", f"oracle.openai.base_url={server.url}")
        assert [finding.level for finding in network.check_oracle(config(*keyed), ask=True)] == ["fail"]
        monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
        (unasked,) = network.check_oracle(config(*keyed), ask=False)
        assert unasked.level == "ok" and "--oracle" in unasked.advice
        (asked,) = network.check_oracle(config(*keyed), ask=True)
        assert asked.level == "ok", asked
        (unknown,) = network.check_oracle(config(*keyed, "oracle.openai.model=m2"), ask=True)
        assert unknown.level == "fail" and "unknown_model" in unknown.found
        assert not server.questions  # asking is free
    assert list(network.check_oracle(config(), ask=True)) == []
    assert "canary-key" not in json.dumps([asked.found, unknown.found])
