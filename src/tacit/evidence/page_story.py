"""A run as a short story: what happened when, from the parties' logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tacit.errors import TacitError
from tacit.evidence.page_words import clean
from tacit.evidence.records import Event, PartyLog
from tacit.evidence.view import Missing, View
from tacit.types import PartyName

__all__ = ["Moment", "Story", "tell"]

MAX_MOMENTS = 60
"""What one page can show; the rest is counted."""

LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

PARTY_EVENTS = "own"
"""Kind of a moment in a party's life that belongs to no run: a restart, an act of its operator."""

OWN = {
    "party.restarted": "was started again",
    "operator.attack-begun": "its operator attacked its own data, inside",
    "operator.budget-released": "its operator freed the reservation of a run",
    "operator.heads-accepted": "its operator let it forget the budget that a site had shown",
    "operator.key-erased": "its operator destroyed a key of tokens",
    "operator.receipts-erased": "its operator destroyed the receipts of a run",
}
"""Events of no run in words."""

SILENT = frozenset({"type", "time", "seq", "role", "previous", "head"})
"""Fields that a reader of the story does not need."""

SHORT_RUN = 12


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the story.

    Args:
        time: UTC, by the clock of the party.
        party: Who logged it.
        kind: ``begin``, ``round``, ``trouble``, ``own`` or ``end``: how the page marks it.
        text: What happened.
    """

    time: str
    party: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """The moments of a run in order of time.

    Args:
        moments: At most ``MAX_MOMENTS``.
        left_out: How many more there are.
        unknown: Whose log is not there or does not hold, and why.
    """

    moments: tuple[Moment, ...]
    left_out: int
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An event, how it is told, and whether the page must not leave it out."""

    event: Event
    party: str
    kind: str
    text: str

    @property
    def time(self) -> int:
        value = self.event.fields.get("time")
        return value if type(value) is int and 0 <= value <= LATEST_MS else -1


def tell(view: View) -> Story:
    """The story of a run, as far as the logs go; never raises for what a bundle lacks."""
    seen: list[_Seen] = []
    unknown: list[str] = []
    try:
        parties: Sequence[PartyName] = view.parties
    except Missing as missing:
        return Story((), 0, (clean(missing),))
    for party in parties:
        try:
            log = view.log(party)
        except Missing as missing:
            unknown.append(clean(missing))
            continue
        seen += _leader(party, log) if party == view.leader else []
        seen += [*_member(party, log), *_own(party, log)]
    seen.sort(key=lambda item: (item.time, item.party, item.event.index))
    # Trouble and the ends of a run come first where there is no room for all.
    kept = sorted(
        sorted(range(len(seen)), key=lambda i: (seen[i].kind in ("round", PARTY_EVENTS), i))[
            :MAX_MOMENTS
        ]
    )
    moments = tuple(
        Moment(shown_time(seen[i].event), clean(seen[i].party), seen[i].kind, clean(seen[i].text))
        for i in kept
    )
    return Story(moments, len(seen) - len(kept), tuple(unknown))


def shown_time(event: Event) -> str:
    """An event's time as ``2026-11-26 23:50:15 UTC``."""
    value = event.fields.get("time")
    if type(value) is not int or not 0 <= value <= LATEST_MS:
        return "time not readable"
    return f"{datetime.fromtimestamp(value / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _leader(party: str, log: PartyLog) -> Iterator[_Seen]:
    """What only the leader logs: the offer, the rounds and the release."""
    for event in log.of("run.offered"):
        yield _Seen(event, party, "begin", "offered the run to the sites")
    started, summed = log.of("round.started"), log.of("aggregate.computed")
    if started:
        yield _Seen(started[0], party, "round", f"started round {_round(started[0])}")
    if summed:
        first, last = summed[0], summed[-1]
        yield _Seen(first, party, "round", f"published the sum of round {_round(first)}, the first")
        if last is not first:
            text = f"published the sum of round {_round(last)}, the last of {len(summed)}"
            yield _Seen(last, party, "round", text)
    for event in log.of("round.aborted"):
        text = f"round {_round(event)} ended without a sum: {_text(event, 'code')}"
        yield _Seen(event, party, "trouble", text)
    for event in log.of("model.released"):
        yield _Seen(event, party, "end", "released the model")


def _member(party: str, log: PartyLog) -> Iterator[_Seen]:
    """What any party logs of its own part."""
    for event in log.of("policy.decided"):
        if event.fields.get("allowed") is not True:
            yield _Seen(event, party, "trouble", "its policy did not allow the run")
    for event in log.of("offer.accepted"):
        yield _Seen(event, party, "begin", "accepted the offer: its policy allows the run")
    for event in log.of("round.refused"):
        text = f"refused {_where(event)}: {_text(event, 'code')}"
        yield _Seen(event, party, "trouble", text)
    for event in log.of("helper.refused"):
        text = f"as a helper refused {_where(event)}: {_text(event, 'code')}"
        yield _Seen(event, party, "trouble", text)
    for event in log.of("aggregate.refuted"):
        text = f"added round {_round(event)} up again and found another sum"
        yield _Seen(event, party, "trouble", text)
    for event in (*log.of("witness.refused"), *_of_own(log, "witness.refused")):
        text = f"refused to cosign the log of {_text(event, 'log')}: {_text(event, 'code')}"
        yield _Seen(event, party, "trouble", text)
    for event in log.of("run.released"):
        yield _Seen(event, party, "end", "freed its reservation: nothing had left the site")
    closings = log.of("run.closed")
    if closings:
        complete = closings[-1].fields.get("complete") is True
        text = "closed the run" + ("" if complete else ", which did not end as planned")
        yield _Seen(closings[-1], party, "end", text)


def _own(party: str, log: PartyLog) -> Iterator[_Seen]:
    """Restarts and acts of the operator: events that belong to no run."""
    for event in log.own:
        if event.kind != "witness.refused":
            yield _Seen(event, party, PARTY_EVENTS, _own_text(event))


def _of_own(log: PartyLog, kind: str) -> list[Event]:
    return [event for event in log.own if event.kind == kind]


def _own_text(event: Event) -> str:
    """An event of no run in words; one that is not known by its name and fields."""
    words = OWN.get(event.kind, event.kind)
    details = ", ".join(
        f"{name} {value[:SHORT_RUN] if name == 'about' and isinstance(value, str) else value}"
        for name, value in event.fields.items()
        if name not in SILENT and isinstance(value, str | int)
    )
    return f"{words} ({details})" if details else words


def _where(event: Event) -> str:
    number = event.fields.get("round")
    return f"round {number}" if type(number) is int and number > 0 else "the offer"


def _round(event: Event) -> str:
    number = event.fields.get("round")
    return str(number) if type(number) is int else "?"


def _text(event: Event, name: str) -> str:
    try:
        return event.text(name)
    except TacitError:
        return "no reason given"
