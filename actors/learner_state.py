"""A learner on disk: Hugging Face folders, safetensors and JSON; nothing that runs code when it is read.

    folder/                     the policy, as any Hugging Face tool loads it
    folder/learner/state.json   counters and the schedule
    folder/learner/optimizer*.safetensors   while a reinforce phase is under way
    folder/learner/reference/   the KL reference, if it is not the base model

What is not the policy has a folder of its own because vLLM loads every safetensors file beside a config.json. Every
rank writes its share of every model and of the optimizer, and when all that is on disk it says so in a file of its own.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from transformers import PreTrainedModel

from int_ray.compute.sharding import scatter_like
from int_ray.compute.shards import assign, own_share, read_shards, shard_name, write_shard

WEIGHTS, MOMENTS = "model", "optimizer"


def reference_folder(folder: Path) -> Path:
    """Where a reference that is not the base model is."""
    return folder / "learner" / "reference"


def receipt(folder: Path, rank: int) -> Path:
    """What a rank writes last: JSON, null or the disk's error as [number, text]."""
    return folder / f"rank_{rank}.written"


@dataclass
class Snapshot:
    """A rank's share of a learner, copied, so that it can be written while the weights change."""

    rank: int
    num_ranks: int
    files: dict[Path, dict[str, torch.Tensor]] = field(default_factory=dict)
    _rest: list[Callable[[], object]] = field(default_factory=list)

    def add(self, write: Callable[[], object]) -> None:
        """Something small, to be written by a call."""
        self._rest.append(write)

    def add_model(self, model: PreTrainedModel, folder: Path) -> None:
        """The weights, with their config. Collective."""
        # Tied weights are named once, which is how they are stored.
        stored = model.state_dict().keys()
        named = list(model.named_parameters())
        named += [(name, buffer) for name, buffer in model.named_buffers() if name in stored]
        # Where names or shapes on disk differ from those in memory, the library has to see all weights at once.
        converted = bool(getattr(model, "_weight_conversions", None))
        num_files = 1 if converted else self.num_ranks
        owner = assign({name: tensor.numel() for name, tensor in named}, num_files)
        own = own_share(named, owner, self.rank)
        if self.rank == 0:
            self.add(lambda: _write_config(model, folder))
        if converted:
            if self.rank == 0:
                self.add(lambda: model.save_pretrained(folder, state_dict=own))
            return
        self.files[folder / shard_name(WEIGHTS, self.rank, num_files)] = own
        if self.rank == 0 and num_files > 1:
            weight_map = {name: shard_name(WEIGHTS, rank, num_files) for name, rank in owner.items()}
            size = sum(tensor.numel() * tensor.element_size() for _, tensor in named)
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            self.add_json(index, folder / f"{WEIGHTS}.safetensors.index.json")

    def add_moments(self, adamw: AdamW, model: PreTrainedModel, folder: Path) -> None:
        """AdamW's state as `parameter/moment`. Collective."""
        named = [
            (f"{name}/{key}", moment)
            for name, parameter in model.named_parameters()
            for key, moment in sorted(adamw.state[parameter].items())  # a loaded one has another order
        ]
        owner = assign({name: moment.numel() for name, moment in named}, self.num_ranks)
        path = folder / "learner" / shard_name(MOMENTS, self.rank, self.num_ranks)
        self.files[path] = own_share(named, owner, self.rank)

    def add_json(self, content: Mapping[str, Any], path: Path) -> None:
        """A small file."""
        text = json.dumps(content, indent=1)

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        self.add(write)

    def write(self, folder: Path) -> None:
        """Write everything, then the receipt, which tells of every error: the caller is busy training."""
        paths, error = list(self.files), None
        try:
            while self._rest:
                self._rest.pop()()
            while self.files:
                write_shard(*self.files.popitem())
        except Exception as caught:  # tokenizers raise no other kind where the disk is full
            error = [getattr(caught, "errno", None) or errno.EIO, str(caught)]
            for path in filter(Path.is_file, paths):  # the receipt needs room on a full disk
                path.unlink()
        _write_receipt(receipt(folder, self.rank), error)


def _write_receipt(path: Path, error: list[Any] | None) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(error))
        partial.rename(path)
    except FileNotFoundError:  # the checkpoint was given up and its folder deleted
        return


def read_receipt(path: Path) -> None:
    """Raises OSError if the rank could not write its share."""
    error = json.loads(path.read_text())
    if error is not None:
        raise OSError(*error)


def _write_config(model: PreTrainedModel, folder: Path) -> None:
    """Everything beside the weights that makes a folder a Hugging Face model."""
    model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def load_moments(adamw: AdamW, model: PreTrainedModel, folder: Path) -> None:
    """Restore what `Snapshot.add_moments` wrote; the number of ranks may differ."""
    parameters = dict(model.named_parameters())
    for full_name, tensor in read_shards(folder / "learner", MOMENTS):
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        # The fused AdamW counts steps where the parameters are.
        moment = tensor.to(parameter.device) if key == "step" else scatter_like(tensor, parameter)
        adamw.state[parameter][key] = moment


def counters(folder: Path) -> Path:
    """The file of counters and schedule."""
    return folder / "learner" / "state.json"


def load_state(folder: Path) -> dict[str, Any]:
    """The counters and the schedule."""
    return json.loads(counters(folder).read_text())
