"""Typed TOML: one pydantic model per file, unknown keys refused with the nearest known one."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from tacit.errors import ConfigError
from tacit.files import read_limited

__all__ = ["Table", "load_toml", "parse_table"]

FILE_LIMIT = 4 * 1024 * 1024


class Table(BaseModel):
    """Base of every table in a file that people write: frozen, strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


TableT = TypeVar("TableT", bound=Table)


def load_toml(path: Path, table: type[TableT]) -> TableT:
    """Reads and validates one TOML file.

    Raises:
        ConfigError: Missing file, bad TOML, unknown key (the nearest known key is suggested), or a
            value out of range; names file, key and remedy.
    """
    data = read_limited(path, FILE_LIMIT)
    try:
        content = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # tomllib lets more than its own errors escape
        raise ConfigError(
            "config.syntax",
            f"{path} is not valid TOML: {str(error)[:200]}",
            remedy="correct the line that the message names",
            file=str(path),
        ) from error
    return parse_table(content, table, str(path))


def parse_table(content: dict[str, Any], table: type[TableT], file: str) -> TableT:
    """Validates already parsed content strictly: no text becomes a number, no text a boolean.

    Args:
        content: Tables, lists and scalars, as TOML has them.
        table: What they must be.
        file: Named in errors.
    """
    try:
        return table.model_validate(_tuples(content), strict=True)
    except ValidationError as error:
        raise _explain(error, table, file) from error


def _tuples(value: Any) -> Any:
    """Lists as tuples, which is what the tables hold."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _explain(error: ValidationError, table: type[Table], file: str) -> ConfigError:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    # A misspelt key also leaves the right one missing: the spelling is what helps.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    location = [part for part in first["loc"] if not str(part).startswith("function-")]
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _known_keys(table, location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(known)}"
        return ConfigError(
            "config.unknown-key", f"{file}: unknown key '{key}'", remedy=remedy, file=file, key=key
        )
    if first["type"] == "missing":
        return ConfigError(
            "config.missing-key",
            f"{file}: key '{key}' is missing",
            remedy=f"add '{key}'; docs/reference/configuration.md lists every key",
            file=file,
            key=key,
        )
    place = f"key '{key}': " if key else ""
    return ConfigError(
        "config.value",
        f"{file}: {place}{first['msg'].removeprefix('Value error, ')}",
        remedy=f"correct the value of '{key}'" if key else "correct the file",
        file=file,
        key=key,
    )


def _known_keys(table: type[BaseModel], location: list[str | int]) -> list[str]:
    """The keys that would have been valid at ``location``."""
    current: type[BaseModel] | None = table
    for part in location:
        if current is None:
            break
        known = {field.alias or name: field for name, field in current.model_fields.items()}
        field = known.get(str(part))
        current = _inner_table(field.annotation) if field is not None else current
    return [field.alias or name for name, field in current.model_fields.items()] if current else []


def _inner_table(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _inner_table(argument)
        if found is not None:
            return found
    return None
