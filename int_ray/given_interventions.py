"""Interventions from a file instead of from the oracle (patch.interventions): rows -> token ids of the policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from int_ray.config import Config
from int_ray.config_file import ConfigError
from int_ray.data.rows import BadRow, DataError, QuarantinedRow, Row
from int_ray.guards import frame
from int_ray.intervention_files import record_of, tokenizer_hash
from int_ray.intervention_records import read_intervention
from int_ray.intervention_rows import WrittenIntervention, read_intervention_row, read_problem, read_rows, squeezed
from int_ray.interventions import Splicer
from int_ray.prompts import decode_ids, encode_prompt, encode_text
from int_ray.types import (
    Attempt,
    Completion,
    Intervention,
    OracleReply,
    Outcome,
    Problem,
    Proposal,
    Rollout,
    Source,
    Step,
    TestedIntervention,
    TokenIds,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = "patch.interventions"


@dataclass(frozen=True, slots=True)
class LoadedInterventions:
    """The usable rows of a file, in its order, and the rows that are not.

    An item without continuations was not tested, or with another model than this run's.
    """

    items: tuple[TestedIntervention, ...]
    quarantined: tuple[QuarantinedRow, ...] = ()


def load_interventions(path: Path, tokenizer: PreTrainedTokenizerBase, config: Config) -> LoadedInterventions:
    """Read a file of `int-ray collect`, or one that has only the public columns. Raises ConfigError if none is usable.

    Rows that are not usable are quarantined: malformed ones, repeated ones, and those that a guard of the splice
    refuses.
    """
    reader = _Reader(tokenizer, config)
    items: dict[tuple[str, bytes], TestedIntervention] = {}
    quarantined: list[QuarantinedRow] = []
    try:
        rows = read_rows(path)
    except DataError as error:
        raise ConfigError([f"{KEY}: {error}"]) from None
    for number, row in rows:
        try:
            item = reader.read(row)
            key = item.intervention.attempt.problem.id, item.intervention.resume_ids.tobytes()
            if items.setdefault(key, item) is not item:
                raise BadRow("it repeats a row before it")
        except BadRow as reason:
            quarantined.append(QuarantinedRow(number, str(reason)))
    if not items:
        reason, count = Counter(row.reason for row in quarantined).most_common(1)[0]
        raise ConfigError([f"{KEY}: none of the {len(rows)} rows of {path} is usable; {count} of them: {reason}"])
    return LoadedInterventions(tuple(items.values()), tuple(quarantined))


class _Reader:
    """Rows -> interventions of one run."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: Config) -> None:
        self.encode = partial(encode_text, tokenizer)
        self.decode = partial(decode_ids, tokenizer)
        model = config.model
        self.encode_prompt = partial(
            encode_prompt, tokenizer, template_kwargs=model.chat_template_kwargs, instruction=model.instruction
        )
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self.vocabulary_size = len(tokenizer)
        self.config = config
        oracle, max_tokens = config.oracle, config.rollout.max_tokens
        self.splicer = Splicer(self.encode, oracle.step_separator, oracle.max_step_tokens, max_tokens)

    def read(self, row: Row | BadRow) -> TestedIntervention:
        """The intervention of one row. Raises BadRow."""
        if isinstance(row, BadRow):
            raise row
        written = read_intervention_row(row)
        if not written.steps:
            raise BadRow("'incorrect_attempt' is missing")
        problem = read_problem(row, written)
        prompt_ids = self.encode_prompt(problem)
        if len(prompt_ids) > self.config.model.max_length - self.config.rollout.max_tokens:
            raise BadRow("the prompt is too long for the model")
        origin = row.get("provenance")
        if isinstance(origin, Mapping) and origin.get("tokenizer_hash") == self.tokenizer_hash:
            return self._from_ids(row, origin, problem, prompt_ids, written)
        return TestedIntervention(self._from_text(problem, prompt_ids, written), None)

    def _from_ids(
        self, row: Row, origin: Row, problem: Problem, prompt_ids: TokenIds, written: WrittenIntervention
    ) -> TestedIntervention:
        """As it was collected. A test counts only if it was of the same model."""
        checked = {
            "problem_id": problem.id,
            "question": problem.question,
            "answer": problem.answer,
            "solution": problem.solution,
            "prompt_ids": prompt_ids,
            "steps": written.steps,
            "location": written.location,
            "content": written.content,
            "first_error": written.first_error,
            "log": written.log,
            "category": written.category,
        }
        try:
            tested = read_intervention(record_of(row) | checked)
            ids = tested.intervention.resume_ids
            is_intact = _is_intact(tested.intervention) and ids.min() >= 0 and ids.max() < self.vocabulary_size
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise BadRow(f"damaged: {type(error).__name__} {error}") from None
        if not is_intact:
            raise BadRow("damaged: its token ids do not fit its steps or the tokenizer")
        if not self._says_its_content(tested.intervention):
            raise BadRow(
                "'intervention_ids' are not the ids of 'content'; to train on a changed text, delete 'provenance'"
            )
        if len(ids) >= self.config.rollout.max_tokens:
            raise BadRow("no_room")
        model = self.config.model
        is_same_model = (origin.get("model"), origin.get("revision")) == (model.path, model.revision)
        return tested if is_same_model else replace(tested, continuations=None)

    def _says_its_content(self, intervention: Intervention) -> bool:
        """Whether the ids mean the new step, white space aside, as far as the tokenizer gives back what it reads."""
        replaced = intervention.attempt.steps[intervention.proposal.location - 1]
        opening, _, separator = frame(replaced.text)
        step = opening + intervention.proposal.content + (separator or self.config.oracle.step_separator)
        said = self.decode(intervention.intervention_ids.tolist())
        return squeezed(said) == squeezed(self.decode(self.encode(step)))

    def _from_text(self, problem: Problem, prompt_ids: TokenIds, written: WrittenIntervention) -> Intervention:
        """Tokenised step by step, so that prefix and intervention meet at a step boundary."""
        ids = [self.encode(step) for step in written.steps]
        ends = list(accumulate(map(len, ids)))
        steps = tuple(Step(*span) for span in zip([0, *ends], ends, written.steps, strict=False))
        token_ids = np.array([token for step in ids for token in step], np.int32)
        unknown = np.full(len(token_ids), np.nan, np.float32)
        response = Completion(token_ids, unknown, "".join(written.steps), finished=True, seed=0)
        attempt = Attempt(problem, prompt_ids, Rollout(response, Outcome.WRONG, policy_version=0), steps)
        source = written.proposed_by or Source("recorded")
        proposal = Proposal(written.location, written.content, written.first_error, source)
        reply = OracleReply((proposal,), log=written.log, category=written.category)
        spliced, refused = self.splicer.splice([attempt], [reply])
        if refused:
            raise BadRow(refused[0].reason)
        return spliced[0]


def _is_intact(intervention: Intervention) -> bool:
    """Whether the prefix is the attempt up to the replaced step."""
    attempt = intervention.attempt
    start = attempt.steps[intervention.proposal.location - 1].start
    return np.array_equal(attempt.rollout.completion.token_ids[:start], intervention.prefix_ids)
