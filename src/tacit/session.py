"""A run on this machine, composed: folders opened as parties, engine, own models; see ``lead``."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tacit.engine.folder import World, party_ports
from tacit.engine.local import LocalEngine, Tap
from tacit.engine.own_model import write_own_model
from tacit.errors import ConfigError
from tacit.federation import Federation, ModelObject
from tacit.files import make_folder
from tacit.lead import RUN_NAME_DIGITS, Lead, Progress, RunPlace
from tacit.outcome import Outcome
from tacit.party.coordinator import Coordinator
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.party.terms import Terms
from tacit.types import Milliseconds, PartyName

__all__ = ["Session"]


@dataclass(slots=True)
class Session:
    """One run: built by ``begin`` or ``reopen``, driven by ``execute``."""

    lead: Lead
    sites: dict[PartyName, Site]
    helpers: dict[PartyName, Helper]
    places: dict[PartyName, Path] = field(default_factory=dict)

    @property
    def coordinator(self) -> Coordinator:
        """The party that leads."""
        return self.lead.coordinator

    @property
    def folder(self) -> Path:
        """Of the result."""
        return self.lead.folder

    @classmethod
    def begin(
        cls,
        job: JobSpec,
        base: Path,
        sites: Sequence[Path],
        *,
        model: ModelObject | None = None,
        out: Path | None = None,
        world: World | None = None,
    ) -> Session:
        """Checks everything that can be checked before a message is sent, and makes the folder.

        Args:
            job: What to run.
            base: Folder of the job file; ``federation.toml`` and ``coordinator`` lie there.
            sites: Site folders.
            model: Makes a notebook's model from the numbers of features and classes, instead of what
                the job names.
            out: Folder of the result; by default ``runs/ID`` beside the job.
            world: Entropy and sealing; the real ones by default.

        Raises:
            ConfigError: Names file, key and remedy.
        """
        opened = Federation.open(job, base, sites, model, world)
        offer, terms = opened.offer()
        folder = out if out is not None else base / "runs" / terms.run_id[:RUN_NAME_DIGITS]
        opened.lead.witnesses.begin()
        make_folder(folder)
        lead = Lead.of(opened.lead, terms, offer, folder, base)
        place = RunPlace(folder, terms.run_id, base, tuple(sites), base / "coordinator")
        lead.write_places(place, disclosed=opened.lead.disclosed)
        return cls(lead, opened.sites, opened.helpers, opened.places)

    @classmethod
    def reopen(cls, folder: Path, world: World | None = None) -> Session:
        """Opens a run that was stopped, from its folder and the parties' own state.

        Raises:
            ConfigError: Not the folder of a run, or the model code has changed.
        """
        place = RunPlace.read(folder)
        roster, leader = place.roster()
        ports = party_ports(place.coordinator, leader, roster, world or World.real())
        offer = place.offer(ports, roster)
        spec = JobSpec.from_canonical(offer.job)
        if spec.model == "notebook":
            raise ConfigError(
                "run.notebook",
                "a run whose model is an object of a notebook cannot be continued",
                remedy="put the model into a file and name it in the job, then start a new run",
            )
        opened = Federation.open(spec, place.base, place.sites, None, world)
        terms = Terms.of(offer, opened.lead.roster)
        opened.lead.files.require_code(terms)
        opened.lead.witnesses.begin()
        lead = Lead.of(opened.lead, terms, None, folder, place.base)
        return cls(lead, opened.sites, opened.helpers, opened.places)

    def execute(
        self,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        tap: Tap = lambda envelope: envelope,
        clock: Callable[[], Milliseconds] | None = None,
    ) -> Outcome:
        """Runs to the end and writes model, result and bundle.

        Raises:
            PolicyDenied, BudgetExhausted, ConfigError: A site refuses before the first round.
            RoundAborted: The run could not begin.
            TransportError: The disk refuses a write.
        """
        lead = self.lead
        options = {} if clock is None else {"clock": clock}
        engine = LocalEngine(
            lead.coordinator,
            self.sites,
            self.helpers,
            on_progress=lambda number: on_progress(lead.observe(number)),
            tap=tap,
            **options,
        )
        if lead.offer is None and lead.lacks_bundle:
            return self._conclude(engine)
        now = engine.now()
        first = lead.first(now)
        for site in self.sites.values():
            site.note_start(now)
        with _interruptible(engine):
            engine.run(first)
        if not lead.began:
            self._raise_refusal(engine)
        return self._conclude(engine)

    def _raise_refusal(self, engine: LocalEngine) -> None:
        """No round began: the operator of this machine may read the site's own words."""
        for name in ("trust.json", "run.json"):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        for name, error in sorted(engine.refusals.items()):
            error.details.setdefault("site", name)
            raise error
        if self.coordinator.failure is not None:
            raise self.coordinator.failure

    def _conclude(self, engine: LocalEngine) -> Outcome:
        lead, run = self.lead, self.lead.coordinator.terms.run_id
        spent = {str(name): site.spent_on(run) for name, site in self.sites.items()}
        outcome = lead.result(spent, engine.traffic)
        self._write_own_models(outcome)
        self._seal(engine)
        lead.write(outcome)
        return outcome

    def _seal(self, engine: LocalEngine) -> None:
        """The bundle's manifest signed by every other party that answers."""
        with _interruptible(engine):
            engine.run(self.lead.seal(engine.now()))

    def _write_own_models(self, outcome: Outcome) -> None:
        """Gives every site with local layers the whole model, in its own folder."""
        for name, site in self.sites.items():
            theta, place = site.own_model(outcome.run_id), self.places.get(name)
            if theta is not None and place is not None:
                run = outcome.run_id
                path = write_own_model(place, run[:RUN_NAME_DIGITS], run, theta)
                outcome.own_models[name] = path


@contextmanager
def _interruptible(engine: LocalEngine) -> Iterator[None]:
    """The first Ctrl-C ends the run in order; a second one is Python's own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(_number: int, _frame: object) -> None:
        engine.stop()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
