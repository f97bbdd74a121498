"""The policy as its own oracle: a chat with the model that is being trained, on the rollout engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from int_ray.oracle_config import PolicyOracleConfig
from int_ray.oracles.chat import Answer, ChatRequest, Fault, Message
from int_ray.ports import Policy
from int_ray.types import TokenIds


class PolicyModel:
    """Implements ChatModel. The same question to the same weights always gets the same answer, to others another one.

    `encode` applies the chat template, `deadline_s` bounds one answer. An engine that dies or hangs ends the run, as it
    does while sampling rollouts.
    """

    name = "policy"
    cacheable = False

    def __init__(
        self,
        policy: Policy,
        encode: Callable[[Sequence[Message]], TokenIds],
        config: PolicyOracleConfig,
        deadline_s: float,
    ) -> None:
        self.policy = policy
        self.encode = encode
        self.config = config
        self.deadline_s = deadline_s
        self.settings: Mapping[str, Any] = config.model_dump(include={"temperature", "top_p", "max_tokens"})

    async def check(self) -> None:
        """Nothing can be wrong: the engines run."""

    async def ask(self, request: ChatRequest) -> Answer | Fault:
        """One answer, which may be empty: asking once more would change nothing.

        Faults: bad_request (the context has no room for an answer), cut_off, timeout.
        """
        config, prompt = self.config, self.encode(request.messages)
        limit = asyncio.timeout(self.deadline_s)
        try:
            async with limit:
                (completion,) = await self.policy.write(
                    [prompt], config.temperature, config.top_p, config.max_tokens, seed=request.sample
                )
        except TimeoutError:
            if not limit.expired():
                raise
            return Fault("timeout", f"the engines gave no answer in time (oracle.deadline_s: {self.deadline_s:g})")
        spent = {"input_tokens": len(prompt), "output_tokens": len(completion.token_ids)}
        if completion.finished:
            return Answer(completion.text, **spent)
        if not spent["output_tokens"]:
            return Fault("bad_request", f"a chat of {len(prompt)} tokens leaves no room in model.max_length")
        return Fault("cut_off", f"no end after {len(completion.token_ids)} tokens", **spent)

    async def close(self) -> None:
        """The engines belong to the run."""
