"""How far the policy has moved from the base model (the argument of Figure 5), measured at evaluations.

Both figures are nats per token at temperature 1, by the learner, over one response per problem:
- KL from the base: mean of log p_base - log p_policy over a response that the base model sampled;
- entropy: mean of -log p_policy over a response that the policy sampled.
Those of a set are means over its responses, so that a long one counts no more than a short one.
They are estimates for responses as runs sample them, with rollout.temperature and rollout.top_p.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from actors.run_folder import RunFolder, replace_file, write_json
from int_ray.ports import Learner
from int_ray.types import Logprobs, RolloutGroup, RunState, TokenIds

TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """Prompt and one response."""

    problem_id: str
    token_ids: TokenIds  # [P + T], T > 0
    start: int  # P


class Drift:
    """Keeps the base model's responses and log-probs in `drift/` of the run folder, so that a resumed run has them."""

    def __init__(self, learner: Learner, folder: RunFolder) -> None:
        self.learner = learner
        self.folder = folder

    async def measure(self, state: RunState, name: str, groups: Sequence[RolloutGroup]) -> None:
        """Write both figures for a problem set into the journal; KL is None if the base was never measured.

        The KL of every problem is in `drift/iteration_*/SET.jsonl`.
        """
        own = [response for response in map(_first_response, groups) if len(response.token_ids) > response.start]
        if not own:
            return  # the engines were lost while they sampled
        own_logprobs = await self._logprobs(own)
        if state.policy_version == 0:
            self._keep(name, own, own_logprobs)
        base = self._kept(name)
        kl = None
        if base is not None:
            responses, before = base
            now = await self._logprobs(responses)
            moved = {
                item.problem_id: float(np.mean(old - new))
                for item, old, new in zip(responses, before, now, strict=True)
            }
            kl = mean(moved.values())
            self._write_down(state.iteration, name, moved)
        entropy = mean(float(-np.mean(logprobs)) for logprobs in own_logprobs)
        self.folder.drift(state.iteration, name, kl=kl, entropy=entropy)

    async def _logprobs(self, responses: Sequence[Response]) -> list[Logprobs]:
        """Of the tokens of each response, [T] each."""
        known = await self.learner.logprobs_of([item.token_ids for item in responses], TEMPERATURE)
        return [logprobs[item.start :] for item, logprobs in zip(responses, known, strict=True)]

    def _write_down(self, iteration: int, name: str, moved: Mapping[str, float]) -> None:
        path = self.folder.path / "drift" / f"iteration_{iteration:06d}" / f"{name}.jsonl"
        lines = [json.dumps({"problem_id": problem_id, "kl": kl}) for problem_id, kl in moved.items()]
        with self.folder.losses.counted():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, "\n".join(lines) + "\n")

    def _keep(self, name: str, responses: Sequence[Response], logprobs: Sequence[Logprobs]) -> None:
        path = self.folder.path / "drift" / f"{name}.json"
        rows = [
            {
                "problem_id": item.problem_id,
                "start": item.start,
                "token_ids": item.token_ids.tolist(),
                "logprobs": known.tolist(),
            }
            for item, known in zip(responses, logprobs, strict=True)
        ]
        with self.folder.losses.counted():
            path.parent.mkdir(exist_ok=True)
            write_json(path, rows)

    def _kept(self, name: str) -> tuple[list[Response], list[Logprobs]] | None:
        path = self.folder.path / "drift" / f"{name}.json"
        if not path.exists():
            return None
        kept = json.loads(path.read_text())
        responses = [Response(row["problem_id"], np.array(row["token_ids"], np.int32), row["start"]) for row in kept]
        return responses, [np.array(row["logprobs"], np.float32) for row in kept]


def _first_response(group: RolloutGroup) -> Response:
    token_ids = np.concatenate([group.prompt_ids, group.rollouts[0].completion.token_ids])
    return Response(group.problem.id, token_ids, len(group.prompt_ids))
