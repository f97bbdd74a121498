"""configs/chain_sum.yaml for two iterations: reasoning-gym, math-verify, Monte Carlo, and a model made here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.factories import tiny_checkpoint

ROOT = Path(__file__).parents[2]
TAUGHT = re.compile(r"Hm\.\s+\\boxed\{(\d)\}")


def chain_sum(size: int, seed: int) -> str:
    return f'{{path: "reasoning_gym:chain_sum", options: {{size: {size}, seed: {seed}, max_terms: 2, max_digits: 1}}}}'


SMALL = [
    "model.dtype=float32",
    "model.max_length=192",
    "model.instruction=Box it.",
    f"problems.train={chain_sum(16, 0)}",
    "rollout.batch_size=8",
    "rollout.n=8",
    "rollout.max_tokens=40",
    "rollout.kv_cache_gb=0.25",
    "oracle.attempts=1",
    "oracle.monte_carlo.continuations=4",
    "trigger={threshold: 0.01, hysteresis: 0.0, patience: 1, cooldown: 0}",
    "patch.continuations=4",
    "reinforce.mini_batch_size=4",
    "learner.device=cpu",
    "learner.weight_sync=shm",
    f"evaluate.sets={{long_sums: {chain_sum(8, 1)}}}",
    "run.iterations=2",
]


def teach_guessing(folder: Path) -> Path:
    """A tiny model that writes a step and a box with any digit: right now and then, whatever was asked."""
    import torch
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    from int_ray.chains.pretrain import encode, weighted_loss

    path = tiny_checkpoint(folder)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = Qwen3ForCausalLM.from_pretrained(path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    asked = "State the final answer to the following arithmetic problem: {} =\n\nBox it."
    sums = ("4 + 3", "8 - 2")  # every digit after either, so that there is nothing to learn but to guess
    answers = [f"Hm.\n\n\\boxed{{{digit}}}" for digit in range(10)]
    batch = encode(tokenizer, [(asked.format(sum_), answer) for sum_ in sums for answer in answers])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine these small products would wait for each other
    for _ in range(150):
        loss = weighted_loss(model, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(path)
    return path


def lines(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_run_on_a_task_of_somebody_else(tmp_path: Path):
    folder = tmp_path / "run"
    model = f"model.path={teach_guessing(tmp_path / 'model')}"
    command = [sys.executable, "-m", "launch.cli", "train", "configs/chain_sum.yaml", f"run.folder={folder}", model]
    run = subprocess.run([*command, *SMALL], cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    metrics = lines(folder / "metrics.jsonl")
    assert {row["iteration"] for row in metrics} == {1, 2}
    assert all(row["sync/canary_error"] < 1e-3 for row in metrics if "sync/canary_error" in row)
    assert json.loads((folder / "summary.json").read_text())["evaluation"].keys() == {"long_sums"}

    groups = lines(*folder.glob("rollouts/*.jsonl"), *folder.glob("evaluations/*/*.jsonl"))
    assert all(group["question"].startswith("State the final answer to the following") for group in groups)
    verdicts = {"correct": 0, "wrong": 0}
    for group in groups:
        for rollout in group["rollouts"]:
            if rollout["finished"] and (taught := TAUGHT.fullmatch(rollout["text"])):
                assert (rollout["outcome"] == "correct") == (int(taught[1]) == int(group["answer"]))
                verdicts[rollout["outcome"]] += 1
    assert verdicts["correct"] > 0 and verdicts["wrong"] > verdicts["correct"]

    journal = lines(folder / "journal.jsonl")
    assert "intervention_round" in {event["event"] for event in journal} and journal[-1]["event"] == "finished"
    asked = lines(*folder.glob("interventions/*.jsonl"))
    assert asked and all(item["source"]["oracle"] == "monte_carlo" for item in asked if item["content"])
    assert {item["status"] for item in asked} <= {"kept", "unhelpful", "not_selected", "refused"}
