"""``tacit site``: one site of a federation as a process; client and helper over one identity and state.

The folder is read once: policy lock, contracts, policies and ``site.toml`` count as they were at the start.
Whoever changes them restarts the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tacit.engine.folder import CODE, SiteFolder, World
from tacit.engine.own_model import write_own_model
from tacit.engine.training.compute import ChildCompute
from tacit.engine.training.process import Limits
from tacit.errors import TacitError
from tacit.lead import RUN_NAME_DIGITS
from tacit.party.site import Site
from tacit.service.config import ServiceConfig, only_process
from tacit.service.member import Member, Served
from tacit.trust.roster import Roster
from tacit.types import Milliseconds
from tacit.wire.envelope import Address, Envelope

__all__ = ["ServedSite", "serve"]

REFRESH_MS = 10_000
KEPT = 1_024


@dataclass(slots=True)
class ServedSite:
    """A site as its process serves it: its operator's models are written, and its budget is shown.

    Args:
        site: The party.
        folder: Its folder.
        member: The process.
    """

    site: Site
    folder: SiteFolder
    member: Member
    _shown: int = 0
    """When it was shown, in milliseconds since 1970."""
    _budget: dict[str, float] = field(default_factory=dict)
    _told: dict[str, None] = field(default_factory=dict)
    """Runs that ended in this process's life."""

    @property
    def address(self) -> Address:
        """Who it is, as a client."""
        return self.site.address

    @property
    def last_error(self) -> TacitError | None:
        """Why it refused last."""
        return self.site.last_error

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message; what a run leaves to this site is on the disk before the answer leaves."""
        answers = self.site.receive(envelope, now)
        ended, self.site.ended = self.site.ended, []
        for run in ended:
            if run in self._told:
                continue  # The word that it is over came again.
            self._write_model(run)
            self._told[run] = None
            if len(self._told) > KEPT:
                del self._told[next(iter(self._told))]
            spent = self.site.spent_on(run)
            self.member.log.info("run.ended", run=run, epsilon=spent)
            self.member.health.count("runs_ended")
        return answers

    def tick(self, now: Milliseconds) -> list[Envelope]:
        """Brings what is shown of the budget up to date."""
        if now - self._shown >= REFRESH_MS:
            self._shown = now
            self._show_budget()
        return []

    def _show_budget(self) -> None:
        """Copies: health is asked for in threads that must not touch the store."""
        for population in {one.population for one in self.folder.contracts.values()}:
            spent = self.site.budget.spent(population)
            self._budget[f"epsilon_spent/{population}"] = float(spent.epsilon)
            self._budget[f"epsilon_reserved/{population}"] = float(spent.reserved_epsilon)
            self._budget[f"epsilon_limit/{population}"] = float(spent.epsilon_limit)
        for name in self._budget:
            self.member.health.gauge(name, partial(self._budget.__getitem__, name))

    def _write_model(self, run: str) -> None:
        """Gives the operator the whole model, where layers stay at the site."""
        try:
            theta = self.site.own_model(run)
        except TacitError as error:  # The run is over all the same.
            self.member.log.failure("model.lost", error, run=run)
            return
        if theta is None:
            return
        path = write_own_model(self.folder.path, run[:RUN_NAME_DIGITS], run, theta)
        self.member.log.info("model.written", run=run, path=path)


def serve(
    folder: Path,
    world: World | None = None,
    *,
    federation: Path | None = None,
    network: Path | None = None,
    as_json: bool = False,
) -> int:
    """Serves a site until SIGTERM or SIGINT.

    Args:
        folder: The site's folder.
        world: Entropy, sealing and the time; the real ones by default.
        federation: ``federation.toml``, whatever ``service.toml`` says.
        network: ``network.toml``, in the same way.
        as_json: Whether the line that says that it serves is JSON.

    Returns:
        The exit code.

    Raises:
        ConfigError: A file is wrong, the policy is not approved as it is, or another process serves
            the folder.
        SignatureError, LedgerError: An approval is forged, or the log was tampered with.
        TransportError: The server refuses this member.

    Guarantee:
        A site whose policy is not as its approvers signed for serves nothing. Checked by
        tests/e2e/test_site_service.py::test_a_site_without_its_lock_does_not_start.
    """
    world = world or World.real()
    config = ServiceConfig.load(folder, federation=federation, network=network)
    with only_process(folder):
        opened, roster = SiteFolder.load(folder), Roster.load(config.federation)
        member = Member(config, opened.name, roster, world, as_json)
        member.require_role("client")
        training = config.file.training
        limits = Limits(training.seconds, training.memory_mib, training.niceness)
        compute = ChildCompute(folder / CODE, limits, member.released)
        site, helper = opened.open(roster, compute, world)
        site.note_start(world.clock())
        helps = "helper" in roster.member(opened.name).roles
        parties: list[Served] = [ServedSite(site, opened, member), *([helper] if helps else [])]
        try:
            return member.serve(parties, compute.kill)
        finally:
            compute.kill()
            site.close()
