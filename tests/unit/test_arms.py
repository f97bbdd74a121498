"""The runs of `int-ray compare`: their configs, what arms may differ in, and when a run is finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from int_ray.arms import arm_runs, is_below, leaves
from int_ray.comparison_results import as_json, as_markdown, compare_runs
from int_ray.config_file import ConfigError, dump_config, load_config
from launch.comparison import is_finished
from tests.experiments import write_arm_run
from tests.unit.test_cli import cli

COMPARE = "configs/compare.yaml"


def runs(*overrides: str):
    return arm_runs(COMPARE, overrides, load_config(COMPARE, overrides))


def mistakes(*overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        runs(*overrides)
    return error.value.problems


def test_every_arm_and_seed_is_an_ordinary_run(tmp_path: Path):
    found = runs("compare.seeds=2", "run.seed=5", f"run.folder={tmp_path}")
    assert [(run.arm, run.seed) for run in found] == [
        (arm, seed) for seed in (5, 6) for arm in ("standard_rl", "distillation", "int")
    ]
    configs = [run.config for run in found]
    assert [config.run.folder for config in configs[:2]] == [
        tmp_path / "seed-5" / "standard_rl",
        tmp_path / "seed-5" / "distillation",
    ]
    assert [(config.schedule, config.patch.clone) for config in configs[:3]] == [
        ("never", "interventions"),
        ("paper", "solutions"),
        ("paper", "interventions"),
    ]
    assert {config.run.seed for config in configs} == {5, 6}
    assert {config.oracle.cache for config in configs} == {tmp_path / "oracle_answers.jsonl"}  # no question paid twice
    assert not any(config.compare.arms for config in configs)


def test_the_evaluation_of_the_shipped_experiment_draws_figure_7():
    evaluate = runs()[0].config.evaluate
    assert (evaluate.n, evaluate.every, evaluate.after_patch, evaluate.drift) == (16, 10, True, True)
    assert list(evaluate.sets) == ["hard_train", "hard_test", "easy"]


def test_arms_share_engines_learner_and_evaluation():
    (mistake,) = mistakes("compare.arms.int=[rollout.temperature=0.7]")
    assert mistake.startswith("compare.arms.int: rollout.temperature: 0.7, but standard_rl has 0.6; arms share engines")
    assert len(mistakes("compare.arms.int=[learner.num_ranks=1, evaluate.n=8, rollout.n=8]")) == 2  # rollout.n is free


def test_every_mistake_is_one_line():
    found = mistakes("compare.arms.int=[patch.epoch=3, run.seed=7]", "compare.seeds=3")
    assert found == (
        "compare.arms.int: run.seed=7: int-ray compare sets that itself; leave it out",
        "compare.arms.int: patch.epoch: unknown key, did you mean patch.epochs?",
    )
    assert mistakes("compare.arms={int: []}")[0].startswith("compare.arms: name at least two arms")
    with pytest.raises(ConfigError, match="choose a name of letters"):
        load_config(COMPARE, ["compare.arms={int-1: [], other: []}"])


def test_names_of_settings():
    assert leaves({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
    assert is_below("run.seed", ["run"]) and is_below("run", ["run"]) and not is_below("runner", ["run"])


def test_a_run_is_finished_when_its_last_process_got_to_the_end(tmp_path: Path):
    assert not is_finished(tmp_path / "none")
    journal, summary = tmp_path / "journal.jsonl", tmp_path / "summary.json"
    summary.write_text("{}")
    for events, finished in ((["started", "finished"], True), (["started", "finished", "started"], False)):
        journal.write_text("".join(json.dumps({"event": event}) + "\n" for event in events))
        assert is_finished(tmp_path) is finished
    journal.write_text('{"event": "finished"}\n')
    summary.unlink()
    assert not is_finished(tmp_path)


def test_the_command_refuses_a_config_without_arms(tmp_path: Path):
    result = cli("compare", "configs/quickstart.yaml", f"run.folder={tmp_path / 'new'}")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: compare.arms: name at least two arms")


def test_a_dry_run_shows_arms_and_seeds(tmp_path: Path):
    result = cli("compare", COMPARE, f"run.folder={tmp_path / 'new'}", "--seeds", "3", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "arm distillation" in result.stdout and "seeds: 3" in result.stdout
    assert not (tmp_path / "new").exists()


def test_a_resumed_comparison_keeps_its_arms(tmp_path: Path):
    (tmp_path / "journal.jsonl").write_text('{"event": "comparing"}\n')
    (tmp_path / "config.yaml").write_text(dump_config(load_config(COMPARE, [f"run.folder={tmp_path}"])))
    given = ("compare", COMPARE, f"run.folder={tmp_path}", "compare.arms.int=[patch.epochs=9]")
    assert "already holds a run; add --resume auto" in cli(*given).stderr
    result = cli(*given, "--resume", "auto")
    assert result.exit_code == 2 and "compare.arms" in result.stderr and "the run to resume has" in result.stderr


def test_results_for_programs_and_people(tmp_path: Path):
    rollouts = {0: {"easy": ["cccc", "cccc"]}, 2: {"easy": ["cccc", "cwww"]}}
    for arm in ("standard_rl", "int"):
        for seed in (0, 1):
            write_arm_run(tmp_path / f"seed-{seed}" / arm, arm, seed, rollouts)
    results = compare_runs(tmp_path)
    assert results.seeds == {"standard_rl": [0, 1], "int": [0, 1]}
    rows = {(row["policy"], row["k"]): row for row in json.loads(as_json(results))["pass_at"] if row["set"] == "easy"}
    assert rows["base", 1]["mean"] == 1.0
    assert rows["InT + RL", 1]["mean"] == pytest.approx(0.625)  # (1 + 1/4) / 2
    text = as_markdown(results)
    lines = text.splitlines()
    assert any(line.startswith("| InT + RL | 0.625 [0.250, 1.000] |") for line in lines), text
    claims = [line for line in lines if "| not testable |" in line or "reproduced |" in line]
    assert len(claims) == len(results.claims) > 5
    widths = {line.count("|") - line.count("\\|") for line in claims}
    assert widths == {5}
