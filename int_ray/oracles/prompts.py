"""How an oracle that is a language model is asked, and how its answers are read: one template per kind of problem.

A new template is one file with a class like those in `PROMPTS`, and one line there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Protocol

from int_ray.oracles.chains_prompt import ChainsPrompt
from int_ray.oracles.chat import Prompt
from int_ray.oracles.math_prompt import MathPrompt
from int_ray.types import Attempt, Category, OracleReply


class PromptTemplate(Protocol):
    """Puts an attempt into words and reads the answer. Pure; no text that comes in makes it raise."""

    def compose(self, attempt: Attempt, *, solve_first: bool, structured: bool, max_attempt_tokens: int) -> Prompt:
        """What to ask. `solve_first`: an earlier turn solves the problem; `structured`: JSON of the prompt's schema.

        `max_attempt_tokens`, in tokens of the policy, limits the attempt and nothing else.
        """
        ...

    def read(self, attempt: Attempt, text: str) -> OracleReply:
        """The answer to the last turn, whatever form it came in; proposals have no `source` yet."""
        ...

    def categorize(self, attempt: Attempt, log: str, *, max_attempt_tokens: int) -> Prompt | None:
        """The second question, high-level or execution error (paper, Fig. 4); None where it makes no sense."""
        ...

    def read_category(self, text: str) -> Category | None:
        """The answer to `categorize`; None if it names neither or both."""
        ...


PROMPTS: Mapping[str, Callable[[], PromptTemplate]] = {"math": MathPrompt, "chains": ChainsPrompt}


def prompt_hash(prompt: Prompt) -> str:
    """Hex SHA-256 of name, turns and schema: the same for the same attempt in every run, see `fences.nonce`."""
    return sha256(json.dumps([prompt.name, prompt.turns, prompt.schema]).encode()).hexdigest()
