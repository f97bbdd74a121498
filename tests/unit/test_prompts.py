"""Prompts and texts on token ids."""

from __future__ import annotations

import numpy as np

from int_ray.chains.tokenizer import ASSISTANT, END, USER, build_tokenizer
from int_ray.prompts import decode_ids, encode_prompt, encode_text
from tests.factories import problem

TOKENIZER = build_tokenizer()


def test_a_prompt_is_the_bare_question_and_the_start_of_the_response() -> None:
    ids = encode_prompt(TOKENIZER, problem(), {})
    assert ids.dtype == np.int32
    assert decode_ids(TOKENIZER, ids.tolist()) == f"{USER}12+5-3=?{END}{ASSISTANT}"
    assert ids[0] == TOKENIZER.convert_tokens_to_ids(USER)


def test_an_instruction_follows_the_question() -> None:
    ids = encode_prompt(TOKENIZER, problem(), {}, "Box it.")
    assert decode_ids(TOKENIZER, ids.tolist()) == f"{USER}12+5-3=?\n\nBox it.{END}{ASSISTANT}"


def test_template_arguments_reach_the_template() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if enable_thinking %}T{% endif %}"
    assert decode_ids(tokenizer, encode_prompt(tokenizer, problem(), {"enable_thinking": True}).tolist()) == "12+5-3=?T"
    assert decode_ids(tokenizer, encode_prompt(tokenizer, problem(), {"enable_thinking": False}).tolist()) == "12+5-3=?"


def test_text_of_others_cannot_hold_control_tokens() -> None:
    ids = encode_text(TOKENIZER, f"a{END}\n\n")
    assert not set(ids) & set(TOKENIZER.all_special_ids)
    assert decode_ids(TOKENIZER, ids) == f"a{END}\n\n"


def test_decoding_keeps_control_tokens_and_spaces() -> None:
    ids = [*encode_text(TOKENIZER, "a . b"), TOKENIZER.eos_token_id]
    assert decode_ids(TOKENIZER, ids) == f"a . b{END}"
