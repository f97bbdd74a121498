"""What every page shares: one self-contained file, strict about content, with all text of a run treated as text."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from int_ray.config_file import ConfigError

if TYPE_CHECKING:
    from jinja2 import Environment

# Characters that hide, reorder or break text: controls, soft hyphen, bidi and zero-width formats, surrogates, tags,
# non-characters. The joiners U+200C and U+200D stay: some scripts and emoji need them.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with hidden characters spelled out.

    Example: `visible("2\u202e1")` is `"2⟨U+202E⟩1"`.
    """
    return HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 line`, `2 lines`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def words(name: str) -> str:
    """A name such as `not_selected`, to be read."""
    return name.replace("_", " ")


def render(template: str, *, script: str = "", **values: Any) -> str:
    """One page from a file of `templates/`; it may load nothing, and may run `script` alone, by its hash.

    Every value is escaped and made visible unless it is `markupsafe.Markup`; a name that is not given is an error.
    """
    digest = b64encode(sha256(script.encode()).digest()).decode() if script else ""
    return _environment().get_template(template).render(values, script=script, script_hash=digest)


def write_page(path: Path, page: str) -> None:
    """Replace the page in one step, so that nobody ever sees half of it. Raises ConfigError if that cannot be."""
    partial = path.parent / f"{path.name}.partial"
    try:
        if path.exists() and not path.is_file():
            raise ConfigError([f"cannot write {path}: it is there already, and no file"])
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError([f"cannot write {path}: {error.strerror}"]) from None


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("int_ray.report"),
        autoescape=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": "{:.0%}".format, "thousands": "{:,}".format, "words": words}
    return environment
