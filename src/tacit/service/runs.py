"""All runs of a coordinator's process: submitted, waiting, going on, resumed after a restart, ended."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tacit.engine.folder import World
from tacit.errors import ConfigError, TacitError, TransportError
from tacit.federation import JobFiles, Leadership
from tacit.files import read_limited, write_atomic
from tacit.lead import RUN_NAME_DIGITS, Lead, RunPlace
from tacit.party.base import Ports
from tacit.party.failures import interrupted
from tacit.party.job import JobSpec
from tacit.party.terms import Terms
from tacit.service.config import LimitsTable
from tacit.service.led import LedRun
from tacit.service.logs import ServiceLog
from tacit.service.snapshot import JOB_FILE, snapshot
from tacit.service.state import ENDED, RunState
from tacit.trust.roster import Roster
from tacit.types import Milliseconds, PartyName
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import Envelope
from tacit.wire.messages import Offer

__all__ = ["LOG_FILE", "RUNS", "Carrier", "Place", "Runs"]

RUNS = "runs"
JOB = "job"
LOG_FILE = "log.jsonl"
OFFER_FILE = "offer.cbor"
OFFER_LIMIT = 64 * 1024 * 1024
NEW = ".new-"
RETRY_S = 10.0
SHORTEST = 4
"""Digits of a run's id that suffice to name it."""


class Carrier(Protocol):
    """What moves the messages of the runs in this process."""

    def locked(self) -> AbstractContextManager[object]:
        """Holds everything that parties of this process do."""
        ...

    def attach(self, run: LedRun) -> None:
        """Gives a run its messages and ticks from now on."""
        ...

    def detach(self, run: LedRun) -> None:
        """Gives it none any more."""
        ...

    def post(self, run: LedRun, envelopes: Sequence[Envelope]) -> None:
        """Sends what no message caused."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a coordinator lives: its folder, its federation's files, its one world.

    Args:
        folder: The coordinator's own folder; runs lie in it.
        federation: ``federation.toml``; ``witnesses.toml`` lies beside it, if there is one.
        roster: What it says.
        ports: The world of all runs.
        world: Gives the time.
    """

    folder: Path
    federation: Path
    roster: Roster
    ports: Ports
    world: World

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return self.folder / RUNS

    def now(self) -> Milliseconds:
        """The time."""
        return self.world.clock()

    def lead(self, files: JobFiles, clients: Collection[PartyName]) -> Leadership:
        """What leading a run takes; see ``Leadership.open``."""
        witnesses = self.federation.parent / "witnesses.toml"
        return Leadership.open(self.roster, self.ports, files, clients, witnesses)


class Runs:
    """Submits, starts, resumes and ends runs; safe to use from any thread.

    Args:
        place: Where the coordinator lives.
        carrier: Moves messages.
        limits: How many runs at once.
        log: Where events go.

    Guarantee: A run that was submitted and had not ended when the process was killed is there again,
    waiting or going on (tests/unit/test_service_runs.py::test_runs_survive_the_process).
    """

    def __init__(
        self, place: Place, carrier: Carrier, limits: LimitsTable, log: ServiceLog
    ) -> None:
        self._place = place
        self._carrier = carrier
        self._limits = limits
        self._log = log
        self._lock = threading.RLock()
        self._states: dict[str, RunState] = {}
        self._waiting: list[str] = []
        self._active: dict[str, LedRun] = {}
        self._over: list[LedRun] = []
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="runs", daemon=True)

    # --- the process ---------------------------------------------------------------------------

    def open(self) -> None:
        """Reads all runs that are there, and puts those that had not ended in line again.

        To be called before any message is delivered: ``settle`` then attaches what goes on.

        Raises:
            TransportError: The folder of the runs cannot be made.
        """
        try:
            self._place.runs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unwritable(self._place.runs, error) from error
        for folder in sorted(self._place.runs.iterdir()):
            if folder.name.startswith(NEW):
                shutil.rmtree(folder, ignore_errors=True)  # Never answered, so never submitted.
            elif folder.is_dir():
                self._read(folder)
        alive = [state for state in self._states.values() if state.status not in ENDED]
        # Those that went on go on first, in the order in which they were submitted.
        alive.sort(key=lambda state: (state.status != "running", state.submitted))
        self._waiting = [state.run for state in alive]

    def start(self) -> None:
        """Starts and ends runs from now on, in a thread of its own."""
        self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """Starts nothing any more; what goes on is resumed by the next process."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _serve(self) -> None:
        while not self._stopped:
            self._wake.wait()
            self._wake.clear()
            if not self._stopped:
                self.settle()

    def settle(self) -> None:
        """Detaches runs that have ended, and starts as many as may go on."""
        with self._lock:
            over, self._over = self._over, []
            for run in over:
                self._active.pop(run.run, None)
        for run in over:
            self._carrier.detach(run)
            self._log.drop(run.run)
        while (name := self._next()) is not None:
            if not self._begin(name):
                break

    def _next(self) -> str | None:
        with self._lock:
            if not self._waiting or len(self._active) >= self._limits.runs or self._stopped:
                return None
            return self._waiting.pop(0)

    def _read(self, folder: Path) -> None:
        try:
            state = RunState.read(folder)
        except TacitError as error:
            self._log.failure("run.unreadable", error, folder=folder)
            return
        self._states[state.run] = state

    # --- one run ---------------------------------------------------------------------------------

    def submit(self, job: Path, clients: Collection[str] = ()) -> RunState:
        """Takes a job: copies its files, checks all that can be checked here, and puts it in line.

        Args:
            job: The job file.
            clients: Who is asked to train; by default every client of the roster.

        Raises:
            ConfigError: The job cannot run, names file, key and remedy; or too many wait already.
            LedgerError: An independent witness knows another log of the coordinator.
            TransportError: The disk refuses a write.
        """
        with self._lock:
            if len(self._waiting) >= self._limits.waiting + self._limits.runs:
                raise ConfigError(
                    "submit.full",
                    f"{len(self._waiting)} runs are waiting already",
                    remedy="wait for one to end, cancel one, or raise limits.waiting in service.toml",
                    key="limits.waiting",
                )
        new = self._folder()
        try:
            state = self._take(job, [PartyName(name) for name in clients], new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        with self._lock:
            self._states[state.run] = state
            self._waiting.append(state.run)
        self._log.keep(state.run, Path(state.folder) / LOG_FILE)
        self._log.info("run.submitted", run=state.run, job=state.job, clients=state.clients)
        self._wake.set()
        return state

    def _folder(self) -> Path:
        try:
            return Path(tempfile.mkdtemp(prefix=NEW, dir=self._place.runs))
        except OSError as error:
            raise _unwritable(self._place.runs, error) from error

    def _take(self, job: Path, clients: Collection[PartyName], new: Path) -> RunState:
        spec = snapshot(job, new / JOB)
        files = JobFiles.open(spec, new / JOB)
        opened = self._place.lead(files, clients)
        with self._carrier.locked():
            offer, terms = opened.offer()
        opened.witnesses.begin()
        write_atomic(new / OFFER_FILE, encode(offer))
        plan = terms.plan
        state = RunState(
            run=terms.run_id,
            job=spec.name,
            source=str(job),
            folder=str(self._place.runs / terms.run_id[:RUN_NAME_DIGITS]),
            clients=[str(name) for name in terms.clients],
            rounds=terms.manifest.rounds,
            epsilon=repr(plan.epsilon()) if plan.private else None,
            submitted=self._place.now(),
        )
        folder = Path(state.folder)
        try:
            new.chmod(0o755)
            new.rename(folder)
        except OSError as error:
            raise _unwritable(folder, error) from error
        state.write()
        return state

    def _begin(self, name: str) -> bool:
        """Starts or resumes a run; one that cannot is over. False if the disk wants to be waited for."""
        state = self._states[name]
        self._log.keep(name, Path(state.folder) / LOG_FILE)
        try:
            run = self._open(state)
            with self._carrier.locked():
                now = self._place.now()
                sent = run.first(now)
                if not run.ended:
                    with self._lock:
                        self._active[name] = run
                    self._carrier.attach(run)
            self._carrier.post(run, sent)
        except TransportError as error:
            self._log.failure("run.delayed", error, run=name)
            with self._lock:
                self._active.pop(name, None)
                self._waiting.insert(0, name)
            timer = threading.Timer(RETRY_S, self._wake.set)
            timer.daemon = True
            timer.start()
            return False
        except TacitError as error:
            self._fail(state, error)
        except Exception as error:  # noqa: BLE001 - a job's own code must not end the process
            self._log.failure("run.failed", error, run=name)
            self._fail(state, _broken(error))
        return True

    def _open(self, state: RunState) -> LedRun:
        folder = Path(state.folder)
        spec = JobSpec.load(folder / JOB / JOB_FILE)
        files = JobFiles.open(spec, folder / JOB)
        offer = decode(Offer, read_limited(folder / OFFER_FILE, OFFER_LIMIT), OFFER_LIMIT)
        terms = Terms.of(offer, self._place.roster)
        files.require_code(terms)
        opened = self._place.lead(files, terms.clients)
        begun = self._begun(terms)
        base = Path(state.source).parent
        with self._carrier.locked():
            lead = Lead.of(opened, terms, None if begun else offer, folder, base)
        place = RunPlace(
            folder, terms.run_id, self._place.federation.parent, (), self._place.folder
        )
        lead.write_places(place)
        return LedRun(lead, state, self._log, self._ended)

    def _begun(self, terms: Terms) -> bool:
        """Whether the coordinator's own state knows of the run."""
        with self._carrier.locked():
            space = f"leader/{terms.run_id}"
            return self._place.ports.store.get(space, "transcript/offer.msg") is not None

    def _ended(self, run: LedRun) -> None:
        with self._lock:
            self._over.append(run)
        self._wake.set()

    def _fail(self, state: RunState, error: TacitError) -> None:
        state.status, state.ended, state.phase = "failed", self._place.now(), "closed"
        state.awaited = []
        state.fail(error)
        with self._lock:
            self._active.pop(state.run, None)
        self._log.failure("run.ended", error, run=state.run, status="failed")
        self._log.drop(state.run)
        with contextlib.suppress(TransportError):  # It is told of all the same, until a restart.
            state.write()

    # --- what is told ---------------------------------------------------------------------------

    def find(self, name: str) -> RunState:
        """A run by its id or the first digits of it.

        Raises:
            ConfigError: None, or several.
        """
        with self._lock:
            known = [run for run in self._states if run.startswith(name)]
        if len(known) != 1 or len(name) < SHORTEST:
            raise ConfigError(
                "run.name",
                f"{len(known)} runs begin with '{name}'",
                remedy="'tacit status' lists the runs; give at least four digits, or more",
            )
        return self._states[known[0]]

    def all(self) -> list[RunState]:
        """All runs, in the order in which they were submitted."""
        with self._lock:
            return sorted(self._states.values(), key=lambda state: (state.submitted, state.run))

    def counts(self) -> dict[str, int]:
        """How many runs have each status."""
        with self._lock:
            found: dict[str, int] = dict.fromkeys(("waiting", "running", *ENDED), 0)
            for state in self._states.values():
                found[state.status] += 1
        return found

    def cancel(self, name: str) -> RunState:
        """Ends a run in order: one that waits is never offered, one that goes on is settled.

        Raises:
            ConfigError: No such run, or it is over.
        """
        state = self.find(name)
        with self._lock:
            waits = state.run in self._waiting and state.status == "waiting"
            if waits:
                self._waiting.remove(state.run)
            run = self._active.get(state.run)
        if waits:
            self._fail(state, interrupted())
        elif run is not None:
            with self._carrier.locked():
                sent = run.interrupt(self._place.now())
            self._carrier.post(run, sent)
        else:
            raise ConfigError(
                "run.over",
                f"run {state.run[:RUN_NAME_DIGITS]} is over, or about to start or go on",
                remedy="'tacit status' says which; try again if it goes on",
            )
        return state


def _broken(error: Exception) -> TacitError:
    return ConfigError(
        "run.code",
        f"the job's own code failed: {type(error).__name__}",
        remedy="see the places in the coordinator's log; correct the model file and submit again",
    )


def _unwritable(folder: Path, error: OSError) -> TransportError:
    return TransportError(
        "service.runs",
        f"cannot write {folder}: {error.strerror}",
        remedy="check the folder's permissions and its free space, then try again",
        file=str(folder),
    )
