"""Tensors of a sharded model as files: every rank writes whole tensors, its share of them by size.

Written by hand, not by safetensors, which would keep the training from running meanwhile: it holds Python's lock.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from int_ray.compute.sharding import local, unshard

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def assign(sizes: Mapping[str, int], num_ranks: int) -> dict[str, int]:
    """Name -> rank, so that all ranks have about as much; the same on every rank."""
    loads = [0] * num_ranks
    owner = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rank = loads.index(min(loads))
        owner[name] = rank
        loads[rank] += sizes[name]
    return owner


def own_share(
    named: Sequence[tuple[str, torch.Tensor]], owner: Mapping[str, int], rank: int
) -> dict[str, torch.Tensor]:
    """Copies, on the CPU, of this rank's tensors in full. Collective: all ranks gather one tensor after the other."""
    kept = {}
    for name, tensor in named:
        full = unshard(tensor)
        if owner[name] == rank:
            copy = full.detach().cpu()
            kept[name] = copy.clone() if copy.data_ptr() == local(tensor).data_ptr() else copy
    return kept


def shard_name(stem: str, rank: int, num_ranks: int) -> str:
    """As Hugging Face names the files of a model."""
    return f"{stem}.safetensors" if num_ranks == 1 else f"{stem}-{rank + 1:05d}-of-{num_ranks:05d}.safetensors"


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file of CPU tensors, in a new folder if need be; on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def read_shards(folder: Path, stem: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of `stem.safetensors` or its shards, one at a time."""
    for path in sorted(folder.glob(f"{stem}*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                yield name, file.get_tensor(name)
