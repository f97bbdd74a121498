"""Several oracles in a row: the next one is asked where the ones before failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from int_ray.ports import Oracle, Progress
from int_ray.types import Attempt, OracleReply


class FallbackOracle:
    """Implements the Oracle port. `no_error` is an answer and ends the search; any other failure goes on.

    What the earlier kinds failed with is kept among the reply's faults, such as `gemini: timeout`.
    """

    def __init__(self, oracles: Sequence[tuple[str, Oracle]], progress: Progress) -> None:
        """`oracles`: kinds with their oracles, in the order in which they are asked."""
        self.oracles = oracles
        self.progress = progress

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """One reply per attempt, in order: of the first kind that did not fail, else of the last kind."""
        replies = [OracleReply()] * len(attempts)
        failures: list[tuple[str, ...]] = [()] * len(attempts)  # so far
        left = range(len(attempts))
        for kind, oracle in self.oracles:
            if kind != self.oracles[0][0]:
                self.progress.phase(f"asking {kind} where others failed", len(left))
            heard = await oracle.intervene([attempts[index] for index in left])
            for index, reply in zip(left, heard, strict=True):
                replies[index] = replace(reply, faults=(*failures[index], *reply.faults))
                failures[index] += (f"{kind}: {reply.failure}",)
            left = [index for index in left if replies[index].failure not in (None, "no_error")]
            if not left:
                break
        return replies
