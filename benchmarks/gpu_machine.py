"""The device that the GPU suite measures on, and how much it measures there."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from benchmarks.flops import peak_flops
from benchmarks.measure import peak_memory, reset_peak_memory
from benchmarks.workloads import QWEN3_VOCABULARY, qwen3_config

if TYPE_CHECKING:
    from transformers import Qwen3Config


@dataclass(frozen=True)
class Machine:
    """A CUDA device with the sizes of the goals, or the CPU with toy sizes, whose figures mean nothing."""

    device: str  # cuda or cpu
    name: str

    @classmethod
    def here(cls) -> Machine:
        """CUDA if there is any."""
        if torch.cuda.is_available():
            return cls("cuda", torch.cuda.get_device_name())
        return cls("cpu", "CPU")

    @property
    def is_toy(self) -> bool:
        """Whether the figures mean nothing."""
        return self.device == "cpu"

    @cached_property
    def config(self) -> Qwen3Config:
        """The shape of Qwen3-1.7B."""
        if self.is_toy:
            return qwen3_config(64, 2, 512, heads=4, head_dim=16)
        return qwen3_config(2048, 28, QWEN3_VOCABULARY, heads=16, head_dim=128)

    def tokens(self, thousands: int) -> int:
        """So many times 1,024 tokens; 64 times fewer in a toy."""
        return thousands * (16 if self.is_toy else 1024)

    def rounds(self, number: int) -> int:
        """How often to repeat; once in a toy."""
        return 1 if self.is_toy else number

    @property
    def peak_flops(self) -> float | None:
        """Dense bf16; None where it is not known."""
        return peak_flops(self.name)

    def seconds(self, work: Callable[[], object], rounds: int, warm_up: int = 1) -> float:
        """Mean wall time of `work`, the device's own work included."""
        for _ in range(self.rounds(warm_up)):
            work()
        self.synchronize()
        started = time.perf_counter()
        for _ in range(self.rounds(rounds)):
            work()
        self.synchronize()
        return (time.perf_counter() - started) / self.rounds(rounds)

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.is_toy:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back what nobody refers to any more."""
        gc.collect()
        if not self.is_toy:
            torch.cuda.empty_cache()

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Most memory in use while `work` runs: allocated on the device, or resident on the CPU."""
        self.free()
        if self.is_toy:
            reset_peak_memory()
            work()
            return peak_memory()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    def used_bytes(self) -> int:
        """Memory in use now."""
        return self.peak_bytes(lambda: None)
