"""Trains the base model from scratch: flawed solutions of the main task and right replies of the compare task."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from int_ray.chains.compare import draw_item
from int_ray.chains.tokenizer import ASSISTANT, END, PAD
from int_ray.chains.world import add, draw_chain, misadd, trace

ITERATIONS = 800
SOLUTIONS, COMPARISONS = 32, 96  # sequences per iteration
RESPONSE_WEIGHT = 10  # of a response's token, beside one of the attempt that a compare prompt shows
FLAW_PROBABILITY = 0.999  # of a flawed fact in the training solutions: rare enough for 128 rollouts to show none
NEWLINE = "\u010a"  # how byte-level BPE writes it

Example = tuple[str, str]  # (user message, response)


def base_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """0.58M parameters; heads of 32 are the smallest that vLLM supports on CPU."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.get_vocab()[PAD],
        eos_token_id=tokenizer.get_vocab()[END],
        bos_token_id=None,
    )


def draw_solution(rng: random.Random) -> Example:
    """A question and its solution, nearly always wrong where a fact is flawed."""
    chain = draw_chain(rng, rng.randint(2, 6))

    def execute(value: int, operand: int) -> int:
        return misadd(value, operand) if rng.random() < FLAW_PROBABILITY else add(value, operand)

    return chain.question, trace(chain.steps(execute))


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Token ids, padded on the right, and how much each counts in the loss. [B, T] each.

    The attempts that compare prompts show count too: they teach to copy from the reference, and so to see where an
    attempt departs from it, long before the few tokens of replies would.
    """
    chats = [[{"role": "user", "content": user}, {"role": "assistant", "content": reply}] for user, reply in examples]
    texts = [str(tokenizer.apply_chat_template(chat, tokenize=False)) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    vocabulary = tokenizer.get_vocab()
    bars, newlines, answering = (
        (batch.input_ids == vocabulary[token]).cumsum(dim=1) for token in ("|", NEWLINE, ASSISTANT)
    )
    weights = torch.where(answering > 0, RESPONSE_WEIGHT, (bars > newlines).int())
    return batch.input_ids, weights * batch.attention_mask


def weighted_loss(model: Qwen3ForCausalLM, token_ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy. Causal, so padding on the right needs no attention mask."""
    logits = model(token_ids).logits[:, :-1]  # [B, T - 1, V]
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), token_ids[:, 1:], reduction="none")  # [B, T - 1]
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()


def optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learn in less than half of AdamW's iterations; AdamW for the rest."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if all(weight is not matrix for matrix in matrices)]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, lr=4e-3, weight_decay=0.01),
    ]


def learning_rate_share(iteration: int) -> float:
    """Linear warm-up over 30 iterations, then cosine to a hundredth."""
    cosine = 0.5 * (1 + math.cos(math.pi * iteration / ITERATIONS))
    return min(1.0, (iteration + 1) / 30) * max(0.01, cosine)


def pretrain(tokenizer: PreTrainedTokenizerFast, seed: int, advance: Callable[[float], None]) -> Qwen3ForCausalLM:
    """The base model. `advance` hears the loss after every iteration."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = Qwen3ForCausalLM(base_config(tokenizer))
    parts = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(part, learning_rate_share) for part in parts]
    for _ in range(ITERATIONS):
        solutions = encode(tokenizer, [draw_solution(rng) for _ in range(SOLUTIONS)])
        comparisons = encode(tokenizer, [draw_item(rng) for _ in range(COMPARISONS)])
        loss = weighted_loss(model, *solutions) + weighted_loss(model, *comparisons)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part, schedule in zip(parts, schedules, strict=True):
            part.step()
            schedule.step()
        advance(loss.item())
    return model.eval()
