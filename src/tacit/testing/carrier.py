"""A carrier of the coordinator's runs for tests: sites and helpers of folders in this process, no server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tacit.engine.folder import SiteFolder, World
from tacit.federation import JobFiles
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.service.led import LedRun
from tacit.testing.clock import FixedClock
from tacit.trust.roster import Roster
from tacit.wire.envelope import Address, Envelope

__all__ = ["LocalCarrier"]


class LocalCarrier:
    """Moves messages between the runs of one coordinator and the sites of a federation's folder.

    Args:
        base: The federation's folder.
        world: Entropy and sealing of the sites.
        clock: The time.
        job: Folder of the job whose model and schema the sites know.
    """

    def __init__(self, base: Path, world: World, clock: FixedClock, job: Path) -> None:
        self.queue: deque[tuple[str, Envelope]] = deque()
        self.runs: dict[str, LedRun] = {}
        self.detached: list[str] = []
        self._lock = threading.RLock()
        self._clock = clock
        roster = Roster.load(base / "federation.toml")
        files = JobFiles.open(JobSpec.load(job / "job.toml"), job)
        self._parties: dict[Address, Site | Helper] = {}
        for path in sorted((base / "sites").iterdir()):
            for party in SiteFolder.load(path).parties(roster, files.load, world):
                self._parties[party.address] = party

    def locked(self) -> AbstractContextManager[object]:
        """See ``Carrier``."""
        return self._lock

    def attach(self, run: LedRun) -> None:
        """See ``Carrier``."""
        self.runs[run.run] = run

    def detach(self, run: LedRun) -> None:
        """See ``Carrier``."""
        self.runs.pop(run.run, None)
        self.detached.append(run.run)

    def post(self, run: LedRun, envelopes: Sequence[Envelope]) -> None:
        """See ``Carrier``."""
        self.queue.extend((run.run, envelope) for envelope in envelopes)

    def pump(self, steps: int = 100_000) -> int:
        """Delivers up to so many messages; returns how many there were.

        When nobody has anything left to say, deadlines pass.
        """
        done = 0
        while done < steps:
            if self.queue:
                run, envelope = self.queue.popleft()
                done += 1
                party = self._parties.get(envelope.receiver) or self.runs.get(run)
                if party is not None:
                    with self._lock:
                        answers = party.receive(envelope, self._clock())
                    self.queue.extend((run, answer) for answer in answers)
                continue
            for name, led in list(self.runs.items()):
                if not led.ended:
                    now = max(self._clock(), led.lead.coordinator.deadline)
                    self.queue.extend((name, sent) for sent in led.tick(now))
            if not self.queue:
                break
        return done
