"""What leaves the learner: full tensors in the engines' dtype, in shared memory; an NCCL rank for every engine."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError

from actors import weight_senders
from actors.learner_rank import LearnerRank
from actors.update_client import UpdateClient
from actors.weight_senders import FullWeights, NativeSender, SharedMemorySender, allocate, copy_weight, copying_threads


class RecordingClient(UpdateClient):
    """Keeps calls instead of making them, and reads the shared file as an engine would."""

    def __init__(self, num_engines: int = 1, workers: int = 1) -> None:
        super().__init__(cast(Any, [None] * num_engines), workers, 1.0)
        self.calls: list[tuple[str, Any]] = []

    def _begin(self, method: str, arguments: Any = None) -> Callable[[], None]:
        self.calls.append((method, arguments))
        if method == "init_weight_transfer_engine" and "path" in arguments[0]:
            info = arguments[0]
            self.mode = os.stat(info["path"]).st_mode & 0o777
            self.file = torch.from_file(info["path"], shared=True, size=info["num_bytes"], dtype=torch.uint8)
        return lambda: self.calls.append((f"{method} done", None)) if method == "update_weights" else None


def model() -> torch.nn.Module:
    """Weight [3, 2] = 0..5 and bias [3] = 10..12 in fp32."""
    linear = torch.nn.Linear(2, 3)
    linear.weight.data = torch.arange(6.0).view(3, 2)
    linear.bias.data = torch.tensor([10.0, 11.0, 12.0])
    return linear


def test_metadata_says_what_iterating_yields():
    weights = FullWeights(model(), "bfloat16")
    sent = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights]
    assert sent == [(one.name, one.dtype, one.shape) for one in weights.metadata()]
    assert sent == [("bias", torch.bfloat16, (3,)), ("weight", torch.bfloat16, (3, 2))]  # last first


def test_shared_file_holds_the_cast_weights_at_aligned_offsets_and_is_reused():
    client, sent = RecordingClient(), model()
    sender = SharedMemorySender(client, "bfloat16")
    for change in (0.0, 1.0):
        sent.weight.data += change
        sender.send(sent, is_main=True)
        info = client.calls[0][1][0]
        assert (info["names"], info["shapes"], info["offsets"]) == (["bias", "weight"], [[3], [3, 2]], [0, 64])
        assert client.file[:6].view(torch.bfloat16).tolist() == [10, 11, 12]
        assert client.file[64:76].view(torch.bfloat16).tolist() == [value + change for value in range(6)]
    steps = ["start_weight_update", "update_weights", "update_weights done", "finish_weight_update"]
    assert [name for name, _ in client.calls] == ["init_weight_transfer_engine", *steps, *steps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("contiguous", [True, False])
def test_weights_are_copied_exactly_whatever_their_dtype_and_layout(dtype: torch.dtype, contiguous: bool):
    weight = torch.randn(5, 3).to(dtype)
    weight = weight if contiguous else weight.t()
    slot = torch.empty(weight.shape, dtype=torch.bfloat16)
    copy_weight(weight, slot)
    assert torch.equal(slot, weight.to(torch.bfloat16))


def test_copying_leaves_torch_its_threads():
    before = torch.get_num_threads()
    with copying_threads() as threads:
        assert threads.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before


def test_the_engines_load_each_part_while_the_next_is_copied(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weight_senders, "PART_BYTES", 20)
    client = RecordingClient()
    layers = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(3)))  # 18 and 6 bytes each
    SharedMemorySender(client, "bfloat16").send(layers, is_main=True)
    parts = [arguments[0] for method, arguments in client.calls if method == "update_weights"]
    assert parts == [{"first": 0, "end": 2}, {"first": 2, "end": 4}, {"first": 4, "end": 6}]
    assert [method for method, _ in client.calls][-4:] == ["update_weights done"] * 3 + ["finish_weight_update"]


def test_shared_file_is_private_and_gone_once_it_is_mapped():
    client = RecordingClient()
    SharedMemorySender(client, "float32").send(model(), is_main=True)
    assert client.mode == 0o600
    assert not os.path.exists(client.calls[0][1][0]["path"])


def test_other_ranks_write_nothing_and_call_nobody():
    client = RecordingClient()
    SharedMemorySender(client, "float32").send(model(), is_main=False)
    assert client.calls == []


def test_every_engine_gets_ranks_of_its_own_in_the_nccl_group():
    client = RecordingClient(num_engines=3, workers=2)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    (_, infos), *_ = client.calls
    assert [info["rank_offset"] for info in infos] == [1, 3, 5]


def test_a_full_shared_memory_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for 3 MiB of weights in /dev/shm: enlarge it"):
        allocate(0, 3 * 2**20)


def test_a_replaced_sender_ends_its_nccl_group():
    ended: list[str] = []
    trainer = SimpleNamespace(model_update_group=SimpleNamespace(destroy=lambda: ended.append("nccl")))
    other_rank = SimpleNamespace(model_update_group=None)  # only rank 0 has a communicator
    rank = cast(LearnerRank, SimpleNamespace(sender=None))
    for opened in (trainer, other_rank, None):
        sender = NativeSender(RecordingClient(), "bfloat16", "nccl")
        sender._trainer = cast(Any, opened)
        LearnerRank.open_weight_sender(rank, sender)
    assert ended == ["nccl"]
    LearnerRank.open_weight_sender(rank, SharedMemorySender(RecordingClient(), "bfloat16"))
    assert ended == ["nccl"] and isinstance(rank.sender, SharedMemorySender)


def test_cuda_ipc_has_no_group_to_end():
    sender = NativeSender(RecordingClient(), "bfloat16", "ipc")
    sender._trainer = cast(Any, SimpleNamespace())
    sender.close()
    assert sender._trainer is None


@pytest.mark.parametrize("end", [ActorDiedError(), OutOfMemoryError("killed by Ray's memory monitor")])
def test_an_engine_that_is_gone_is_left_out_of_what_follows(monkeypatch: pytest.MonkeyPatch, end: Exception):
    def get(call: str, timeout: float) -> None:
        if call == "gone":
            raise end

    monkeypatch.setattr(ray, "get", get)
    engines = [
        SimpleNamespace(start_weight_update=SimpleNamespace(remote=lambda answer=answer: answer))
        for answer in ("there", "gone")
    ]
    client = UpdateClient(cast(Any, engines), 1, 1.0)
    client.start_weight_update()
    assert client.engines == engines[:1]
