"""CUDA IPC handles cross vLLM's process boundary as plain data and come out as they went in."""

from __future__ import annotations

import msgspec
import pytest
import torch

from actors.ipc_handles import from_plain, to_plain

# As torch.multiprocessing.reductions.reduce_tensor describes a packed buffer of 8 bytes on GPU 0.
PLACE = (torch.Size([8]), (1,), 0)
STORAGE = (0, b"memory handle", 512, 64, False, b"counter", 3, b"event", True)


def arguments(dtype: torch.dtype = torch.uint8) -> tuple[object, ...]:
    return (torch.Tensor, *PLACE, torch.storage.TypedStorage, dtype, *STORAGE)


def test_plain_handles_hold_no_classes():
    assert to_plain({"gpu-0": arguments()}) == {"gpu-0": [[8], [1], 0, *STORAGE]}


def test_handles_survive_the_trip_through_msgpack():
    handles = {"gpu-0": arguments(), "gpu-1": arguments()}
    assert from_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(to_plain(handles)))) == handles


def test_a_handle_of_another_kind_of_tensor_is_refused():
    with pytest.raises(ValueError, match=r"packed uint8 buffer, got one of torch\.float32"):
        to_plain({"gpu-0": arguments(torch.float32)})


def test_positions_match_torch():
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    names = rebuild_cuda_tensor.__code__.co_varnames[: rebuild_cuda_tensor.__code__.co_argcount]
    assert (names[0], names[4], names[5]) == ("tensor_cls", "storage_cls", "dtype")
    assert len(names) == len(arguments())
