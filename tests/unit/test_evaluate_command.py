"""`int-ray evaluate` and `int-ray hard-set` up to where Ray would start, and the files that they read and write."""

from __future__ import annotations

import json
import shlex
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from int_ray.benchmark_catalogue import BENCHMARKS
from int_ray.config import Config
from int_ray.config_file import ConfigError, dump_config, load_config
from int_ray.data.originals import original_rows
from int_ray.data.problems import load_problems
from int_ray.errors import RunError
from int_ray.evaluation_inputs import load_evaluation
from int_ray.hard_set import HardSet, Verdict, rows_text
from int_ray.result_folder import ResultFolder
from int_ray.types import Problem
from launch.cli import app
from launch.commands import Given, program
from launch.evaluation import WITHOUT_TRAINING
from launch.hard_set import what_next, write_files

ROOT = Path(__file__).parents[2]
QUICKSTART = "configs/quickstart.yaml"
HARD = "int_ray/chains/data/hard_train.jsonl"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in configs are relative to it."""
    monkeypatch.chdir(ROOT)


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_dry_run_shows_what_evaluating_takes(tmp_path: Path):
    settings = ["evaluate.decoding=e3", "evaluate.max_tokens=72", "evaluate.sets.aime=benchmark:aime_2025"]
    result = cli("evaluate", QUICKSTART, "--dry-run", f"run.folder={tmp_path / 'run'}", *settings)
    assert result.exit_code == 0, result.stderr
    assert "temperature 0.6, top-p 0.95, top-k 20, at most 72 tokens" in result.stdout
    assert "not checked: MathArena/aime_2025 is a hub name" in result.stdout
    assert "hard_train, hard_test, easy, aime" in result.stdout and "GRPO" not in result.stdout
    assert not (tmp_path / "run").exists()


def test_dry_run_shows_what_selecting_takes(tmp_path: Path):
    result = cli("hard-set", QUICKSTART, "--dry-run", f"run.folder={tmp_path / 'run'}", "hard_set.n=8")
    assert result.exit_code == 0, result.stderr
    assert "8 at most, in waves of 1, 3, 4" in result.stdout and "no oracle" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["evaluate.k=[64]"], "evaluate.k: [64] exceed evaluate.n = 32"),
        (["evaluate.sets={}"], "evaluate.sets: there is nothing to evaluate on"),
        (
            ["evaluate.sets.a=benchmark:aime"],
            "evaluate.sets.a.0: there is no benchmark of that name; there are: aime_2025",
        ),
        (["evaluate.decoding=e4"], "evaluate.decoding: input should be 'e3' or 'qwen3_4b'"),
        (["evaluate.decoding=e3"], "evaluate.max_tokens: 32768 leaves no room for a prompt in model.max_length = 128"),
        (["evaluate.checkpoints={a: absent}"], "evaluate.checkpoints.a: model.path: absent"),
        (["evaluate.sets.a=absent.jsonl"], "evaluate.sets.a: absent.jsonl does not exist"),
    ],
)
def test_what_can_be_fixed_in_an_evaluation_is_one_line(arguments: list[str], line: str):
    result = cli("evaluate", QUICKSTART, "--dry-run", *arguments)
    assert result.exit_code == 2
    assert f"error: {line}" in result.stderr and len(result.stderr.splitlines()) == 1
    assert isinstance(result.exception, SystemExit)  # no traceback


@pytest.mark.parametrize("kind", ["exact", "policy"])
def test_an_oracle_that_writes_no_solutions_is_refused(kind: str):
    result = cli("hard-set", QUICKSTART, "--dry-run", "hard_set.oracle_solves=true", f"oracle.kind={kind}")
    assert result.exit_code == 2
    assert f"hard_set.oracle_solves: oracle.kind = {kind} writes no solutions; choose gemini or openai" in result.stderr


def started(folder: Path, *overrides: str) -> None:
    """A folder as an evaluation leaves it right after its start."""
    config = load_config(QUICKSTART, [f"run.folder={folder}", *WITHOUT_TRAINING, *overrides])
    opened = ResultFolder(folder)
    (folder / "config.yaml").write_text(dump_config(config))
    decoding = {"temperature": 0.6, "top_p": 0.95, "top_k": 0, "max_tokens": 72}
    opened.journal.write("evaluating", checkpoints={"a": "int_ray/chains/data/base"}, decoding=decoding)
    opened.close()


BASE = "evaluate.checkpoints={a: int_ray/chains/data/base}"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("evaluate.n=16", "evaluate.n: 16, but the run to resume has 32"),
        ("run.seed=3", "run.seed: 3, but"),
        ("model.dtype=bfloat16", "model.dtype: 'bfloat16', but the run to resume has 'float32'"),
        ("evaluate.top_k=5", "evaluate.decoding: temperature 0.6, top-p 0.95, top-k 5"),
        ("evaluate.checkpoints={a: ./int_ray/chains/data/base}", "evaluate.checkpoints.a: ./int_ray"),
    ],
)
def test_a_resumed_evaluation_does_not_mix_two_kinds_of_rollouts(tmp_path: Path, override: str, line: str):
    started(tmp_path)
    arguments = [QUICKSTART, "--dry-run", f"run.folder={tmp_path}", BASE]
    assert cli("evaluate", *arguments).exit_code == 2  # not without --resume
    assert cli("evaluate", *arguments, "--resume", "auto").exit_code == 0
    result = cli("evaluate", *arguments, override, "--resume", "auto")
    assert result.exit_code == 2 and f"error: {line}" in result.stderr


def test_the_folder_of_another_command_is_not_resumed(tmp_path: Path):
    started(tmp_path)
    for command in ("train", "collect", "hard-set"):
        result = cli(command, QUICKSTART, "--dry-run", f"run.folder={tmp_path}", "--resume", "auto")
        assert result.exit_code == 2 and "holds a run of another command" in result.stderr
    result = cli("report", str(tmp_path))
    assert result.exit_code == 2 and "an evaluation without results, not a training run" in result.stderr


@pytest.mark.parametrize(
    ("command", "place"),
    [("evaluate", "launch.evaluation.load_evaluation"), ("hard-set", "launch.experiment.load_inputs")],
)
def test_interrupted_it_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, command: str, place: str, tmp_path: Path):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    result = cli(command, QUICKSTART, f"run.folder={tmp_path / 'x'}")
    assert result.exit_code == 75
    given = f"{command} {QUICKSTART} run.folder={tmp_path / 'x'} --resume auto"
    assert result.stderr == f"Interrupted. To go on: {program('int-ray')} {given}\n"


# One row of each ready-made set, with the columns that its publisher gives it.
ROWS: dict[str, dict[str, Any]] = {
    **{
        name: {"problem_idx": 1, "problem": "What is $1+1$?", "answer": answer, "problem_type": ["Algebra"]}
        for name, answer in {"aime_2025": 2, "hmmt_feb_2025": "\\sqrt{4}", "brumo_2025": "2", "cmimc_2025": "2"}.items()
    },
    **{
        name: {"problem": "What is $1+1$?", "answer": "2", "subject": "Algebra", "unique_id": "OlymMATH-0"}
        for name in ("olymmath_easy", "olymmath_hard")
    },
    "beyond_aime": {"problem": "What is $1+1$?", "answer": 2},
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_ready_made_sets_read_local_files_of_their_schema(tmp_path: Path, name: str):
    local = {**BENCHMARKS[name], "path": str(jsonl(tmp_path / f"{name}.jsonl", [ROWS[name]])), "subset": None}
    # The columns of the training data are others: those of the set hold all the same.
    config = load_config(QUICKSTART, [f"evaluate.sets={json.dumps({name: local})}", "problems.columns.question=prompt"])
    (problem,) = load_problems(config.evaluate.sets[name], config.problems).problems
    assert problem == Problem("1", "What is $1+1$?", str(ROWS[name]["answer"]))


def test_a_ready_made_set_stands_wherever_a_path_may():
    sets = "evaluate.sets={a: [benchmark:aime_2025, own.jsonl], b: {path: benchmark:aime_2025, limit: 10}}"
    found = load_config(QUICKSTART, [sets]).evaluate.sets
    assert [source.path for source in found["a"]] == ["MathArena/aime_2025", "own.jsonl"]
    (limited,) = found["b"]
    assert limited == found["a"][0].model_copy(update={"limit": 10}) and limited.columns is not None


def test_a_ready_made_set_is_written_out_in_the_config():
    config = load_config(QUICKSTART, ["evaluate.sets={o: benchmark:olymmath_hard}"])
    (source,) = config.evaluate.sets["o"]
    assert (source.path, source.subset, source.split) == ("RUC-AIBOX/OlymMATH", "en-hard", "test")
    assert "subset: en-hard" in dump_config(config)


def test_an_evaluation_does_not_read_the_training_data(tmp_path: Path):
    sets = f"evaluate.sets={{a: {HARD}}}"
    inputs = load_evaluation(load_config(QUICKSTART, ["problems.train=absent.jsonl", sets]))
    assert len(inputs.sets["a"].problems) == len(Path(HARD).read_text().splitlines())
    assert list(inputs.tokenizers) == ["int_ray/chains/data/base"]


def test_a_prompt_must_fit_every_checkpoint(tmp_path: Path):
    own = Path(shutil.copytree("int_ray/chains/data/base", tmp_path / "own"))
    template = (own / "chat_template.jinja").read_text()
    (own / "chat_template.jinja").write_text(template + "1+2" * 20)  # the same model, but its prompts are longer
    base = "int_ray/chains/data/base"
    kept = []
    for names in ({"a": base}, {"a": str(own)}, {"a": base, "b": str(own)}, {"b": str(own), "a": base}):
        row = {"id": "a", "problem": "1+2=?", "answer": "3"}
        long = {"id": "b", "problem": "+".join("1" * 10) + "=?", "answer": "10"}
        sets = f"evaluate.sets={{a: {jsonl(tmp_path / 'p.jsonl', [row, long])}}}"
        config = load_config(QUICKSTART, [sets, f"evaluate.checkpoints={json.dumps(names)}", "evaluate.max_tokens=50"])
        kept.append(len(load_evaluation(config).sets["a"].problems))
    assert kept == [2, 1, 1, 1]


def test_all_mistakes_come_at_once():
    overrides = ["evaluate.sets={a: absent.jsonl, b: gone.jsonl}", "evaluate.checkpoints={x: nowhere}"]
    with pytest.raises(ConfigError) as caught:
        load_evaluation(load_config(QUICKSTART, overrides))
    keys = [line.split(": ")[0] for line in caught.value.problems]
    assert keys == ["evaluate.checkpoints.x", "evaluate.sets.a", "evaluate.sets.b"]


def hard_config(tmp_path: Path, rows: list[dict[str, Any]], *overrides: str) -> Config:
    pool = jsonl(tmp_path / "pool.jsonl", rows)
    return load_config(QUICKSTART, [f"problems.train={pool}", f"run.folder={tmp_path / 'run'}", *overrides])


HARD_SET = HardSet(2, dict.fromkeys(Verdict, 0), {32: 0}, 64, 64, 10.0, 0.0, 1, 1)


def test_the_splits_keep_every_column_of_the_source(tmp_path: Path):
    rows = [
        {"id": "a", "problem": "1+1=?", "answer": "2", "level": 3, "tags": ["x", None]},
        {"id": "b", "problem": "2+1=?", "answer": "3", "solution": "2+1=3"},
        {"id": "a", "problem": "9+1=?", "answer": "10"},  # quarantined: its id occurs before
    ]
    config = hard_config(tmp_path, rows)
    first, second = load_problems(config.problems.train, config.problems).problems
    folder = ResultFolder(config.run.folder)
    write_files(config, folder, HARD_SET, {"hard_train": [second], "hard_test": [first]})
    folder.close()
    written = {name: (folder.path / f"{name}.jsonl").read_text() for name in ("hard_train", "hard_test")}
    assert {name: json.loads(text) for name, text in written.items()} == {"hard_train": rows[1], "hard_test": rows[0]}
    assert json.loads((folder.path / "statistics.json").read_text())["rollouts"] == 64
    assert "- hard (no success): 0" in (folder.path / "summary.md").read_text()


def test_files_can_be_read_without_the_column_map(tmp_path: Path):
    row = {"prompt": "1+1=?", "final": 2, "problem": "sums", "answer": 2}
    names = ["problems.columns.id=null", "problems.columns.question=prompt", "problems.columns.answer=final"]
    config = hard_config(tmp_path, [row], *names)
    problems = load_problems(config.problems.train, config.problems).problems
    expected = {"id": "1", "prompt": "1+1=?", "final": 2, "problem": "1+1=?", "answer": 2, "source_problem": "sums"}
    assert original_rows(config.problems, problems) == {"1": expected}


def read_back(config: Config, folder: Path) -> tuple[Problem, ...]:
    """All problems of the pool as hard ones, read by the command that is printed."""
    problems = tuple(load_problems(config.problems.train, config.problems).problems)
    opened = ResultFolder(config.run.folder)
    write_files(config, opened, HARD_SET, {"hard_train": list(problems), "hard_test": []})
    opened.close()
    *_, line = what_next(Given("hard-set", QUICKSTART, [], []), config, HARD_SET)
    trained = load_config(
        QUICKSTART, [*shlex.split(line.partition(QUICKSTART)[2]), f"problems.reward={config.problems.reward}"]
    )
    read = tuple(load_problems(trained.problems.train, trained.problems).problems)
    assert read == problems
    return read


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"problem": "q", "answer": "1"}, {}),  # ids are row numbers, and stay those
        ({"id": "mine", "problem": "q", "answer": 1, "key": 7}, {"id": "key"}),
        ({"problem": "q", "answer": "1", "solution": "not to be used"}, {"solution": None}),
        ({"problem": "q", "answer": "1", "reference_solution": "nor this"}, {"solution": None}),
        ({"problem": "q", "answer": "1", "solution": "no", "proof": "so"}, {"solution": "proof"}),
        ({"problem": None, "answer": None, "prompt": "q", "final": 2}, {"question": "prompt", "answer": "final"}),
    ],
)
def test_files_read_back_as_the_problems_that_they_were(tmp_path: Path, row: dict[str, Any], columns: dict[str, Any]):
    unusable = {"problem": "", "answer": ""}  # so that the number of the row is not its number in the file
    source = {"path": str(jsonl(tmp_path / "pool.jsonl", [unusable, row])), "columns": columns}
    config = hard_config(tmp_path, [row], f"problems.train={json.dumps(source)}")
    read_back(config, tmp_path)
    (written,) = map(json.loads, (config.run.folder / "hard_train.jsonl").read_text().splitlines())
    values = list(written.values())
    assert all(value in values for value in row.values() if value is not None)  # nothing of the row is lost


def test_generated_problems_read_back_with_their_scorer(tmp_path: Path):
    source = {"path": "reasoning_gym:chain_sum", "options": {"size": 3}}
    config = hard_config(tmp_path, [], f"problems.train={json.dumps(source)}", "problems.reward=reasoning_gym")
    assert all(problem.id.startswith("reasoning_gym:chain_sum?") for problem in read_back(config, tmp_path))


def test_a_source_that_changed_meanwhile_is_one_line_and_writes_nothing(tmp_path: Path):
    config = hard_config(tmp_path, [{"id": "a", "problem": "1+1=?", "answer": "2"}])
    problems = list(load_problems(config.problems.train, config.problems).problems)
    folder = ResultFolder(config.run.folder)
    for rows in ([{"id": "a", "problem": "1+1=?", "answer": "3"}], []):
        pool = jsonl(tmp_path / "pool.jsonl", rows)
        with pytest.raises(RunError, match=str(pool)):
            write_files(config, folder, HARD_SET, {"hard_test": [], "hard_train": problems})
    folder.close()
    assert [path.name for path in folder.path.iterdir()] == ["journal.jsonl"]


def test_values_that_json_lacks_become_text():
    assert json.loads(rows_text([{"day": date(2025, 2, 6), "n": None}])) == {"day": "2025-02-06", "n": None}


def test_the_next_command_trains_on_the_files():
    config = load_config(QUICKSTART, ["run.folder=runs/two words"])
    overrides = ["run.folder=runs/two words", "hard_set.n=4", "rollout.n=4"]
    *_, line = what_next(Given("hard-set", QUICKSTART, overrides, []), config, HARD_SET)
    assert line.endswith(
        f"int-ray train {QUICKSTART} rollout.n=4 "
        "'problems.train={path: \"runs/two words/hard_train.jsonl\", columns: {id: id}}' "
        "'evaluate.sets.hard_test={path: \"runs/two words/hard_test.jsonl\", columns: {id: id}}' "
        "'run.folder=runs/two words-trained'"
    )
    nothing = HardSet(2, dict.fromkeys(Verdict, 0), {32: 0}, 64, 64, 10.0, 0.0, 0, 0)
    assert what_next(Given("hard-set", QUICKSTART, overrides, []), config, nothing) == [
        "No problem is hard, so there is nothing to train on"
    ]
