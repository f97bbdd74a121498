from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from int_ray.errors import RunError
from launch.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in configs are relative to it."""
    monkeypatch.chdir(ROOT)


def cli(*arguments: str) -> Result:
    """The command in this process, which has paid for its imports."""
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def test_help_loads_nothing_heavy_and_has_examples():
    heavy = ("torch", "ray", "vllm", "transformers", "pydantic", "numpy")
    script = (
        "import sys; from typer.testing import CliRunner; from launch.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert loaded.stdout.strip() == "[]"
    assert "int-ray train configs/quickstart.yaml" in " ".join(shell("train", "--help").stdout.split())


def test_dry_run_shows_the_plan_and_starts_nothing(tmp_path: Path):
    result = cli("train", "configs/quickstart.yaml", "--dry-run", f"run.folder={tmp_path / 'run'}")
    assert result.exit_code == 0, result.stderr
    assert "40 problems x 16 = 640" in result.stdout
    assert "mini_batch_size: 16" in result.stdout
    assert not (tmp_path / "run").exists()


def test_dry_run_names_what_only_a_hub_can_resolve():
    command = ["train", "configs/standard_rl_qwen3_4b.yaml", "--dry-run"]
    result = cli(*command)
    assert result.exit_code == 2 and "problems.train: data/qwen3_4b/hard_train.jsonl" in result.stderr
    result = cli(*command, "problems.train=someone/dataset", "evaluate.sets={}")
    assert result.exit_code == 0, result.stderr
    assert "not checked: Qwen/Qwen3-4B-Instruct-2507 is a hub name" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trigger.patince=2", "error: trigger.patince: unknown key, did you mean trigger.patience?"),
        ("rollout.n=x", "error: rollout.n: input should be a valid integer"),
        ("reinforce.mini_batch_size=15", "error: reinforce.mini_batch_size: 15 does not divide"),
        ("problems.train=absent.jsonl", "error: problems.train: "),
        ("model.path=absent", "error: model.path: absent"),
        ("problems.columns.answer=absent", "error: problems.train: "),
        ("model.max_length=4096", "error: model.max_length: 4096 exceeds the model's own limit"),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_exit_code_2(override: str, line: str):
    result = cli("train", "configs/quickstart.yaml", "--dry-run", override)
    assert result.exit_code == 2
    assert line in result.stderr
    assert isinstance(result.exception, SystemExit)  # no traceback


def test_a_run_folder_is_not_overwritten(tmp_path: Path):
    (tmp_path / "journal.jsonl").write_text("{}\n")
    result = cli("train", "configs/quickstart.yaml", f"run.folder={tmp_path}")
    assert result.exit_code == 2
    assert "already holds a run; add --resume auto" in result.stderr


def test_a_resumed_run_keeps_what_its_state_depends_on(tmp_path: Path):
    plan = cli("train", "configs/quickstart.yaml", "--dry-run").stdout
    (tmp_path / "config.yaml").write_text(plan[: plan.index("Resources and batches")].strip())
    result = cli("train", "configs/quickstart.yaml", f"run.folder={tmp_path}", "run.seed=5", "--resume", "auto")
    assert result.exit_code == 2
    assert "error: run.seed: 5, but the run to resume has 0" in result.stderr


def test_resuming_from_a_path_that_is_no_checkpoint(tmp_path: Path):
    result = cli("train", "configs/quickstart.yaml", "--resume", str(tmp_path))
    assert result.exit_code == 2
    assert "not a complete checkpoint" in result.stderr


@pytest.mark.parametrize(
    ("command", "place"),
    [("train", "actors.assembly.assemble"), ("collect", "actors.collector_assembly.assemble_collector")],
)
def test_a_resumed_run_keeps_its_problems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, place: str):
    def break_down(*_: object, **__: object) -> None:
        raise RunError("the cluster broke")

    monkeypatch.setattr(place, break_down)
    rows = [{"id": str(i), "problem": f"{i}+1=?", "answer": str(i + 1), "solution": "so"} for i in range(3)]
    pool = tmp_path / "pool.jsonl"
    data = [f"problems.train={pool}", "schedule=never", "rollout.batch_size=2", "reinforce.mini_batch_size=2"]
    given = [command, "configs/quickstart.yaml", f"run.folder={tmp_path / 'run'}", *data, "evaluate.sets={}"]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "error: the cluster broke" in cli(*given).stderr
    assert "error: the cluster broke" in cli(*given, "--resume", "auto").stderr
    pool.write_text("".join(json.dumps(row) + "\n" for row in (rows[1], rows[0], rows[2])))
    result = cli(*given, "--resume", "auto")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: problems.train: 3 problems, ")
    assert "are left, but the run to resume began with 3 problems, " in result.stderr
