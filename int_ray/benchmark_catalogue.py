"""Ready-made evaluation sets: `evaluate.sets.aime=benchmark:aime_2025`.

Names and columns as the publishers' pages and users' loading code have them; no set was downloaded to check them. A
local copy needs no entry: its path, with these columns, is a source like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import PydanticCustomError

PREFIX = "benchmark:"
Entry = Mapping[str, object]  # a source, as a config writes it
COLUMNS = {"question": "problem", "answer": "answer", "solution": None}


def _entry(path: str, split: str, subset: str | None = None) -> Entry:
    return {"path": path, "split": split, "subset": subset, "columns": COLUMNS}


# The seven of Table 2, which says neither which HMMT of 2025 it means (here February, with the month in the name) nor
# in which language OlymMATH is asked (here English).
BENCHMARKS: Mapping[str, Entry] = {
    "aime_2025": _entry("MathArena/aime_2025", "train"),
    "hmmt_feb_2025": _entry("MathArena/hmmt_feb_2025", "train"),
    "brumo_2025": _entry("MathArena/brumo_2025", "train"),
    "cmimc_2025": _entry("MathArena/cmimc_2025", "train"),
    "olymmath_easy": _entry("RUC-AIBOX/OlymMATH", "test", "en-easy"),
    "olymmath_hard": _entry("RUC-AIBOX/OlymMATH", "test", "en-hard"),
    "beyond_aime": _entry("ByteDance-Seed/BeyondAIME", "test"),
}


def look_up(source: Entry) -> Entry:
    """The source behind a path such as `benchmark:aime_2025`, with what else is given; any other source as it is."""
    path = source.get("path")
    if not isinstance(path, str) or not path.startswith(PREFIX):
        return source
    name = path.removeprefix(PREFIX)
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise PydanticCustomError(
            "benchmark", "there is no benchmark of that name; there are: {known}", {"known": known}
        )
    return {**BENCHMARKS[name], **{key: value for key, value in source.items() if key != "path"}}
