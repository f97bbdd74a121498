"""The data that flows through the trainer: one frozen type per stage.

`Problem -> Completion -> Rollout -> RolloutGroup -> Attempt -> Proposal -> Intervention -> TrainingSample -> Update`

Shapes: P tokens of the prompt, T tokens of a response, S tokens of a response's kept prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
Logprobs = NDArray[np.float32]
Category = Literal["high", "execution"]  # kind of an error: of the approach, or in carrying it out (paper, Fig. 4)


class Outcome(StrEnum):
    """What the verifier found. Only CORRECT earns the reward."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"  # the response ended, but holds no final answer
    TRUNCATED = "truncated"  # the response hit the token limit: counts as wrong, shown apart
    TIMEOUT = "timeout"  # the grader ran out of time: says nothing about the response
    ERROR = "error"  # the grader failed: says nothing about the response

    @property
    def is_graded(self) -> bool:
        """False when the grader failed, so that the rollout is neither right nor wrong."""
        return self not in (Outcome.TIMEOUT, Outcome.ERROR)


class Purpose(StrEnum):
    """What rollouts are for. It enters their seeds, so that no purpose repeats another's samples."""

    TRAIN = "train"
    TEST_INTERVENTION = "test_intervention"
    EXPLORE = "explore"
    ANSWER = "answer"  # of the policy, asked as an oracle
    EVALUATE = "evaluate"
    SELECT = "select"  # of hard problems: their own samples, or an evaluation of the set would repeat the failures


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its reference answer and, for the oracle only, a reference solution.

    Example: `Problem("p7", "12+5-3=?", "14", "12+5=17\\n\\n17-3=14\\n\\n\\\\boxed{14}")`
    """

    id: str
    question: str
    answer: str
    solution: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One sampled response, not yet graded."""

    token_ids: TokenIds  # [T], the end-of-sequence token included if it was sampled
    rollout_logprobs: Logprobs  # [T], of the sampled tokens at the sampling temperature
    text: str  # without special tokens
    finished: bool  # False: the token limit cut it off
    seed: int
    switches: tuple[int, ...] = ()  # indices of the tokens from which on the next policy version sampled


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One graded response and the policy version that sampled its first token.

    Token t is of version `policy_version` plus the number of `completion.switches` that are at most t.
    """

    completion: Completion
    outcome: Outcome
    policy_version: int

    @property
    def reward(self) -> float:
        """1 for a correct final answer, else 0 (paper, section 3)."""
        return float(self.outcome is Outcome.CORRECT)


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """All rollouts of one problem from one prefix; `prefix_ids` is empty unless they were resumed."""

    problem: Problem
    prompt_ids: TokenIds  # [P]
    prefix_ids: TokenIds  # [S]
    rollouts: tuple[Rollout, ...]

    @property
    def graded(self) -> tuple[Rollout, ...]:
        """The rollouts that the verifier could judge."""
        return tuple(rollout for rollout in self.rollouts if rollout.outcome.is_graded)

    @property
    def any_solved(self) -> bool:
        """Whether at least one rollout is correct."""
        return any(rollout.outcome is Outcome.CORRECT for rollout in self.rollouts)

    @property
    def is_undetermined(self) -> bool:
        """No success, but a grader failure hides at least one verdict. Never feeds the trigger."""
        return not self.any_solved and len(self.graded) < len(self.rollouts)

    @property
    def is_unsolved(self) -> bool:
        """Every rollout was judged and none is correct: these go to the oracle."""
        return not self.any_solved and not self.is_undetermined

    @property
    def has_zero_advantage(self) -> bool:
        """All judged rollouts have the same outcome reward: all wrong or all right."""
        return len({rollout.reward for rollout in self.graded}) <= 1

    @property
    def success_rate(self) -> float:
        """Share of correct rollouts among the judged ones; 0 if none was judged."""
        graded = self.graded
        return sum(rollout.reward for rollout in graded) / len(graded) if graded else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where the policy continues: a problem's prompt and the first tokens of a response."""

    problem: Problem
    prompt_ids: TokenIds  # [P]
    prefix_ids: TokenIds  # [S]


@dataclass(frozen=True, slots=True)
class Step:
    """One reasoning step: response tokens `start:end`."""

    start: int
    end: int
    text: str
    replaceable: bool = True  # False for what follows the thinking part


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A failed rollout, cut into steps, as the oracle reads it."""

    problem: Problem
    prompt_ids: TokenIds  # [P]
    rollout: Rollout
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Who proposed something, how it was asked and what that cost: the provenance of an intervention."""

    oracle: str  # kind, as in oracle.kind; own: an object of the user's
    model: str = ""
    prompt: str = ""  # name and version of the prompt, such as math-1
    prompt_hash: str = ""  # of the whole prompt as sent
    sample: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0  # in the currency of oracle.prices; what a cached answer had cost
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """One replacement step. `location` is 1-based: the step to replace, at the first error, before or after it."""

    location: int
    content: str
    first_error: int | None = None  # 1-based, if the oracle said so
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class OracleReply:
    """What the oracle said about one attempt: proposals, or the named reason why there are none.

    Example: `OracleReply((Proposal(3, "17-3=14"),))`, `OracleReply(failure="no_error")`
    """

    proposals: tuple[Proposal, ...] = ()
    failure: str | None = None
    faults: tuple[str, ...] = ()  # named, counted flaws that did not spoil the reply, such as location_out_of_range
    log: str = ""  # the oracle's verification log, for people
    category: Category | None = None
    source: Source | None = None  # of the whole reply, failed ones included: tokens and cost of all its samples


@dataclass(frozen=True, slots=True, eq=False)
class Intervention:
    """Prefix + corrective step, spliced on token ids (y~ = [y_<i, y_int,i], Algorithm 1 line 7)."""

    attempt: Attempt
    proposal: Proposal
    prefix_ids: TokenIds  # [S], the attempt's own tokens before the replaced step
    intervention_ids: TokenIds  # [I], the new step with the replaced step's separator
    reply: OracleReply = OracleReply()  # the whole reply that the proposal comes from

    @property
    def resume_ids(self) -> TokenIds:
        """Prefix and intervention, from where the policy continues. [S + I]"""
        return np.concatenate([self.prefix_ids, self.intervention_ids])


@dataclass(frozen=True, slots=True, eq=False)
class TestedIntervention:
    """An intervention with the continuations that tested it, or None where no test was asked for."""

    __test__ = False  # pytest: not a test class

    intervention: Intervention
    continuations: RolloutGroup | None

    @property
    def helps(self) -> bool:
        """At least one continuation reached a right answer."""
        return self.continuations is not None and self.continuations.any_solved


@dataclass(frozen=True, slots=True)
class ProblemSets:
    """What a run trains on and what it is judged by."""

    train: Sequence[Problem]
    evaluation: Mapping[str, Sequence[Problem]] = field(default_factory=dict)
    mixed: Sequence[Problem] = ()  # solvable ones that join every RL batch
    interventions: Sequence[TestedIntervention] = ()  # from a file, to patch with before the first iteration


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSample:
    """One sequence for the learner. Token t is trained where `loss_mask[t]` is 1."""

    token_ids: TokenIds  # [P + T]
    loss_mask: NDArray[np.uint8]  # [P + T], 0 on the prompt
    advantage: float = 0.0  # used by reinforce only
    rollout_logprobs: Logprobs | None = None  # [P + T], 0 where the mask is 0; for the engine-mismatch metric


# One inner sequence per optimizer update.
UpdateBatches = Sequence[Sequence[TrainingSample]]


@dataclass(frozen=True, slots=True)
class Update:
    """What a patch or a reinforce phase did to the weights."""

    num_updates: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    skipped: str | None = None  # why there was nothing to train on
    not_finite: tuple[int, ...] = ()  # of the batches, counted from 0: those without an update, as loss or gradient was

    @property
    def changed_weights(self) -> bool:
        """Whether the engines need new weights."""
        return self.num_updates > 0


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands: everything beside the weights that a resumed run needs.

    `trigger` is the JSON-ready state of the intervention trigger. The data position follows from `iteration`, unless
    problems are sampled ahead: `submitted` and `pending` count in the order of sampling.
    """

    iteration: int = 0
    policy_version: int = 0
    intervention_rounds: int = 0
    window_start: int = 0  # first iteration whose failures the trigger's window may hold
    trigger: Mapping[str, float] = field(default_factory=dict)
    outage: str | None = None  # why the oracle could not be asked in the last round
    skipped_in_row: int = 0  # updates that were not finite since the last one that was
    submitted: int = 0  # problems sent to the engines so far
    pending: Sequence[int] = field(default_factory=list)  # numbers of those that were not trained on yet
