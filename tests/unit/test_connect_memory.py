"""Readings of more data than there is memory, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

MEGA = 2**20
LIMIT = 64 * MEGA
"""What a reading may add to the memory of a process that has loaded everything."""

FEATURES = 5
CHILD = """
import json, resource, sys
from pathlib import Path
import tacit.connect
from tacit.config import parse_table
from tacit.policy import Contract
from tacit.connect.sources import csv_files
from tacit.testing.permissions import FixedKeys, permission

# Arrow reads up to 32 blocks of a CSV file ahead of its parser.
csv_files.BLOCK_BYTES = 2**18
folder, how, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
made = parse_table(json.loads((folder / "contract.json").read_text()), Contract, "contract")

def reading(part):
    return tacit.connect.Reading(part, folder, permission(made), FixedKeys())

small = next(iter(reading(made)))  # Whatever is loaded at first use is loaded now.
del small
used = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (int(used.split()[1]) * 1024 + limit,) * 2)
try:
    if how == "stream":
        rows = sum(len(batch) for batch in reading(made))
    else:
        rows = len(reading(made).collect())
except MemoryError:
    rows = -1
print(rows)
"""
OUT_OF_MEMORY = -1

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


def write_contract(folder: Path, form: str) -> None:
    keep = {"logicalType": "number", "classification": "feature", "transform": {"method": "keep"}}
    options = {"logicalTypeOptions": {"minimum": 0, "maximum": 1}, "bounds_source": "scale"}
    label = {"logicalType": "integer", "classification": "label", "values": [0, 1]}
    properties = [{"name": f"x{i}", **keep, **options} for i in range(FEATURES)]
    content = {
        "apiVersion": "v3.1.0",
        "name": "large",
        "server": {"type": "local", "path": f"records.{form}", "format": form},
        "properties": [*properties, {"name": "y", **label, "transform": {"method": "keep"}}],
    }
    (folder / "contract.json").write_text(json.dumps(content))


def run(folder: Path, how: str, limit: int) -> int:
    """How many records a reading gave."""
    # The system's allocator: Arrow's own reserves memory that it does not use yet.
    settings = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
    environment = {**os.environ, **settings}
    command = [sys.executable, "-c", CHILD, str(folder), how, str(limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "Out of memory" in done.stderr:  # Arrow ends the process where it cannot raise.
        return OUT_OF_MEMORY
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def batch(rows: int, seed: int) -> pa.RecordBatch:
    generator = np.random.default_rng(seed)
    columns = {f"x{i}": generator.random(rows) for i in range(FEATURES)}
    return pa.record_batch({**columns, "y": np.arange(rows) % 2})


def test_a_parquet_file_five_times_as_large_as_memory(tmp_path: Path) -> None:
    write_contract(tmp_path, "parquet")
    rows, part = 0, batch(MEGA, 0)
    path = tmp_path / "records.parquet"
    with parquet.ParquetWriter(
        path, part.schema, compression="none", use_dictionary=False
    ) as writer:
        while path.stat().st_size < 5 * LIMIT:
            writer.write_batch(part, row_group_size=MEGA)
            rows += part.num_rows
    assert path.stat().st_size >= 5 * LIMIT
    assert run(tmp_path, "stream", LIMIT) == rows
    assert run(tmp_path, "whole", LIMIT) == OUT_OF_MEMORY
    path.unlink()


def test_a_csv_file_twice_as_large_as_memory(tmp_path: Path) -> None:
    write_contract(tmp_path, "csv")
    line = "0.123456789,0.5,0.25,0.987654321,0.75,1\n"
    rows = 2 * LIMIT // len(line) + 1
    header = ",".join([*(f"x{i}" for i in range(FEATURES)), "y"])
    path = tmp_path / "records.csv"
    path.write_text(f"{header}\n{line * rows}")
    assert run(tmp_path, "stream", LIMIT) == rows
    assert run(tmp_path, "whole", LIMIT) == OUT_OF_MEMORY
    path.unlink()
