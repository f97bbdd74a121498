"""CUDA IPC handles of packed weight buffers as plain lists, numbers and bytes.

vLLM ships torch's rebuild arguments as they are. They hold classes, which its process boundary takes only as pickles.
"""

from __future__ import annotations

from typing import Any

import torch

# Positions of the classes in torch.multiprocessing's arguments for a packed buffer: always the same three.
CLASSES: dict[int, Any] = {0: torch.Tensor, 4: torch.storage.TypedStorage, 5: torch.uint8}


def to_plain(handles: dict[str, tuple[Any, ...]]) -> dict[str, list[Any]]:
    """GPU id -> rebuild arguments without classes. Raises ValueError if the buffer is not a plain uint8 tensor."""
    for arguments in handles.values():
        if any(arguments[position] is not expected for position, expected in CLASSES.items()):
            raise ValueError(f"expected the IPC handle of a packed uint8 buffer, got one of {arguments[5]}")
    return {
        gpu: [
            list(value) if isinstance(value, tuple) else value  # sizes and strides
            for position, value in enumerate(arguments)
            if position not in CLASSES
        ]
        for gpu, arguments in handles.items()
    }


def from_plain(handles: dict[str, list[Any]]) -> dict[str, tuple[Any, ...]]:
    """Undoes `to_plain`."""
    rebuilt = {}
    for gpu, values in handles.items():
        arguments = [tuple(value) if isinstance(value, list) else value for value in values]
        for position, value in CLASSES.items():
            arguments.insert(position, value)
        rebuilt[gpu] = tuple(arguments)
    return rebuilt
