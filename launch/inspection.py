"""`int-ray inspect`: interventions of a run or a file as one page to browse."""

from __future__ import annotations

import sys
from pathlib import Path

from int_ray.report.inspection import write_inspection


def run_inspect(source: str, out: str | None) -> None:
    """Print the path of the page, and on stderr what could not be read. Raises ConfigError where no page can be."""
    page, notes = write_inspection(Path(source), Path(out) if out else None)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(page)
