"""Counts what became of interventions: by status, reason, round and source, with what they cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt

from int_ray.oracles.chat import UNKNOWN_BILL
from int_ray.report.lines import Line, Status
from int_ray.report.page import counted
from int_ray.report.run_files import read_lines
from int_ray.types import Source

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass
class Tally:
    """Proposals that have something in common."""

    statuses: Counter[Status] = field(default_factory=Counter)
    num_correct: int = 0
    num_graded: int = 0

    def add(self, line: Line) -> None:
        """Count one proposal, and the continuations that tested it."""
        self.statuses[line.status] += 1
        self.num_correct += line.num_correct or 0
        self.num_graded += line.num_graded or 0

    @property
    def success_rate(self) -> float | None:
        """Share of right continuations, of all interventions together."""
        return self.num_correct / self.num_graded if self.num_graded else None


@dataclass
class Replies:
    """What one source answered; a reply with several proposals counts once. Cached ones had been paid before."""

    seen: set[tuple[object, ...]] = field(default_factory=set)
    cached: int = 0
    paid: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def add(self, line: Line, source: Source) -> None:
        """Count the reply that a line comes from, if any came."""
        if line.content is None and not source.output_tokens:
            return
        reply = (line.attempt, source.prompt_hash, source.sample)
        if reply in self.seen:
            return
        self.seen.add(reply)
        if source.cached:
            self.cached += 1
            return
        self.paid += 1
        self.input_tokens += source.input_tokens
        self.output_tokens += source.output_tokens
        self.cost += source.cost


class Call(BaseModel):
    """A line of oracle_calls.jsonl (int_ray/oracles/spending.py)."""

    event: Literal["started", "ended", "cached"]
    input_tokens: NonNegativeInt
    output_tokens: NonNegativeInt
    cost: NonNegativeFloat
    fault: str | None = None


@dataclass
class Bill:
    """All calls of a run that have ended, failed ones included."""

    calls: int = 0
    failed: int = 0
    unknown: int = 0  # calls that may have been billed: part of `calls`, but not of what follows
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


def read_bill(run_folder: Path, notes: list[str]) -> Bill | None:
    """What the oracle's calls were billed; None if it made none. `notes` gets a sentence about unreadable lines."""
    path = run_folder / "oracle_calls.jsonl"
    if not path.exists():
        return None
    bill = Bill()
    for call in read_lines(path, Call, notes):
        if call.event == "ended":
            bill.calls += 1
            bill.failed += call.fault is not None
            if call.fault in UNKNOWN_BILL:
                bill.unknown += 1
                continue
            bill.input_tokens += call.input_tokens
            bill.output_tokens += call.output_tokens
            bill.cost += call.cost
    return bill if bill.calls else None


@dataclass
class Summary:
    """All lines of a page, listed or not."""

    all: Tally = field(default_factory=Tally)
    rounds: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    sources: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    replies: defaultdict[str, Replies] = field(default_factory=lambda: defaultdict(Replies))
    objections: Counter[str] = field(default_factory=Counter)  # why guards refused proposals
    failures: Counter[str] = field(default_factory=Counter)  # why the oracle proposed nothing about an attempt
    problems: set[str] = field(default_factory=set)
    attempts: set[int] = field(default_factory=set)
    tested: int = 0
    helpful: int = 0

    def add(self, round_: str, line: Line) -> None:
        """Count one line."""
        self.all.add(line)
        self.problems.add(line.problem)
        self.attempts.add(line.attempt)
        self.tested += line.is_tested
        self.helpful += bool(line.num_correct)
        if round_:
            self.rounds[round_].add(line)
        if line.status == "refused":
            refusals = self.failures if line.content is None else self.objections
            refusals[line.reason or "unknown"] += 1
        if line.source is not None:
            name = source_name(line.source)
            self.sources[name].add(line)
            self.replies[name].add(line, line.source)

    @property
    def headline(self) -> str:
        """The one number that counts."""
        untested = self.all.statuses.total() - self.all.statuses["refused"]
        if self.tested:
            return f"{self.helpful} of {counted(self.tested, 'tested intervention')} helped"
        return f"{counted(untested, 'intervention')}, none tested" if untested else "Not one intervention was usable"

    @property
    def course(self) -> str:
        """How many attempts led to that."""
        asked = f"{counted(len(self.attempts), 'failed attempt')} at {counted(len(self.problems), 'problem')}"
        silent = self.failures.total()
        return f"{asked}; the oracle proposed nothing about {silent} of them." if silent else f"{asked}."

    @property
    def reasons(self) -> list[str]:
        """Names of everything that interventions were refused for."""
        return sorted({*self.objections, *self.failures})

    @property
    def is_billed(self) -> bool:
        """Whether any reply cost tokens."""
        return any(replies.input_tokens or replies.output_tokens for replies in self.replies.values())


def source_name(source: Source) -> str:
    """Kind, model and prompt version, as far as they are known."""
    return " · ".join(name for name in (source.oracle, source.model, source.prompt) if name)
