"""The token that a Ray cluster is closed with. Needs no Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from int_ray.errors import RunError


class ClusterError(RunError):
    """The cluster cannot be reached, refuses the token, or does not take the job; one line."""


@dataclass(frozen=True)
class Token:
    """A cluster's token and where it was found."""

    value: str
    source: str

    def __repr__(self) -> str:
        return f"Token(of {self.source})"


def find_token() -> Token | None:
    """The token, in the order in which Ray looks for it. Raises ClusterError if RAY_AUTH_TOKEN_PATH misleads."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Token(token, "RAY_AUTH_TOKEN")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH") or None
    path = Path(named or "~/.ray/auth_token").expanduser()
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named is None:
            return None
        raise ClusterError(f"RAY_AUTH_TOKEN_PATH: {path} cannot be read: {type(error).__name__}") from None
    return Token(token, str(path)) if token else None
