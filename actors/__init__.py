"""The Ray runtime. Every `.remote` of the project is in this package.

`from actors import Coordinator, Learner, OraclePool, RolloutPool, assemble`; see docs/own_task.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Collector": "actors.collector",
    "Coordinator": "actors.coordinator",
    "Learner": "actors.learner",
    "OraclePool": "actors.oracle_pool",
    "RolloutPool": "actors.rollout_pool",
    "assemble": "actors.assembly",
    "assemble_collector": "actors.collector_assembly",
}


def __getattr__(name: str) -> Any:
    """Import late: launching a command must not load Ray before it is needed."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'actors' has no attribute {name!r}")
