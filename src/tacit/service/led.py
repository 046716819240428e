"""One run of the coordinator's process: a party that whatever moves the messages can call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tacit.errors import TacitError
from tacit.lead import Lead
from tacit.party.terms import Terms
from tacit.service.logs import ServiceLog
from tacit.service.state import ENDED, RunState
from tacit.types import Milliseconds
from tacit.wire.envelope import Address, Envelope, Received, open_message

__all__ = ["LedRun"]


class LedRun:
    """Answers messages and ticks of one run, and follows it: metrics, state, log, result.

    All methods but ``record`` are called under the lock of the process.

    Args:
        lead: The run at its leader.
        state: What is told of it; written whenever a round or the run ends.
        log: Where its events go.
        on_end: Called once, when all is written.
        monotonic: Seconds.
    """

    last_error: TacitError | None = None

    def __init__(
        self,
        lead: Lead,
        state: RunState,
        log: ServiceLog,
        on_end: Callable[[LedRun], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lead = lead
        self.state = state
        self._log = log
        self._on_end = on_end
        self._monotonic = monotonic
        self._round = lead.coordinator.durable.number("round")
        self._since = monotonic()
        self._recovering = lead.offer is None
        self._told = False
        lead.history = state.history
        if lead.offer is None and lead.coordinator.failure is None:
            lead.coordinator.failure = state.error

    @property
    def address(self) -> Address:
        """The leader."""
        return self.lead.coordinator.address

    @property
    def run(self) -> str:
        """Run id, 64 hexadecimal digits."""
        return self.terms.run_id

    @property
    def terms(self) -> Terms:
        """The run."""
        return self.lead.coordinator.terms

    @property
    def ended(self) -> bool:
        """Whether all is written."""
        return self.state.status in ENDED

    def first(self, now: Milliseconds) -> list[Envelope]:
        """What is sent first.

        Raises:
            TransportError: The disk refuses a write.
        """
        if self._recovering and self.lead.concluded and not self.lead.lacks_bundle:
            return self._found(now)
        event = "run.resumed" if self._recovering else "run.started"
        sent = self.lead.first(now)
        self.state.status = "running"
        self.state.started = self.state.started or now
        self._log.info(event, run=self.run, round=self._round, job=self.state.job)
        self.state.write()
        return self._after(sent, now)

    def _found(self, now: Milliseconds) -> list[Envelope]:
        """The process was killed after all was written, and before it said so."""
        self.state.status = "complete" if self.lead.complete else "partial"
        self.state.phase, self.state.ended, self.state.awaited = "closed", now, []
        if self.lead.complete:
            self.state.failure = None
        self.state.write()
        self._log.info("run.ended", run=self.run, status=self.state.status)
        self._on_end(self)
        return []

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message; the answers may be sent once this returns.

        Raises:
            DecodeError, SignatureError, RemoteProtocolError: The message proves no sender, or is for
                somebody else; nothing was changed.
            TransportError: The disk refuses a write; to be tried again.
        """
        if self.ended:
            return []
        sent = self.lead.coordinator.receive(envelope, now)
        message = self._opened(envelope)
        self.lead.traffic.sent[message.sender.party] += envelope.size
        self.lead.traffic.received[self.address.party] += envelope.size
        return self._after(sent, now)

    def _opened(self, envelope: Envelope) -> Received:
        return open_message(envelope.message, self.lead.coordinator.roster.authenticate)

    def tick(self, now: Milliseconds) -> list[Envelope]:
        """To be called every second."""
        if self.ended:
            return []
        return self._after(self.lead.coordinator.tick(now), now)

    def interrupt(self, now: Milliseconds) -> list[Envelope]:
        """Ends the run early, on the operator's wish; sites settle their budgets."""
        if self.ended:
            return []
        self._log.warning("run.interrupted", run=self.run, round=self._round)
        return self._after(self.lead.coordinator.interrupt(now), now)

    def _after(self, sent: Sequence[Envelope], now: Milliseconds) -> list[Envelope]:
        """What follows from what the coordinator did: a round is over, or the run is."""
        coordinator = self.lead.coordinator
        number = coordinator.durable.number("round")
        if number != self._round:
            self._turn(number)
        if coordinator.phase == "closed" and not self._told:
            self._observe(number)
            self._told = True
        ending = self.lead.advance(now)
        self._tell()
        if self.lead.outcome is not None and not self.ended:
            self._end(now)
        everything = [*sent, *ending]
        for envelope in everything:
            self.lead.traffic.sent[self.address.party] += envelope.size
            self.lead.traffic.received[envelope.receiver.party] += envelope.size
        return everything

    def _turn(self, number: int) -> None:
        """A round began, so the one before it is over."""
        seconds, self._since = self._monotonic() - self._since, self._monotonic()
        if self._recovering:
            self._recovering = False
            self.state.recovered = round(seconds, 4)
            self._log.info("run.recovered", run=self.run, seconds=self.state.recovered)
        elif self._round:
            self.state.took(seconds)
        self._observe(number - 1)
        self._round = number
        self._tell()
        self.state.write()

    def _observe(self, number: int) -> None:
        """Metrics of the model after a round; that they cannot be computed does not end a run."""
        try:
            metrics = self.lead.observe(number).metrics
        except TacitError as error:
            self._log.failure("metrics.failed", error, run=self.run, round=number)
            return
        self.state.metrics = metrics
        if not number:
            return  # The model that a run begins with.
        last = self.state.seconds[-1] if self.state.seconds else None
        self._log.info("round.over", run=self.run, round=number, seconds=last, metrics=metrics)

    def _tell(self) -> None:
        """Puts what the coordinator is at into the state, and says when that is something new."""
        coordinator, state = self.lead.coordinator, self.state
        if state.phase != coordinator.phase:
            self._log.debug("phase", run=self.run, round=self._round, phase=coordinator.phase)
        failure = coordinator.failure
        known = state.failure["code"] if state.failure is not None else None
        if failure is not None and failure.code != known:
            self._log.failure("run.trouble", failure, run=self.run, round=self._round)
        state.phase, state.round = coordinator.phase, self._round
        state.awaited = [str(name) for name in coordinator.awaited]
        state.failure = failure.diagnostics() if failure is not None else None

    def _end(self, now: Milliseconds) -> None:
        outcome, state = self.lead.outcome, self.state
        assert outcome is not None
        if not self.lead.began:
            state.status = "failed"
        else:
            state.status = "complete" if outcome.complete else "partial"
        if outcome.complete:
            state.failure = None
        state.metrics, state.ended = outcome.metrics, now
        state.write()
        self._log.info(
            "run.ended",
            run=self.run,
            status=state.status,
            rounds=outcome.rounds,
            metrics=state.metrics,
        )
        self._on_end(self)
