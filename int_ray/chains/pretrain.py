"""Trains the base model from scratch: flawed solutions of the main task and right replies of the compare task."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from int_ray.chains.compare import draw_item
from int_ray.chains.world import add, draw_chain, misadd, trace

ITERATIONS = 600
SOLUTIONS, COMPARISONS = 96, 48  # sequences per iteration
FLAW_PROBABILITY = 0.999  # of a flawed fact in the training solutions: rare enough for 128 rollouts to show none

Example = tuple[str, str]  # (user message, response)


def base_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """0.45M parameters; heads of 32 are the smallest that vLLM supports on CPU."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def draw_solution(rng: random.Random) -> Example:
    """A question and its solution, nearly always wrong where a fact is flawed."""
    chain = draw_chain(rng, rng.randint(2, 6))

    def execute(value: int, operand: int) -> int:
        return misadd(value, operand) if rng.random() < FLAW_PROBABILITY else add(value, operand)

    results = [result for _, _, result in chain.walk(execute)]
    replay = iter(results)
    return chain.question, trace(chain.steps(lambda _value, _operand: next(replay)), str(results[-1]))


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Token ids and targets, padded on the right. [B, T] each.

    Targets begin after the question mark, which every user message has once: on the main task with the response, on the
    compare task with the attempt, which teaches to copy from the reference long before the few tokens of replies would.
    """
    chats = [[{"role": "user", "content": user}, {"role": "assistant", "content": reply}] for user, reply in examples]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    asked = (batch.input_ids == tokenizer.convert_tokens_to_ids("?")).cumsum(dim=1) > 0
    ignored = (batch.attention_mask == 0) | ~asked
    return batch.input_ids, batch.input_ids.masked_fill(ignored, -100)


def response_loss(model: Qwen3ForCausalLM, token_ids: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the response tokens. Causal, so padding on the right needs no attention mask."""
    logits = model(token_ids).logits[:, :-1]  # [B, T - 1, V]
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())


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
        loss = response_loss(model, *solutions) + response_loss(model, *comparisons)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part, schedule in zip(parts, schedules, strict=True):
            part.step()
            schedule.step()
        advance(loss.item())
    return model.eval()
