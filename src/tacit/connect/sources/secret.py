"""The login of a data source: a small TOML file in the site's ``keys`` folder."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tacit.errors import ConfigError
from tacit.trust.identity import read_private

__all__ = ["SECRET_KEYS", "read_secret"]

SECRET_KEYS = ("user", "password", "key", "secret", "token")
"""``user`` and ``password`` for a database; ``key``, ``secret`` and ``token`` for an object store."""


def read_secret(folder: Path, name: str) -> dict[str, str]:
    """Reads ``keys/NAME.toml``.

    Guarantee:
        No error about the file holds any of its content, not even as its cause or context.
        Checked by tests/unit/test_connect_sources_databases.py::test_a_secret_file_is_never_quoted.

    Args:
        folder: The site's folder.
        name: The server's ``secret``.

    Returns:
        Some of ``SECRET_KEYS``, each with its text.

    Raises:
        ConfigError: Missing, readable by others than its owner, or not such a file.
    """
    path = folder / "keys" / f"{name}.toml"
    content = _parsed(read_private(path))
    if not content or not all(
        key in SECRET_KEYS and isinstance(value, str) for key, value in content.items()
    ):
        raise ConfigError(
            "connect.secret",
            f"{path} is not the login of a data source",
            remedy='write lines such as user = "..."; the keys are ' + ", ".join(SECRET_KEYS),
            file=str(path),
        )
    return {key: str(value) for key, value in content.items()}


def _parsed(data: bytes) -> dict[str, object] | None:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
