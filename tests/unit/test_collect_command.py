"""`int-ray collect` up to where Ray would start, and what it prints at the end."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from actors.collector import Collected
from int_ray.config_file import dump_config, load_config
from int_ray.oracles.spending import Spend
from launch.cli import app
from launch.collect import WITHOUT_TRAINING, show_collected, what_next
from launch.commands import Given, program

ROOT = Path(__file__).parents[2]
QUICKSTART = "configs/quickstart.yaml"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in configs are relative to it."""
    monkeypatch.chdir(ROOT)


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_dry_run_shows_what_collecting_takes(tmp_path: Path):
    result = cli("collect", QUICKSTART, "--dry-run", f"run.folder={tmp_path / 'run'}", "rollout.n=4")
    assert result.exit_code == 0, result.stderr
    assert "32 problems x 4 = 128" in result.stdout
    assert "schedule: paper" in result.stdout and "mixed: 0" in result.stdout
    assert "GRPO" not in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trigger.patince=2"], "error: trigger.patince: unknown key"),
        (["model.path=absent"], "error: model.path: absent"),
        (["oracle.kind=recorded"], "error: oracle.recorded: "),
        (["oracle.kind=recorded", "oracle.recorded=absent.jsonl"], "error: oracle.recorded: absent.jsonl is no file"),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_exit_code_2(arguments: list[str], line: str):
    result = cli("collect", QUICKSTART, "--dry-run", *arguments)
    assert result.exit_code == 2
    assert line in result.stderr
    assert isinstance(result.exception, SystemExit)  # no traceback


def started(folder: Path, event: str) -> None:
    """A folder as a run leaves it right after its start."""
    folder.mkdir()
    config = load_config(QUICKSTART, [f"run.folder={folder}", *WITHOUT_TRAINING])
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "journal.jsonl").write_text(json.dumps({"event": event}) + "\n")


def test_a_collection_is_not_overwritten(tmp_path: Path):
    started(tmp_path / "run", "collecting")
    result = cli("collect", QUICKSTART, "--dry-run", f"run.folder={tmp_path / 'run'}")
    assert result.exit_code == 2 and "already holds a run; add --resume auto" in result.stderr
    result = cli("collect", QUICKSTART, "--dry-run", f"run.folder={tmp_path / 'run'}", "--resume", "auto")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("override", ["rollout.n=4", "rollout.batch_size=16", "run.seed=5"])
def test_a_resumed_collection_keeps_what_is_collected_depends_on(tmp_path: Path, override: str):
    started(tmp_path / "run", "collecting")
    result = cli("collect", QUICKSTART, "--dry-run", f"run.folder={tmp_path / 'run'}", override, "--resume", "auto")
    assert result.exit_code == 2
    assert f"error: {override.partition('=')[0]}: " in result.stderr and "but the run to resume has" in result.stderr


@pytest.mark.parametrize(("command", "event"), [("collect", "started"), ("train", "collecting")])
def test_the_folder_of_another_command_is_not_resumed(tmp_path: Path, command: str, event: str):
    started(tmp_path / "run", event)
    arguments = [QUICKSTART, "--dry-run", f"run.folder={tmp_path / 'run'}", "schedule=paper", "--resume", "auto"]
    result = cli(command, *arguments)
    assert result.exit_code == 2 and "holds a run of another command" in result.stderr


def test_collections_resume_automatically_or_not_at_all():
    assert cli("collect", QUICKSTART, "--resume", "runs/x").exit_code == 2


def test_interrupted_it_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.experiment.load_inputs", interrupt)
    result = cli("collect", QUICKSTART, "run.folder=runs/no such", "oracle.attempts=2", "--plugin", "json")
    assert result.exit_code == 75
    given = f"collect {QUICKSTART} 'run.folder=runs/no such' oracle.attempts=2 --plugin json --resume auto"
    assert result.stderr == f"Interrupted. To go on: {program('int-ray')} {given}\n"


def test_a_printed_program_is_found_by_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # the environment is not active
    assert shutil.which(program("int-ray")) and Path(program("int-ray")).name == "int-ray"
    installed = tmp_path / "two words" / "int-ray"
    installed.parent.mkdir()
    installed.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(installed.with_name("python")))
    (path,) = shlex.split(program("int-ray"))
    assert Path(path).samefile(installed)


def shown(collected: Collected, spend: Spend) -> str:
    console = Console(width=200, record=True)
    config = load_config(QUICKSTART, ["run.folder=runs/two words"])
    given = Given("collect", QUICKSTART, ["run.folder=runs/two words", "rollout.n=4"], ["own"])
    show_collected(collected, spend, console)
    for line in what_next(given, config, collected):
        console.print(line, soft_wrap=True)
    return console.export_text()


def test_the_summary_has_counts_reasons_spend_and_the_next_command():
    spend = Spend(calls=250, input_tokens=9, output_tokens=8, cost=1.5)
    text = shown(Collected(64, 60, 240, 230, 41, Counter({"leak": 3, "timeout": 1})), spend)
    for words in ("64", "60", "240", "230", "41", "refused: leak", spend.story()):
        assert words in text, words
    assert "int-ray inspect 'runs/two words'" in text
    assert (
        f"int-ray train {QUICKSTART} rollout.n=4 'patch.interventions=runs/two words/interventions.jsonl' "
        "'run.folder=runs/two words-trained' --plugin own"
    ) in text


def test_nothing_kept_leads_to_no_training():
    text = shown(Collected(64, 60, 240, 230, 0), Spend())
    assert "nothing to train on" in text and "int-ray train" not in text and "spent" not in text
