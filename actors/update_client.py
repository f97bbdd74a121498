"""The learner's calls of the rollout engines while it sends weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError

from actors.failures import ACTOR_GONE, EngineDiedError
from actors.ipc_handles import to_plain

_LOG = logging.getLogger(__name__)


class UpdateClient:
    """Calls every engine and waits for all, with a deadline. Has the shape of vLLM's VLLMWeightSyncClient.

    An engine that is dead is left out from then on. Whoever resumes the engines finds that out for himself.
    One that is late is an error, or with `kills_late` killed, so that it cannot go on with half of an update.
    """

    def __init__(
        self, engines: Sequence[ActorHandle], workers_per_engine: int, deadline_s: float, *, kills_late: bool = False
    ) -> None:
        self.engines = list(engines)
        self.workers_per_engine = workers_per_engine
        self.deadline_s = deadline_s
        self.kills_late = kills_late

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the channel on every engine.

        vLLM numbers the workers of one engine from `rank_offset` on; here many engines share one NCCL group.
        """
        infos = [dict(init_info) for _ in self.engines]
        if "rank_offset" in init_info:
            for index, info in enumerate(infos):
                info["rank_offset"] = 1 + index * self.workers_per_engine
        self._call("init_weight_transfer_engine", infos)

    def start_weight_update(self) -> None:
        """Make every engine ready for new weights."""
        self._call("start_weight_update")

    def begin_update(self, update_info: dict[str, Any]) -> Callable[[], None]:
        """Have every engine read some weights; calling the result waits for all of them."""
        return self._begin("update_weights", [update_info for _ in self.engines])

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Have every engine read the weights."""
        if isinstance(update_info, dict) and "ipc_handles" in update_info:
            update_info = update_info | {"ipc_handles": to_plain(update_info["ipc_handles"])}
        self._call("update_weights", [update_info for _ in self.engines])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put the weights in use on every engine. They stamp their version when they resume."""
        self._call("finish_weight_update")

    def _call(self, method: str, arguments: Sequence[object] | None = None) -> None:
        self._begin(method, arguments)()

    def _begin(self, method: str, arguments: Sequence[object] | None = None) -> Callable[[], None]:
        each = [()] * len(self.engines) if arguments is None else [(argument,) for argument in arguments]
        engines = list(self.engines)
        calls = [getattr(engine, method).remote(*own) for engine, own in zip(engines, each, strict=True)]

        def wait() -> None:
            until = time.monotonic() + self.deadline_s
            for engine, call in zip(engines, calls, strict=True):
                try:
                    ray.get(call, timeout=max(0.0, until - time.monotonic()))
                except GetTimeoutError:
                    waited = f"waited {self.deadline_s:.0f} s for rollout engines in {method}"
                    if not self.kills_late:
                        raise TimeoutError(waited) from None
                    _LOG.warning("%s; one that is late is killed", waited)
                    ray.kill(engine)
                    self._leave_out(engine)
                except (*ACTOR_GONE, EngineDiedError):
                    self._leave_out(engine)

        return wait

    def _leave_out(self, engine: ActorHandle) -> None:
        if engine in self.engines:  # more than one call may be under way
            self.engines.remove(engine)
