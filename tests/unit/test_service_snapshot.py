"""The copy of a job's files that a run keeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tacit.errors import ConfigError, TransportError
from tacit.federation import JobFiles
from tacit.service.snapshot import snapshot
from tacit.testing.federation import write_small_federation


def test_later_edits_change_nothing(tmp_path: Path) -> None:
    job = write_small_federation(tmp_path / "f")
    spec = snapshot(job, tmp_path / "kept")
    before = JobFiles.open(spec, tmp_path / "kept")
    shutil.rmtree(tmp_path / "f")
    after = JobFiles.open(spec, tmp_path / "kept")
    assert before.schema == after.schema
    assert (before.evaluation.features == after.evaluation.features).all()
    copied = sorted(
        path.relative_to(tmp_path / "kept").as_posix() for path in tmp_path.rglob("*.*")
    )
    assert copied == ["evaluation/contract.toml", "evaluation/records.csv", "job.toml"]


def test_a_model_file_is_copied_with_its_path(tmp_path: Path) -> None:
    job = write_small_federation(tmp_path / "f", job={"model": "models/net.py:Net"})
    (tmp_path / "f" / "models").mkdir()
    (tmp_path / "f" / "models" / "net.py").write_text("x = 1\n")
    snapshot(job, tmp_path / "kept")
    assert (tmp_path / "kept" / "models" / "net.py").read_text() == "x = 1\n"


def test_records_at_an_absolute_path_stay_there(tmp_path: Path) -> None:
    job = write_small_federation(tmp_path / "f")
    contract, records = tmp_path / "f/evaluation/contract.toml", tmp_path / "records.csv"
    (tmp_path / "f/evaluation/records.csv").rename(records)
    contract.write_text(contract.read_text().replace('"records.csv"', f'"{records}"'))
    snapshot(job, tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("*.csv"))


def test_records_outside_the_folder_are_refused(tmp_path: Path) -> None:
    job = write_small_federation(tmp_path / "f")
    contract = tmp_path / "f/evaluation/contract.toml"
    contract.write_text(contract.read_text().replace('"records.csv"', '"../../records.csv"'))
    with pytest.raises(ConfigError) as caught:
        snapshot(job, tmp_path / "kept")
    assert caught.value.code == "submit.outside"


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    job = write_small_federation(tmp_path / "f")
    (tmp_path / "kept").write_text("")
    with pytest.raises(TransportError) as caught:
        snapshot(job, tmp_path / "kept")
    assert caught.value.code == "submit.copy"
