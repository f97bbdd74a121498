"""How the base model of the laptop world is asked: the compare task that it was pretrained on, word for word."""

from __future__ import annotations

from int_ray.chains.compare import compare_prompt, parse_reply
from int_ray.oracles.chat import Prompt
from int_ray.types import Attempt, Category, OracleReply


class ChainsPrompt:
    """One short turn; the model knows neither JSON nor other questions, so that the options change nothing."""

    def compose(self, attempt: Attempt, *, solve_first: bool, structured: bool, max_attempt_tokens: int) -> Prompt:
        """Reference and attempt side by side."""
        return Prompt("chains-1", (compare_prompt(attempt.problem.solution, [step.text for step in attempt.steps]),))

    def read(self, attempt: Attempt, text: str) -> OracleReply:
        """A proposal for a step that the attempt has, or a named failure."""
        reply = parse_reply(text)
        if any(proposal.location > len(attempt.steps) or proposal.location < 1 for proposal in reply.proposals):
            return OracleReply(failure="no_usable_entry", faults=("location_out_of_range",))
        return reply

    def categorize(self, attempt: Attempt, log: str, *, max_attempt_tokens: int) -> Prompt | None:
        """Nothing to ask: every error in this world is one of execution, and the model would not understand."""
        return None

    def read_category(self, text: str) -> Category | None:
        """Never asked."""
        return None
