"""Which reference answers math-verify cannot read, found out before a run in processes that can be killed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context

from pebble import ProcessExpired, ProcessPool

from int_ray.processes import make_expendable
from int_ray.rewards import is_readable

# Numbers, fractions and single letters, which need no check.
PLAIN = re.compile(r"-?(\d{1,30}(\.\d{1,30})?|\d{1,30}/\d{1,30}|\\d?frac\{\d{1,30}\}\{\d{1,30}\}|[a-zA-Z])")
MOST = 20_000  # different answers; about a minute
CHUNK = 64  # answers per task, a millisecond or two each
DEADLINE_S = 120.0  # for all of them


@dataclass(frozen=True)
class Readings:
    """What is wrong with an answer, for those that cannot be used, and how many were not reached in time."""

    reasons: dict[str, str]
    unchecked: int


def distinct_to_check(answers: Iterable[str]) -> tuple[list[str], bool]:
    """The first `MOST` different answers that are not plain, and whether these are all."""
    found: dict[str, None] = {}
    for answer in answers:
        if answer not in found and not PLAIN.fullmatch(answer.strip()):
            if len(found) == MOST:
                return list(found), False
            found[answer] = None
    return list(found), True


def read_answers(answers: Sequence[str], workers: int, timeout_s: float) -> Readings:
    """Try to read every answer, each for at most `timeout_s`, all for at most `DEADLINE_S`."""
    if not answers:
        return Readings({}, 0)
    ends = time.monotonic() + DEADLINE_S
    pool = ProcessPool(workers, initializer=_prepare, context=get_context("spawn"))
    try:
        chunks = [answers[start : start + CHUNK] for start in range(0, len(answers), CHUNK)]
        reasons, failed = _run(pool, chunks, timeout_s, ends)
        alone, hopeless = _run(pool, [(answer,) for chunk in failed for answer in chunk], timeout_s, ends)
    finally:
        pool.stop()
        pool.join()
    if time.monotonic() >= ends:
        return Readings(reasons | alone, sum(map(len, hopeless)))
    never_read = f"math-verify does not finish reading the answer within {timeout_s:g} s"
    return Readings(reasons | alone | {answer: never_read for chunk in hopeless for answer in chunk}, 0)


def _run(
    pool: ProcessPool, chunks: Sequence[Sequence[str]], timeout_s: float, ends: float
) -> tuple[dict[str, str], list[Sequence[str]]]:
    """Reasons, and the chunks whose process had to be killed or died, or which were not reached in time."""
    reasons: dict[str, str] = {}
    failed = []
    futures = [pool.schedule(_unreadable, (chunk,), timeout=timeout_s) for chunk in chunks]
    for chunk, future in zip(chunks, futures, strict=True):
        try:
            for answer in future.result(max(0.0, ends - time.monotonic())):
                reasons[answer] = f"math-verify reads no mathematics in the answer {answer[:60]!r}"
        except (TimeoutError, ProcessExpired, MemoryError):
            failed.append(chunk)
    return reasons, failed


# From here on: what runs in the processes.


def _prepare() -> None:
    make_expendable(lambda: is_readable("1"))


def _unreadable(answers: Sequence[str]) -> list[str]:
    return [answer for answer in answers if not is_readable(answer)]
