from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from int_ray.config_checks import batch_arithmetic
from int_ray.config_file import ConfigError, dump_config, load_config, parse_config
from int_ray.oracle_config import OracleKindName
from int_ray.preflight import require_kernels
from int_ray.training_config import LearnerConfig

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def mistakes(*overrides: str, path: Path = QUICKSTART) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value.problems


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_survives_a_round_trip(path: Path):
    config = load_config(path)
    assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_overrides_are_typed_values():
    config = load_config(QUICKSTART, ["trigger.patience=7", "patch.optimizer.learning_rate=1e-6", "schedule=never"])
    assert (config.trigger.patience, config.patch.optimizer.learning_rate, config.schedule) == (7, 1e-6, "never")


def test_names_of_sets_that_can_be_part_of_a_file_name():
    config = load_config(QUICKSTART, ["evaluate.sets={AIME_2025-I.v1: a.jsonl, trained: b.jsonl}"])
    assert list(config.evaluate.sets) == ["AIME_2025-I.v1", "trained"]


def test_a_typo_names_its_path_and_the_key_that_was_meant():
    assert mistakes("trigger.patince=2") == ("trigger.patince: unknown key, did you mean trigger.patience?",)
    assert mistakes("patience=2") == ("patience: unknown key, did you mean trigger.patience?",)


def test_all_mistakes_come_at_once():
    found = mistakes("rollout.n=many", "triger.patience=2", "run.iterations=0")
    assert len(found) == 3
    assert any(line.startswith("rollout.n: ") and "'many'" in line for line in found)
    assert any(line.startswith("run.iterations: ") and "got 0" in line for line in found)


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("reinforce.mini_batch_size=15", "reinforce.mini_batch_size: 15 does not divide"),
        ("rollout.max_tokens=128", "rollout.max_tokens: 128 leaves no room"),
        ("learner.micro_batch_tokens=100", "learner.micro_batch_tokens: 100 is smaller"),
        ("evaluate.k=[1, 64]", "evaluate.k: [64] exceed evaluate.n = 32"),
        ("learner.weight_sync=nccl", "learner.weight_sync: nccl needs GPUs"),
        ("learner.weight_sync=ipc", "learner.weight_sync: ipc needs GPUs"),
        ("learner.head_chunk=0", "learner.head_chunk: "),
        ("model.dtype=float16", "model.dtype: "),
        ("learner.attention=varlen", "learner.attention: varlen needs learner.device = cuda"),
        ("learner.offload_reference=true", "learner.offload_reference: has no effect"),
        (
            "reinforce.old_logprobs=engine",
            "reinforce.old_logprobs: engine trusts the engine's log-probs, which top_p = 0.95",
        ),
        ("reinforce.importance_cap=2", "reinforce.importance_cap: 2.0 trusts the engine's log-probs"),
        ("trigger.hysteresis=0.9", "trigger.hysteresis: 0.9 must be below"),
        ("reinforce.overlong_buffer=73", "reinforce.overlong_buffer: 73 exceeds"),
        ("evaluate.sets={math/500: a.jsonl}", "evaluate.sets.math/500.[key]: choose a name of letters"),
        ("evaluate.sets={'': a.jsonl}", "evaluate.sets..[key]: choose a name of letters"),
        ("evaluate.sets={train: a.jsonl}", "evaluate.sets.train.[key]: choose a name"),
        ("evaluate.sets={mixed: a.jsonl}", "evaluate.sets.mixed.[key]: choose a name"),
        ("evaluate.sets={interventions: a.jsonl}", "evaluate.sets.interventions.[key]: choose a name"),
        ("oracle={categorize: true, prompt: chains}", "oracle.categorize: prompt: chains has no question"),
        ("oracle={kind: gemini, budget: {tokens: 100}}", "oracle.budget.tokens = 100: no call would be made"),
    ],
)
def test_contradictions_between_settings(override: str, start: str):
    assert mistakes(override)[0].startswith(start)


def test_staleness_needs_importance_sampling_and_unmasked_logprobs():
    (line,) = mistakes("rollout.staleness=1")
    assert line.startswith("rollout.staleness: 1 trains on tokens of older policies; set reinforce.importance_cap")
    plain = ["rollout.top_p=1", "rollout.top_k=0"]
    assert load_config(QUICKSTART, ["rollout.staleness=4", "reinforce.importance_cap=2", *plain]).rollout.staleness == 4
    (line,) = mistakes("reinforce.old_logprobs=engine", "reinforce.importance_cap=2", *plain)
    assert line.startswith("reinforce.importance_cap: has no effect with old_logprobs = engine")


@pytest.mark.parametrize("cap", [[], ["reinforce.importance_cap=2"]])
def test_staleness_with_the_engines_logprobs_says_all_that_has_to_change(cap: list[str]):
    stale = ["rollout.staleness=1", "rollout.top_p=1", "rollout.top_k=0"]
    (line,) = mistakes("reinforce.old_logprobs=engine", *cap, *stale)
    assert line.startswith("rollout.staleness: 1 ")
    assert "; set reinforce.old_logprobs=learner and reinforce.importance_cap, such as 2.0" in line
    advice = ["reinforce.old_logprobs=learner", "reinforce.importance_cap=2.0"]
    assert load_config(QUICKSTART, [*stale, *advice]).rollout.staleness == 1


def test_the_heads_chunk_depends_on_the_device():
    assert load_config(QUICKSTART).learner.head_chunk == 128
    assert LearnerConfig().head_chunk == 1024
    assert LearnerConfig(device="cpu", head_chunk=7).head_chunk == 7


def test_staleness_needs_gpus_of_its_own():
    shared = ["learner.device=cuda", "learner.weight_sync=ipc", "learner.num_ranks=1", "model.dtype=bfloat16"]
    stale = ["rollout.staleness=1", "reinforce.importance_cap=2", "rollout.top_p=1", "rollout.top_k=0"]
    (line,) = mistakes(*shared, *stale)
    assert line.startswith("rollout.staleness: 1 samples while the learner works, which weight_sync = ipc cannot")


def test_flash_attention_that_is_not_installed_is_named():
    config = load_config(
        QUICKSTART,
        [
            "learner.device=cuda",
            "learner.weight_sync=nccl",
            "model.dtype=bfloat16",
            "learner.attention=flash_attention_2",
        ],
    )
    with pytest.raises(ConfigError, match="needs the package flash-attn, which is not installed"):
        require_kernels(config)


@pytest.mark.parametrize(
    ("override", "path"),
    [("oracle.kind=gemni", "oracle.kind"), ("oracle.fallback=[exact, gemni]", "oracle.fallback.1")],
)
def test_a_kind_of_oracle_that_does_not_exist_is_refused_with_those_that_do(override: str, path: str):
    (line,) = mistakes(override)
    assert line.startswith(f"{path}: ") and line.endswith("got 'gemni'")
    assert all(f"'{kind}'" in line for kind in get_args(OracleKindName))


def test_unusable_files(tmp_path: Path):
    assert "no such config file" in mistakes(path=tmp_path / "absent.yaml")[0]
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: {path: [}")
    assert "not valid YAML" in mistakes(path=broken)[0]
    broken.write_text("- a\n- b\n")
    assert "expected sections" in mistakes(path=broken)[0]
    assert mistakes("patience") == ("patience: an override looks like trigger.patience=2",)
    assert mistakes("schedule.x=1") == ("schedule.x: 'schedule' is a value, not a section",)


def test_batch_arithmetic_of_the_quickstart():
    rows = dict(batch_arithmetic(load_config(QUICKSTART)))
    assert rows["rollouts per iteration"] == "40 problems x 16 = 640"
    assert rows["GRPO updates per iteration"] == "40 / 16 = 3 at most"


def test_one_setting_of_the_patch_optimizer_leaves_the_others_at_the_papers_values():
    config = load_config(ROOT / "configs" / "standard_rl_qwen3_4b.yaml", ["patch.optimizer.weight_decay=0.1"])
    assert config.patch.optimizer.lr_schedule == "cosine_with_min_lr"
    assert (config.patch.optimizer.warmup_ratio, config.reinforce.optimizer.warmup_ratio) == (0.1, 0.0)


def test_an_empty_section_has_its_defaults(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(QUICKSTART.read_text() + "\nsegmentation:\n")
    assert mistakes(path=path)[0].startswith("segmentation: unknown key")
    path.write_text(QUICKSTART.read_text().replace("oracle:\n  kind: exact\n  attempts: 4\n", "oracle:\n"))
    assert load_config(path).oracle.attempts == 4
