"""The runs of `int-ray compare`: their configs, what arms may differ in, and when a run is finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.checkpoint import Checkpoints
from actors.storage import open_storage
from int_ray.arms import arm_runs, is_below, leaves, run_name
from int_ray.comparison_results import as_json, as_markdown, compare_runs
from int_ray.config_file import ConfigError, dump_config, load_config
from int_ray.types import RunState
from launch.commands import Given
from launch.comparison import Comparison, is_finished
from launch.train import find_start
from tests.experiments import write_arm_run
from tests.factories import weights_bytes, weights_text
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


def test_every_run_has_a_copy_of_its_own(tmp_path: Path):
    found = runs(f"run.folder={tmp_path}", "run.storage=s3://bucket/experiment/", "compare.seeds=2")
    copies = [run.config.run.storage for run in found]
    assert copies[:2] == ["s3://bucket/experiment/seed-0/standard_rl", "s3://bucket/experiment/seed-0/distillation"]
    assert len(set(copies)) == 6
    assert {run.config.run.storage for run in runs()} == {None}
    (mistake,) = mistakes("compare.arms.int=[run.storage=s3://bucket/x]")
    assert mistake == "compare.arms.int: run.storage=s3://bucket/x: int-ray compare sets that itself; leave it out"


def test_what_is_stored_elsewhere_is_fetched_and_must_be_of_the_same_recipe(tmp_path: Path):
    url = f"file://{tmp_path}/store"
    lost = tmp_path / "lost"
    for run in runs(f"run.folder={lost}", f"run.storage={url}")[:2]:  # as a machine leaves it that is gone
        folder = run.config.run.folder
        checkpoints, state = Checkpoints(folder / "checkpoints", 2), RunState(iteration=10)
        partial = checkpoints.begin(state)
        (partial / "model.safetensors").write_bytes(weights_bytes(run.arm))
        (folder / "config.yaml").write_text(dump_config(run.config))
        (folder / "journal.jsonl").write_text('{"event": "started"}\n')
        assert run.config.run.storage is not None
        open_storage(run.config.run.storage).send(folder, checkpoints.complete(partial, state))

    def fetched(folder: str, override: str) -> Comparison:
        overrides = [f"run.folder={tmp_path / folder}", f"run.storage={url}", override]
        comparison = Comparison(Given("compare", COMPARE, overrides, (), resumed=True))
        comparison.fetch()
        return comparison

    comparison = fetched("same", "patch.batch_size=32")
    for run in comparison.runs[:2]:
        start = find_start(run.config, "auto")
        assert start.state.iteration == 10 and start.checkpoint is not None
        assert weights_text(start.checkpoint / "model.safetensors") == run.arm
    assert len(comparison.fetched) == 2 and not comparison.runs[2].config.run.folder.exists()
    with pytest.raises(ConfigError, match=r"patch\.batch_size: 16, but the run to resume has 32"):
        fetched("other", "patch.batch_size=16")


def test_an_arm_with_the_name_of_a_method_is_of_that_method():
    assert mistakes("compare.arms.standard_rl=[]", "compare.arms.int=[patch.clone=solutions]") == (
        "compare.arms.standard_rl: with its settings it is int (schedule, patch.clone); name it otherwise",
        "compare.arms.int: with its settings it is distillation (schedule, patch.clone); name it otherwise",
    )
    runs("compare.arms.short=[patch.clone=solutions, patch.epochs=1]")  # other names are free


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
    for override in (
        "patch.epochs=5",
        "reinforce.kl_coef=0",
        "trigger.patience=9",
        "oracle.attempts=2",
        "problems.train=other.jsonl",
        "rollout.n=8",
        "rollout.batch_size=64",
        "evaluate.after_patch=false",
        "schedule=plateau",
    ):
        result = cli(*given[:3], override, "--resume", "auto", "--dry-run")
        key = override.partition("=")[0]
        assert result.exit_code == 2 and f"error: {key}: " in result.stderr, (override, result.stderr)
    free = ("compare.seeds=4", "oracle.budget.calls=9", "rollout.deadline_s=7", "run.checkpoint_every=2")
    assert cli(*given[:3], *free, "--resume", "auto", "--dry-run").exit_code == 0


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


def test_seeds_of_an_arm_are_runs_of_different_names():
    assert run_name(Path("runs/compare/seed-3/int")) == "seed-3/int"
    assert run_name(Path("runs/int")) == "int" and run_name(Path("seed-3")) == "seed-3"
