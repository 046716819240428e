"""S3 against a real server (moto, on this machine): the whole client is at work, signatures and all."""

from __future__ import annotations

import contextlib
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import compute, csv, ipc, parquet

from tacit.config import parse_table
from tacit.connect.sources import Source, objects, open_source, parquet_files
from tacit.errors import ConfigError, TacitError, TransportError
from tacit.policy.server import Server

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

SECRET = "CANARY-4711"
LOGIN = {"key": "AKIATACIT", "secret": f"{SECRET}-hush"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def bare(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No login, no region, no configuration but the contract's; no network but this machine's."""
    import os

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    connect = socket.socket.connect
    look_up = socket.getaddrinfo

    def at_home(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"reaches for {address}"
        connect(self, address)

    def known(host: Any, *rest: Any, **more: Any) -> Any:
        assert host in ("127.0.0.1", b"127.0.0.1"), f"looks up {host}"
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", at_home)
    monkeypatch.setattr(socket, "getaddrinfo", known)
    yield


@pytest.fixture
def bucket(endpoint: str) -> Iterator[Any]:
    """An empty bucket of an own name."""
    import s3fs

    store = s3fs.S3FileSystem(
        key="a",
        secret="b",
        endpoint_url=endpoint,
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    store.mkdir("ward")
    yield store
    with contextlib.suppress(FileNotFoundError):
        store.rm("ward", recursive=True)


def s3(endpoint: str, location: str, form: str, login: dict[str, str] | None = LOGIN) -> Source:
    content: dict[str, Any] = {"type": "s3", "location": location, "format": form}
    content |= {"endpointUrl": endpoint} | ({"secret": "ward"} if login else {})
    return open_source(parse_table(content, Server, "contract.toml"), Path("nowhere"), login)


def table(rows: int = 1000, first: int = 0) -> pa.Table:
    numbers = list(range(first, first + rows))
    return pa.table({"a": numbers, "b": [n / 4 for n in numbers], "c": [SECRET] * rows})


def put(store: Any, path: str, content: pa.Table, **options: Any) -> None:
    with store.open(path, "wb") as file:
        if path.endswith(".parquet"):
            parquet.write_table(content, file, **options)
        elif path.endswith(".arrow"):
            with ipc.new_file(file, content.schema) as writer:
                writer.write_table(content)
        else:
            csv.write_csv(content, file)


def read(source: Source, *wanted: str, where: Any = None) -> dict[str, list[Any]]:
    names = source.schema().names
    pieces = list(source.batches(names, wanted or names, where))
    merged: dict[str, list[Any]] = pa.Table.from_batches([p.batch for p in pieces]).to_pydict()
    return merged


def refused(kind: type[TacitError], code: str, source: Source) -> TacitError:
    with pytest.raises(kind) as caught:
        list(source.batches(["a", "b", "c"], ["a", "b", "c"]))
    error = caught.value
    assert error.code == code
    assert error.remedy
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(error))
    return error


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow"])
def test_objects_are_read_in_sorted_order(endpoint: str, bucket: Any, form: str) -> None:
    for name, first in (("b", 1000), ("a", 0)):
        put(bucket, f"ward/data/{name}.{form}", table(1000, first))
    put(bucket, "ward/data/ignored.txt", table(1))
    source = s3(endpoint, f"s3://ward/data/*.{form}", form)
    expected = [str(n).encode() if form == "csv" else n for n in range(2000)]
    assert read(source, "a") == {"a": expected}
    single = s3(endpoint, f"s3://ward/data/b.{form}", form)
    (piece,) = single.batches(["a", "b", "c"], ["b", "a"])
    assert piece.place == f"s3://ward/data/b.{form}"
    assert piece.batch.schema.names == ["b", "a"]
    assert SECRET not in repr(source)


def test_without_a_login_only_public_objects_are_read(
    endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A login that lies about in the environment is not used.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ambient")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ambient")
    put(bucket, "ward/a.csv", table(3))
    source = s3(endpoint, "s3://ward/a.csv", "csv", None)
    refused(ConfigError, "connect.login", source)
    bucket.chmod("ward/a.csv", acl="public-read")
    assert read(source, "a") == {"a": [b"0", b"1", b"2"]}


def test_a_row_group_is_fetched_with_few_requests(
    endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "ward/a.parquet", table(40_000), row_group_size=10_000, use_dictionary=False)
    fetched: list[int] = []
    read_one = objects._Watched.read

    def counted(self: Any, size: int = -1) -> bytes:
        fetched.append(size)
        return read_one(self, size)

    monkeypatch.setattr(objects._Watched, "read", counted)
    source = s3(endpoint, "s3://ward/a.parquet", "parquet")
    where = compute.field("a") >= 30_000
    names = ["a", "b", "c"]
    assert sum(p.batch.num_rows for p in source.batches(names, ["b"])) == 40_000
    # The footer, and then one request for each row group.
    assert len(fetched) <= 6
    assert sum(fetched) < bucket.size("ward/a.parquet") + 70_000
    fetched.clear()
    assert sum(p.batch.num_rows for p in source.batches(names, ["b"], where)) == 10_000
    assert len(fetched) <= 5
    monkeypatch.setattr(parquet_files, "PREFETCH_BYTES", 1000)
    assert read(source, "a")["a"] == list(range(40_000))


def test_missing_objects_and_buckets(endpoint: str, bucket: Any) -> None:
    for location in (
        "s3://ward/no.csv",
        "s3://ward/no-*.csv",
        "s3://nope/a.csv",
        "s3://nope/*.csv",
    ):
        error = refused(ConfigError, "connect.missing-file", s3(endpoint, location, "csv"))
        assert error.remedy == "correct 'server.location' in the contract"
        assert error.details["file"] == location


def test_a_truncated_object(endpoint: str, bucket: Any) -> None:
    put(bucket, "ward/a.parquet", table())
    data = bucket.cat("ward/a.parquet")
    for kept in (5, len(data) // 2, len(data) - 1):
        bucket.pipe("ward/a.parquet", data[:kept])
        source = s3(endpoint, "s3://ward/a.parquet", "parquet")
        error = refused(ConfigError, "connect.source", source)
        assert "s3://ward/a.parquet: this is not a whole Parquet file" in error.message


def test_a_store_that_cannot_be_reached() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for location in ("s3://ward/a.parquet", "s3://ward/*.parquet"):
        error = refused(TransportError, "connect.lost", s3(address, location, "parquet"))
        assert "try again" in error.remedy


def test_a_store_that_breaks_off_is_not_bad_data(
    endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "ward/a.parquet", table(200_000), row_group_size=70_000)
    source = s3(endpoint, "s3://ward/a.parquet", "parquet")
    batches = source.batches(["a", "b", "c"], ["a", "b"])
    next(batches)
    # While it is read, the object is replaced: the store refuses to go on with another one.
    put(bucket, "ward/a.parquet", table(200_000), row_group_size=60_000)
    with pytest.raises(TransportError) as caught:
        list(batches)
    assert caught.value.code == "connect.lost"
    assert caught.value.__context__ is None


def test_a_refused_login(endpoint: str, bucket: Any) -> None:
    put(bucket, "ward/a.parquet", table())
    bucket.chmod("ward/a.parquet", acl="private")
    import requests

    assert requests.post(f"{endpoint}/moto-api/reset-auth", data=b"0", timeout=5).ok
    try:
        for location in ("s3://ward/a.parquet", "s3://ward/*.parquet"):
            refused(ConfigError, "connect.login", s3(endpoint, location, "parquet"))
    finally:
        requests.post(f"{endpoint}/moto-api/reset-auth", data=b"Infinity", timeout=5)


def test_half_a_login_is_not_filled_from_the_environment() -> None:
    server = Server(type="azure", location="abfs://ward/a.parquet", format="parquet", secret="ward")
    with pytest.raises(ConfigError, match="neither 'secret' nor 'token'") as caught:
        open_source(server, Path(), {"key": "account"})
    assert caught.value.code == "connect.secret"
