"""An oracle that is a language model: puts attempts into words, asks, reads the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from int_ray.errors import RunError
from int_ray.oracle_config import OracleConfig
from int_ray.oracles.answer_cache import AnswerCache
from int_ray.oracles.chat import LASTING, OUTAGES, ChatModel, Fault, Prompt
from int_ray.oracles.paid_chat import Heard, PaidChat, Question
from int_ray.oracles.prompts import PromptTemplate, prompt_hash
from int_ray.oracles.spending import Ledger
from int_ray.ports import Progress
from int_ray.types import Attempt, OracleReply, Source


@dataclass(frozen=True, slots=True)
class Style:
    """How one kind of oracle is asked."""

    solve_first: bool
    structured: bool
    max_output_tokens: int  # of one turn, thinking included

    @classmethod
    def of(cls, kind: str, config: OracleConfig) -> Style:
        """The style of gemini, openai or policy."""
        if kind == "policy":
            return cls(config.policy.solve_first, False, config.policy.max_tokens)
        api = {"gemini": config.gemini, "openai": config.openai}[kind]
        return cls(False, api.structured, api.max_output_tokens)


class ModelOracle:
    """Implements the Oracle port with one language model; `check` first. Failures are replies, never exceptions."""

    def __init__(
        self,
        kind: str,
        model: ChatModel,
        template: PromptTemplate,
        config: OracleConfig,
        ledger: Ledger,
        cache: AnswerCache,
        progress: Progress,
    ) -> None:
        """`kind`: gemini, openai or policy. Oracles of one run share `ledger` and `cache`."""
        self.kind = kind
        self.model = model
        self.template = template
        self.config = config
        self.style = Style.of(kind, config)
        self.chat = PaidChat(kind, model, self.style.max_output_tokens, config, ledger, cache)
        self.progress = progress
        self._name = f"The oracle {kind} ({model.name})"
        self._news: dict[str, Fault] = {}  # of the current round: what happened -> its first fault

    async def check(self) -> None:
        """Find out, without paying, whether key and model are accepted. Raises RunError if they are not.

        A server that is down is only told about: it may be back by the time that it is needed.
        """
        fault = await self._checked()
        if fault is None:
            return
        what = f"{self._name}: {fault.name}: {fault.detail}"
        if fault.name in ("unauthorized", "forbidden"):
            raise RunError(f"{what}; oracle.{self.kind}.api_key_env must name an environment variable with a valid key")
        if fault.name == "unknown_model":
            raise RunError(f"{what}; set oracle.{self.kind}.model to a model that the server has")
        self.progress.say(f"{what}; going on without, it will be tried again when it is needed")

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """One reply per attempt, in order. A failure in `chat.OUTAGES` means that nothing at all can be asked now."""
        self._news.clear()
        replies = await asyncio.gather(*(self._reply(attempt) for attempt in attempts))
        for what, fault in self._news.items():
            self.progress.say(f"{self._name} {what}: {fault.name}: {fault.detail}")
        return replies

    async def _checked(self) -> Fault | None:
        try:
            async with asyncio.timeout(self.config.deadline_s):
                return await self.chat.patience.retry(lambda _: self.model.check())
        except TimeoutError:
            return Fault("timeout", f"no answer within {self.config.deadline_s:g} s (oracle.deadline_s)")

    async def _reply(self, attempt: Attempt) -> OracleReply:
        """All samples about one attempt, and the kind of its error."""
        prompt = self.template.compose(
            attempt,
            solve_first=self.style.solve_first,
            structured=self.style.structured,
            max_attempt_tokens=self.config.max_attempt_tokens,
        )
        samples = range(self.config.samples)
        reply = merge(await asyncio.gather(*(self._sample(attempt, prompt, sample) for sample in samples)))
        if self.config.categorize and reply.proposals:
            reply = await self._categorized(attempt, reply)
        self.progress.advance()
        return replace(reply, faults=(*prompt.notes, *reply.faults))

    async def _sample(self, attempt: Attempt, prompt: Prompt, sample: int) -> OracleReply:
        """One chat through all its turns."""
        heard: list[Heard] = []
        answers: list[str] = []
        for _ in prompt.turns:
            heard.append(await self._ask(Question(attempt, prompt, sample, tuple(answers))))
            result = heard[-1].result
            if isinstance(result, Fault):
                return OracleReply(failure=result.name, source=self._source(prompt, sample, heard))
            answers.append(result.text)
        reply = self.template.read(attempt, answers[-1])
        source = self._source(prompt, sample, heard)
        proposals = tuple(replace(proposal, source=source) for proposal in reply.proposals)
        return replace(reply, proposals=proposals, source=source)

    async def _categorized(self, attempt: Attempt, reply: OracleReply) -> OracleReply:
        """The reply with the answer to the second question."""
        prompt = self.template.categorize(attempt, reply.log, max_attempt_tokens=self.config.max_attempt_tokens)
        if prompt is None:
            return reply
        result = (await self._ask(Question(attempt, prompt))).result
        if isinstance(result, Fault):
            return replace(reply, faults=(*reply.faults, f"category: {result.name}"))
        category = self.template.read_category(result.text)
        unclear = ("category: unclear",) if category is None else ()
        return replace(reply, category=category, faults=(*reply.faults, *unclear))

    async def _ask(self, question: Question) -> Heard:
        heard = await self.chat.ask(question)
        fault = heard.result
        if isinstance(fault, Fault) and fault.name in OUTAGES:
            self._news.setdefault("cannot be asked now", fault)
        elif isinstance(fault, Fault) and fault.name in (*LASTING, "bad_request"):
            self._news.setdefault("refused a request", fault)
        return heard

    def _source(self, prompt: Prompt, sample: int, heard: Sequence[Heard]) -> Source:
        """Where the reply of one chat comes from; tokens and cost are those of all its turns, as far as known."""
        return Source(
            oracle=self.kind,
            model=self.model.name,
            prompt=prompt.name,
            prompt_hash=prompt_hash(prompt),
            sample=sample,
            input_tokens=sum(item.result.input_tokens for item in heard),
            output_tokens=sum(item.result.output_tokens for item in heard),
            cost=sum(item.cost for item in heard),
            cached=all(item.cached for item in heard),
        )


def merge(samples: Sequence[OracleReply]) -> OracleReply:
    """One reply of all samples about one attempt: proposals in the order of samples, a failure if there are none.

    "No error" is an answer and so stands for all samples that propose nothing; the other failures become faults.
    """
    useful = [reply for reply in samples if reply.proposals]
    failures = [reply.failure for reply in samples if reply.failure is not None]
    failure = None
    if failures and not useful:
        failure = "no_error" if "no_error" in failures else failures[0]
        failures.remove(failure)
    return OracleReply(
        proposals=tuple(proposal for reply in useful for proposal in reply.proposals),
        failure=failure,
        faults=(*failures, *(fault for reply in samples for fault in reply.faults)),
        log=next((reply.log for reply in (*useful, *samples) if reply.log), ""),
        source=_together([reply.source for reply in samples if reply.source is not None]),
    )


def _together(sources: Sequence[Source]) -> Source | None:
    """The first of some samples, with tokens and cost of all."""
    if not sources:
        return None
    return replace(
        sources[0],
        input_tokens=sum(source.input_tokens for source in sources),
        output_tokens=sum(source.output_tokens for source in sources),
        cost=sum(source.cost for source in sources),
        cached=all(source.cached for source in sources),
    )
