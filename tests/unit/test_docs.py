"""What the documents say can be done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from int_ray.config_file import parse_config

ROOT = Path(__file__).parents[2]
QUICKSTART = (ROOT / "docs/quickstart.md").read_text()
ORACLES = (ROOT / "docs/oracles.md").read_text()
DATA = (ROOT / "docs/data.md").read_text()
EVALUATION = (ROOT / "docs/evaluation.md").read_text()
PAGES_WITH_SETTINGS = (QUICKSTART, ORACLES, DATA, EVALUATION)


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
