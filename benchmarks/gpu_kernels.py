"""Figures of single parts on one GPU: the chunked head, and bringing the weights into the engines' form."""

from __future__ import annotations

import torch

from benchmarks.gpu_machine import Machine
from benchmarks.head import naive_logprobs
from benchmarks.measure import Figure, at_least, at_most
from benchmarks.trainers import TEMPERATURE, random_model
from benchmarks.workloads import HEAD_CHUNK
from int_ray.compute.head import token_logprobs

DEFAULT_CHUNK = HEAD_CHUNK["cuda"]


def chunked_head(machine: Machine) -> list[Figure]:
    """16k tokens with Qwen3-1.7B's head, bf16: every chunk size against all logits at once."""
    tokens, hidden, vocabulary = machine.tokens(16), machine.config.hidden_size, machine.config.vocab_size
    torch.manual_seed(0)
    dtype = torch.float32 if machine.is_toy else torch.bfloat16
    states = torch.randn(tokens, hidden, device=machine.device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(vocabulary, hidden, device=machine.device, dtype=dtype) * hidden**-0.5).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=machine.device)

    def backward(chunk: int | None) -> None:
        states.grad = weight.grad = None
        if chunk is None:
            logprobs, entropy = naive_logprobs(states, weight, targets, TEMPERATURE)
        else:
            logprobs, entropy = token_logprobs(states, weight, targets, TEMPERATURE, chunk)
        (-logprobs - 0.001 * entropy).mean().backward()

    sweep: dict[int | None, tuple[float, float]] = {}
    for chunk in (None, 512, DEFAULT_CHUNK, 2048, 4096, 8192):
        states.grad = weight.grad = None
        before = machine.used_bytes()
        gigabytes = (machine.peak_bytes(lambda chunk=chunk: backward(chunk)) - before) / 1e9
        sweep[chunk] = machine.seconds(lambda chunk=chunk: backward(chunk), 5), gigabytes
    naive_seconds, naive_gigabytes = sweep.pop(None)
    note = "; ".join(f"{chunk}: {time / naive_seconds:.2f}, {size:.1f} GB" for chunk, (time, size) in sweep.items())
    note = f"by chunk: {note}; naive {naive_gigabytes:.0f} GB"
    seconds, gigabytes = sweep[DEFAULT_CHUNK]
    return [
        at_most(
            "gpu.head_time_over_naive", seconds / naive_seconds, 1.35, limit="1.33: four products for three", note=note
        ),
        at_most("gpu.head_memory_gb", gigabytes, 4, limit="1.2: the weight's gradient", note=note),
    ]


def pack_weights(machine: Machine) -> list[Figure]:
    """fp32 masters, cast to bf16 and put together in buffers of up to 1 GiB, as a sync between GPUs sends them.

    Against copying as many bytes from one buffer to another.
    """
    weights = [parameter.detach() for parameter in random_model(machine.config, machine.device).parameters()]
    groups: list[list[torch.Tensor]] = [[]]
    for weight in weights:
        if sum(2 * other.numel() for other in groups[-1]) + 2 * weight.numel() > 2**30:
            groups.append([])
        groups[-1].append(weight)

    def pack() -> None:
        for group in groups:
            torch.cat([weight.to(torch.bfloat16).flatten() for weight in group])

    source = torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.bfloat16, device=machine.device)
    target = torch.empty_like(source)
    packing = machine.seconds(pack, 10)
    copying = machine.seconds(lambda: target.copy_(source), 10)
    note = f"{source.nbytes / packing / 1e9:.0f} GB/s, {1e3 * packing:.1f} ms: casting and joining are two passes"
    limit = "0.4; 0.67 in one pass"
    return [at_least("gpu.pack_weights_over_copy", [(packing, copying)], 0.6, limit=limit, note=note)]
