"""Append-only record of what happened in a run: one JSON object a line, on disk before the run goes on."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Journal:
    """`journal.jsonl` of a run folder. A torn last line, left by a crash, is closed off before appending."""

    def __init__(self, path: Path) -> None:
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def write(self, event: str, **details: Any) -> None:
        """Append one event with its UTC time; returns when it is on disk."""
        record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **details}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
