"""A learner on disk: Hugging Face folders, safetensors and JSON; nothing that runs code when it is read.

    folder/                     the policy, as any Hugging Face tool loads it
    folder/learner/state.json   counters and the schedule
    folder/learner/optimizer.safetensors    while a reinforce phase is under way
    folder/learner/reference/   the KL reference, if it is not the base model

What is not the policy has a folder of its own because vLLM loads every safetensors file beside a config.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim import AdamW
from transformers import PreTrainedModel

from int_ray.compute.sharding import gather, scatter_like


def reference_folder(folder: Path) -> Path:
    """Where a reference that is not the base model is."""
    return folder / "learner" / "reference"


def save_model(model: PreTrainedModel, folder: Path, is_main: bool) -> None:
    """Write the fp32 masters in Hugging Face format; all ranks gather, the main one writes."""
    # named_parameters names tied weights once, which is how they are stored.
    tensors = _gather_all(model.named_parameters(), is_main)
    if is_main:
        model.save_pretrained(folder, state_dict=tensors)


def save_moments(adamw: AdamW, model: PreTrainedModel, folder: Path, is_main: bool) -> None:
    """Write AdamW's state as `parameter/moment`; all ranks gather, the main one writes."""
    moments = (
        (f"{name}/{key}", moment)
        for name, parameter in model.named_parameters()
        for key, moment in adamw.state[parameter].items()
    )
    tensors = _gather_all(moments, is_main)
    if is_main:
        save_file(tensors, folder / "learner" / "optimizer.safetensors")


def load_moments(adamw: AdamW, model: PreTrainedModel, folder: Path) -> None:
    """Restore what `save_moments` wrote; the number of ranks may differ."""
    parameters = dict(model.named_parameters())
    for full_name, tensor in load_file(folder / "learner" / "optimizer.safetensors").items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        # The fused AdamW counts steps where the parameters are.
        moment = tensor.to(parameter.device) if key == "step" else scatter_like(tensor, parameter)
        adamw.state[parameter][key] = moment


def _gather_all(named: Iterable[tuple[str, torch.Tensor]], is_main: bool) -> dict[str, torch.Tensor]:
    """All ranks gather one tensor after the other; only the main one keeps them."""
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in named:
        full = gather(tensor)
        if is_main:
            kept[name] = full
    return kept


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Write the counters and the schedule."""
    (folder / "learner" / "state.json").write_text(json.dumps(state, indent=1))


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote."""
    return json.loads((folder / "learner" / "state.json").read_text())
