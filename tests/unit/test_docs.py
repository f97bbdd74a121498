"""What the documents say can be done."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from int_ray.arms import arm_runs
from int_ray.config_file import load_config, parse_config
from launch.cli import app

ROOT = Path(__file__).parents[2]
QUICKSTART = (ROOT / "docs/quickstart.md").read_text()
ORACLES = (ROOT / "docs/oracles.md").read_text()
DATA = (ROOT / "docs/data.md").read_text()
EVALUATION = (ROOT / "docs/evaluation.md").read_text()
COMPARISON = (ROOT / "docs/compare.md").read_text()
PAPER = (ROOT / "docs/paper.md").read_text()
PAGES_WITH_SETTINGS = (QUICKSTART, ORACLES, DATA, EVALUATION, COMPARISON)


def blocks(language: str, page: str = QUICKSTART) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the settings of `changes`, section by section."""
    inner = {key: merged(base[key], value) for key, value in changes.items() if isinstance(base.get(key), dict)}
    return base | changes | inner


@pytest.mark.parametrize("text", [text for page in PAGES_WITH_SETTINGS for text in blocks("yaml", page)])
def test_every_settings_example_is_a_config(text: str):
    config = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text())
    parse_config(merged(config, yaml.safe_load(text)))


def test_there_are_examples():
    assert len(blocks("yaml")) >= 3 and len(blocks("python")) == 2
    for text in blocks("python"):
        compile(text, "docs/quickstart.md", "exec")


def commands(page: str) -> list[list[str]]:
    """The words of every `int-ray ...` in the shell blocks of a page, without the program's name."""
    lines = "\n".join(blocks("bash", page)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("int-ray ")]


@pytest.mark.parametrize("words", commands(PAPER), ids=lambda words: " ".join(words)[:40])
def test_commands_of_the_paper_exist_and_their_settings_fit(words: list[str]):
    name, *arguments = words
    command = typer.main.get_command(app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    with command.make_context(name, arguments) as context:  # parses; runs nothing
        given = context.params
    if "config" in given:
        config = load_config(ROOT / given["config"], given["overrides"] or [])
        if name == "compare":
            assert len(arm_runs(str(ROOT / given["config"]), given["overrides"] or [], config)) >= 3


def test_the_paper_is_covered():
    """Each table, figure and section is named, and each command and config that is named exists."""
    rows = [line for line in PAPER.splitlines() if line.startswith("| ")]
    first_cells = " ".join(row.split("|")[1] for row in rows)
    assert all(f"Table {number}" in first_cells for number in (1, 2)) and "Tables 3, 4, 5" in first_cells
    assert all(f"Figure {number}" in first_cells for number in range(1, 9))
    assert all(
        re.search(rf"\| {section}[:,]", PAPER) for section in ("1", "2", "3", "4.1", "4.2", "4.3", "5", "6.1", *"ABCDE")
    )
    known = set(typer.main.get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]
    assert set(re.findall(r"`int-ray ([\w-]+)", PAPER)) <= known
    named = set(re.findall(r"configs/(\w+)\.yaml", PAPER))
    assert named == {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"chain_sum"}


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`((?:int_ray|actors|launch|configs|docs|tests)/[\w/]+\.(?:py|yaml|md))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_nothing_is_left_to_be_filled_in(page: Path):
    assert not re.findall(r"^\W*[A-Z]+(?:_[A-Z]+)+\W*$", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
    for name in FILE.findall(page.read_text()):
        assert (ROOT / name).is_file(), name
