"""Text of the world -> token ids of the policy, and back. Templates are applied once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from int_ray.types import Problem, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from int_ray.oracles.chat import Message


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    template_kwargs: Mapping[str, bool | str | int],
    instruction: str = "",
) -> TokenIds:
    """The chat prompt that asks the question, up to where the policy's response starts. [P]

    The bare question, unless there is an `instruction` to follow it.
    """
    content = f"{problem.question}\n\n{instruction}" if instruction else problem.question
    return _encode_turns(tokenizer, [{"role": "user", "content": content}], template_kwargs)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template_kwargs: Mapping[str, bool | str | int]
) -> TokenIds:
    """A chat, up to where the policy's next answer starts. [P]

    Control tokens in the messages, which quote what a policy wrote, become blanks: they would end the turn.
    """
    turns = []
    for message in messages:
        content = message.content
        for token in tokenizer.all_special_tokens:
            content = content.replace(token, " ")
        turns.append({"role": message.role, "content": content})
    return _encode_turns(tokenizer, turns, template_kwargs)


def _encode_turns(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], template_kwargs: Mapping[str, bool | str | int]
) -> TokenIds:
    options: dict[str, Any] = {**template_kwargs, "add_generation_prompt": True, "return_dict": False}
    return np.asarray(tokenizer.apply_chat_template(turns, **options), np.int32)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text that others wrote: what looks like a control token in it stays plain text, and none is added."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def decode_ids(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of token ids exactly as it was written, special tokens included; what `segmentation.Decode` asks for."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # a list of texts only for a list of sequences
    return text
