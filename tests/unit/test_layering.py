"""Imports go one way, launch -> actors -> int_ray, and the algorithm needs no cluster."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "int_ray": {"actors", "launch", "benchmarks", "tests", "ray", "vllm"},
    "actors": {"launch", "benchmarks", "tests"},
    "launch": {"benchmarks", "tests"},
    "benchmarks": {"tests"},
}


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): imports(path) & FORBIDDEN[package] for path in files}
    assert not {path: names for path, names in wrong.items() if names}


def test_remote_calls_live_in_actors_alone():
    files = [path for package in ("int_ray", "launch") for path in (ROOT / package).rglob("*.py")]
    assert not [str(path) for path in files if ".remote(" in path.read_text()]
    assert ".remote" not in (ROOT / "actors" / "coordinator.py").read_text()


def test_importing_the_algorithm_loads_neither_ray_nor_vllm():
    files = (ROOT / "int_ray").rglob("*.py")
    modules = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    script = "import importlib, sys; list(map(importlib.import_module, sys.argv[1:])); "
    script += "print({'ray', 'vllm'} & set(sys.modules))"
    command = [sys.executable, "-W", "ignore", "-c", script, *modules]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "set()"
