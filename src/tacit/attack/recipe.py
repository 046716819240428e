"""How a process of its own gets to the same workbench, and what results must agree on to be kept."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args

from tacit.attack.scratch import PublicData
from tacit.attack.workbench import Profile, Workbench
from tacit.errors import ConfigError
from tacit.party.job import JobSpec
from tacit.types import Digest

__all__ = ["Recipe", "digest_of"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A workbench as plain JSON: where its files lie, and the choices.

    Args:
        job: Path of the job file.
        contract: Path of the contract of the public data.
        seed: See ``Workbench``.
        profile: See ``Workbench``.
    """

    job: str
    contract: str
    seed: int
    profile: Profile

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
        data = PublicData.load(Path(self.contract))
        return Workbench(JobSpec.load(job), job.parent, data, self.seed, self.profile)

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Recipe:
        """Reads what ``record`` made."""
        return cls(**record)


def digest_of(bench: Workbench) -> Digest:
    """SHA-256 over everything that a result depends on but chance: job, model code, data, seed, profile, version.

    Raises:
        ConfigError: The job's model or prior cannot be loaded.
    """
    batch = bench.data.batch
    parts = (
        bench.job.canonical(),
        bench.model.code,
        bench.data.contract.digest,
        batch.features.tobytes("A"),
        batch.labels.tobytes(),
        repr((bench.seed, bench.profile, metadata.version("tacit"))).encode(),
        _own_code(),
    )
    whole = hashlib.sha256(b"tacit attack suite\x00")
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return Digest(whole.digest())


@lru_cache(maxsize=1)
def _own_code() -> bytes:
    """SHA-256 over the sources of this very package: figures of other attacks are not kept."""
    whole = hashlib.sha256()
    for name, path in sorted(_sources(resources.files("tacit"), "")):
        content = path.read_bytes()
        whole.update(f"{name}\x00{len(content)}\x00".encode() + content)
    return whole.digest()


def _sources(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            found += _sources(entry, name)
        elif entry.name.endswith(".py"):
            found.append((name, entry))
    return found
