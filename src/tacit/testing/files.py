"""What lies in the folder of a written federation, read once and shared by many runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tacit.demo.layout import LEADER
from tacit.engine.folder import SiteFolder
from tacit.party.job import JobSpec
from tacit.policy.contract import Contract
from tacit.policy.schema import Schema
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.types import PartyName

__all__ = ["Files"]


@dataclass(frozen=True, slots=True)
class Files:
    """The immutable parts of a federation: no state, but every identity key."""

    roster: Roster
    job: JobSpec
    schema: Schema
    folders: Mapping[PartyName, SiteFolder]
    identities: Mapping[PartyName, Identity]

    @classmethod
    def read(cls, folder: Path) -> Files:
        """Reads what ``write_small_federation`` wrote."""
        roster = Roster.load(folder / "federation.toml")
        job = JobSpec.load(folder / "job.toml")
        names = tuple(member.name for member in roster.with_role("client"))
        places = {PartyName(LEADER): folder / LEADER}
        places |= {name: folder / "sites" / name for name in names}
        return cls(
            roster=roster,
            job=job,
            schema=Contract.load(folder / job.evaluation.contract).schema(),
            folders={name: SiteFolder.load(places[name]) for name in names},
            identities={
                name: Identity.load(place / "keys" / "identity.key")
                for name, place in places.items()
            },
        )

    def tolerating(self, **limits: Any) -> Files:
        """The same files, where every site's ``[limits]`` hold these values."""
        folders = {
            name: replace(
                folder,
                config=folder.config.model_copy(
                    update={"limits": folder.config.limits.model_copy(update=limits)}
                ),
            )
            for name, folder in self.folders.items()
        }
        return replace(self, folders=folders)
