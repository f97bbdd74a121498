"""YAML file + `a.b=c` overrides -> Config. Every problem is reported at once, with its path and a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from int_ray.config import Config
from int_ray.config_checks import cross_field_errors


class ConfigError(ValueError):
    """The configuration cannot be used. `problems` has one line per mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return ConfigError, (self.problems,)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply overrides such as `trigger.patience=2`, validate. Raises ConfigError."""
    return parse_config(_apply_overrides(_read_yaml(Path(path)), overrides))


def parse_config(tree: Mapping[str, Any]) -> Config:
    """A nested mapping -> Config. Raises ConfigError with one line per mistake."""
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError([_one_line(details) for details in error.errors()]) from None
    problems = cross_field_errors(config)
    if problems:
        raise ConfigError(problems)
    return config


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError([f"{path}: no such config file; configs/ has examples"])
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not a UTF-8 text file: {error.reason} at byte {error.start}"]) from None
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: expected sections such as 'model:' at the top level"])
    return {name: {} if section is None else section for name, section in tree.items()}  # 'oracle:' with nothing in it


def _apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    problems = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            problems.append(f"{override}: an override looks like trigger.patience=2")
            continue
        *parents, leaf = key.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                problems.append(f"{key}: '{name}' is a value, not a section")
                break
        else:
            try:
                node[leaf] = yaml.safe_load(text)
            except yaml.YAMLError:
                problems.append(f"{override}: cannot read the value as YAML")
    if problems:
        raise ConfigError(problems)
    return tree


def _one_line(details: ErrorDetails) -> str:
    location = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        return f"{location}: unknown key{_suggestion(details['loc'])}"
    if details["type"] == "missing":
        return f"{location}: required, but not set"
    given = details["input"]
    shown = "" if isinstance(given, dict | list) else f", got {given!r}"
    return f"{location}: {details['msg'][0].lower()}{details['msg'][1:]}{shown}"


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The same key of another section, else the closest one of this section, else the keys that exist here."""
    *parents, key = (str(part) for part in location)
    section: type[BaseModel] = Config
    for part in parents:  # a number or the name of a set stands between a field and the section that it holds
        if part in section.model_fields:
            section = next(_sections(section.model_fields[part].annotation), section)
    siblings = list(section.model_fields)
    close = [name for name in _all_keys(Config) if name.rpartition(".")[2] == key]
    close = close or [".".join([*parents, name]) for name in difflib.get_close_matches(key, siblings, n=1)]
    return f", did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(siblings))}"


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in section.model_fields.items():
        keys.append(prefix + name)
        for inner in _sections(info.annotation):
            keys.extend(_all_keys(inner, f"{prefix}{name}."))
    return keys


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every section in the type of a field, such as `tuple[SourceConfig, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
