"""Oracle kinds that need no cluster: a new kind is one file and one line in `ORACLES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from int_ray.oracles.exact import ExactOracle
from int_ray.types import Attempt, OracleReply


class OracleKind(Protocol):
    """Reads one failed attempt beside the problem's reference solution."""

    def propose(self, attempt: Attempt) -> OracleReply:
        """Replacement steps for the first wrong step, or the named reason why there are none."""
        ...


ORACLES: Mapping[str, Callable[[], OracleKind]] = {"exact": ExactOracle}
