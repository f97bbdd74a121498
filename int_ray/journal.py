"""Append-only records of a run: one JSON object a line."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pydantic import TypeAdapter, ValidationError

Record = TypeVar("Record")


class Journal:
    """`journal.jsonl` of a run folder: what happened, on disk before the run goes on."""

    def __init__(self, path: Path) -> None:
        self._file = open_for_appending(path)

    def write(self, event: str, **details: Any) -> None:
        """Append one event with its UTC time; returns when it is on disk."""
        record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **details}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_for_appending(path: Path) -> TextIO:
    """A file of lines; a torn last line, left by a crash, is closed off."""
    torn = path.exists() and _last_byte(path) not in (b"", b"\n")
    file = path.open("a", encoding="utf-8")
    if torn:
        file.write("\n")
    return file


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read()


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
