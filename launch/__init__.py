"""Entry points: parse, import, run."""
