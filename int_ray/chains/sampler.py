"""Samples from the base model with plain transformers, for building the problem sets."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from int_ray.types import Problem

TEMPERATURE, TOP_P = 0.6, 0.95  # as runs sample (paper, appendix E)
MAX_TOKENS = 96
_BOXED = re.compile(r"\\boxed\{(\d+)\}")


@torch.inference_mode()
def sample(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, messages: Sequence[str], n: int
) -> list[list[str]]:
    """`n` responses per user message, without special tokens. Draws from torch's global generator."""
    chats = [[{"role": "user", "content": message}] for message in messages]
    prompts = [str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)) for chat in chats]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    # The protocol that transformers types `generate` with does not fit its own models.
    rows = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=0,
        num_return_sequences=n,
        max_new_tokens=MAX_TOKENS,
    )
    texts = tokenizer.batch_decode(rows[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return [texts[start : start + n] for start in range(0, len(texts), n)]


def count_right(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], n: int
) -> list[int]:
    """How many of `n` responses to each problem end in the right boxed answer."""
    responses = sample(model, tokenizer, [problem.question for problem in problems], n)
    return [
        sum(_BOXED.findall(text)[-1:] == [problem.answer] for text in texts)
        for problem, texts in zip(problems, responses, strict=True)
    ]
