"""Files of an object store, by way of fsspec: S3 and what speaks like it, Google Cloud, Azure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from tacit.connect.sources.checks import attempt, missing_error, optional, source_error
from tacit.connect.sources.files import DataFile
from tacit.errors import ConfigError, TacitError, TransportError
from tacit.policy.server import Server, ServerType

__all__ = ["ObjectFile", "object_files", "object_store"]

MODULES: dict[ServerType, tuple[str, str]] = {
    "s3": ("s3fs", "tacit[s3]"),
    "gcs": ("gcsfs", "gcsfs"),
    "azure": ("adlfs", "adlfs"),
}
"""Module and package of each object store. Only S3 is tested against a server, hence an extra."""

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60

_ANY: tuple[type[Exception], ...] = (Exception,)
"""What a store may raise: each library has errors of its own."""


class _Watched:
    """A remote file that remembers what its store raised, which Arrow may report as bad data."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.failure: Exception | None = None

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._file.read(size))
        except _ANY as error:
            self.failure = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


@dataclass(slots=True)
class ObjectFile:
    """One object.

    Args:
        place: Its URL.
        store: The fsspec file system.
        path: The object, as the store names it.
        sequential: Whether it is read from front to back, rather than here and there.
    """

    place: str
    store: Any = field(repr=False)
    path: str
    sequential: bool
    remote: bool = True
    broken: tuple[type[Exception], ...] = _ANY
    _opened: _Watched | None = field(default=None, repr=False)

    def open(self) -> pa.NativeFile:
        """The object, each read of which is a request (but for read-ahead of a sequential one)."""
        cache = "readahead" if self.sequential else "none"
        opened = attempt(
            lambda: self.store.open(self.path, "rb", cache_type=cache),
            lambda error: store_error(self.place, error),
            _ANY,
        )
        self._opened = _Watched(opened)
        return pa.PythonFile(self._opened, mode="r")

    def failure(self, problem: str) -> TacitError:
        """What the store raised, or else bad data."""
        failure = self._opened.failure if self._opened else None
        return (
            source_error(self.place, problem)
            if failure is None
            else store_error(self.place, failure)
        )


def object_store(server: Server, login: Mapping[str, str]) -> Any:
    """The fsspec file system of a server; nothing is taken from environment or metadata service.

    Raises:
        ConfigError: The extra is not installed.
    """
    module = optional(*MODULES[server.type])
    common = {"skip_instance_cache": True, "use_listings_cache": False}
    key, secret, token = (login.get(name) for name in ("key", "secret", "token"))
    match server.type:
        case "s3":
            return module.S3FileSystem(
                anon=not login,
                key=key,
                secret=secret,
                token=token,
                endpoint_url=server.endpoint_url,
                config_kwargs={
                    "connect_timeout": CONNECT_TIMEOUT_S,
                    "read_timeout": READ_TIMEOUT_S,
                    "retries": {"max_attempts": 2},
                },
                **common,
            )
        case "gcs":
            return module.GCSFileSystem(token=token or "anon", **common)
        case _:
            return module.AzureBlobFileSystem(
                account_name=key, account_key=secret, sas_token=token, **common
            )


def object_files(store: Any, server: Server) -> list[DataFile]:
    """The objects that a URL or pattern names, sorted.

    Raises:
        ConfigError: There is none, or the store refuses the login.
        TransportError: The store cannot be reached.
    """
    location = server.location or ""
    found = attempt(
        lambda: store.glob(location) if glob_like(location) else [store._strip_protocol(location)],  # noqa: SLF001 - fsspec's documented hook
        lambda error: store_error(location, error),
        _ANY,
    )
    if not found:
        raise missing_error(location, "object or bucket", "location")
    scheme = location.partition("://")[0]
    return [
        ObjectFile(f"{scheme}://{path}", store, path, server.format == "csv")
        for path in sorted(found)
    ]


def glob_like(location: str) -> bool:
    """Whether a location is a pattern."""
    return any(sign in location for sign in "*?[")


def store_error(place: str, error: Exception) -> TacitError:
    """The typed error for what a store raised."""
    if isinstance(error, FileNotFoundError):
        return missing_error(place, "object or bucket", "location")
    if isinstance(error, PermissionError):
        return ConfigError(
            "connect.login",
            f"{place}: the object store refuses to show it",
            remedy="correct the login in keys/NAME.toml ('server.secret'), or what it may read",
            file=place,
        )
    return TransportError(
        "connect.lost",
        f"{place}: the object store cannot be reached, or broke off",
        remedy="check 'server.endpointUrl' and the network, then try again; nothing was used",
        file=place,
    )
