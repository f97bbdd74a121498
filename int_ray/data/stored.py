"""Rows of one dataclass on disk, read through a memory map: however many there are, they take no memory of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
BATCH = 1024  # rows that are written, and read while iterating, at once; every batch but the last one has so many


class StoredRows(Sequence[T]):
    """Some rows of a file, made into objects when they are asked for. A slice is as lazy as the whole."""

    def __init__(self, make: Callable[..., T], batches: Sequence[pa.RecordBatch], picked: NDArray[np.int64]) -> None:
        self.make = make
        self.batches = batches  # mapped, not read
        self.picked = picked  # numbers of the rows, from 0

    def pick(self, positions: NDArray[np.int64]) -> StoredRows[T]:
        """The rows at these positions, in their order."""
        return StoredRows(self.make, self.batches, self.picked[positions])

    def __len__(self) -> int:
        return len(self.picked)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> StoredRows[T]: ...
    def __getitem__(self, index: int | slice) -> T | StoredRows[T]:
        if isinstance(index, slice):
            return StoredRows(self.make, self.batches, self.picked[index])
        batch, place = divmod(int(self.picked[index]), BATCH)
        return self.make(*(column[place].as_py() for column in self.batches[batch].columns))

    def __iter__(self) -> Iterator[T]:
        batches, places = np.divmod(self.picked, BATCH)
        ends = [*(np.flatnonzero(np.diff(batches)) + 1).tolist(), len(self.picked)]
        for start, end in pairwise([0, *ends]) if len(self.picked) else ():
            rows = self.batches[int(batches[start])].take(places[start:end])
            yield from map(self.make, *(column.to_pylist() for column in rows.columns))

    def __eq__(self, other: object) -> bool:
        """The same objects in the same order, as a tuple of them would be."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True, slots=True)
class Part:
    """The problems of one source in a mixture: how many there are, and their weight in the draws if one is given."""

    size: int
    weight: float | None = None


class StoredProblems(StoredRows[T]):
    """Problems of several sources, one part after the other."""

    def __init__(self, rows: StoredRows[T], parts: Sequence[Part]) -> None:
        super().__init__(rows.make, rows.batches, rows.picked)
        self.parts = tuple(parts)


class RowWriter(Generic[T]):
    """Takes rows one by one, and in the end gives them back as `StoredRows`.

    They lie in a file without a name in the folder for temporary files (TMPDIR), which goes when the process ends.
    """

    def __init__(self, make: type[T]) -> None:
        import pyarrow as pa

        kinds = {"str": pa.string(), "int": pa.int64()}
        self.make = make
        self.schema = pa.schema([(field.name, kinds[str(field.type)]) for field in fields(make)])  # pyright: ignore
        self.waiting: list[T] = []
        self.count = 0
        self.file = NamedTemporaryFile(prefix="int_ray_", suffix=".arrow")  # noqa: SIM115 (it outlives this call)
        self.writer = pa.ipc.new_file(self.file, self.schema)

    def add(self, row: T) -> None:
        """One more row."""
        self.waiting.append(row)
        self.count += 1
        if len(self.waiting) == BATCH:
            self._flush()

    def finish(self) -> StoredRows[T]:
        """All rows, in the order in which they came; no more can be added."""
        import pyarrow as pa

        self._flush()
        self.writer.close()
        self.file.flush()
        mapped = pa.ipc.open_file(pa.memory_map(self.file.name))
        self.file.close()  # removes its name; the map stays
        batches = [mapped.get_batch(number) for number in range(mapped.num_record_batches)]
        return StoredRows(self.make, batches, np.arange(self.count))

    def _flush(self) -> None:
        import pyarrow as pa

        if self.waiting:
            columns: list[list[Any]] = [[getattr(row, name) for row in self.waiting] for name in self.schema.names]
            arrays = [pa.array(column, kind) for column, kind in zip(columns, self.schema.types, strict=True)]
            self.writer.write_batch(pa.record_batch(arrays, schema=self.schema))
            self.waiting.clear()
