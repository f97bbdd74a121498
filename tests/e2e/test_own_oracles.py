"""Oracles without an API, on real engines: Monte Carlo beside the exact oracle, and the policy as its own judge.

The slow ones print the figures of docs/oracles.md.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from actors.engine_spawning import close_engines, spawn_engines
from actors.fleet import Fleet
from actors.grader_pool import GraderPool
from actors.oracle_assembly import build_segmenter
from actors.rollout_pool import RolloutPool
from int_ray.chains.pretrain import encode, weighted_loss
from int_ray.chains.tokenizer import build_tokenizer
from int_ray.config import Config
from int_ray.config_file import load_config
from int_ray.data.problems import load_problems
from int_ray.interventions import Splicer
from int_ray.oracle_config import MonteCarloConfig, PolicyOracleConfig
from int_ray.oracles.chains_prompt import ChainsPrompt
from int_ray.oracles.chat import Answer, ChatRequest, Message
from int_ray.oracles.exact import ExactOracle
from int_ray.oracles.monte_carlo import MonteCarloOracle
from int_ray.oracles.policy_model import PolicyModel
from int_ray.preflight import load_tokenizer
from int_ray.prompts import encode_chat, encode_prompt, encode_text
from int_ray.types import Attempt, OracleReply, Problem, Purpose
from int_ray.unsolved_window import failed_rollouts
from tests.e2e.conftest import run
from tests.fakes import FakeProgress

ROOT = Path(__file__).parents[2]
DATA = ROOT / "int_ray" / "chains" / "data"

pytestmark = pytest.mark.usefixtures("local_cluster")


def quickstart(model: Path = DATA / "base") -> Config:
    overrides = ["run.folder=unused", f"model.path={model}", "model.max_length=160"]
    return load_config(ROOT / "configs" / "quickstart.yaml", overrides)


def problems(*names: str) -> list[Problem]:
    config = quickstart().problems
    return [problem for name in names for problem in load_problems(str(DATA / f"{name}.jsonl"), config).problems]


@dataclass(frozen=True)
class World:
    """The laptop world on an engine that samples as the quickstart does."""

    config: Config
    tokenizer: PreTrainedTokenizerBase
    pool: RolloutPool

    def at(self, temperature: float) -> World:
        """The same engine at another temperature, with nothing masked."""
        rollout = self.config.rollout.model_copy(update={"temperature": temperature, "top_p": 1.0})
        pool = RolloutPool(self.pool.fleet, self.pool.grader, self.pool.encode_prompt, rollout, 0, FakeProgress())
        return World(self.config, self.tokenizer, pool)

    def failed(self, tried: Sequence[Problem], low: float, high: float, most: int) -> list[Attempt]:
        """Of each problem with a pass@1 within these limits, in 32 rollouts, at most so many different failed ones."""
        groups = run(self.pool.sample(tried, 32, Purpose.TRAIN, 0))
        cut = build_segmenter(self.config, self.tokenizer).steps
        return [
            Attempt(group.problem, group.prompt_ids, rollout, cut(rollout.completion.token_ids))
            for group in groups
            if low <= group.success_rate <= high
            for rollout in failed_rollouts(group, most)
        ]


@contextmanager
def start_world(model: Path) -> Iterator[World]:
    config = quickstart(model)
    tokenizer = load_tokenizer(config.model)
    engines = run(spawn_engines(config.model, config.rollout, config.learner))
    try:
        prompt = partial(encode_prompt, tokenizer, template_kwargs={})
        grader = GraderPool("exact", 1, 10.0)
        fleet = Fleet(engines, 2 * config.rollout.max_num_seqs, FakeProgress())
        yield World(config, tokenizer, RolloutPool(fleet, grader, prompt, config.rollout, 0, FakeProgress()))
    finally:
        run(close_engines(engines))


@pytest.fixture(scope="module")
def base(local_cluster: None) -> Iterator[World]:
    """The base model: solves every easy problem at T 0.6, and no hard one."""
    with start_world(DATA / "base") as world:
        yield world


@dataclass(frozen=True)
class Comparison:
    """What Monte Carlo and the exact oracle say about the same attempts."""

    attempts: int
    located: int  # by Monte Carlo
    located_exactly: int  # by the exact oracle
    same_location: int
    same_step: int
    continuations: int

    @property
    def agreement(self) -> float:
        """Share of the exact oracle's first errors that Monte Carlo locates too."""
        return self.same_location / self.located_exactly

    def show(self, name: str) -> None:
        """One row for the docs."""
        cost = f"{self.continuations / self.located:.0f}" if self.located else "-"
        counts = f"{self.attempts} | {self.located_exactly} | {self.located} | {self.same_location} | {self.same_step}"
        print(f"| {name} | {counts} | {self.agreement:.2f} | {cost} |", flush=True)


def show_head() -> None:
    titles = "failed rollouts", "exact finds the error", "Monte Carlo does", "same step replaced", "same replacement"
    print(f"\n| | {' | '.join(titles)} | agreement | continuations per located error |")


def compare(world: World, attempts: Sequence[Attempt], temperature: float, continuations: int = 16) -> Comparison:
    segmenter = build_segmenter(world.config, world.tokenizer)
    settings = MonteCarloConfig(continuations=continuations)
    oracle = MonteCarloOracle(world.pool, segmenter, settings, temperature, FakeProgress())
    found = run(oracle.intervene(attempts))
    known = [ExactOracle().propose(attempt) for attempt in attempts]
    pairs = [
        (ours.proposals[0], theirs.proposals[0])
        for ours, theirs in zip(found, known, strict=True)
        if both(ours, theirs)
    ]
    return Comparison(
        attempts=len(attempts),
        located=oracle.located,
        located_exactly=sum(bool(reply.proposals) for reply in known),
        same_location=sum(ours.location == theirs.location for ours, theirs in pairs),
        same_step=sum((ours.location, ours.content) == (theirs.location, theirs.content) for ours, theirs in pairs),
        continuations=oracle.continuations,
    )


def both(ours: OracleReply, theirs: OracleReply) -> bool:
    return bool(ours.proposals and theirs.proposals)


def test_monte_carlo_finds_the_first_error_where_the_policy_succeeds_now_and_then(base: World):
    slipping = base.at(1.4)
    attempts = slipping.failed(problems("easy_train")[:16], 0.1, 0.9, most=3)
    compared = compare(slipping, attempts, temperature=1.4)
    compared.show("T 1.4")
    assert compared.located_exactly >= 24
    assert compared.agreement >= 0.8


def test_the_policy_compares_and_what_it_proposes_helps(base: World):
    attempts = base.failed(problems("hard_train")[:24], 0.0, 0.0, most=1)
    chat = partial(encode_chat, base.tokenizer, template_kwargs={})
    model = PolicyModel(base.pool, chat, PolicyOracleConfig(max_tokens=64), deadline_s=60)
    template = ChainsPrompt()

    async def ask(attempt: Attempt) -> OracleReply:
        prompt = template.compose(attempt, solve_first=True, structured=False, max_attempt_tokens=1000)
        (turn,) = prompt.turns
        answer = await model.ask(ChatRequest((Message("user", turn),)))
        assert isinstance(answer, Answer) and answer.input_tokens > 20 and answer.output_tokens > 1
        return template.read(attempt, answer.text)

    async def ask_all() -> list[OracleReply]:
        return await asyncio.gather(*(ask(attempt) for attempt in attempts))

    replies = run(ask_all())
    assert [reply.proposals for reply in run(ask_all())] == [reply.proposals for reply in replies]
    known = [ExactOracle().propose(attempt) for attempt in attempts]
    agree = sum(ours.proposals == theirs.proposals for ours, theirs in zip(replies, known, strict=True))
    splicer = Splicer(partial(encode_text, base.tokenizer), "\n\n", 64, base.config.rollout.max_tokens)
    interventions, _ = splicer.splice(attempts, replies)
    helpful = sum(group.any_solved for group in run(base.pool.resume_from(interventions, 8, 0)))
    print(f"\n{len(attempts)} attempts: {agree} as the exact oracle; {helpful} of {len(interventions)} help")
    assert agree >= len(attempts) / 2 and helpful >= len(interventions) / 4 > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_agreement_while_slips_make_problems_uncertain(base: World):
    show_head()
    for temperature in (1.2, 1.4, 1.6):
        slipping = base.at(temperature)
        attempts = slipping.failed(problems("easy_train")[:24], 0.1, 0.9, most=32)
        compared = compare(slipping, attempts, temperature)
        compared.show(f"base, easy, T {temperature}")
        assert compared.agreement >= 0.8


@pytest.fixture(scope="module")
def half_trained(local_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The base model after a few steps on solutions of hard problems: it knows its flawed facts now and then."""
    import torch

    model, tokenizer = Qwen3ForCausalLM.from_pretrained(DATA / "base"), build_tokenizer()
    examples = [(p.question, p.solution) for p in problems("hard_train", "easy_train")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    chance = random.Random(0)
    for _ in range(5):
        optimizer.zero_grad()
        weighted_loss(model, *encode(tokenizer, chance.sample(examples, 32))).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("half_trained")
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)  # a new one: the used one would save its padding
    with start_world(folder) as world:
        yield world


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_agreement_while_a_policy_is_learning(half_trained: World):
    attempts = half_trained.failed(problems("hard_train", "hard_test"), 0.1, 0.9, most=32)
    show_head()
    for temperature in (0.6, 1.0):
        compared = compare(half_trained, attempts, temperature)
        compared.show(f"half trained, hard, T 0.6, explored at T {temperature}")
        assert compared.located_exactly >= 24 and compared.agreement >= 0.8


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_is_found_where_nothing_ever_succeeds(base: World):
    attempts = base.failed(problems("hard_train"), 0.0, 0.0, most=1)
    assert len(attempts) >= 60
    show_head()
    found = {}
    for temperature, continuations in ((0.6, 16), (1.0, 16), (1.2, 16), (1.4, 16), (1.3, 64)):
        compared = compare(base, attempts, temperature, continuations)
        compared.show(f"base, hard, explored at T {temperature} with {continuations}")
        found[temperature, continuations] = compared.located
    assert found[0.6, 16] < found[1.3, 64]  # heat and compute do find some
