"""Oracles for tests, in a module that Ray workers can import."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import ray

from int_ray.types import Attempt, OracleReply, Proposal


class Echo:
    """Proposes the problem's id; misbehaves for the problems named in the methods below."""

    def propose(self, attempt: Attempt) -> OracleReply:
        if attempt.problem.id == "p1":
            raise ValueError("unreadable")
        if attempt.problem.id == "p2":
            time.sleep(60)
        if attempt.problem.id == "p3":
            os._exit(1)
        return OracleReply((Proposal(1, attempt.problem.id),))


class AsyncEcho:
    """Answers the first question last."""

    async def propose(self, attempt: Attempt) -> OracleReply:
        await asyncio.sleep(0.5 if attempt.problem.id == "p0" else 0.0)
        return OracleReply((Proposal(1, attempt.problem.id),))


class Placed:
    """Proposes the id of the node that it runs on; waits for p1 where the file `hold` is."""

    def __init__(self, hold: Path):
        self.hold = hold

    async def propose(self, attempt: Attempt) -> OracleReply:
        while attempt.problem.id == "p1" and self.hold.exists():
            await asyncio.sleep(0.05)
        return OracleReply((Proposal(1, ray.get_runtime_context().get_node_id()),))


class Scripted:
    """Says the same about every attempt."""

    def __init__(self, reply: OracleReply):
        self.reply = reply

    def propose(self, attempt: Attempt) -> OracleReply:
        return self.reply
