"""What a disk or an enemy does to a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

UNPICKLED = "unpickled.txt"  # a file that a hostile checkpoint would leave beside it


def a_file(checkpoint: Path, pattern: str) -> Path:
    """Of those that the ranks have written, one each."""
    return sorted(checkpoint.glob(pattern))[0]


def flip_a_bit(checkpoint: Path) -> None:
    weights = a_file(checkpoint, "model*.safetensors")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def truncate(checkpoint: Path) -> None:
    optimizer = a_file(checkpoint, "learner/optimizer*.safetensors")
    os.truncate(optimizer, optimizer.stat().st_size // 2)


def put_a_pickle(checkpoint: Path) -> None:
    """In the place of weights, with a manifest that fits; unpickled, it would leave a file."""

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (checkpoint.parent / UNPICKLED).write_text, ("run",)

    weights, content = a_file(checkpoint, "model*.safetensors"), pickle.dumps(Hostile())
    weights.write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest[weights.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
