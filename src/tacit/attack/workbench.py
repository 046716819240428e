"""What every attack works on: the job, public data, the attacker's own randomness, and how much to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import Defence, adversary_of, job_for, pooled_against
from tacit.attack.scratch import LEADER, DataPool, ScratchFederation, model_for
from tacit.attack.transcript import Transcript
from tacit.attack.view import View, look
from tacit.learn.code import LoadedModel
from tacit.party.job import JobSpec
from tacit.types import PartyName

__all__ = ["Profile", "Rows", "Workbench"]

Profile = Literal["demo", "quick", "full"]
"""How much to do: seconds for a demonstration, minutes before a commit, an hour for a report."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Workbench:
    """A job under attack.

    Args:
        job: As it was written; defences change it.
        base: Its folder, with model code.
        data: Public records of its kind.
        seed: Of the attacker's choices alone: keys, masks and noise come from the operating system.
        profile: How much to do.
    """

    job: JobSpec
    base: Path
    data: DataPool
    seed: int
    profile: Profile
    _loaded: list[LoadedModel] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def model(self) -> LoadedModel:
        """The job's model, loaded once: every scratch federation has the same.

        Raises:
            ConfigError: It cannot be loaded, or the prior of its features cannot.
        """
        if not self._loaded:
            self._loaded.append(model_for(self.job, self.base, self.data.batch.schema))
        return self._loaded[0]

    def generator(self, *name: object) -> np.random.Generator:
        """The attacker's own stream of that name: which records, which trials, which starting points."""
        text = repr((self.seed, *map(str, name))).encode()
        seed = hashlib.sha256(b"tacit attack\x00" + text).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))

    def pick(self, demo: int, quick: int, full: int) -> int:
        """A number of trials, by profile."""
        return {"demo": demo, "quick": quick, "full": full}[self.profile]

    def scratch(
        self,
        defence: Defence,
        holdings: Sequence[Rows],
        *,
        rounds: int | None = None,
        training: dict[str, Any] | None = None,
        privacy: dict[str, Any] | None = None,
        **options: Any,
    ) -> ScratchFederation:
        """A federation under one defence; the other arguments are those of ``job_for`` and its own."""
        units = max(1, sum(len(rows) for rows in holdings))
        job = job_for(
            self.job,
            defence,
            sites=len(holdings),
            units=units,
            rounds=rounds,
            training=training,
            privacy=privacy,
        )
        code = {LEADER: lambda _: self.model, **(options.pop("code", None) or {})}
        return ScratchFederation(job, self.base, self.data, holdings, code=code, **options)

    def view(
        self, defence: Defence, transcript: Transcript, targets: Iterable[PartyName] = ()
    ) -> View:
        """What the adversary of a column sees of a run: see ``adversary_of``, also for ``targets``."""
        plan, helpers = transcript.plan, transcript.terms.helpers
        return look(transcript, adversary_of(defence, helpers, plan.max_colluding, targets))

    def pooled(self, transcript: Transcript, target: PartyName) -> View:
        """What leader, colluding helpers and all sites but the target see together: ``pooled_against``."""
        terms = transcript.terms
        colluding = transcript.plan.max_colluding
        return look(transcript, pooled_against(target, terms.clients, terms.helpers, colluding))
