"""Append-only records of a run: one JSON object a line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

Record = TypeVar("Record")
FULL = (errno.ENOSPC, errno.EDQUOT)


class LineFile:
    """Records, each on disk or refused: nothing waits in memory for a disk that has room again."""

    def __init__(self, path: Path) -> None:
        self._torn = _is_torn(path)  # the last line has no end: a crash or a full disk has cut it off
        self._file = path.open("ab", buffering=0)

    def append(self, *records: Mapping[str, Any]) -> None:
        """Returns when they are on disk. Raises OSError; half of a line is closed off by the next one."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        rest = memoryview(("\n" * self._torn + lines).encode())
        while rest:  # a disk that is getting full takes a part and only then refuses
            written = self._file.write(rest)
            self._torn = written < len(rest)
            rest = rest[written:]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Journal:
    """`journal.jsonl` of a run folder: what happened, on disk before the run goes on."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)

    def write(self, event: str, **details: Any) -> None:
        """Append one event with its UTC time; returns when it is on disk."""
        self._file.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **details})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Losses:
    """Counts the records that a full disk has cost."""

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        self.folder = folder
        self.say = say
        self.count = 0  # of those that the journal does not have yet
        self._said = False  # once is enough: a disk on the brink refuses some records and takes others

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around the writing of one record: a full disk costs that record, said once. Any other OSError is raised."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.count += 1
            if not self._said:
                self.say(f"No room in {self.folder} ({error}); records that cannot be written are counted and left out")
            self._said = True


class LenientJournal(Journal):
    """Leaves out what a full disk refuses; `records_lost` has the count as soon as there is room again."""

    def __init__(self, path: Path, losses: Losses) -> None:
        super().__init__(path)
        self._losses = losses

    def write(self, event: str, **details: Any) -> None:
        """See Journal."""
        with self._losses.counted():
            if count := self._losses.count:
                super().write("records_lost", count=count)
                self._losses.count -= count
            super().write(event, **details)


def _is_torn(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read() not in (b"", b"\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, torn ones left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def read_records(path: Path, kind: type[Record]) -> tuple[list[Record], int]:
    """The records of a file of JSON lines as dataclasses, and how many lines are none: torn or damaged ones."""
    reader = TypeAdapter(kind)
    records, unreadable = [], 0
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            records.append(reader.validate_json(line))
        except ValidationError:
            unreadable += bool(line.strip())
    return records, unreadable
