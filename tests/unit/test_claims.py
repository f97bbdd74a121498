"""Verdicts on the paper's claims, from runs whose outcomes are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from int_ray.claims import CLAIMS, Judgement, judge_claims
from int_ray.report.arms import read_arms
from tests.experiments import Evaluations, write_arm_run, write_solutions

NEVER, ALWAYS, OFTEN = "wwwwwwww", "cccccccc", "cccccccw"
BASE = {"hard_train": [NEVER] * 4, "hard_test": [NEVER] * 4, "easy": [ALWAYS] * 4}
STUCK: Evaluations = {0: BASE, 2: BASE}
FREED: Evaluations = {
    0: BASE,
    1: {"hard_train": [NEVER] * 3 + [OFTEN], "hard_test": [NEVER] * 4, "easy": [OFTEN] * 4},
    2: {"hard_train": [ALWAYS] * 3 + [NEVER], "hard_test": [OFTEN] * 4, "easy": [ALWAYS] * 4},
}
DAMAGED: Evaluations = {
    0: BASE,
    2: {"hard_train": [OFTEN] * 4, "hard_test": [NEVER] * 4, "easy": ["ccccwwww"] * 4},
}
ARMS = {"standard_rl": STUCK, "distillation": DAMAGED, "int": FREED}
Drift = Mapping[int, Sequence[float]]  # iteration -> KL of each problem
KL: Mapping[str, Drift] = {
    "distillation": {0: [0.0] * 4, 1: [0.25, 0.75, 0.5, 0.5], 2: [0.75] * 4},
    "int": {0: [0.0] * 4, 1: [0.125] * 4, 2: [1.0] * 4},
}
DRIFT = "Cloning interventions moves the model less than cloning solutions."


def write_experiment(
    folder: Path, seeds: int = 2, arms: Mapping[str, Evaluations] = ARMS, kl: Mapping[str, Drift] = KL
) -> Path:
    """Every seed the same, but for a distance from the base that grows with it."""
    for seed in range(seeds):
        for name, evaluations in arms.items():
            drift = {at: [(1 + seed) * one for one in problems] for at, problems in kl.get(name, {}).items()}
            run = write_arm_run(folder / f"seed-{seed}" / name, name, seed, evaluations, kl=drift)
            if name == "distillation":
                write_solutions(run, {"p0": 40, "p1": 50, "p2": 60})
    return folder


def judged(*folders: Path) -> dict[str, Judgement]:
    """The first words that tell claims apart -> their judgements."""
    return {claim.says: claim for claim in judge_claims(read_arms(folders))}


def verdicts(*folders: Path) -> list[str]:
    return [claim.verdict for claim in judge_claims(read_arms(folders))]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("claims"))


def test_every_claim_of_an_experiment_that_went_as_in_the_paper(experiment: Path):
    assert verdicts(experiment) == ["reproduced"] * 9 + ["not testable"] * 2
    found = judged(experiment)
    stuck = found["RL on the base model stays stuck on the hard training problems."]
    assert stuck.difference is not None and stuck.difference.mean == stuck.difference.high == 0
    # 7 of 8 rollouts right: any 8 of them have a success, so that pass@8 is 1 against 0.
    lead = found["InT + RL solves more hard test problems than standard RL."].difference
    assert lead is not None and (lead.mean, lead.low) == (1.0, 1.0)
    # One of four problems stays unsolved, against four of four.
    fewer = found["InT + RL leaves fewer training problems unsolved (zero-advantage ratio) than standard RL."]
    assert fewer.difference is not None and fewer.difference.mean == -0.75 and fewer.extent == "2 seeds, 4 problems"
    loss = found["Distillation + RL loses held-out pass@1."].difference
    assert loss is not None and loss.mean == -0.5
    # Right after the patch (iteration 1), 0.5 - 0.125 with seed 0 and twice that with seed 1.
    drift = found[DRIFT]
    assert drift.difference is not None and drift.difference.mean == pytest.approx((0.375 + 0.75) / 2)
    assert "right after the patch, on easy" in drift.what and drift.extent == "2 seeds, 4 problems"
    # Interventions of two tokens each, solutions of 40, 50 and 60.
    lengths = found["Interventions are shorter than full solutions."]
    assert lengths.difference is not None and lengths.difference.mean == 48
    assert lengths.what.startswith("tokens of the oracle's full solutions")


def test_an_arm_that_does_nothing_reproduces_nothing_that_is_said_of_it(tmp_path: Path):
    arms: dict[str, Evaluations] = dict.fromkeys(ARMS, STUCK)
    found = judged(write_experiment(tmp_path, arms=arms))
    for says in (
        "InT + RL solves more hard test problems than standard RL.",
        "Distillation + RL loses held-out pass@1.",
    ):
        assert found[says].verdict == "not reproduced" and "would hold if the interval lay" in found[says].why
    assert found["InT + RL keeps held-out pass@1."].verdict == "reproduced"


def test_a_lead_that_the_problems_do_not_agree_on_is_none(tmp_path: Path):
    """InT solves a problem that standard RL does not, and the other way round."""
    end = {
        name: {**BASE, "hard_test": hard}
        for name, hard in (("standard_rl", [ALWAYS, NEVER] * 2), ("int", [ALWAYS, ALWAYS, NEVER, NEVER]))
    }
    arms: dict[str, Evaluations] = {name: {0: BASE, 2: sets} for name, sets in end.items()}
    found = judged(write_experiment(tmp_path, arms=arms))["InT + RL solves more hard test problems than standard RL."]
    assert found.verdict == "not reproduced" and found.difference is not None
    assert found.difference.mean == 0 and found.difference.low < 0 < found.difference.high


def test_averages_over_benchmarks_give_each_the_same_weight(tmp_path: Path):
    more = {
        name: {at: {**sets, "other": [NEVER]} for at, sets in evaluations.items()} for name, evaluations in ARMS.items()
    }
    more["int"] = {**more["int"], 2: {**more["int"][2], "other": [ALWAYS]}}
    found = judged(write_experiment(tmp_path, arms=more))
    over = found["InT + RL is better than distillation + RL on average over the benchmarks."]
    # easy: 1 - 0.5; other: 1 - 0.
    assert over.verdict == "reproduced" and over.difference is not None and over.difference.mean == 0.75
    assert "easy, other" in over.what and over.extent == "2 seeds, 5 problems"


def test_what_was_not_measured_is_not_testable(tmp_path: Path, experiment: Path):
    alone = judged(experiment / "seed-0/int")
    says = "InT + RL solves more hard test problems than standard RL."
    assert alone[says].verdict == "not testable" and alone[says].why == "There is no run of standard RL."
    kept = alone["InT + RL keeps held-out pass@1."]
    assert kept.verdict == "reproduced" and kept.why.endswith("One seed: the interval is over problems alone.")
    one = judged(*(experiment / "seed-0" / name for name in ARMS))
    drift = one[DRIFT]  # 0.125, 0.625, 0.375 and 0.375 for the four problems
    assert drift.verdict == "reproduced" and drift.extent == "1 seed, 4 problems" and drift.difference is not None
    assert drift.difference.mean == pytest.approx(0.375) and 0.125 < drift.difference.low < 0.375
    arms: dict[str, Evaluations] = {"standard_rl": {0: BASE}, "int": {0: BASE}}
    assert set(verdicts(write_experiment(tmp_path / "new", arms=arms))) <= {"not testable", "reproduced"}
    assert "was not evaluated before training and after" in judged(tmp_path / "new")[says].why


def test_drift_is_judged_right_after_the_patch_of_both_arms_or_not_at_all(tmp_path: Path):
    late = {**KL, "int": {at: KL["int"][at] for at in (0, 2)}}  # by then RL has moved the model as well
    found = judged(write_experiment(tmp_path / "late", kl=late))[DRIFT]
    assert found.verdict == "not testable" and found.why.startswith("InT: its distance from the base right after")
    assert "evaluate.after_patch" in found.why
    close = {**KL, "int": {1: [0.5, 0.5, 0.25, 0.75]}}  # the problems do not agree
    found = judged(write_experiment(tmp_path / "close", kl=close))[DRIFT]
    assert found.verdict == "not reproduced" and found.difference is not None
    assert found.difference.mean == 0 and found.difference.low < 0 < found.difference.high
    for path in (tmp_path / "close").glob("seed-*/int/drift/iteration_000001/easy.jsonl"):
        path.unlink()
    assert judged(tmp_path / "close")[DRIFT].why == "No problem of easy has a distance in both arms."


def test_an_arm_is_called_by_a_method_only_if_it_is_one(tmp_path: Path):
    write_arm_run(tmp_path / "int-0", "distillation", 0, STUCK)
    write_arm_run(tmp_path / "distillation-0", "distillation", 0, STUCK)
    titles = [(arm.name, arm.title, arm.method) for arm in read_arms([tmp_path / "int-0", tmp_path / "distillation-0"])]
    assert titles == [("distillation", "distillation", "distillation"), ("int", "int", "distillation")]


def test_too_few_rollouts_and_lost_files_are_named(tmp_path: Path):
    few: Evaluations = {at: {"hard_test": ["wwww"] * 4} for at in (0, 2)}
    folder = write_experiment(tmp_path / "few", 1, {"standard_rl": few, "int": few})
    says = "InT + RL solves more hard test problems than standard RL."
    assert judged(folder)[says].why == "hard_test was evaluated with 4 rollouts per problem, and pass@8 needs 8."
    folder = write_experiment(tmp_path / "lost", 1, {"standard_rl": STUCK, "int": FREED})
    for path in folder.glob("seed-*/int/evaluations/iteration_000002/hard_test.jsonl"):
        path.unlink()
    assert judged(folder)[says].why == "No rollouts of hard_test are of a seed that both arms have."


def test_a_problem_that_the_grader_left_open_is_neither_solved_nor_unsolved(tmp_path: Path):
    end: Evaluations = {0: BASE, 2: {**BASE, "hard_train": ["wwwwwwwx", "cwwwwwwx", NEVER, ALWAYS]}}
    found = judged(write_experiment(tmp_path, 1, {"standard_rl": STUCK, "int": end}))
    fewer = found["InT + RL leaves fewer training problems unsolved (zero-advantage ratio) than standard RL."]
    # Of three problems, one is unsolved, against three.
    assert fewer.difference is not None and fewer.difference.mean == pytest.approx(-2 / 3)
    assert fewer.problems == 3


def test_full_solutions_are_estimated_from_the_reference_where_nobody_wrote_any(experiment: Path):
    found = judged(experiment / "seed-0/int", experiment / "seed-1/int")[
        "Interventions are shorter than full solutions."
    ]
    assert found.what.startswith("tokens of the reference solutions (estimated)")
    assert found.verdict == "reproduced"


def test_claims_have_names_of_their_own_and_say_where_they_are_from():
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)
    assert all(claim.source.startswith(("Fig", "Table")) for claim in CLAIMS)
