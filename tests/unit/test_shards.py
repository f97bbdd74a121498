"""Files of a learner's checkpoint: any safetensors reader understands them, and every rank has its share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from actors.learner_state import Snapshot, read_receipt, receipt
from int_ray.compute.shards import assign, own_share, read_shards, shard_name, write_shard


def test_a_file_written_by_hand_is_what_the_library_reads(tmp_path: Path):
    tensors = {
        "weight": torch.randn(3, 5),
        "half": torch.randn(7).to(torch.bfloat16),
        "transposed": torch.randn(4, 2).T,
        "step": torch.tensor(12.0),
        "nothing": torch.zeros(0, 3),
        "count": torch.arange(3),
        "mask": torch.tensor([True, False, True]),
    }
    write_shard(tmp_path / "new" / "model.safetensors", tensors)
    read = load_file(tmp_path / "new" / "model.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_ranks_share_about_equally(sizes: dict[str, int], num_ranks: int):
    owner = assign(sizes, num_ranks)
    assert owner.keys() == sizes.keys() and set(owner.values()) <= set(range(num_ranks))
    loads = [sum(sizes[name] for name in sizes if owner[name] == rank) for rank in range(num_ranks)]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)
    assert owner == assign(dict(reversed(sizes.items())), num_ranks)  # whatever order a rank has them in


def test_shards_together_hold_everything_once(tmp_path: Path):
    named = [(f"layer {index}", torch.randn(index + 1, 3)) for index in range(7)]
    owner = assign({name: tensor.numel() for name, tensor in named}, 3)
    for rank in range(3):
        write_shard(tmp_path / shard_name("model", rank, 3), own_share(named, owner, rank))
    read = list(read_shards(tmp_path, "model"))
    assert len(read) == 7 and all(torch.equal(dict(named)[name], tensor) for name, tensor in read)


def test_a_share_is_a_copy():
    weight = torch.ones(3)
    kept = own_share([("weight", weight)], {"weight": 0}, 0)
    weight.zero_()
    assert kept["weight"].tolist() == [1, 1, 1]


def test_a_rank_leaves_word_of_how_it_ended(tmp_path: Path):
    snapshot = Snapshot(0, 1, {tmp_path / "a.safetensors": {"weight": torch.ones(3)}})
    snapshot.write(tmp_path)
    read_receipt(receipt(tmp_path, 0))
    (tmp_path / "b.safetensors").mkdir()
    files = {tmp_path / name: {"weight": torch.ones(3)} for name in ("b.safetensors", "c.safetensors")}
    Snapshot(1, 2, files).write(tmp_path)
    with pytest.raises(IsADirectoryError):
        read_receipt(receipt(tmp_path, 1))
    assert not (tmp_path / "c.safetensors").exists()  # a full disk needs its room
    broken = Snapshot(2, 3)
    broken.add(lambda: 1 / 0)
    broken.write(tmp_path)  # tokenizers raise a bare Exception on a full disk
    with pytest.raises(OSError, match="division by zero"):
        read_receipt(receipt(tmp_path, 2))


def test_a_buffer_that_belongs_to_the_model_is_written_with_it(tmp_path: Path):
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    model.model.register_buffer("scale", torch.tensor([2.0]))
    model.model.register_buffer("mask", torch.tensor([True, False]), persistent=False)
    snapshot = Snapshot(0, 1)
    snapshot.add_model(model, tmp_path)
    snapshot.write(tmp_path)
    read_receipt(receipt(tmp_path, 0))
    written = load_file(tmp_path / "model.safetensors")
    assert written["model.scale"].tolist() == [2.0] and "model.mask" not in written
    assert written.keys() == model.state_dict().keys()
