"""One page over several runs: which runs are an arm, what is drawn, and what is said instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from int_ray.config_file import ConfigError
from int_ray.metrics import Estimate
from int_ray.report.arms import read_arms
from int_ray.report.curves import Curve, draw_curves, spread_out
from int_ray.report.several import headline, score_columns, score_rows, write_comparison
from launch.cli import app
from tests.experiments import write_arm_run
from tests.run_folders import write_run
from tests.unit.test_claims import FREED, write_experiment
from tests.unit.test_report import HOSTILE, Elements, words


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def page(experiment: Path) -> Path:
    return write_comparison([experiment], experiment / "report.html")


def test_everything_of_an_experiment_is_drawn(page: Path):
    drawn = Elements(page.read_text())
    labels = drawn.values("aria-label")
    # pass@8 on 3 sets; reward, held-out pass@1 and two shares; pass@k over k on 3 sets; 2 of places, lengths; drift.
    assert drawn.count("svg") == len(labels) == 3 + 4 + 3 + 3 + 2
    assert labels[0] == (
        "pass@8 on hard_test over iteration: standard RL from 0.00 at 0 to 0.00 at 2; "
        "distillation from 0.00 at 0 to 0.00 at 2; InT from 0.00 at 0 to 1.00 at 2"
    )
    assert "Held-out pass@1 over iteration: standard RL from 1.00 at 0 to 1.00 at 2; " in "".join(labels)
    assert any(label.startswith("hard_train after iteration 2 over k: ") for label in labels)
    assert any(label.startswith("KL from the base over iteration: distillation from 0.00") for label in labels)
    assert "full solutions: median 50 tokens" in "".join(labels)
    ids = drawn.values("id")
    assert len(ids) == len(set(ids))


def test_the_page_says_what_the_runs_come_to(page: Path):
    said = words(page)
    assert "9 of 9 testable claims of the paper reproduced" in said
    assert "standard RL: 2 seeds; distillation: 2 seeds; InT: 2 seeds." in said
    assert "It needs at least 2 sets beside the hard problems; there is 1." in said
    assert "Not drawn" not in said


def test_the_table_has_the_base_the_patched_policy_and_the_end(experiment: Path):
    arms = read_arms([experiment])
    columns = score_columns(arms)
    assert columns == [(name, k) for name in ("hard_test", "hard_train", "easy") for k in (1, 8)]
    rows = {row.name: row.scores for row in score_rows(arms, columns)}
    assert list(rows) == ["base", "standard RL", "distillation + RL", "InT, before RL", "InT + RL"]
    means = {name: [score and score.mean for score in scores.values()] for name, scores in rows.items()}
    assert means["base"] == means["standard RL"] == [0, 0, 0, 0, 1, 1]
    # One of four problems of hard_train has 7 of 8 rollouts right.
    assert means["InT, before RL"] == [0, 0, 0.21875, 0.25, 0.875, 1]
    assert means["InT + RL"] == [0.875, 1, 0.75, 0.75, 1, 1]


def test_a_run_alone_is_one_arm_and_what_is_missing_is_said(tmp_path: Path):
    write_run(tmp_path / "plain", (1.0, 1.0), (), {})
    said = words(write_comparison([tmp_path / "plain"], tmp_path / "page.html"))
    assert "Side by side" in said
    for missing in ("no run was evaluated", "no run has interventions", "KL and entropy were not measured"):
        assert f"Not drawn: {missing}" in said
    assert "There is no run of InT." in said


def test_unfinished_runs_count_as_far_as_all_seeds_went(tmp_path: Path):
    for seed, rewards in enumerate(((0.0, 0.5, 1.0), (0.0,))):
        settings = ["run.iterations=9"]
        write_arm_run(tmp_path / f"int-{seed}", "int", seed, {}, rewards, overrides=settings, ending=None)
    (tmp_path / "int-0/journal.jsonl").write_text((tmp_path / "int-0/journal.jsonl").read_text() + '{"torn')
    page = write_comparison([tmp_path / "int-0", tmp_path / "int-1"], tmp_path / "page.html")
    assert "Training reward over iteration: InT 0.00 at 1" in Elements(page.read_text()).values("aria-label")
    assert "3 of 9" in words(page) and "1 line of journal.jsonl cannot be read" in words(page)


def test_lost_rollouts_are_said_and_the_rest_is_drawn(tmp_path: Path):
    run = write_arm_run(tmp_path / "int", "int", 0, FREED)
    for path in (run / "evaluations").glob("*/*.jsonl"):
        path.unlink()
    page = write_comparison([run], tmp_path / "page.html")
    assert "easy.jsonl is missing" in words(page) and "no run was evaluated" in words(page)
    labels = Elements(page.read_text()).values("aria-label")
    assert any(label.startswith("Training reward") for label in labels)
    assert not any("pass@" in label for label in labels)


def test_an_average_needs_all_benchmarks_after_the_same_iteration(tmp_path: Path):
    sets = {"easy": ["cccc"], "other": ["wwcc"]}
    ends = ({0: sets, 2: sets}, {0: sets, 2: {"easy": ["cccc"]}})
    for seed, evaluations in enumerate(ends):
        arms = read_arms([write_arm_run(tmp_path / f"run{seed}", "standard_rl", seed, evaluations)])
        columns = score_columns(arms)
        assert columns[-1] == ("(average)", 1)
        averages = [row.scores["(average)", 1] for row in score_rows(arms, columns)]
        assert [score and score.mean for score in averages] == [0.75, 0.75 if seed == 0 else None]


def test_unfinished_runs_are_left_out_where_others_are_finished(tmp_path: Path):
    write_arm_run(tmp_path / "int-0", "int", 0, {}, (0.5, 0.75))
    write_arm_run(tmp_path / "int-1", "int", 1, {}, (0.5,), ending="interrupted")
    page = write_comparison([tmp_path / "int-0", tmp_path / "int-1"], tmp_path / "page.html")
    assert "InT: 1 seed." in words(page)
    assert "int-1: interrupted; left out, since other seeds of InT are finished." in words(page)


def test_names_and_settings_sort_runs_into_arms(tmp_path: Path):
    for name, method, seed in (
        ("b-0", "int", 0),
        ("b-1", "int", 4),
        ("plain_seed-3", "standard_rl", 3),
        ("a", "int", 0),
    ):
        write_arm_run(tmp_path / name, method, seed, {}, overrides=[f"patch.epochs={2 + seed}"])
    arms = read_arms([tmp_path / name for name in ("b-0", "b-1", "plain_seed-3", "a")])
    assert [(arm.name, arm.method, list(arm.runs)) for arm in arms] == [
        ("plain", "standard_rl", [3]),
        ("b", "int", [0, 4]),
        ("a", "int", [0]),
    ]
    assert [arm.place for arm in arms] == [0, 2, 3]  # what they look like
    said = words(write_comparison([tmp_path / name for name in ("b-0", "b-1", "a")], tmp_path / "page.html"))
    assert "b: its runs differ in patch.epochs, not in the seed alone." in said
    assert "a: drawn, but no claim is judged by it: another arm is InT too." in said


def test_two_runs_of_one_seed_and_folders_without_runs_are_errors(tmp_path: Path):
    for name in ("int-1", "int-2"):
        write_arm_run(tmp_path / name, "int", 5, {})
    with pytest.raises(ConfigError, match=r"int-1 and .*int-2 are both seed 5 of int; leave one out"):
        read_arms([tmp_path / "int-1", tmp_path / "int-2"])
    (tmp_path / "new/seed-0").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds no runs yet"):
        read_arms([tmp_path / "new"])
    with pytest.raises(ConfigError, match="holds no run"):
        read_arms([tmp_path])


def test_text_of_runs_stays_text(tmp_path: Path):
    folder = tmp_path / "<b>run</b>"
    evaluations = {at: {"<i>$set$": ["cccccccc"], "../../x": ["cccccccc"]} for at in (0, 2)}
    write_arm_run(folder, "standard_rl", 0, {0: {}}, text=HOSTILE)
    journal = folder / "journal.jsonl"
    lines = [
        f'{{"time": "2026-01-01T00:00:00+00:00", "event": "evaluated", "iteration": {at}, "set": "{name}"}}\n'
        for at, sets in evaluations.items()
        for name in sets
    ]
    journal.write_text(journal.read_text() + "".join(lines))
    write_arm_run(tmp_path / "int", "int", 0, {}, text=HOSTILE)
    page = Elements(write_comparison([folder, tmp_path / "int"], tmp_path / "page.html").read_text())
    assert page.count("script") == page.count("img") == page.count("b") == page.count("i") == 0
    assert "<b>run</b>" in page.text
    policy = page.values("content")[0]
    assert "default-src 'none'" in policy and "script-src" not in policy


def test_the_command(tmp_path: Path):
    run = CliRunner().invoke
    one, two = (str(write_run(tmp_path / "runs" / name, (1.0,), (), {})) for name in ("one", "two"))
    result = run(app, ["report", one, two])
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'runs/report.html'}\n"
    result = run(app, ["report", one, two, "--out", str(tmp_path / "no/page.html")])
    assert result.exit_code == 2 and result.stderr.startswith(f"error: cannot write {tmp_path}/no/page.html")
    result = run(app, ["report", one, "--out", str(tmp_path / "one.html")])
    assert result.exit_code == 2 and result.stderr.startswith("error: --out is for several runs; ")
    result = run(app, ["report", one, str(tmp_path)])
    assert result.exit_code == 2 and result.stderr.startswith(f"error: {tmp_path} holds no run")


def test_a_distillation_run_alone_speaks_of_solutions(experiment: Path):
    result = CliRunner().invoke(app, ["report", str(experiment / "seed-0/distillation")])
    assert result.exit_code == 0
    said = words(experiment / "seed-0/distillation/report.html").partition("config.yaml")[0]
    assert "2 of 3 full solutions by the oracle were right, and cloned." in said
    assert "solutions kept" in said and "ntervention" not in said and "missing" not in said


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.9, 1.0, 1.0], [0.8, 0.9, 1.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.1, 0.2]),
        ([], []),
    ],
)
def test_names_at_the_ends_do_not_overlap(values: list[float], expected: list[float]):
    assert spread_out(values, 0.1, 0.0, 1.0) == pytest.approx(expected)


def test_a_curve_of_one_point_is_drawn():
    svg = draw_curves("one", "Reward", [Curve("arm", 7, {3.0: Estimate(0.5, 0.5, 0.5)})], "iteration", doubling=True)
    assert 'aria-label="Reward over iteration: arm 0.50 at 3"' in svg and "NaN" not in svg


def test_without_a_claim_there_is_no_count():
    assert headline([]) == "Side by side"
