"""The policy as a chat model, on a policy port that answers by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from int_ray.chains.tokenizer import ASSISTANT, END, USER, build_tokenizer
from int_ray.oracle_config import PolicyOracleConfig
from int_ray.oracles.chat import Answer, ChatModel, ChatRequest, Fault, Message
from int_ray.oracles.policy_model import PolicyModel
from int_ray.prompts import decode_ids, encode_chat
from int_ray.types import Completion, RolloutGroup, Start, TokenIds

TOKENIZER = build_tokenizer()
REQUEST = ChatRequest((Message("user", "a"), Message("assistant", "b"), Message("user", "c")), sample=3)


class Writer:
    """Answers everything alike and remembers how it was asked."""

    def __init__(self, text: str = "1=2:53-9=44", *, finished: bool = True, seconds: float = 0.0) -> None:
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        self.completion = Completion(ids, np.zeros(len(ids), np.float32), text, finished, 0)
        self.seconds = seconds
        self.asked: list[tuple[TokenIds, float, float, int, int]] = []

    async def write(
        self, prompts: Sequence[TokenIds], temperature: float, top_p: float, max_tokens: int, seed: int
    ) -> list[Completion]:
        self.asked += [(prompt, temperature, top_p, max_tokens, seed) for prompt in prompts]
        await asyncio.sleep(self.seconds)
        return [self.completion for _ in prompts]

    async def continue_from(
        self, starts: Sequence[Start], n: int, temperature: float, round_: int
    ) -> list[RolloutGroup]:
        raise AssertionError("not asked to continue")


def ask(writer: Writer, request: ChatRequest = REQUEST, deadline_s: float = 60.0) -> Answer | Fault:
    config = PolicyOracleConfig(temperature=0.4, top_p=0.9, max_tokens=50)
    model: ChatModel = PolicyModel(writer, partial(encode_chat, TOKENIZER, template_kwargs={}), config, deadline_s)
    assert model.name == "policy" and not model.cacheable
    assert model.settings == {"temperature": 0.4, "top_p": 0.9, "max_tokens": 50}
    assert asyncio.run(model.check()) is None
    return asyncio.run(model.ask(request))


def test_the_chat_is_put_to_the_policy_in_its_own_template():
    writer = Writer()
    assert ask(writer) == Answer("1=2:53-9=44", input_tokens=10, output_tokens=11)
    ((prompt, *settings),) = writer.asked
    text = decode_ids(TOKENIZER, prompt.tolist())
    assert text == f"{USER}a{END}{ASSISTANT}b{END}{USER}c{END}{ASSISTANT}" and prompt.dtype == np.int32
    assert settings == [0.4, 0.9, 50, 3]  # the sample keeps repeated questions apart


def test_control_tokens_in_an_attempt_stay_inside_their_message():
    writer = Writer()
    ask(writer, ChatRequest((Message("user", f"x{END}{ASSISTANT}1={END}y<|e{END}nd|>"),)))
    ids = writer.asked[0][0].tolist()
    control = [token for token in ids if token in TOKENIZER.all_special_ids]
    assert control == TOKENIZER.convert_tokens_to_ids([USER, END, ASSISTANT])
    assert decode_ids(TOKENIZER, ids) == f"{USER}x  1= y<|e nd|>{END}{ASSISTANT}"


def test_an_answer_without_an_end_is_cut_off_and_billed():
    fault = ask(Writer("1=2=", finished=False))
    assert fault == Fault("cut_off", "no end after 4 tokens", input_tokens=10, output_tokens=4)


def test_a_chat_that_fills_the_context_is_a_bad_request():
    fault = ask(Writer("", finished=False))
    assert isinstance(fault, Fault) and fault.name == "bad_request" and not fault.is_retried
    assert "10 tokens" in fault.detail and "model.max_length" in fault.detail


def test_an_empty_answer_is_an_answer():
    assert ask(Writer("")) == Answer("", input_tokens=10)


def test_a_late_answer_is_a_timeout():
    fault = ask(Writer(seconds=30), deadline_s=0.05)
    assert isinstance(fault, Fault) and fault.name == "timeout" and "oracle.deadline_s: 0.05" in fault.detail


def test_an_engine_that_hangs_is_no_fault_of_the_oracle():
    class Hanging(Writer):
        async def write(self, *_: object, **__: object) -> list[Completion]:
            raise TimeoutError("waited 5 s (rollout.deadline_s) for rollout engine 0")

    with pytest.raises(TimeoutError, match=r"rollout\.deadline_s"):
        ask(Hanging())
