"""Several oracles in a row: the next one is asked where the ones before failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from int_ray.oracles.chat import OUTAGES
from int_ray.ports import Oracle, Progress
from int_ray.types import Attempt, OracleReply


class FallbackOracle:
    """Implements the Oracle port. `no_error` is an answer and ends the search; any other failure goes on.

    What the other kinds failed with is kept among the reply's faults, such as `gemini: timeout`.
    """

    def __init__(self, oracles: Sequence[tuple[str, Oracle]], progress: Progress) -> None:
        """`oracles`: kinds with their oracles, in the order in which they are asked."""
        self.oracles = oracles
        self.progress = progress

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """One reply per attempt, in order; see `settle`."""
        heard: list[list[tuple[str, OracleReply]]] = [[] for _ in attempts]
        left = range(len(attempts))
        for kind, oracle in self.oracles:
            if kind != self.oracles[0][0]:
                self.progress.phase(f"asking {kind} where others failed", len(left))
            replies = await oracle.intervene([attempts[index] for index in left])
            for index, reply in zip(left, replies, strict=True):
                heard[index].append((kind, reply))
            left = [index for index in left if has_failed(heard[index][-1][1])]
            if not left:
                break
        return [settle(replies) for replies in heard]


def has_failed(reply: OracleReply) -> bool:
    """Whether another kind may know better."""
    return reply.failure not in (None, "no_error")


def settle(heard: Sequence[tuple[str, OracleReply]]) -> OracleReply:
    """The reply that counts of all kinds asked about one attempt, with the flaws of the others among its faults.

    That is the last one, which answered or failed like those before. But if all failed and an outage is among the
    failures, then it is that outage: it may pass, and `oracle.on_outage` has to see it.
    """
    counts = len(heard) - 1
    if has_failed(heard[counts][1]):
        counts = next((index for index, (_, reply) in enumerate(heard) if reply.failure in OUTAGES), counts)
    others = [item for index, item in enumerate(heard) if index != counts]
    flaws = [f"{kind}: {flaw}" for kind, reply in others for flaw in (reply.failure, *reply.faults)]
    _, reply = heard[counts]
    return replace(reply, faults=(*flaws, *reply.faults))
