"""The configs of the paper's runs have the values of its tables, differ where they should, and fit on their GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from int_ray.config import Config
from int_ray.config_checks import num_gpus
from int_ray.config_file import dump_config, load_config
from int_ray.decoding import decoding
from int_ray.memory_plan import Shape, memory_plans, warnings
from launch.cli import app
from tests.factories import tiny_checkpoint

ROOT = Path(__file__).parents[2]
ARMS = ("int", "distillation", "standard_rl")
# Table 3, from its rows: batch, mini batch, learning rate, KL, entropy, temperature, top-p, n, lower and higher clip.
TABLE_3 = {
    "e3_1_7b": (32, 16, 1e-6, 0.001, 0.001, 0.6, 0.95, 16, 0.2, 0.35),
    "qwen3_4b": (32, 16, 1e-6, 0.001, 0.0, 1.0, 1.0, 8, 0.2, 0.35),
}
# Tables 4 and 5: batch, epochs, learning rate, scheduler, floor, warm-up.
TABLES_4_AND_5 = {
    "distillation_e3_1_7b": (32, 100, 1e-7, "cosine_with_min_lr", 0.1, 0.1),
    "int_e3_1_7b": (64, 16, 1e-6, "cosine_with_min_lr", 0.1, 0.1),
    "distillation_qwen3_4b": (32, 22, 1e-7, "cosine_with_min_lr", 0.1, 0.1),
    "int_qwen3_4b": (32, 8, 1e-6, "cosine_with_min_lr", 0.1, 0.1),
}
APPENDIX_E = {"e3_1_7b": (0.6, 0.95, 20, 32768), "qwen3_4b": (0.7, 0.8, 20, 32768)}
SHAPES = {
    "e3_1_7b": Shape(28, 2048, 16, 8, 128, 6144, 151936, tied=True),
    "qwen3_4b": Shape(36, 2560, 32, 8, 128, 9728, 151936, tied=True),
}
RECIPES = [f"{arm}_{model}" for model in TABLE_3 for arm in ARMS]


def recipe(name: str, *overrides: str) -> Config:
    return load_config(ROOT / f"configs/{name}.yaml", overrides)


def model_of(name: str) -> str:
    return next(model for model in TABLE_3 if name.endswith(model))


@pytest.mark.parametrize("name", RECIPES)
def test_rl_is_that_of_table_3(name: str):
    config = recipe(name)
    rollout, reinforce = config.rollout, config.reinforce
    values = (
        rollout.batch_size,
        reinforce.mini_batch_size,
        reinforce.optimizer.learning_rate,
        reinforce.kl_coef,
        reinforce.entropy_coef,
        rollout.temperature,
        rollout.top_p,
        rollout.n,
        reinforce.clip_low,
        reinforce.clip_high,
    )
    assert values == TABLE_3[model_of(name)]
    assert config.schedule == ("never" if name.startswith("standard_rl") else "paper")
    found = decoding(config)
    assert (found.temperature, found.top_p, found.top_k) == APPENDIX_E[model_of(name)][:3]


@pytest.mark.parametrize(("name", "values"), TABLES_4_AND_5.items())
def test_the_patch_is_that_of_tables_4_and_5(name: str, values: tuple):
    patch = recipe(name).patch
    optimizer = patch.optimizer
    schedule = (optimizer.lr_schedule, optimizer.min_lr_rate, optimizer.warmup_ratio)
    assert (patch.batch_size, patch.epochs, optimizer.learning_rate, *schedule) == values
    assert patch.clone == ("solutions" if name.startswith("distillation") else "interventions")


@pytest.mark.parametrize("model", TABLE_3)
def test_arms_of_a_model_differ_in_the_method_alone(model: str):
    """What the engines, the learner and the evaluations are built from is the same."""
    trees: list[dict[str, Any]] = [yaml.safe_load(dump_config(recipe(f"{arm}_{model}"))) for arm in ARMS]
    for tree in trees:
        for key in ("schedule", "patch", "oracle", "hard_set"):
            del tree[key]
        del tree["run"]["folder"], tree["problems"]["train"], tree["evaluate"]["after_patch"]
    assert trees[0] == trees[1] == trees[2]
    sets = list(trees[0]["evaluate"]["sets"])
    assert sets[:2] == ["hard_train", "hard_test"] and len(sets) == 2 + 7  # Table 2


@pytest.mark.parametrize("name", [*RECIPES, "public_qwen3_4b"])
def test_every_recipe_fits_on_one_node_of_8_gpus_with_80_gb(name: str):
    config = recipe(name)
    assert num_gpus(config) == 8
    plans = memory_plans(config, SHAPES[model_of(name)], 80e9)
    assert plans and not warnings(plans, 80e9)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings that put a model of the same kind and a small problem file in the place of what only a hub has."""
    folder = tmp_path_factory.mktemp("recipes")
    tiny_checkpoint(folder / "model", max_length=40960)
    rows = [{"id": str(i), "problem": f"{i}+1=?", "answer": str(i + 1)} for i in range(32)]
    (folder / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"model.path={folder / 'model'}", f"problems.train={folder / 'hard.jsonl'}", "evaluate.sets={}"]


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("train", name) for name in (*RECIPES, "public_qwen3_4b")), ("ablate", RECIPES[0])],
)
def test_a_dry_run_shows_the_plan_of_every_recipe(
    command: str, name: str, local: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GEMINI_API_KEY", "a-key-that-no-dry-run-uses")
    folder = tmp_path / "run"
    arguments = [command, str(ROOT / f"configs/{name}.yaml"), "--dry-run", *local, f"run.folder={folder}"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.replace("│", " ").split())
    assert " GPUs 8 " in said
    assert "GPU memory, each learner GPU, training: about" in said
    assert "GPU memory, each engine GPU: about" in said
    assert not folder.exists()
