"""Scores of an evaluation, by hand and against scipy; how it decodes; its files and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap

from int_ray.config import Config
from int_ray.config_file import ConfigError, load_config
from int_ray.decoding import Decoding, checkpoints, decoding, served
from int_ray.evaluation import Tally, curve_sizes, score_checkpoint, score_set
from int_ray.evaluation_results import AVERAGE, Results, markdown, read_results, rows_by_set, write_results
from int_ray.metrics import estimate_average, estimate_mean
from int_ray.report.evaluation_page import write_evaluation_report
from int_ray.rollout_records import group_record
from tests.factories import group

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
LENGTH = len("12+5=18\n\n18-3=15\n\n\\boxed{15}") + 1  # of the responses of factories.group


def tally(outcomes: str) -> Tally:
    return Tally.of(json.loads(json.dumps(group_record(group(outcomes)))))


def config(*overrides: str) -> Config:
    return load_config(QUICKSTART, overrides)


def test_a_tally_counts_outcomes_and_tokens() -> None:
    assert tally("ccwtxe") == Tally(correct=2, ungraded=2, truncated=1, tokens=(LENGTH,) * 6)


def test_a_set_is_scored_by_hand() -> None:
    score = score_set([tally("ccww"), tally("wwtt"), tally("cccc")], ks=[1, 2, 4], seed=0)
    assert score.num_problems == 3
    assert score.pass_at[1].mean == pytest.approx((2 / 4 + 0 + 1) / 3)
    assert score.pass_at[2].mean == pytest.approx((1 - 1 / 6 + 0 + 1) / 3)  # one of the 6 pairs has no success
    assert score.pass_at[4].mean == pytest.approx(2 / 3)
    assert score.unsolved.mean == pytest.approx(1 / 3)
    assert score.truncated.mean == pytest.approx(2 / 12)
    assert score.response_tokens.mean == LENGTH


def test_grader_failures_count_as_not_correct_and_leave_problems_open() -> None:
    score = score_set([tally("xw"), tally("ww"), tally("cx")], ks=[1], seed=0)
    assert score.ungraded == pytest.approx(2 / 6)
    assert score.pass_at[1].mean == pytest.approx(1 / 6)
    assert score.unsolved.mean == pytest.approx(1 / 2)  # the first problem is on neither side


def test_k_above_n_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@4 needs at least 4 rollouts per problem, there are 2"):
        score_set([tally("cw")], ks=[4], seed=0)


def test_the_average_gives_every_set_the_same_weight() -> None:
    scores = score_checkpoint("x", {"small": [tally("c")], "large": [tally("w")] * 99}, ks=[1], seed=0)
    assert scores.average[1].mean == 0.5


def test_the_interval_of_the_average_is_the_bootstrap_within_sets() -> None:
    rng = np.random.default_rng(1)
    sets = [rng.random(size).tolist() for size in (30, 40, 100)]
    estimate = estimate_average(sets, seed=5)
    # Independent check: the standard error of a mean of independent means.
    error = np.sqrt(sum(np.var(values) / len(values) for values in sets)) / len(sets)
    assert estimate.mean == pytest.approx(np.mean([np.mean(values) for values in sets]))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    drawn = [rng.choice(values, (4000, len(values))).mean(axis=1) for values in sets]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


def test_the_interval_of_one_set_is_that_of_scipy() -> None:
    values = np.random.default_rng(2).random(50).tolist()
    theirs = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(3))
    ours = estimate_mean(values, seed=3)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval))


def test_a_set_with_one_problem_does_not_spoil_the_average() -> None:
    estimate = estimate_average([[1.0], [0.0, 1.0]], seed=0)
    assert (estimate.mean, estimate.low, estimate.high) == (0.75, 0.5, 1.0)


@pytest.mark.parametrize(
    ("n", "ks", "sizes"), [(1, [1], [1]), (8, [1, 8], [1, 2, 4, 8]), (12, [5], [1, 2, 4, 5, 8, 12])]
)
def test_sizes_of_a_curve(n: int, ks: list[int], sizes: list[int]) -> None:
    assert curve_sizes(n, ks) == sizes


def test_presets_fill_in_only_what_is_left_open() -> None:
    assert decoding(config()) == Decoding(0.6, 0.95, 0, 72)  # the quickstart's own
    assert decoding(config("evaluate.decoding=e3")) == Decoding(0.6, 0.95, 20, 32768)
    assert decoding(config("evaluate.decoding=qwen3_4b")) == Decoding(0.7, 0.8, 20, 32768)
    own = config("evaluate.decoding=e3", "evaluate.top_k=0", "evaluate.max_tokens=64", "evaluate.temperature=1")
    assert decoding(own) == Decoding(1.0, 0.95, 0, 64)


def test_engines_of_a_checkpoint() -> None:
    settings = served(config("model.revision=abc", "evaluate.decoding=e3", "evaluate.max_tokens=64"), "other/model")
    assert (settings.model.path, settings.model.revision) == ("other/model", None)
    assert (settings.rollout.top_k, settings.rollout.max_tokens, settings.rollout.n) == (20, 64, 16)


def test_the_model_itself_is_evaluated_unless_checkpoints_are_named() -> None:
    assert checkpoints(config()) == {"model": "int_ray/chains/data/base"}
    assert checkpoints(config("evaluate.checkpoints={a: x/y, b: z}")) == {"a": "x/y", "b": "z"}


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".."])
def test_checkpoint_names_are_file_names(name: str) -> None:
    with pytest.raises(ConfigError, match="choose a name of letters"):
        config(f"evaluate.checkpoints={{'{name}': x}}")


def results() -> Results:
    ks = curve_sizes(4, [1, 2])
    sets = {"hard": [tally("cwww"), tally("wwww")], "easy": [tally("cccc"), tally("ccct")]}
    scores = {"base": score_checkpoint("runs/a", sets, ks, seed=0), "<b>": score_checkpoint("runs/b", sets, ks, seed=0)}
    return Results(4, (1, 2), Decoding(0.6, 0.95, 20, 32768), "e3", scores)


def test_results_are_read_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(write_results(results()))
    assert read_results(path) == results()
    assert json.loads(path.read_text())["checkpoints"]["base"]["sets"]["hard"]["pass_at"]["1"]["mean"] == 0.125


@pytest.mark.parametrize("damage", ["", "{}", '{"n": 4,'])
def test_a_half_written_results_file_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(damage)
    with pytest.raises(ConfigError, match=r"results\.json cannot be read") as caught:
        read_results(path)
    assert len(caught.value.problems) == 1 and "\n" not in caught.value.problems[0]


def test_the_table_has_a_row_for_each_set_and_checkpoint_and_the_averages() -> None:
    rows = rows_by_set(results())
    assert [(name, [row[1] for row in rows[name]]) for name in rows] == [
        (name, ["base", "<b>"]) for name in ("hard", "easy", AVERAGE)
    ]
    text = markdown(results())
    assert "| hard | base | 2 | 0.125 [0.000, 0.250] |" in text and "4 rollouts per problem" in text
    assert "top-k 20" in text and "(preset e3)" in text


def test_the_page_is_strict_and_shows_a_curve_for_every_set(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(write_results(results()))
    page = write_evaluation_report(tmp_path).read_text()
    assert "default-src 'none'" in page and "<script" not in page
    assert len(re.findall("<svg", page)) == 3 and "&lt;b&gt;" in page and "<b>" not in page
    assert "pass@k over k on hard: base from 0.12 at 1 to 0.50 at 4" in page
