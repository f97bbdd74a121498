"""Text of the world -> token ids of the policy, and back. Templates are applied once, to the question alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from int_ray.types import Problem, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, template_kwargs: Mapping[str, bool | str | int]
) -> TokenIds:
    """The chat prompt that asks the bare question, up to where the policy's response starts. [P]"""
    messages = [{"role": "user", "content": problem.question}]
    options: dict[str, Any] = {**template_kwargs, "add_generation_prompt": True, "return_dict": False}
    ids = tokenizer.apply_chat_template(messages, **options)
    return np.asarray(ids, np.int32)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text that others wrote: what looks like a control token in it stays plain text, and none is added."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def decode_ids(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of token ids exactly as it was written, special tokens included; what `segmentation.Decode` asks for."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # a list of texts only for a list of sequences
    return text
