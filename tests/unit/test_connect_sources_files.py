from __future__ import annotations

import gzip
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import compute, csv, feather, ipc, parquet

from tacit.config import parse_table
from tacit.connect.sources import BATCH_ROWS, Piece, Source, checks, csv_files, open_source
from tacit.errors import ConfigError, LocalProtocolError, TacitError
from tacit.policy.server import Server
from tacit.testing import sources

SECRET = "CANARY-4711"
FORMATS = ["csv", "parquet", "arrow"]


def source_of(folder: Path, path: str, form: str, **more: str) -> Source:
    content = {"type": "local", "path": path, "format": form, **more}
    return open_source(parse_table(content, Server, "contract.toml"), folder)


def table(rows: int = 10, first: int = 0) -> pa.Table:
    numbers = np.arange(first, first + rows)
    return pa.table(
        {"a": numbers, "b": numbers / 4, "c": [f"{SECRET} {number}" for number in numbers]}
    )


def write(path: Path, content: pa.Table, **options: Any) -> None:
    match path.suffix:
        case ".csv":
            csv.write_csv(content, path)
        case ".parquet":
            parquet.write_table(content, path, **options)
        case _:
            with ipc.new_file(path, content.schema) as writer:
                writer.write_table(content, max_chunksize=options.get("row_group_size"))


def pieces_of(source: Source, *wanted: str, where: Any = None) -> list[Piece]:
    return list(source.batches(["a", "b", "c"], wanted or ("a", "b", "c"), where))


def joined(pieces: list[Piece]) -> dict[str, list[Any]]:
    merged: dict[str, list[Any]] = pa.Table.from_batches([p.batch for p in pieces]).to_pydict()
    return merged


def refused(
    source: Source, code: str = "connect.source", declared: tuple[str, ...] = ("a", "b", "c")
) -> TacitError:
    return sources.refused(ConfigError, code, source, *declared, secret=SECRET)


@pytest.mark.parametrize("form", FORMATS)
def test_files_are_read_in_sorted_order(tmp_path: Path, form: str) -> None:
    for name, first in (("b", 10), ("a", 0), ("c", 20)):
        write(tmp_path / f"{name}.{form}", table(10, first), row_group_size=4)
    (tmp_path / "ignored.txt").write_text("x")
    source = source_of(tmp_path, f"*.{form}", form)
    pieces = pieces_of(source, "c", "a")
    expected = [str(number).encode() if form == "csv" else number for number in range(30)]
    assert joined(pieces)["a"] == expected
    assert pieces[0].batch.schema.names == ["c", "a"]
    rows: dict[str, int] = {}
    for piece in pieces:
        assert piece.first_row == rows.get(piece.place, 0)
        rows[piece.place] = piece.first_row + piece.batch.num_rows
    assert rows == {str(tmp_path / f"{name}.{form}"): 10 for name in "abc"}
    assert source.text == (form == "csv")
    kinds = [pa.binary()] * 3 if form == "csv" else [pa.int64(), pa.float64(), pa.string()]
    assert source.schema() == pa.schema(zip("abc", kinds, strict=True))


@pytest.mark.parametrize("form", FORMATS)
def test_batches_are_small(tmp_path: Path, form: str) -> None:
    write(tmp_path / f"a.{form}", table(150_000))
    pieces = pieces_of(source_of(tmp_path, f"a.{form}", form), "b")
    assert sum(piece.batch.num_rows for piece in pieces) == 150_000
    limit = 300_000 if form == "csv" else BATCH_ROWS
    assert max(piece.batch.num_rows for piece in pieces) <= limit
    assert [piece.first_row for piece in pieces[:2]] == [0, pieces[0].batch.num_rows]


def test_absolute_paths_and_names_like_patterns(tmp_path: Path) -> None:
    (tmp_path / "site [1]").mkdir()
    for name in ("a.csv", "b[1].csv"):
        write(tmp_path / "site [1]" / name, table(3))
    assert len(pieces_of(source_of(tmp_path / "site [1]", "*.csv", "csv"))) == 2
    assert len(pieces_of(source_of(tmp_path / "site [1]", "b[1].csv", "csv"))) == 1
    pattern = str(tmp_path / "*" / "a.csv")
    assert len(pieces_of(source_of(tmp_path / "elsewhere", pattern, "csv"))) == 1


def test_csv_with_another_delimiter_or_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a;b;c\n1;2;"x;\n\xff"\n')
    expected = {"a": [b"1"], "b": [b"2"], "c": [b"x;\n\xff"]}
    assert joined(pieces_of(source_of(tmp_path, "a.csv", "csv", delimiter=";"))) == expected
    data = gzip.compress((tmp_path / "a.csv").read_bytes())
    (tmp_path / "a.csv.gz").write_bytes(data)
    source = source_of(tmp_path, "a.csv.gz", "csv", delimiter=";")
    assert joined(pieces_of(source)) == expected
    (tmp_path / "a.csv.gz").write_bytes(data[:-12])
    refused(source)


@pytest.mark.parametrize("form", FORMATS)
def test_columns_of_every_file_are_checked(tmp_path: Path, form: str) -> None:
    content = table(5)
    source = source_of(tmp_path, f"*.{form}", form)
    write(tmp_path / f"1.{form}", content)
    for names, problem in (
        (["a", "b", "z"], "column 'c' is in the contract but not in the data"),
        (["a", "b", "c", "z"], "column 'z' is in the data but not in the contract"),
        (["a", "b", "c", "b"], "column 'b' is in the data twice"),
    ):
        columns = [*content.columns, content.column(0)][: len(names)]
        write(tmp_path / f"2.{form}", pa.table(columns, names=names))
        error = refused(source, "connect.column")
        assert error.message == f"{tmp_path / f'2.{form}'}: {problem}"
    write(tmp_path / f"2.{form}", pa.table(content.columns, names=[SECRET, "y", "z"]))
    assert "no declared column is in the header" in refused(source).message


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_type_that_changes_between_files(tmp_path: Path, form: str) -> None:
    write(tmp_path / f"1.{form}", table(5))
    changed = table(5).set_column(1, "b", pa.array(["x"] * 5))
    write(tmp_path / f"2.{form}", changed)
    source = source_of(tmp_path, f"*.{form}", form)
    error = refused(source, "connect.type")
    assert f"{tmp_path / f'2.{form}'}: column 'b' is stored as string here" in error.message
    assert f"as double in {tmp_path / f'1.{form}'}" in error.message
    assert len(pieces_of(source, "a", "c")) == 2  # what is not read does not matter


def test_a_type_that_changes_on_the_way() -> None:
    kinds = [pa.int64(), pa.int64(), pa.float64()]
    batches = [pa.record_batch({"a": pa.array([1, 2], kind)}) for kind in kinds]
    pieces = checks.steady(Piece("view", 2 * i, batch) for i, batch in enumerate(batches))
    assert [next(pieces).first_row, next(pieces).first_row] == [0, 2]
    with pytest.raises(ConfigError, match="stored as double here, and as int64 before"):
        next(pieces)


def test_missing_files(tmp_path: Path) -> None:
    for path in ("no.csv", "no-*.csv", "."):
        error = refused(source_of(tmp_path, path, "csv"), "connect.missing-file")
        assert error.remedy == "correct 'server.path' in the contract"


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write(tmp_path / f"{name}.parquet", table(5))
    batches = source_of(tmp_path, "*.parquet", "parquet").batches(["a", "b", "c"], ["a"])
    next(batches)
    (tmp_path / "2.parquet").unlink()
    with pytest.raises(ConfigError, match=r"2\.parquet: it cannot be opened") as caught:
        next(batches)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_truncated_file_is_never_the_end(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    write(path, table(20_000), row_group_size=2_000)
    data = path.read_bytes()
    source = source_of(tmp_path, f"a.{form}", form)
    assert len(joined(pieces_of(source))["a"]) == 20_000
    for kept in (0, 3, 7, len(data) // 10, len(data) // 2, len(data) - 1000, len(data) - 1):
        path.write_bytes(data[:kept])
        assert str(path) in refused(source).message
    # The end without the middle: only the footer is whole.
    path.write_bytes(data[: len(data) // 3] + data[-len(data) // 3 :])
    refused(source)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_damaged_page_is_found_when_it_is_read(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.parquet"
    write(
        path,
        table(200_000),
        row_group_size=20_000,
        compression=compression,
        use_dictionary=False,
        # Measured: what zstd or no compression at all makes of damaged bytes may pass for numbers.
        # It shows in a checksum only, if the writer left one.
        write_page_checksum=compression != "snappy",
    )
    data = bytearray(path.read_bytes())
    column = parquet.read_metadata(path).row_group(9).column(0)
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    source = source_of(tmp_path, "a.parquet", "parquet")
    batches = source.batches(["a", "b", "c"], ["a"])
    assert next(batches).batch.num_rows == BATCH_ROWS
    refused(source)
    assert len(joined(pieces_of(source, "b"))["b"]) == 200_000


def test_a_damaged_arrow_batch_cannot_reach_beyond_its_buffers(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write(path, pa.table({"a": ["x" * 50] * 100, "b": [1] * 100, "c": [1] * 100}))
    data = path.read_bytes()
    offsets = np.arange(101, dtype="<i4") * 50
    assert data.count(offsets.tobytes()) == 1
    path.write_bytes(data.replace(offsets.tobytes(), (offsets * 1000).tobytes()))
    assert "not a whole Arrow IPC file" in refused(source_of(tmp_path, "a.arrow", "arrow")).message


def test_a_broken_csv_row_is_located_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 256)
    rows = [f"{number},x,y" for number in range(100)]
    (tmp_path / "1.csv").write_text("\n".join(["a,b,c", *rows]) + "\n")
    rows[83] = f"{SECRET},x,y,z"
    (tmp_path / "2.csv").write_text("\n".join(["a,b,c", *rows]) + "\n")
    error = refused(source_of(tmp_path, "*.csv", "csv"))
    assert error.message == f"{tmp_path / '2.csv'}: data row 84 has 4 fields instead of 3"
    (tmp_path / "2.csv").write_text(f'a,b,c\n1,2,"{SECRET}\n' + "x" * 1000)
    assert "cannot be parsed" in refused(source_of(tmp_path, "*.csv", "csv")).message


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_rows_are_filtered_before_they_are_delivered(tmp_path: Path, form: str) -> None:
    for name, first in (("1", 0), ("2", 5000)):
        write(tmp_path / f"{name}.{form}", table(5000, first), row_group_size=500)
    source = source_of(tmp_path, f"*.{form}", form)
    where = (compute.field("a") >= 4990) & (compute.field("b") < 1251)
    pieces = pieces_of(source, "c", where=where)
    assert joined(pieces) == {"c": [f"{SECRET} {number}" for number in range(4990, 5004)]}
    second = [piece for piece in pieces if piece.place.endswith(f"2.{form}")]
    assert second[0].first_row == 0
    with pytest.raises(ConfigError) as caught:
        pieces_of(source, "c", where=compute.field("a") == "x")
    assert caught.value.code == "connect.filter"


def test_a_parquet_filter_skips_row_groups_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, table(5000), row_group_size=500, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    metadata = parquet.read_metadata(path)
    for group in range(10):
        for index in range(3):
            if (group, index) in ((4, 0), (4, 1)):
                continue
            column = metadata.row_group(group).column(index)
            start = column.data_page_offset
            data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(data)
    source = source_of(tmp_path, "a.parquet", "parquet")
    # All but two column chunks are destroyed: whatever touched another one would fail.
    where = (compute.field("a") >= 2100) & (compute.field("a") < 2103)
    assert joined(pieces_of(source, "b", where=where)) == {"b": [525.0, 525.25, 525.5]}
    refused(source)


def test_a_column_is_chosen_by_its_whole_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    content = {"x": [1], "x.y": ["no"], "s": [{"p": 1, "q": [2]}], "z": [3]}
    parquet.write_table(pa.table(content), path)
    names = list(content)
    for name in names:
        (piece,) = source_of(tmp_path, "a.parquet", "parquet").batches(names, [name])
        assert piece.batch.to_pydict() == {name: content[name]}


def test_requests_that_cannot_be_answered(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", table(3))
    source = source_of(tmp_path, "a.csv", "csv")
    with pytest.raises(LocalProtocolError, match="filtered after its cells are parsed"):
        source.batches(["a"], ["a"], compute.field("a") == 1)
    for wanted in ([], ["z"], ["a", "a"]):
        with pytest.raises(LocalProtocolError, match="not a part"):
            source.batches(["a", "b", "c"], wanted)


def test_feather_and_the_streaming_format(tmp_path: Path) -> None:
    feather.write_feather(table(10), tmp_path / "a.arrow", compression="zstd")
    source = source_of(tmp_path, "a.arrow", "arrow")
    assert joined(pieces_of(source, "a"))["a"] == list(range(10))
    with ipc.new_stream(tmp_path / "a.arrow", table(10).schema) as writer:
        writer.write_table(table(10))
    refused(source)


# --- larger than memory ----------------------------------------------------------------------------

LIMIT = 200 * 1024 * 1024
READ = """
import resource, sys
from pathlib import Path
from pyarrow import parquet
from tacit.connect.sources import open_source
from tacit.policy.server import Server
from tacit.testing import sources

folder, limit = Path(sys.argv[1]), int(sys.argv[2])

def streamed(path):
    source = open_source(Server(type="local", path=path, format="parquet"), folder)
    names = source.schema().names
    return sum(piece.batch.num_rows for piece in source.batches(names, names))

def whole(path):
    options = {"use_threads": False, "pre_buffer": False}  # no new threads once memory is short
    return parquet.read_table(folder / path, **options).num_rows

def peak():
    # Not ru_maxrss: a child begins with that of its parent.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

streamed("warm.parquet")  # threads are there from now on
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for path in sys.argv[3:]:
    before = peak()
    try:
        rows = whole(path[6:]) if path.startswith("whole:") else streamed(path)
    except MemoryError:
        rows = -1
    print(rows, peak() - before)
"""


def in_child(folder: Path, *paths: str) -> list[list[int]]:
    """Rows (-1: out of memory) and growth of the peak memory, in a child whose memory is limited.

    RLIMIT_DATA bounds what the process may allocate. Arrow's default allocator reserves 1 GiB of
    address space at once, and each thread a stack of 8 MiB; both would hide what is used.
    """
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder), str(LIMIT), *paths],
        check=False,
        capture_output=True,
        text=True,
        env={"ARROW_DEFAULT_MEMORY_POOL": "system", "PYTHONPATH": ":".join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20)),
    )
    assert not done.returncode, done.stderr
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


def write_random(path: Path, rows: int, times: int) -> None:
    draws = np.random.default_rng(1)
    group = pa.table({f"c{index}": draws.random(rows) for index in range(8)})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with parquet.ParquetWriter(path, group.schema, **options) as writer:
        for _ in range(times):
            writer.write_table(group)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA binds on Linux only")
def test_a_file_larger_than_memory_is_streamed(tmp_path: Path) -> None:
    """1 GiB through 200 MiB of memory, of which the interpreter and Arrow take 120."""
    write_random(tmp_path / "warm.parquet", 1000, 1)
    write_random(tmp_path / "big.parquet", 800_000, 21)
    assert (tmp_path / "big.parquet").stat().st_size > 5 * LIMIT
    try:
        streamed, whole = in_child(tmp_path, "big.parquet", "whole:big.parquet")
    finally:
        (tmp_path / "big.parquet").unlink()
    assert streamed[0] == 21 * 800_000
    assert streamed[1] < 80 * 1024 * 1024
    assert whole[0] == -1


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA binds on Linux only")
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    write_random(tmp_path / "warm.parquet", 40_000, 1)
    for index in range(300):
        (tmp_path / f"{index}.part").symlink_to("warm.parquet")
    few, many = in_child(tmp_path, "1?.part", "*.part")
    assert few[0] == 10 * 40_000
    assert many[0] == 300 * 40_000
    assert many[1] < 8 * 1024 * 1024
