"""Checkpoints on disk: written aside, hashed, then renamed, so that a folder with its final name is complete.

A folder holds a Hugging Face model, `learner/` (see actors/learner_state.py), `state.json` and `manifest.json`: nothing
that runs code when it is read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from int_ray.errors import RunError
from int_ray.types import RunState

MANIFEST, STATE = "manifest.json", "state.json"
REPLACED = ".replaced"  # suffix of a checkpoint while another takes its name
READABLE = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model"})  # what a checkpoint may consist of


class CheckpointError(RunError):
    """A checkpoint is missing, incomplete or altered."""


class _Entry(BaseModel):
    """One file of the manifest."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: str


_MANIFEST, _STATE = TypeAdapter(dict[str, _Entry]), TypeAdapter(RunState)


class Checkpoints:
    """The `checkpoints/` folder of a run; keeps the newest `keep`, and of all that there are the best one."""

    def __init__(self, folder: Path, keep: int, score: Callable[[int], float] | None = None) -> None:
        """`score` says how good an iteration is, minus infinity for one of which nobody knows."""
        self.folder = folder
        self.keep = keep
        self.score = score
        self.pruned: set[str] = set()  # names of those that were deleted for newer ones
        self._begun = 0

    def begin(self, state: RunState) -> Path:
        """A new empty folder to write into. Raises OSError where the disk has less room than the newest one takes."""
        self._end_replacements()
        self.clear_partial()
        before = self.complete_folders()[-1:]
        needed = sum(path.stat().st_size for folder in before for path in folder.rglob("*") if path.is_file())
        free = shutil.disk_usage(self.folder).free if before else 0
        if free < needed:
            raise OSError(errno.ENOSPC, f"the last one took {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
        self._begun += 1
        # A name of its own: a learner that was interrupted may still write into the one before.
        partial = self.folder / f"{_name(state.iteration)}.partial{self._begun}"
        partial.mkdir(parents=True)
        return partial

    def complete(self, partial: Path, state: RunState) -> Path:
        """Add state and manifest to what the learner wrote, give the folder its name, delete old ones.

        One of that name, of a run that went back behind it, goes when this one has come: killed at any moment, there is
        one of them for `latest`.
        """
        (partial / STATE).write_text(json.dumps(asdict(state), indent=1))
        _write_manifest(partial)
        final = self.folder / _name(state.iteration)
        self._rename(partial, final)
        _sync(self.folder)
        self._end_replacements()
        self._prune()
        return final

    def _rename(self, partial: Path, final: Path) -> None:
        before = final.with_suffix(REPLACED)
        if final.exists():
            final.rename(before)
        try:
            partial.rename(final)
        except OSError:
            self._end_replacements()
            raise

    def _end_replacements(self) -> None:
        """The old one goes where the new one has come, and has its name back where that never came."""
        for before in self.folder.glob(f"*{REPLACED}"):
            final = before.with_suffix("")
            if final.exists():
                _discard(before)
            else:
                before.rename(final)

    def _prune(self) -> None:
        folders = self.complete_folders()
        kept = folders[-self.keep :]
        if (score := self.score) is not None:
            kept.append(max(folders, key=lambda folder: score(int(folder.name.removeprefix("iteration_")))))
        for old in folders:
            if old not in kept:
                _discard(old)
                self.pruned.add(old.name)

    def clear_partial(self) -> None:
        """Delete what was begun and not completed."""
        for path in self.folder.glob("*.partial*"):
            shutil.rmtree(path, ignore_errors=True)

    def latest(self) -> tuple[Path | None, RunState, list[CheckpointError]]:
        """The newest checkpoint that verifies and its state, or None and a fresh one if there is none at all.

        And what is wrong with newer ones.

        Raises CheckpointError when there are some and none verifies: starting anew would bury them.
        """
        self._end_replacements()
        mistakes: list[CheckpointError] = []
        for folder in reversed(self.complete_folders()):
            try:
                return folder, verify(folder), mistakes
            except CheckpointError as error:
                mistakes.append(error)
        if mistakes:
            raise CheckpointError("; ".join(map(str, mistakes)))
        return None, RunState(), []

    def set_aside(self, good: Path) -> None:
        """Rename those that are newer than `good`, the newest that verifies, to `.corrupt`."""
        folders = self.complete_folders()
        for bad in folders[folders.index(good) + 1 :]:
            target = bad.with_suffix(".corrupt")
            shutil.rmtree(target, ignore_errors=True)
            bad.rename(target)

    def complete_folders(self) -> list[Path]:
        """In the order of writing: a run resumed from an older checkpoint outdates those that follow it."""
        folders = [path for path in self.folder.glob("iteration_*") if re.fullmatch(r"iteration_\d+", path.name)]
        return sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _discard(folder: Path) -> None:
    """Delete a checkpoint, first its name: half of one is none. What cannot be deleted now is tried again later."""
    with suppress(OSError):
        shutil.rmtree(folder.rename(folder.with_suffix(".partial0")), ignore_errors=True)


def _name(iteration: int) -> str:
    return f"iteration_{iteration:06d}"


def verify(folder: Path) -> RunState:
    """Compare every file with the manifest and read the run state. Raises CheckpointError."""
    try:
        manifest = _MANIFEST.validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{folder}: not a complete checkpoint: {_first_line(error)}") from None
    _refuse_strangers(folder, manifest)
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected.bytes or sha256(path) != expected.sha256:
            raise CheckpointError(f"{folder}: {name} is missing or differs from the manifest; use an older checkpoint")
        if path.suffix == ".safetensors" and not _holds_tensors(path):
            raise CheckpointError(f"{folder}: {name} is no safetensors file; it is not loaded")
    return read_state(folder)


def read_state(folder: Path) -> RunState:
    """Of a checkpoint that has been verified. Raises CheckpointError."""
    try:
        return _STATE.validate_json((folder / STATE).read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{folder}: {STATE} is not the state of a run: {_first_line(error)}") from None


def _refuse_strangers(folder: Path, manifest: Mapping[str, object]) -> None:
    """Raises CheckpointError for what no checkpoint holds, be it in the manifest: links, files that could run code."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise CheckpointError(f"{folder}: {name} is no plain file; a checkpoint has no others")
        if path.is_file() and path.suffix not in READABLE:
            raise CheckpointError(f"{folder}: {name} is of a kind that no checkpoint holds; it is not loaded")
        if path.is_file() and name != MANIFEST and name not in manifest:
            raise CheckpointError(f"{folder}: {name} is not in the manifest; remove it, or use another checkpoint")
    for name in manifest:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{folder}: the manifest names {name!r}, which is outside of the checkpoint")


def _holds_tensors(path: Path) -> bool:
    try:
        with safe_open(path, "np"):
            return True
    except SafetensorError:
        return False


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:2])


def _write_manifest(folder: Path) -> None:
    manifest = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        manifest[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        _sync(path)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _sync(folder / MANIFEST)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            _sync(path)


def sha256(path: Path) -> str:
    """Of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
