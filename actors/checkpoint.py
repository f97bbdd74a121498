"""Checkpoints: written aside, hashed, then renamed, so that a folder with its final name is complete."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from int_ray.ports import Learner
from int_ray.types import RunState

MANIFEST, STATE = "manifest.json", "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, incomplete or altered."""


class Checkpoints:
    """The `checkpoints/` folder of a run; keeps the newest `keep`."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    async def save(self, state: RunState, learner: Learner) -> Path:
        """Write model, optimizer and run state; returns the new checkpoint's folder."""
        final = self.folder / f"iteration_{state.iteration:06d}"
        partial = final.with_suffix(".partial")
        for leftover in (partial, final):  # a crash may have left either behind
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        await learner.save(partial)
        (partial / STATE).write_text(json.dumps(asdict(state), indent=1))
        await asyncio.to_thread(_write_manifest, partial)  # engines are being fed meanwhile
        partial.rename(final)
        _sync(self.folder)
        for old in self._complete()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def latest(self) -> Path | None:
        """The newest checkpoint that verifies; None if there is none at all.

        Raises CheckpointError when there are some and none verifies: starting anew would bury them.
        """
        mistakes = []
        for folder in reversed(self._complete()):
            try:
                verify(folder)
            except CheckpointError as error:
                mistakes.append(str(error))
                continue
            return folder
        if mistakes:
            raise CheckpointError("; ".join(mistakes))
        return None

    def _complete(self) -> list[Path]:
        """In the order of writing: a run resumed from an older checkpoint outdates those that follow it."""
        folders = [path for path in self.folder.glob("iteration_*") if path.suffix != ".partial"]
        return sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name))


def verify(folder: Path) -> RunState:
    """Compare every file with the manifest and read the run state. Raises CheckpointError."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        state = RunState(**json.loads((folder / STATE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: not a complete checkpoint: {error}") from None
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{folder}: {name} is missing or differs from the manifest; use an older checkpoint")
    return state


def _write_manifest(folder: Path) -> None:
    manifest = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        manifest[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        _sync(path)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _sync(folder / MANIFEST)
    _sync(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
