"""Rows of files and datasets, one after the other, each with its number."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # legal in JSON, but no tokenizer takes it
FILE_ENDINGS = (".jsonl", ".parquet", ".json", ".csv")  # a missing file, not a name to ask a hub for
PARQUET_BATCH = 1024  # rows


class DataError(ValueError):
    """A source of problems cannot be used. One line: what is wrong, and what to do."""


class BadRow(ValueError):
    """One row is no problem; the message is the reason."""


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that was left out: its number, from 1 (in JSONL the line), and why."""

    row: int
    reason: str
    source: str = ""  # where there are several


def numbered_rows(
    source: str, split: str | None = None, subset: str | None = None, *, usual_split: str = "train"
) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of a file or dataset with their numbers from 1; what is no row is a BadRow. Raises DataError.

    The numbers of a JSONL file are its lines, blank ones counted. `split` and `subset` are of datasets only;
    without a `split`, it is `usual_split` where there are several.
    """
    path = Path(source).expanduser()
    readers = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows, ".csv": _csv_rows}
    if path.is_file() and path.suffix in readers:
        yield from readers[path.suffix](path)
    elif path.is_file():
        raise DataError(f"{source} is neither .jsonl nor .parquet nor .csv; convert it, or rename it if it is one")
    elif path.is_dir() or may_be_hub_name(source):
        yield from enumerate(_dataset_rows(source, path, split, subset, usual_split), start=1)
    else:
        raise DataError(f"{source} does not exist; check the path (relative to {Path.cwd()})")


def may_be_hub_name(source: str) -> bool:
    """Whether a source that is no path may be the name of a dataset or model on the hub."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not source.endswith(FILE_ENDINGS)


def is_single_dataset(path: Path) -> bool:
    """Whether a folder was saved from one dataset, which has no splits to choose from."""
    return (path / "state.json").exists() and not (path / "dataset_dict.json").exists()


def text_of(row: Row, column: str, *, numbers: bool = True) -> str:
    """A text that is not empty; numbers count as text where they are answers or ids. Raises BadRow."""
    value = row.get(column)
    if numbers and not isinstance(value, bool) and (isinstance(value, int) or _is_finite_float(value)):
        return str(value)
    if value is None:
        raise BadRow(f"{column!r} is missing")
    if not isinstance(value, str):
        raise BadRow(f"{column!r} is {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"{column!r} is empty")
    if not value.isascii() and LONE_SURROGATE.search(value):
        raise BadRow(f"{column!r} holds half a character")
    return value


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    with path.open("rb") as lines:  # bytes, so that a line in a wrong encoding is one bad row
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse_line(line)


def _parse_line(line: bytes) -> Row | BadRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not JSON: {error}")
    return row if isinstance(row, dict) else BadRow("not a JSON object")


def _csv_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """Every field is text. Bytes in a wrong encoding become half characters, which spoil one row only."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise DataError(f"{path}: the first line does not name columns ({error}); check its quotes") from None
        number = 0
        while True:
            number += 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, BadRow(f"not CSV: {error}")
                continue
            if len(fields) == len(header):
                yield number, dict(zip(header, fields, strict=True))
            elif fields:
                yield number, BadRow(f"{len(fields)} fields, but the header has {len(header)}")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(PARQUET_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file ({_first_line(error)}); write it again") from None


def _dataset_rows(source: str, path: Path, split: str | None, subset: str | None, usual_split: str) -> Iterator[Row]:
    """Rows of a Hugging Face dataset, which lie memory-mapped on disk. `datasets` 5 runs no code that comes with one.

    A hub that cannot be reached is given up after half a minute.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    wanted = split or usual_split
    try:
        if is_single_dataset(path):
            found = datasets.Dataset.load_from_disk(path)
        elif (path / "dataset_dict.json").exists():
            found = datasets.DatasetDict.load_from_disk(path)[wanted]
        else:
            found = datasets.load_dataset(str(path) if path.is_dir() else source, subset, split=wanted)
    except ConnectionError as error:
        raise DataError(
            f"{source}: the hub cannot be reached ({_first_line(error)}); where it can be, run `hf download {source} "
            "--repo-type dataset --local-dir FOLDER`, bring FOLDER here and set the path to it"
        ) from None
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise DataError(
            f"{source}: no dataset with a split {wanted!r} could be loaded ({_first_line(error)}); "
            "check the name, problems.split and the network, or set the path to a local folder with the dataset"
        ) from None
    if is_single_dataset(path) and split not in (None, found.split):
        raise DataError(f"{source} is one dataset, without a split {split!r} to choose; leave out its split")
    for row in found:
        assert isinstance(row, Mapping)
        yield row


def _is_finite_float(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__
