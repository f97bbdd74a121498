"""The report of a run or of several: `int-ray report`, and what `int-ray train` says at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from int_ray.config import Config
from int_ray.config_file import ConfigError
from int_ray.journal import read_json_lines
from int_ray.report.ablation_page import write_ablation_report
from int_ray.report.arms import is_experiment
from int_ray.report.evaluation_page import write_evaluation_report
from int_ray.report.run_files import read_run
from int_ray.report.run_page import write_report
from int_ray.report.several import write_comparison
from int_ray.report.verdict import judge
from launch.console import what_next


def run_report(folders: Sequence[str], out: str | None) -> None:
    """Write the page of a run, an evaluation, an ablation or of several runs; print its path. Raises ConfigError."""
    paths = [Path(folder) for folder in folders]
    if len(paths) > 1 or is_experiment(paths[0]):
        common = paths[0] if len(paths) == 1 else Path(os.path.commonpath([path.resolve().parent for path in paths]))
        print(write_comparison(paths, Path(out) if out else common / "report.html"))
        return
    if out is not None:
        raise ConfigError([f"--out is for several runs; the page of {paths[0]} is report.html within it"])
    print(_write_page(paths[0]))


def _write_page(folder: Path) -> Path:
    if not (folder / "results.json").is_file():
        return write_report(folder)
    journal = folder / "journal.jsonl"
    events = {record.get("event") for record in read_json_lines(journal)} if journal.exists() else set()
    return write_ablation_report(folder) if "ablating" in events else write_evaluation_report(folder)


def conclude(path: str, overrides: Sequence[str], plugins: Sequence[str], config: Config) -> list[str]:
    """Write the report; what happened in words, where the report is, and what to try next."""
    verdict = judge(read_run(config.run.folder))
    report = write_report(config.run.folder)
    return ["", verdict.headline, *verdict.sentences, "", *what_next(path, overrides, plugins, config, report)]
