"""Settings of the oracle: who corrects failed attempts, what it may cost, and what happens when it is down."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from int_ray.config_section import Section

OracleKindName = Literal["exact", "recorded", "gemini", "openai", "policy", "monte_carlo"]


class GeminiConfig(Section):
    """Google's Gemini through google-genai (paper, section 4.1: Gemini 2.5 Pro)."""

    model: str = "gemini-2.5-pro"
    api_key_env: str = Field(default="GEMINI_API_KEY", description="Name of the environment variable with the key.")
    base_url: str | None = Field(
        default=None, description="Another endpoint, such as a gateway, without the version; default: Google's own."
    )
    temperature: NonNegativeFloat = 1.0
    max_output_tokens: PositiveInt = 32768
    thinking_budget: int | None = Field(default=None, ge=-1, description="Tokens; -1: the model decides; 0: none.")
    structured: bool = Field(
        default=True,
        description="Ask for JSON of a schema; off: for the tagged text form. No effect with prompt: chains.",
    )


class OpenAIConfig(Section):
    """Any server that speaks OpenAI's chat completions, such as `vllm serve` or a gateway."""

    model: str = Field(default="", description="Model name at the server.")
    base_url: str | None = Field(default=None, description="Such as http://127.0.0.1:8000/v1; default: OpenAI's own.")
    api_key_env: str | None = Field(
        default="OPENAI_API_KEY", description="Name of the environment variable with the key; null: no key."
    )
    temperature: NonNegativeFloat = 1.0
    max_output_tokens: PositiveInt = 16384
    structured: bool = Field(
        default=True,
        description="Ask for JSON of a schema; off: for the tagged text form. No effect with prompt: chains.",
    )


class PolicyOracleConfig(Section):
    """The policy as its own oracle, on the rollout engines (the published successor: T 0.7, top-p 0.8)."""

    solve_first: bool = Field(
        default=True, description="First solve the problem with the reference in view, then compare, in one chat."
    )
    temperature: PositiveFloat = 0.7
    top_p: float = Field(default=0.8, gt=0, le=1)
    max_tokens: PositiveInt = Field(default=8192, description="Longest answer of one turn.")


class MonteCarloConfig(Section):
    """No oracle at all: success rates of continuations from step boundaries."""

    continuations: PositiveInt = Field(default=16, description="Continuations that estimate one boundary's value.")
    min_drop: float = Field(
        default=0.5, gt=0, le=1, description="A step is the error if it loses this share of the value before it."
    )


class BudgetConfig(Section):
    """Most that the oracle may cost; null: no limit. A call that could exceed a limit is not made."""

    calls: PositiveInt | None = None
    tokens: PositiveInt | None = Field(default=None, description="Input and output tokens together.")
    cost: PositiveFloat | None = Field(default=None, description="Money, in the currency of oracle.prices.")
    calls_per_problem: PositiveInt | None = None
    tokens_per_problem: PositiveInt | None = None
    cost_per_problem: PositiveFloat | None = None


class Price(Section):
    """Money per million tokens."""

    input: NonNegativeFloat
    output: NonNegativeFloat


class LimitsConfig(Section):
    """How hard the oracle's server may be pressed, and when to give up."""

    requests_per_minute: PositiveFloat | None = None
    tries: PositiveInt = Field(default=5, description="Tries of one request before it counts as failed.")
    longest_wait_s: PositiveFloat = Field(default=60.0, description="Longest pause between two tries.")
    breaker_failures: PositiveInt = Field(
        default=8, description="Failed requests in a row after which none is sent for a while."
    )
    breaker_cooldown_s: PositiveFloat = Field(default=60.0, description="How long none is sent then.")


class OracleConfig(Section):
    """Who corrects failed attempts, and how attempts are cut into steps."""

    kind: OracleKindName = Field(
        default="exact",
        description="exact: a rule-based checker; recorded: a file of interventions; gemini, openai: an API; "
        "policy: the policy itself; monte_carlo: success rates of continuations.",
    )
    fallback: tuple[OracleKindName, ...] = Field(
        default=(), description="Kinds asked in turn about attempts for which the ones before failed."
    )
    checker: str = Field(default="chains", description="Registered checker (kind: exact).")
    recorded: Path | None = Field(default=None, description="JSONL or Parquet of interventions (kind: recorded).")
    gemini: GeminiConfig = GeminiConfig()
    openai: OpenAIConfig = OpenAIConfig()
    policy: PolicyOracleConfig = PolicyOracleConfig()
    monte_carlo: MonteCarloConfig = MonteCarloConfig()
    explore_temperature: PositiveFloat = Field(
        default=1.0, description="Sampling temperature of monte_carlo's continuations, nothing masked."
    )
    prompt: Literal["math", "chains"] = Field(
        default="math", description="How problems and attempts are put into words (gemini, openai, policy)."
    )
    categorize: bool = Field(
        default=False,
        description="A second question labels the error: high-level or execution (appendix A); prompt: math only.",
    )
    attempts: PositiveInt = Field(default=4, description="Failed rollouts shown per unsolved problem.")
    samples: PositiveInt = Field(default=1, description="Replies per attempt (gemini, openai, policy).")
    select: Literal["first_valid", "best_of"] = Field(
        default="first_valid",
        description="Which proposal about an attempt is kept: the first that passes the guards, or the one with the "
        "highest success rate of all that do.",
    )
    max_step_tokens: PositiveInt = Field(
        default=256, description="Longest intervention (paper, Fig. 3: mostly under 200 tokens)."
    )
    max_attempt_tokens: PositiveInt = Field(
        default=24000, description="A longer attempt is shown without its middle; the instructions never are."
    )
    budget: BudgetConfig = BudgetConfig()
    prices: dict[str, Price] = Field(default_factory=dict, description="Model -> price; needed for money budgets.")
    limits: LimitsConfig = LimitsConfig()
    cache: Path | None = Field(
        default=None, description="File of paid answers that runs may share; default: oracle_answers.jsonl of the run."
    )
    on_outage: Literal["continue", "stop"] = Field(
        default="continue", description="While the oracle is down or its budget is spent: go on with RL, or stop."
    )
    workers: PositiveInt = Field(default=1, description="Oracle processes.")
    concurrency: PositiveInt = Field(default=16, description="Requests in flight, all workers together.")
    deadline_s: PositiveFloat = Field(default=300.0, description="Longest wait for one reply.")
    step_keywords: tuple[str, ...] = Field(
        default=("wait", "maybe"), description="A step starts before each of these words."
    )
    step_separator: str = Field(
        default="\n\n", description="A step ends after a blank line; also ends a last step that has none."
    )
