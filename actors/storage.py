"""A copy of a run elsewhere (run.storage), from which a machine with an empty disk can go on.

Object stores rename nothing at once: a checkpoint counts there when its manifest has arrived, which is sent last.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Set
from datetime import datetime
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Any

from actors.checkpoint import MANIFEST, CheckpointError, verify
from int_ray.config_file import ConfigError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}  # protocol -> what to install int-ray with
JOURNAL = "journal.jsonl"
LEFT_OUT = {"checkpoints", "groups", "tensorboard"}  # folders of a run that are no state, or are sent by themselves


def open_storage(url: str) -> Storage:
    """Raises ConfigError if the URL's protocol is unknown or its package missing."""
    import fsspec

    try:
        files, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(url.partition(":")[0])
        hint = f"; pip install 'int-ray[{extra}]'" if extra else ""
        raise ConfigError([f"run.storage: {url}: {error}{hint}"]) from None
    return Storage(files, root)


class Storage:
    """One run's folder on any file system that fsspec knows."""

    def __init__(self, files: AbstractFileSystem, root: str) -> None:
        self.files: Any = files
        self.root = PurePosixPath(root)
        self._sent: dict[Path, tuple[int, int]] = {}  # file of the run -> size and time when it was sent
        self._turn = Lock()  # one that is late may still be sending

    def send(self, run: Path, checkpoint: Path, pruned: Set[str] = frozenset()) -> None:
        """First what the run has written since the last time, then the checkpoint; then delete those it has `pruned`.

        Besides, what the checkpoint takes the place of goes. Nothing else is ever deleted: what is not here may be all
        that is left of a run.
        """
        if not self._turn.acquire(blocking=False):
            raise TimeoutError("the checkpoint before is still on its way")
        try:
            self._send_files(run)
            self._send_checkpoint(checkpoint)
            for name in self.checkpoints():
                if name in pruned and not (checkpoint.parent / name).exists():
                    self._delete(f"checkpoints/{name}/{MANIFEST}")
                    self.files.rm(str(self.root / "checkpoints" / name), recursive=True)
        finally:
            self._turn.release()

    def _send_checkpoint(self, folder: Path) -> None:
        """One of that name, of a run that went back behind it, counts no more when the first of its files changes.

        Raises FileNotFoundError, with nothing changed there, where the folder was pruned before its turn came.
        """
        target = f"checkpoints/{folder.name}"
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        if MANIFEST not in names:
            raise FileNotFoundError(f"{folder} has no {MANIFEST} any more")
        before = set(self._names(target))
        if MANIFEST in before:
            self._delete(f"{target}/{MANIFEST}")
        for name in sorted(names - {MANIFEST}):
            self._put(folder / name, f"{target}/{name}")
        for name in sorted(before - names):  # such as those of a rank that there is no more
            self._delete(f"{target}/{name}")
        self._put(folder / MANIFEST, f"{target}/{MANIFEST}")

    def _send_files(self, run: Path) -> None:
        for path in _state_files(run):
            stat = path.stat()
            mark = stat.st_size, stat.st_mtime_ns
            if self._sent.get(path) != mark:
                self._put(path, path.relative_to(run).as_posix())
                self._sent[path] = mark

    def fetch(self, run: Path) -> str | None:
        """Bring the newest checkpoint that verifies, and all else of the run; returns its name, None if there is none.

        The journal comes last: without it a folder holds no run, and is fetched again. Raises CheckpointError when
        there are checkpoints and none verifies.
        """
        mistakes = []
        for name in self._newest_first():
            final = run / "checkpoints" / name
            partial = final.with_suffix(".partial0")
            shutil.rmtree(partial, ignore_errors=True)  # of a time before, which came to no end
            for file in self._names(f"checkpoints/{name}"):
                self._get(f"checkpoints/{name}/{file}", partial / file)
            try:
                verify(partial)
            except CheckpointError as error:
                mistakes.append(str(error))
                shutil.rmtree(partial)
                continue
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            self._fetch_files(run)
            return name
        if mistakes:
            raise CheckpointError("; ".join(mistakes))
        return None

    def _fetch_files(self, run: Path) -> None:
        names = [name for name in self._names("") if PurePosixPath(name).parts[0] not in LEFT_OUT | {JOURNAL}]
        for name in names:
            self._get(name, run / name)
        partial = run / f"{JOURNAL}.partial"
        self._get(JOURNAL, partial)
        partial.rename(run / JOURNAL)

    def checkpoints(self) -> list[str]:
        """Names of those whose manifest has arrived."""
        paths = map(PurePosixPath, self._names("checkpoints"))
        return [path.parts[0] for path in paths if len(path.parts) == 2 and path.name == MANIFEST]

    def _newest_first(self) -> list[str]:
        """By when they arrived: a run resumed from an older checkpoint outdates those with higher numbers.

        Some stores tell whole seconds only; where times are equal, the higher number is taken for the newer one.
        """

        def arrival(name: str) -> tuple[datetime, str]:
            return self.files.modified(str(self.root / "checkpoints" / name / MANIFEST)), name

        return sorted(self.checkpoints(), key=arrival, reverse=True)

    def _names(self, folder: str) -> list[str]:
        """Of all files below a folder, relative to it. Raises CheckpointError for a name that leads out of it."""
        base = self.root / folder
        try:
            self.files.ls(str(base))  # `find` alone may take a store that cannot be reached for an empty one
        except FileNotFoundError:
            return []
        names = [PurePosixPath(path).relative_to(base) for path in self.files.find(str(base))]
        for name in names:
            if ".." in name.parts:
                raise CheckpointError(f"{base} has a file named {name}, which would be written elsewhere")
        return [str(name) for name in names]

    def _put(self, path: Path, name: str) -> None:
        target = self.root / name
        self.files.makedirs(str(target.parent), exist_ok=True)
        self.files.put_file(str(path), str(target))

    def _delete(self, name: str) -> None:
        self.files.rm_file(str(self.root / name))

    def _get(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.files.get_file(str(self.root / name), str(path))


def _state_files(run: Path) -> Iterator[Path]:
    """Everything of a run folder that it needs to go on, or that people want to read."""
    for path in sorted(run.rglob("*")):
        parts = path.relative_to(run).parts
        if path.is_file() and parts[0] not in LEFT_OUT and path.suffix != ".partial":
            yield path
