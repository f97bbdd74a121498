"""How far the policy has moved from the base model (the argument of Figure 5), measured at evaluations.

Both figures are nats per token at temperature 1, by the learner, over one response per problem:
- KL from the base: mean of log p_base - log p_policy over a response that the base model sampled;
- entropy: mean of -log p_policy over a response that the policy sampled.
They are estimates for responses as runs sample them, with rollout.temperature and rollout.top_p.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.run_folder import RunFolder, write_json
from int_ray.ports import Learner
from int_ray.types import Logprobs, RolloutGroup, RunState, TokenIds

TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """Prompt and one response."""

    token_ids: TokenIds  # [P + T]
    start: int  # P


class Drift:
    """Keeps the base model's responses and log-probs in `drift/` of the run folder, so that a resumed run has them."""

    def __init__(self, learner: Learner, folder: RunFolder) -> None:
        self.learner = learner
        self.folder = folder

    async def measure(self, state: RunState, name: str, groups: Sequence[RolloutGroup]) -> None:
        """Write both figures for a problem set into the journal; KL is None if the base was never measured."""
        own = [_first_response(group) for group in groups]
        own_logprobs = await self._logprobs(own)
        if state.policy_version == 0:
            self._keep(name, own, own_logprobs)
        base = self._kept(name)
        kl = None
        if base is not None:
            responses, base_logprobs = base
            kl = float(np.mean(base_logprobs - await self._logprobs(responses)))
        self.folder.drift(state.iteration, name, kl=kl, entropy=float(-np.mean(own_logprobs)))

    async def _logprobs(self, responses: Sequence[Response]) -> Logprobs:
        """Of all tokens of all responses, one after the other."""
        known = await self.learner.logprobs_of([item.token_ids for item in responses], TEMPERATURE)
        return np.concatenate([logprobs[item.start :] for item, logprobs in zip(responses, known, strict=True)])

    def _keep(self, name: str, responses: Sequence[Response], logprobs: Logprobs) -> None:
        path = self.folder.path / "drift" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        rows = [{"start": item.start, "token_ids": item.token_ids.tolist()} for item in responses]
        write_json(path, {"responses": rows, "logprobs": logprobs.tolist()})

    def _kept(self, name: str) -> tuple[list[Response], Logprobs] | None:
        path = self.folder.path / "drift" / f"{name}.json"
        if not path.exists():
            return None
        kept = json.loads(path.read_text())
        responses = [Response(np.array(row["token_ids"], np.int32), row["start"]) for row in kept["responses"]]
        return responses, np.array(kept["logprobs"], np.float32)


def _first_response(group: RolloutGroup) -> Response:
    token_ids = np.concatenate([group.prompt_ids, group.rollouts[0].completion.token_ids])
    return Response(token_ids, len(group.prompt_ids))
