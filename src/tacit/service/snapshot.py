"""A copy of a job's files in its run's folder: what is edited later cannot break a run that goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tacit.connect.sources.files import LocalFile, local_files
from tacit.errors import ConfigError, TransportError
from tacit.party.job import JobSpec
from tacit.policy.contract import Contract
from tacit.policy.server import Server

__all__ = ["JOB_FILE", "snapshot"]

JOB_FILE = "job.toml"
SHIPPED = "logistic"
NOTEBOOK = "notebook"


def snapshot(job: Path, folder: Path) -> JobSpec:
    """Copies a job: its file, its model's source, its prior, its evaluation contract and records.

    Records in an object store, in a database server, or at an absolute path stay where they are.

    Args:
        job: The job file.
        folder: Where the copy goes; must not exist.

    Returns:
        The job as it was copied.

    Raises:
        ConfigError: The job, or what it names, is missing or lies outside its folder.
        TransportError: The disk refuses a write.

    Guarantee: A run that goes on after the job's files were changed or removed is the run that was
    submitted (tests/unit/test_service_snapshot.py::test_later_edits_change_nothing).
    """
    base = job.parent
    try:
        folder.mkdir(parents=True)
        _copy(job, folder / JOB_FILE)
        spec = JobSpec.load(folder / JOB_FILE)
        for name in _named(spec):
            _copy(base / name, folder / name)
        contract = Contract.load(folder / spec.evaluation.contract)
        beside = PurePosixPath(spec.evaluation.contract).parent
        for name in _records(contract.server, base / beside):
            _copy(base / beside / name, folder / beside / name)
    except OSError as error:
        raise TransportError(
            "submit.copy",
            f"cannot copy {job} to {folder}: {error.strerror}",
            remedy="check the folder's permissions and its free space, then submit again",
            file=str(folder),
        ) from error
    return spec


def _named(spec: JobSpec) -> Iterator[PurePosixPath]:
    """The files that a job names, relative to its folder."""
    if spec.model == NOTEBOOK:
        raise ConfigError(
            "run.notebook",
            "a job whose model is an object of a notebook cannot be submitted",
            remedy="put the model into a file and name it in the job",
            key="model",
        )
    if spec.model != SHIPPED and ".py:" in spec.model:
        yield _inside(spec.model.rpartition(":")[0], "model")
    if spec.features.prior is not None:
        yield _inside(spec.features.prior, "features.prior")
    yield _inside(spec.evaluation.contract, "evaluation.contract")


def _records(server: Server, base: Path) -> Iterator[PurePosixPath]:
    """The files of the evaluation set that lie with its contract."""
    path = server.path
    if path is None or PurePosixPath(path).is_absolute():
        return
    if server.type == "local":
        _inside(path, "evaluation.contract")
        for file in local_files(base, server):
            if isinstance(file, LocalFile):
                yield PurePosixPath(file.path.relative_to(base).as_posix())
    elif (base / path).is_file():
        yield _inside(path, "evaluation.contract")


def _inside(name: str, key: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(
            "submit.outside",
            f"'{name}' lies outside the job's folder, so that it cannot be kept with the run",
            remedy="put the file into the job's folder, or name records by an absolute path",
            key=key,
        )
    return path


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ConfigError(
            "submit.missing",
            f"there is no file {source}",
            remedy="check the path, and that the coordinator may read it",
            file=str(source),
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
