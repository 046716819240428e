"""The source of a contract's server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tacit.connect.sources.base import Source
from tacit.connect.sources.csv_files import CsvFormat
from tacit.connect.sources.databases import Database, DatabaseSource
from tacit.connect.sources.duckdb_files import Duckdb
from tacit.connect.sources.files import FileSource, Format, local_files
from tacit.connect.sources.ipc_files import IpcFormat
from tacit.connect.sources.objects import object_files, object_store
from tacit.connect.sources.parquet_files import ParquetFormat
from tacit.connect.sources.postgres import Postgres
from tacit.connect.sources.sqlite import Sqlite
from tacit.errors import ConfigError, LocalProtocolError
from tacit.policy.server import Server, ServerType

__all__ = ["open_source"]

LOGIN_KEYS: dict[ServerType, tuple[str, ...]] = {
    "postgres": ("user",),
    "s3": ("key", "secret"),
    "gcs": ("token",),
    "azure": ("key",),
}
"""What a login must hold. ``azure``: ``key`` is the account, ``secret`` its key, ``token`` a SAS."""


def open_source(server: Server, base: Path, secrets: Mapping[str, str] | None = None) -> Source:
    """The source that a server names; nothing is read before its schema or batches are asked for.

    Args:
        server: Where the records lie.
        base: Folder that ``server.path`` is relative to.
        secrets: What ``read_secret`` gave for ``server.secret``.

    Raises:
        ConfigError: What the source needs is not installed, or the login lacks a key.
        LocalProtocolError: The server names a secret, and none is passed.
    """
    login = _login(server, secrets)
    path = base / (server.path or "")
    match server.type:
        case "local":
            return FileSource(str(path), _format(server), lambda: local_files(base, server))
        case "postgres":
            database: Database = Postgres(server, login)
        case "sqlite":
            database = Sqlite(server, path)
        case "duckdb":
            database = Duckdb(server, path)
        case _:
            store = object_store(server, login)
            place = server.location or ""
            return FileSource(place, _format(server), lambda: object_files(store, server))
    return DatabaseSource(database)


def _login(server: Server, secrets: Mapping[str, str] | None) -> dict[str, str]:
    """The login, whole: libraries fill the gaps of half a one from wherever they look."""
    if server.secret is None:
        return {}
    if secrets is None:
        raise LocalProtocolError("connect.secret", "the server's secret was not passed")
    for key in LOGIN_KEYS[server.type]:
        if not secrets.get(key):
            raise ConfigError(
                "connect.secret",
                f"keys/{server.secret}.toml has no '{key}', which a login of type "
                f"'{server.type}' needs",
                remedy=f"add '{key}' to it",
                key=key,
            )
    if server.type == "azure" and not (secrets.get("secret") or secrets.get("token")):
        raise ConfigError(
            "connect.secret",
            f"keys/{server.secret}.toml has neither 'secret' nor 'token', of which a login of type "
            "'azure' needs one",
            remedy="add 'secret' or 'token' to it",
            key="secret",
        )
    return dict(secrets)


def _format(server: Server) -> Format:
    match server.format:
        case "csv":
            return CsvFormat(server.delimiter)
        case "arrow":
            return IpcFormat()
        case _:
            return ParquetFormat()
