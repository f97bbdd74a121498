"""The folder of `int-ray evaluate` or `int-ray hard-set`: a journal, groups of rollouts, and results made of them.

Each group is on disk as soon as it is sampled. A process that goes on reads them all, and samples what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from int_ray.journal import Journal, LineFile
from int_ray.ports import Progress
from int_ray.report.page import counted
from int_ray.rollout_records import group_record
from int_ray.types import RolloutGroup


class ResultFolder:
    """Opening an existing folder goes on with it."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.journal = Journal(path / "journal.jsonl")
        self._files: list[GroupFile] = []

    def groups(self, name: str) -> GroupFile:
        """The file of that name below the folder, such as `evaluations/base/hard.jsonl`."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files.append(GroupFile(path))
        return self._files[-1]

    def close(self) -> None:
        """Close every file."""
        for file in self._files:
            file.close()
        self.journal.close()


class GroupFile:
    """Groups of rollouts, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LineFile(path)

    def read(self, progress: Progress) -> Iterator[dict[str, Any]]:
        """What `append` wrote, one line in memory at a time; lines that a crash cut off are told about."""
        damaged = 0
        with self.path.open("rb") as lines:
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    damaged += bool(line.strip())
        if damaged:
            lines_ = counted(damaged, "line")
            progress.say(f"{self.path}: {lines_} cut off by a crash; what was there is sampled again, nothing else")

    def append(self, group: RolloutGroup, **details: Any) -> dict[str, Any]:
        """Write one group with further `details`; returns the record when it is on disk."""
        record = {**details, **group_record(group)}
        self._file.append(record)
        return record

    def close(self) -> None:
        """Close the file."""
        self._file.close()
