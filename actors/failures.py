"""What a failure means for the run: the one table, and the errors of rollout engines that it speaks of.

All of them can be pickled, so that they cross from actor to actor as they are.
"""

from __future__ import annotations

from enum import StrEnum

from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError

from int_ray.config_file import ConfigError
from int_ray.errors import Resumable, RunError


class Kind(StrEnum):
    """What is to be done about a failure."""

    INFRA = "infra"  # a process or a node is gone or hangs: the same again, elsewhere
    DATA = "data"  # a piece of work fails wherever it is done: put aside, said and counted; the run goes on
    CONFIG = "config"  # a person has to change something: stop before anything starts
    FATAL = "fatal"  # stop; the last checkpoint can be resumed


class EngineDiedError(RunError):
    """A rollout engine is gone; what it was sampling must be sampled again."""


class EngineHungError(EngineDiedError):
    """A rollout engine has not answered in time, and was killed for it."""


class EngineCallError(RunError):
    """A rollout engine lives, but refused a call or failed in it. A group that is refused is a PoisonedGroupError."""


class PoisonedGroupError(RuntimeError):
    """One engine after the other was lost to the same group, or one has refused it."""


class FleetLostError(Resumable):
    """No rollout engine is left, and none came in the place of the last one."""


# What Ray says of a call whose actor is gone; OutOfMemoryError: killed by Ray, before the machine ran out of memory.
ACTOR_GONE = (RayActorError, OutOfMemoryError, NodeDiedError)

TABLE: dict[Kind, tuple[type[BaseException], ...]] = {
    Kind.INFRA: (EngineDiedError, *ACTOR_GONE, ObjectLostError, TimeoutError),
    Kind.DATA: (PoisonedGroupError,),
    Kind.CONFIG: (ConfigError,),
}


def kind_of(error: BaseException) -> Kind:
    """The kind of a failure, also of one that an actor's method raised; what the table does not know is fatal."""
    return next((kind for kind, errors in TABLE.items() if isinstance(error, errors)), Kind.FATAL)
