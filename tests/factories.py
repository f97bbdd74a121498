"""Small builders for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from int_ray.types import Attempt, Completion, Outcome, Problem, Rollout, RolloutGroup, Step


def weights_bytes(text: str) -> bytes:
    """A safetensors file in which a text stands for weights."""
    from safetensors.numpy import save

    return save({"text": np.frombuffer(text.encode(), np.uint8)})


def weights_text(path: Path) -> str:
    """What `weights_bytes` was given."""
    from safetensors.numpy import load_file

    return load_file(path)["text"].tobytes().decode()


def tiny_checkpoint(folder: Path, *, tied: bool = True, seed: int = 0, max_length: int = 512) -> Path:
    """A random Qwen3 of about 0.1M parameters with the chains tokenizer, in Hugging Face format."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from int_ray.chains.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_length,
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.1,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def problem(index: int = 0) -> Problem:
    """`12+5-3=?` under the id p{index}."""
    return Problem(f"p{index}", "12+5-3=?", "14", "12+5=17\n\n17-3=14\n\n\\boxed{14}")


def completion(text: str = "12+5=18\n\n18-3=15\n\n\\boxed{15}", *, finished: bool = True, seed: int = 0) -> Completion:
    """A completion whose token ids are the text's code points plus an end token 1."""
    ids = np.array([ord(character) for character in text] + [1] * finished, dtype=np.int32)
    return Completion(ids, np.full(len(ids), -0.5, np.float32), text, finished, seed)


def group(outcomes: str, *, index: int = 0, version: int = 0) -> RolloutGroup:
    """One rollout per letter: c(orrect), w(rong), u(nparsable), t(runcated), x (grader timeout), e(rror)."""
    names = {
        "c": Outcome.CORRECT,
        "w": Outcome.WRONG,
        "u": Outcome.UNPARSABLE,
        "t": Outcome.TRUNCATED,
        "x": Outcome.TIMEOUT,
        "e": Outcome.ERROR,
    }
    rollouts = tuple(Rollout(completion(seed=i), names[letter], version) for i, letter in enumerate(outcomes))
    return RolloutGroup(problem(index), np.array([3, 4], np.int32), np.array([], np.int32), rollouts)


def attempt(*steps: str, index: int = 0, of: Problem | None = None) -> Attempt:
    """A failed attempt whose steps are given; token ids are code points."""
    rollout = Rollout(completion("".join(steps)), Outcome.WRONG, 0)
    spans, position = [], 0
    for text in steps:
        spans.append(Step(position, position + len(text), text))
        position += len(text)
    return Attempt(of or problem(index), np.array([3, 4], np.int32), rollout, tuple(spans))
