"""Builds the oracle that the config names, with its fallbacks, and starts the processes that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from actors.chat_pool import ChatPool
from actors.oracle_pool import OraclePool
from actors.oracle_workers import START_DEADLINE_S
from actors.placement import patience
from int_ray.config import Config
from int_ray.errors import RunError
from int_ray.oracle_checks import kinds_asked
from int_ray.oracle_config import OracleKindName
from int_ray.oracles import CHECKERS, StepOracle
from int_ray.oracles.answer_cache import AnswerCache
from int_ray.oracles.api import APIS
from int_ray.oracles.chat import ChatModel
from int_ray.oracles.fallback import FallbackOracle
from int_ray.oracles.model_oracle import ModelOracle
from int_ray.oracles.monte_carlo import MonteCarloOracle
from int_ray.oracles.policy_model import PolicyModel
from int_ray.oracles.prompts import PROMPTS
from int_ray.oracles.recorded import load_recorded
from int_ray.oracles.solver import Solver
from int_ray.oracles.spending import Ledger
from int_ray.oracles.teacher import CheckerTeacher, ModelTeacher, SolvingChecker, Teacher
from int_ray.ports import Oracle, Policy, Progress
from int_ray.prompts import decode_ids, encode_chat
from int_ray.segmentation import Segmenter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Accounts:
    """What every oracle of a run that is a language model shares."""

    ledger: Ledger
    cache: AnswerCache

    @classmethod
    def open(cls, config: Config, folder: Path, progress: Progress, stack: AsyncExitStack) -> Accounts:
        """The files of a run folder, with what earlier processes of the run have paid."""
        oracle = config.oracle
        ledger = Ledger(folder / "oracle_calls.jsonl", oracle.budget, oracle.prices)
        stack.callback(ledger.close)
        cache = AnswerCache(oracle.cache or folder / "oracle_answers.jsonl")
        stack.callback(cache.close)
        if ledger.unreadable or cache.unreadable:
            progress.say(
                f"{ledger.unreadable} calls and {cache.unreadable} answers of the oracle, as written down before, "
                "cannot be read and do not count"
            )
        return cls(ledger, cache)

    def oracle(self, kind: OracleKindName, model: ChatModel, config: Config, progress: Progress) -> ModelOracle:
        """A language model as an oracle that pays from these accounts."""
        template = PROMPTS[config.oracle.prompt]()
        return ModelOracle(kind, model, template, config.oracle, self.ledger, self.cache, progress)


async def start_apis(
    config: Config, accounts: Accounts, progress: Progress, stack: AsyncExitStack
) -> dict[OracleKindName, Oracle]:
    """The oracles behind APIs that the config names. Raises RunError if one refuses key or model."""
    oracles: dict[OracleKindName, Oracle] = {}
    for kind in kinds_asked(config):
        if kind in APIS:
            progress.phase(f"asking {kind} whether it knows key and model")
            pool = ChatPool(kind, config.oracle)
            stack.push_async_callback(pool.close)
            async with patience(progress, f"{config.oracle.workers} oracle workers to start", START_DEADLINE_S):
                await pool.ready()
            oracle = accounts.oracle(kind, pool, config, progress)
            await oracle.check()
            oracles[kind] = oracle
    return oracles


async def build_oracle(
    config: Config,
    apis: Mapping[OracleKindName, Oracle],
    accounts: Accounts,
    tokenizer: PreTrainedTokenizerBase,
    policy: Policy,
    progress: Progress,
    stack: AsyncExitStack,
) -> Oracle:
    """The oracle of a run, with its fallbacks."""

    async def in_workers(kind: OracleKindName, step_oracle: StepOracle) -> Oracle:
        return await start_oracle_pool(kind, step_oracle, config, progress, stack)

    async def build(kind: OracleKindName) -> Oracle:
        settings = config.oracle
        if kind in apis:
            return apis[kind]
        if kind == "monte_carlo":
            segmenter = build_segmenter(config, tokenizer)
            return MonteCarloOracle(policy, segmenter, settings.monte_carlo, settings.explore_temperature, progress)
        if kind == "policy":
            encode = partial(encode_chat, tokenizer, template_kwargs=config.model.chat_template_kwargs)
            model = PolicyModel(policy, encode, settings.policy, settings.deadline_s)
            return accounts.oracle(kind, model, config, progress)
        if kind == "recorded":
            assert settings.recorded is not None  # checked with the config
            return await in_workers(kind, load_recorded(settings.recorded))
        return await in_workers(kind, CHECKERS[settings.checker]())

    oracles = [(kind, await build(kind)) for kind in kinds_asked(config)]
    return oracles[0][1] if len(oracles) == 1 else FallbackOracle(oracles, progress)


def build_teacher(config: Config, apis: Mapping[OracleKindName, Oracle], own: StepOracle | None) -> Teacher | None:
    """Who writes whole solutions, for patch.clone: solutions. Raises RunError if the user's own oracle cannot."""
    if config.schedule == "never" or config.patch.clone == "interventions":
        return None
    kind = config.oracle.kind
    if own is None and kind in apis:
        oracle = apis[kind]
        assert isinstance(oracle, ModelOracle)  # every API is one
        return ModelTeacher(kind, Solver(oracle.chat))
    checker = CHECKERS[config.oracle.checker]() if own is None else own
    if not isinstance(checker, SolvingChecker):
        raise RunError("patch.clone: solutions needs an oracle that has `solve(problem)` beside `propose(attempt)`")
    return CheckerTeacher(kind if own is None else "own", checker, config.oracle)


def build_segmenter(config: Config, tokenizer: PreTrainedTokenizerBase) -> Segmenter:
    """How responses are cut into steps."""
    return Segmenter(partial(decode_ids, tokenizer), config.oracle.step_keywords, config.model.thinking_end)


async def start_oracle_pool(
    kind: str, oracle: StepOracle, config: Config, progress: Progress, stack: AsyncExitStack
) -> OraclePool:
    """An oracle without a language model, in worker processes."""
    pool = OraclePool(kind, oracle, config.oracle, progress)
    stack.callback(pool.close)
    async with patience(progress, f"{config.oracle.workers} oracle workers to start", START_DEADLINE_S):
        await pool.ready()
    return pool
