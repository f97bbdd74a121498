"""`int-ray doctor`: what of this machine would keep a run from working, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from int_ray.config import Config
from int_ray.config_file import load_config

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the table. Example: `Finding("warn", "/dev/shm", "0.06 GB free", "start it with --shm-size=8g")`"""

    level: Literal["ok", "warn", "fail"]
    subject: str
    found: str
    advice: str = ""


def run_doctor(path: str | None, overrides: Sequence[str], *, ask_oracle: bool) -> bool:
    """Print what was found; whether nothing failed. Raises ConfigError."""
    config = load_config(path, overrides) if path else None
    findings = list(examine(config, ask_oracle=ask_oracle))
    show_findings(findings, Console())
    return all(finding.level != "fail" for finding in findings)


def examine(config: Config | None, *, ask_oracle: bool) -> Iterator[Finding]:
    """Every check, with those of what `config` needs if there is one."""
    from launch import doctor_machine as machine
    from launch import doctor_network as network

    yield machine.check_python()
    yield from machine.check_versions()
    yield machine.check_gpus(config)
    yield machine.check_attention(config)
    yield machine.check_shared_memory()
    yield machine.check_disk(config)
    yield from network.check_authentication(config)
    yield from network.check_listeners()
    if config is not None:
        yield from network.check_oracle(config, ask=ask_oracle)


def show_findings(findings: Sequence[Finding], console: Console) -> None:
    """The table, then the number of failures."""
    table = Table("", "what", "found", "what to do", title="int-ray doctor")
    for finding in findings:
        mark = Text(finding.level, style=STYLES[finding.level])
        table.add_row(mark, Text(finding.subject), Text(finding.found), Text(finding.advice))
    console.print(table)
    failed = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    console.print(f"{failed} failed, {warned} to look at, {len(findings) - failed - warned} fine", highlight=False)
