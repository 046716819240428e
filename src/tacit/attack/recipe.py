"""How a process of its own gets to the same workbench, and what results must agree on to be kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tacit.attack.scratch import DataPool
from tacit.attack.workbench import Profile, Workbench
from tacit.connect import SanitisedBatch
from tacit.errors import ConfigError
from tacit.party.job import JobSpec
from tacit.types import Digest

__all__ = ["Recipe", "digest_of"]

COMPUTING = ("numpy", "scipy", "torch", "dp-accounting")
"""Packages whose version may change a figure."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A workbench as plain JSON: where its files lie, and the choices.

    Args:
        job: Path of the job file.
        contract: Path of the contract of the public data.
        seed: See ``Workbench``.
        profile: See ``Workbench``.
        modules: Where attacks come from, if not from Tacit's own packages.
    """

    job: str
    contract: str
    seed: int
    profile: Profile
    modules: tuple[str, ...] = ()

    def open(self) -> Workbench:
        """Reads job and data.

        Raises:
            ConfigError: A file or the profile is wrong.
            PolicyDenied: The contract does not say that the data are public.
        """
        if self.profile not in get_args(Profile):
            raise ConfigError(
                "attack.profile",
                f"there is no profile {self.profile!r}",
                remedy=f"choose from: {', '.join(get_args(Profile))}",
            )
        job = Path(self.job)
        data = DataPool.load(Path(self.contract))
        return Workbench(JobSpec.load(job), job.parent, data, self.seed, self.profile)

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Recipe:
        """Reads what ``record`` made."""
        return cls(**{**record, "modules": tuple(record["modules"])})


def digest_of(bench: Workbench, modules: Sequence[str] = ()) -> Digest:
    """SHA-256 over everything that a result depends on but chance.

    That is job, model code and the Python files beside it, data, seed, profile, Tacit's own sources, those of
    ``modules``, and the versions of the packages that compute.

    Args:
        bench: What is attacked.
        modules: Where attacks come from, if not from Tacit's own packages.

    Guarantee: a result is not used again after one of these changed. Checked by
    ``tests/attack/test_suite.py::test_the_digest_covers_whatever_a_result_depends_on`` and
    ``::test_the_digest_covers_code_outside_the_package``.

    Raises:
        ConfigError: The job's model or prior cannot be loaded.
    """
    versions = [(name, _version(name)) for name in ("tacit", *COMPUTING)]
    parts = (
        bench.job.canonical(),
        bench.model.code,
        bench.data.contract.digest,
        *_data(bench.data.batch),
        repr((bench.seed, bench.profile, versions, list(modules))).encode(),
        _own_code(),
        _hashed(_beside(bench.base, bench.job.model)),
        _hashed(found for name in modules for found in _of_module(name)),
    )
    return Digest(_framed(parts))


def _framed(parts: Iterable[bytes]) -> bytes:
    whole = hashlib.sha256(b"tacit attack suite\x00")
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.digest()


def _data(batch: SanitisedBatch) -> Iterable[bytes]:
    """Records as they lie in memory, and which of them are of one entity: pseudonyms differ with every key."""
    features = batch.features
    layout = (features.shape, features.strides, features.dtype.str, batch.labels.dtype.str)
    yield repr(layout).encode()
    yield features.tobytes("C")
    yield batch.labels.tobytes()
    if batch.entities is None:
        yield b"none"
    else:
        _, first, own = np.unique(batch.entities, return_index=True, return_inverse=True)
        yield first[own].astype("<i8").tobytes()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _beside(base: Path, model: str) -> Iterable[tuple[str, bytes]]:
    """Python files that a job's own model file could import: those of its folder and the job's, with packages."""
    file = model.partition(":")[0]
    if file.endswith(".py"):
        for folder in {base, (base / file).parent}:
            yield from _python(folder, str(folder.relative_to(base)))


def _of_module(name: str) -> Iterable[tuple[str, bytes]]:
    """The sources of a module that attacks come from, and those that lie beside it; Tacit's own are covered."""
    if name.partition(".")[0] == "tacit":
        return
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        return  # it cannot be loaded either
    folders = [Path(one) for one in spec.submodule_search_locations or ()]
    if not folders and spec.origin is not None:
        folders = [Path(spec.origin).parent]
    for folder in folders:
        yield from _python(folder, name)


def _python(folder: Path, prefix: str) -> Iterable[tuple[str, bytes]]:
    """``*.py`` of a folder and of the packages in it."""
    for path in sorted(folder.iterdir()):
        name = f"{prefix}/{path.name}"
        if path.suffix == ".py" and path.is_file():
            yield name, path.read_bytes()
        elif (path / "__init__.py").is_file():
            yield from _python(path, name)


def _hashed(files: Iterable[tuple[str, bytes]]) -> bytes:
    return _framed(part for name, content in sorted(files) for part in (name.encode(), content))


@lru_cache(maxsize=1)
def _own_code() -> bytes:
    """SHA-256 over the sources of this very package: figures of other attacks are not kept."""
    sources = _sources(resources.files("tacit"), "")
    return _hashed((name, path.read_bytes()) for name, path in sources)


def _sources(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            found += _sources(entry, name)
        elif entry.name.endswith(".py"):
            found.append((name, entry))
    return found
