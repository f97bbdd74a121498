"""What the oracle costs: budgets that concurrent calls never overspend together, and a file that outlives a crash.

A call is one request on the wire; a retry is another call. Before a call its upper bound is reserved, afterwards it
counts with what was billed. Where nobody knows what was billed, since the process or the connection ended or no answer
came in time, it goes on counting with its bound.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from int_ray.journal import Journal, read_records
from int_ray.oracle_config import BudgetConfig, GeminiConfig, OpenAIConfig, OracleConfig, Price
from int_ray.oracles.chat import UNKNOWN_BILL, Answer, Fault

UNBILLED = frozenset({"policy"})  # kinds that cost time alone: written down, but held to no budget
BROKEN_OFF = "broken_off"  # what a call is counted as that ended with its process


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one model. Tokens and cost are upper bounds until its bill is known, then what was billed."""

    oracle: str  # kind
    model: str
    problem: str
    key: str  # of the question, as in the answer cache
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    nth_try: int = 1  # 2 is the first retry
    number: int = 0
    fault: str | None = None
    detail: str = ""  # of the fault, for people

    @property
    def is_bill_known(self) -> bool:
        """Whether a call that is over was billed what its tokens and cost say; else that much at most."""
        return self.fault not in (*UNKNOWN_BILL, BROKEN_OFF)


@dataclass(frozen=True, slots=True)
class _Line(Call):
    """A call as the file has it."""

    event: Literal["started", "ended", "cached"] = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class _Amount:
    """What some calls sum up to; the fields are named like the limits of a budget."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def plus(self, calls: Iterable[Call]) -> _Amount:
        """This and the bounds or bills of `calls`."""
        total = self
        for call in calls:
            tokens = call.input_tokens + call.output_tokens
            total = _Amount(total.calls + 1, total.tokens + tokens, total.cost + call.cost)
        return total

    def exceeded(self, budget: BudgetConfig, suffix: str = "") -> str | None:
        """The first limit that this is above, such as `oracle.budget.calls = 20`."""
        for name, spent in asdict(self).items():
            limit = getattr(budget, name + suffix)
            if limit is not None and spent > limit:
                return f"oracle.budget.{name}{suffix} = {limit:g}"
        return None


@dataclass(slots=True)
class Spend:
    """What the oracle of a run has cost so far, earlier processes of the run included."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0  # in the currency of oracle.prices
    cached: int = 0  # questions whose answer was there already
    unknown: int = 0  # calls that may have been billed; part of `calls`, but not of the tokens and cost above
    unknown_tokens: int = 0  # upper bound of what they were billed
    unknown_cost: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)  # of calls, by name

    def metrics(self) -> Mapping[str, float]:
        """Totals since the run began, for its metrics."""
        totals = {f"oracle/{item.name}": getattr(self, item.name) for item in fields(self) if item.name != "faults"}
        return totals | {f"oracle/fault/{name}": count for name, count in sorted(self.faults.items())}

    def story(self) -> str:
        """The bill in one sentence."""
        parts = [f"{self.calls:,} calls, {self.input_tokens:,} tokens read, {self.output_tokens:,} written"]
        if self.cost:
            parts.append(f"cost {self.cost:,.3f}")
        if self.cached:
            parts.append(f"{self.cached} answers from the cache")
        if self.unknown:
            money = f" and {self.unknown_cost:,.3f}" if self.unknown_cost else ""
            parts.append(f"{self.unknown} calls with an unknown bill, {self.unknown_tokens:,} tokens{money} at most")
        if self.faults:
            parts.append("faults: " + ", ".join(f"{count} {name}" for name, count in self.faults.most_common()))
        return "; ".join(parts)


class Ledger:
    """`oracle_calls.jsonl` of a run folder: a line when a call starts and one when it has ended, on disk at once."""

    def __init__(self, path: Path, budget: BudgetConfig, prices: Mapping[str, Price]) -> None:
        """`prices` maps models to prices; a model without one costs nothing."""
        self.budget = budget
        self.prices = prices
        self.spend = Spend()
        self._run = _Amount()
        self._problems: defaultdict[str, _Amount] = defaultdict(_Amount)
        self._open: dict[int, Call] = {}  # reserved, not yet ended
        self._ended = asyncio.Event()
        lines, self.unreadable = read_records(path, _Line)
        self._replay(lines)
        self._last_number = max((line.number for line in lines), default=0)
        self._journal = Journal(path)

    def cost(self, model: str, input_tokens: int, output_tokens: int) -> float:
        """Money for so many tokens."""
        price = self.prices.get(model, Price(input=0, output=0))
        return (input_tokens * price.input + output_tokens * price.output) / 1e6

    def refusal(self, call: Call, others: Iterable[Call] = ()) -> Fault | None:
        """over_budget or over_problem_budget if the call, made beside `others`, could exceed a limit."""
        if call.oracle in UNBILLED:
            return None
        together = [call, *(other for other in others if other.oracle not in UNBILLED)]
        limit = self._run.plus(together).exceeded(self.budget)
        if limit is not None:
            return Fault("over_budget", f"one more call could exceed {limit}")
        same_problem = [other for other in together if other.problem == call.problem]
        limit = self._problems[call.problem].plus(same_problem).exceeded(self.budget, "_per_problem")
        if limit is not None:
            return Fault("over_problem_budget", f"one more call could exceed {limit}")
        return None

    async def reserve(self, call: Call) -> Call | Fault:
        """Set a call's upper bound aside; or the refusal.

        Waits while only calls in flight stand in the way; each of those ends within its own deadline.
        """
        while self.refusal(call, self._open.values()) is not None:
            refusal = self.refusal(call)
            if refusal is not None:
                return refusal
            await self._ended.wait()
        self._last_number += 1
        call = replace(call, number=self._last_number)
        self._open[call.number] = call
        return call

    def start(self, call: Call) -> None:
        """Write down a reserved call; on disk when this returns, so that the call may be made."""
        self._journal.write("started", **asdict(call))

    def end(self, call: Call, result: Answer | Fault) -> None:
        """Write down and settle what a reserved call was billed, fault or not."""
        bill = replace(call, fault=result.name, detail=result.detail) if isinstance(result, Fault) else call
        if bill.is_bill_known:
            cost = self.cost(call.model, result.input_tokens, result.output_tokens)
            bill = replace(bill, input_tokens=result.input_tokens, output_tokens=result.output_tokens, cost=cost)
        self._journal.write("ended", **asdict(bill))
        del self._open[call.number]
        self._settle(bill)
        self._ended.set()
        self._ended = asyncio.Event()

    def found(self, call: Call) -> None:
        """Write down a question that the cache has answered; `call` says what the answer had cost."""
        self._journal.write("cached", **asdict(call))
        self.spend.cached += 1

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    def _replay(self, lines: Iterable[_Line]) -> None:
        """Add up what earlier processes of the run have spent."""
        broken_off: dict[int, Call] = {}
        for line in lines:
            if line.event == "started":
                broken_off[line.number] = line
            elif line.event == "ended":
                broken_off.pop(line.number, None)
                self._settle(line)
            else:
                self.spend.cached += 1
        for call in broken_off.values():
            self._settle(replace(call, fault=BROKEN_OFF))

    def _settle(self, bill: Call) -> None:
        """Add up a call that is over, and count it against the budgets."""
        self.spend.calls += 1
        if bill.fault is not None:
            self.spend.faults[bill.fault] += 1
        if bill.is_bill_known:
            self.spend.input_tokens += bill.input_tokens
            self.spend.output_tokens += bill.output_tokens
            self.spend.cost += bill.cost
        else:
            self.spend.unknown += 1
            self.spend.unknown_tokens += bill.input_tokens + bill.output_tokens
            self.spend.unknown_cost += bill.cost
        if bill.oracle not in UNBILLED:
            self._run = self._run.plus([bill])
            self._problems[bill.problem] = self._problems[bill.problem].plus([bill])


def read_spend(path: Path) -> Spend:
    """What a ledger's file adds up to; nothing where there is none."""
    if not path.exists():
        return Spend()
    ledger = Ledger(path, BudgetConfig(), {})
    ledger.close()
    return ledger.spend


def budget_errors(config: OracleConfig) -> list[str]:
    """One line per budget of money that lacks a model's price, and per budget that allows no call at all."""
    apis: dict[str, GeminiConfig | OpenAIConfig] = {"gemini": config.gemini, "openai": config.openai}
    asked = [kind for kind in (config.kind, *config.fallback) if kind in apis]
    return list(dict.fromkeys(line for kind in asked for line in _budget_errors(kind, apis[kind], config)))


def _budget_errors(kind: str, api: GeminiConfig | OpenAIConfig, config: OracleConfig) -> Iterable[str]:
    """Those of one kind."""
    budget, price = config.budget, config.prices.get(api.model)
    if price is None and (budget.cost is not None or budget.cost_per_problem is not None):
        yield (
            f"oracle.prices: a budget of money needs the price of {api.model!r}; "
            f"add {{{api.model}: {{input: .., output: ..}}}}, per million tokens"
        )
    longest = _Amount(1, api.max_output_tokens, price.output * api.max_output_tokens / 1e6 if price else 0.0)
    for suffix in ("", "_per_problem"):
        if limit := longest.exceeded(budget, suffix):
            tokens = f"oracle.{kind}.max_output_tokens = {api.max_output_tokens}"
            yield f"{limit}: no call would be made, since an answer may have {tokens}; raise it or shorten the answers"
