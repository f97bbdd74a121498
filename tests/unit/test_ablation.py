"""Table 1 against in-process fakes: the rows, what each patch is made of, a crash at any place; the command's start."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from actors.ablation import Ablation
from actors.collector import Collector
from actors.run_folder import RunFolder
from int_ray.ablation import (
    PATCHES,
    ROWS,
    Table,
    finished_table,
    first_per_problem,
    markdown,
    read_table,
    score_row,
    table_rows,
    to_clone,
    without_step,
    write_table,
)
from int_ray.chains.tokenizer import build_tokenizer
from int_ray.config_file import ConfigError, dump_config, load_config, parse_config
from int_ray.errors import RunError
from int_ray.evaluation import Tally
from int_ray.intervention_round import InterventionRound
from int_ray.oracle_config import OracleConfig
from int_ray.ports import CollectingPorts, Ports
from int_ray.prompts import encode_text
from int_ray.report.ablation_page import write_ablation_report
from int_ray.segmentation import Segmenter
from int_ray.training_config import PatchConfig
from int_ray.types import (
    Intervention,
    Problem,
    Proposal,
    Purpose,
    RolloutGroup,
    TestedIntervention,
    Update,
    UpdateBatches,
)
from launch.ablation import BEGINS, WITHOUT_RL, TableOne
from launch.cli import app
from launch.commands import Given, program
from tests.factories import attempt, group, problem
from tests.fakes import FakeGrader, FakeLearner, FakeOracle, FakePolicy, FakeProgress, FakeRollouts, FakeWeightSync

if TYPE_CHECKING:
    from int_ray.preflight import Inputs
    from launch.console import ConsoleProgress

TOKENIZER = build_tokenizer()
ROOT = Path(__file__).parents[2]
QUICKSTART = "configs/quickstart.yaml"
PROBLEMS = [problem(index) for index in range(5)]
SOLVED = "p1"  # by the base model, so that the oracle is not asked about it


class Crash(BaseException):
    """The process dies."""


class Rollouts(FakeRollouts):
    """Notes how long the prefixes are that it continues from; dies at a call of `sample` for an evaluation."""

    def __init__(self, policy: FakePolicy, dies_at: int | None):
        super().__init__(policy)
        self.dies_at = dies_at
        self.evaluations = 0
        self.prefixes: list[list[int]] = []

    async def sample(self, problems: Sequence[Problem], n: int, purpose: Purpose, round_: int) -> list[RolloutGroup]:
        if purpose is Purpose.EVALUATE:
            if self.evaluations == self.dies_at:
                raise Crash
            self.evaluations += 1
        return await super().sample(problems, n, purpose, round_)

    async def resume_from(self, interventions: Sequence[Intervention], n: int, round_: int) -> list[RolloutGroup]:
        self.prefixes.append([len(item.resume_ids) for item in interventions])
        return await super().resume_from(interventions, n, round_)


class Learner(FakeLearner):
    """Keeps what it was patched with."""

    def __init__(self, policy: FakePolicy):
        super().__init__(policy, [problem.id for problem in PROBLEMS])
        self.patched_with: list[UpdateBatches] = []
        self.not_finite: tuple[int, ...] = ()

    async def patch(self, batches: UpdateBatches) -> Update:
        self.patched_with.append(batches)
        return replace(await super().patch(batches), not_finite=self.not_finite)


@dataclass
class World:
    folder: RunFolder
    policy: FakePolicy
    rollouts: Rollouts
    learner: Learner
    ablation: Ablation
    resets: list[PatchConfig] = field(default_factory=list)

    def run(self) -> Table:
        try:
            return asyncio.run(self.ablation.run())
        finally:
            self.folder.close()


def build(path: Path, *, dies_at: int | None = None, helps: bool = True) -> World:
    """Five problems, one of which the base model solves always and the others never; a patch solves half of each."""
    tree = {
        "model": {"path": "some/model", "max_length": 256},
        "problems": {"train": "hard.jsonl", "reward": "exact"},
        "rollout": {"batch_size": 2, "n": 4, "max_tokens": 128},
        "oracle": {"attempts": 2},
        "patch": {"continuations": 4, "epochs": 1},
        "reinforce": {"mini_batch_size": 2},
        "ablate": {"n": 8},
        "run": {"folder": str(path)},
    }
    config = parse_config(tree)
    policy = FakePolicy({SOLVED: 1.0}, responds_to_interventions=helps)
    rollouts, learner = Rollouts(policy, dies_at), Learner(policy)
    collecting = CollectingPorts(rollouts, FakeGrader(), FakeOracle(), FakeProgress())
    round_ = InterventionRound(
        collecting,
        Segmenter(lambda ids: "".join(map(chr, ids)), ("wait",)),
        partial(encode_text, TOKENIZER),
        config.oracle,
        config.patch,
        config.rollout.max_tokens,
    )
    folder = RunFolder(path)
    collector = Collector(config, PROBLEMS, collecting, round_, folder, TOKENIZER)
    resets: list[PatchConfig] = []

    async def reset(patch: PatchConfig) -> None:
        resets.append(patch)
        policy.skill = {SOLVED: 1.0}

    ports = Ports(**vars(collecting), learner=learner, weights=FakeWeightSync(policy))
    ablation = Ablation(config, PROBLEMS, ports, collector, folder, reset)
    return World(folder, policy, rollouts, learner, ablation, resets)


def recount(path: Path) -> dict[str, tuple[int, float]]:
    """Row -> problems with a right rollout and accuracy, counted in the files of the rows alone."""
    counted = {}
    for row in ROWS:
        lines = (path / "rows" / f"{row.name}.jsonl").read_text().splitlines()
        outcomes = [[one["outcome"] for one in json.loads(line)["rollouts"]] for line in lines]
        right = [item.count("correct") / len(item) for item in outcomes]
        counted[row.name] = sum(share > 0 for share in right), sum(right) / len(PROBLEMS)
    return counted


def test_the_seven_rows_agree_with_a_recount_from_the_files(tmp_path: Path):
    world = build(tmp_path)
    table = world.run()
    assert list(table.rows) == [row.name for row in ROWS] and len(ROWS) == 7
    found = {name: (score.nonzero, pytest.approx(score.accuracy.mean)) for name, score in table.rows.items()}
    assert recount(tmp_path) == found
    # Of five problems the base solves one; four have an intervention, which half of the continuations profit from.
    assert (table.problems, table.without_intervention) == (5, 1)
    expected = dict.fromkeys(("from_intervention", "with_intervention"), (4, 4 * 0.5 / 5))
    patched = dict.fromkeys((row.name for row in PATCHES), (5, 0.5))
    assert {name: pytest.approx(value) for name, value in {"naive": (1, 0.2), **expected, **patched}.items()} == found
    assert read_table(tmp_path / "results.json") == table
    assert (tmp_path / "results.md").read_text() == markdown(table)


def test_every_patch_starts_from_the_base_and_toggles_one_setting(tmp_path: Path):
    world = build(tmp_path)
    world.run()
    settings = [(patch.filter, patch.clone_prefix, patch.clone_suffix) for patch in world.resets]
    assert settings == [(True, True, False), (False, True, False), (True, False, False), (True, True, True)]
    usual, unfiltered, _, whole = (batches[0] for batches in world.learner.patched_with)
    assert len(usual) == len(unfiltered) == 4  # all interventions help here
    assert min(len(sample.token_ids) for sample in whole) > max(len(sample.token_ids) for sample in usual)


def test_from_intervention_has_the_prefix_only(tmp_path: Path):
    world = build(tmp_path)
    world.run()
    tests, before, after = world.rollouts.prefixes[-3:]
    assert before == [0, 0, 0, 0]  # the first step is replaced
    assert len(after) == 4 and min(after) > 0 and len(tests) >= 1


def test_without_a_helpful_intervention_only_the_unfiltered_patch_changes_anything(tmp_path: Path):
    world = build(tmp_path, helps=False)
    table = world.run()
    assert {name: score.cloned for name, score in table.rows.items() if score.cloned is not None} == {
        "patch": 0,
        "no_filter": 4,
        "no_prefix": 0,
        "suffix": 0,
    }
    assert len(world.learner.patched_with) == 1 and len(world.resets) == 4
    assert table.rows["patch"].accuracy == table.rows["naive"].accuracy
    assert table.rows["no_filter"].nonzero == 5


@pytest.mark.parametrize("dies_at", range(5))  # in the first row, then in each of the patched ones
def test_after_a_crash_finished_rows_are_not_sampled_again(tmp_path: Path, dies_at: int):
    whole = build(tmp_path / "whole").run()
    with pytest.raises(Crash):
        build(tmp_path / "halves", dies_at=dies_at).run()
    resumed = build(tmp_path / "halves")
    assert resumed.run() == whole
    assert resumed.rollouts.evaluations == 5 - dies_at
    assert all(purpose is not Purpose.TRAIN for purpose, _, _ in resumed.rollouts.calls)  # the collection was over
    again = build(tmp_path / "halves")
    assert again.run() == whole and again.rollouts.calls == [] and again.resets == []


def test_a_patch_that_left_updates_out_is_no_row(tmp_path: Path):
    world = build(tmp_path)
    world.learner.not_finite = (0,)
    with pytest.raises(RunError, match=r"prefix, no suffix, filter: loss or gradient of 1 updates is not finite"):
        world.run()
    assert not (tmp_path / "rows" / "patch.jsonl").exists() and (tmp_path / "rows" / "naive.jsonl").exists()


def test_only_a_whole_table_is_finished(tmp_path: Path):
    assert finished_table(tmp_path) is None
    table = build(tmp_path).run()
    assert finished_table(tmp_path) == table
    results, row = tmp_path / "results.json", tmp_path / "rows" / "suffix.jsonl"
    row.rename(row.with_suffix(".away"))
    assert finished_table(tmp_path) is None
    row.with_suffix(".away").rename(row)
    results.write_text(write_table(Table(8, 5, 1, {"naive": table.rows["naive"]})))
    assert finished_table(tmp_path) is None
    results.write_text("{")
    assert finished_table(tmp_path) is None


@pytest.mark.parametrize("cut", [0, 100, -3])
def test_a_damaged_row_is_sampled_again_and_half_a_results_file_is_replaced(tmp_path: Path, cut: int):
    table = build(tmp_path).run()
    file = tmp_path / "rows" / "no_filter.jsonl"
    file.write_bytes(file.read_bytes()[:cut])
    results = tmp_path / "results.json"
    results.write_bytes(results.read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"results.json cannot be read .* int-ray ablate with --resume auto"):
        read_table(results)
    resumed = build(tmp_path)
    assert resumed.run() == table == read_table(results)
    assert resumed.rollouts.evaluations == 1 and len(resumed.resets) == 1


def test_scores_by_hand():
    tallies = {"a": Tally(2, 1, 0, (1,) * 4), "b": Tally(0, 0, 0, (1,) * 4)}
    score = score_row(PATCHES[0], tallies, ["a", "b", "c", "d"], cloned=3, seed=0)
    assert (score.nonzero, score.nonzero_share.mean, score.accuracy.mean) == (1, 0.25, 0.125)
    assert (score.ungraded, score.cloned) == (1, 3)
    assert score.accuracy.low == 0 and 0.125 < score.accuracy.high <= 0.5
    table = Table(4, 4, 2, {"patch": score})
    (cells,) = table_rows(table)
    assert cells[0] == "prefix, no suffix, filter"
    assert cells[1].startswith("1/4 [0%, ") and cells[2].startswith("12.50% [0.00%, ") and cells[3:] == ["3", "1"]
    assert "2 of 4 problems have none and count as 0" in markdown(table)


def an_intervention(index: int, content: str, outcomes: str) -> TestedIntervention:
    """An intervention at step 2 of an attempt, whose test came out so."""
    item = attempt("12+5=17\n\n", f"{content}?\n\n", index=index)
    prefix, step = item.rollout.completion.token_ids[:9], np.array([7, 8], np.int32)
    intervention = Intervention(item, Proposal(2, content), prefix, step)
    return TestedIntervention(intervention, group(outcomes, index=index))


def test_what_is_chosen_for_rows_and_patches():
    items = [an_intervention(0, "a", "ww"), an_intervention(0, "b", "cw"), an_intervention(1, "c", "cc")]
    assert [item.proposal.content for item in first_per_problem(items)] == ["a", "c"]
    filtered, unfiltered = (to_clone(row, items, OracleConfig()) for row in PATCHES[:2])
    assert filtered == items[1:] and unfiltered == items
    bare = without_step(items[0].intervention)
    assert bare.resume_ids.tolist() == items[0].intervention.prefix_ids.tolist()


def test_the_page_has_rows_figures_and_footnotes(tmp_path: Path):
    build(tmp_path).run()
    page = write_ablation_report(tmp_path).read_text()
    assert page.count("<svg") == 2 and "7 rows of Table 1 on 5 problems" in page
    for words in ("prefix, no suffix, filter", "whether its rows add up", "1 of 5 problems have none"):
        assert words in page


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


@pytest.fixture
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in configs are relative to it."""
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("in_the_repository")
class TestCommand:
    def test_dry_run_shows_what_it_takes(self, tmp_path: Path):
        settings = ["ablate.n=8", "patch.filter=false", "patch.clone_suffix=true"]
        result = cli("ablate", QUICKSTART, "--dry-run", f"run.folder={tmp_path / 'run'}", *settings)
        assert result.exit_code == 0, result.stderr
        assert "7, each of 8 rollouts per problem" in result.stdout
        assert "filter: true" in result.stdout and "clone_suffix: false" in result.stdout
        assert not (tmp_path / "run").exists()

    def test_a_resumed_one_keeps_what_its_rows_depend_on(self, tmp_path: Path):
        config = load_config(QUICKSTART, [f"run.folder={tmp_path}", *WITHOUT_RL])
        (tmp_path / "config.yaml").write_text(dump_config(config))
        (tmp_path / "journal.jsonl").write_text(json.dumps({"event": BEGINS}) + "\n")
        arguments = ["ablate", QUICKSTART, "--dry-run", f"run.folder={tmp_path}"]
        assert "add --resume auto" in cli(*arguments).stderr
        assert cli(*arguments, "--resume", "auto").exit_code == 0
        keeps = ("ablate.n=4", "patch.epochs=9", "oracle.attempts=1", "oracle.prompt=chains", "oracle.samples=2")
        for override in (*keeps, "oracle.openai.model=other"):
            result = cli(*arguments, "--resume", "auto", override)
            assert result.exit_code == 2 and f"error: {override.partition('=')[0]}: " in result.stderr
        free = ("oracle.budget.calls=9", "oracle.deadline_s=5", "rollout.deadline_s=7")
        assert cli(*arguments, "--resume", "auto", *free).exit_code == 0
        other = cli("collect", *arguments[1:], "--resume", "auto")
        assert other.exit_code == 2 and "holds a run of another command" in other.stderr

    def test_a_finished_one_is_shown_again_and_starts_nothing(self, tmp_path: Path):
        world = build(tmp_path)
        table = world.run()
        command = TableOne(Given("ablate", QUICKSTART, [f"run.folder={tmp_path}"], (), resumed=True))
        nothing, progress = cast("Inputs", None), FakeProgress()
        assert asyncio.run(command.work(nothing, world.folder, cast("ConsoleProgress", progress))) == table
        assert progress.story == ["All 7 rows are finished already"] and progress.phases == []

    def test_interrupted_it_says_how_to_go_on(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("launch.experiment.load_inputs", interrupt)
        result = cli("ablate", QUICKSTART, f"run.folder={tmp_path / 'x'}")
        given = f"ablate {QUICKSTART} run.folder={tmp_path / 'x'} --resume auto"
        assert result.exit_code == 75
        assert result.stderr == f"Interrupted. To go on: {program('int-ray')} {given}\n"
