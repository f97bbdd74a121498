"""The report of a run: `int-ray report`, and what `int-ray train` says at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from int_ray.config import Config
from int_ray.report.evaluation_page import write_evaluation_report
from int_ray.report.run_files import read_run
from int_ray.report.run_page import write_report
from int_ray.report.verdict import judge
from launch.console import what_next


def run_report(folder: str) -> None:
    """Write the page of a run or an evaluation and print its path. Raises ConfigError if the folder holds neither."""
    path = Path(folder)
    is_evaluation = (path / "results.json").is_file()
    print(write_evaluation_report(path) if is_evaluation else write_report(path))


def conclude(path: str, overrides: Sequence[str], plugins: Sequence[str], config: Config) -> list[str]:
    """Write the report; what happened in words, where the report is, and what to try next."""
    verdict = judge(read_run(config.run.folder))
    report = write_report(config.run.folder)
    return ["", verdict.headline, *verdict.sentences, "", *what_next(path, overrides, plugins, config, report)]
