"""What may stand in a log that can never be cleaned: digests, numbers, codes and names, never data."""

from __future__ import annotations

import json
import re

from tacit.testing.federation import LEADER, SITES, SmallFederation, write_small_federation
from tacit.types import PartyName
from tacit.wire.envelope import Envelope
from tacit.wire.messages import RoundStart

NORTH = PartyName("north")

COMMON = {"type", "role", "run", "time", "seq", "previous"}
DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
NAME = re.compile(r"[a-z0-9-]{0,64}")
CODE = re.compile(r"[a-z0-9.-]{0,64}")
RULE = re.compile(r"[A-Za-z0-9_.-]{1,128}")
NOTE = re.compile(  # The signed checkpoint of a log: federation and party, size, root, signature.
    r"[a-z0-9-]+/[a-z0-9-]+\n[0-9]+\n[A-Za-z0-9+/=]{44}\n\n\N{EM DASH} [a-z0-9-]+/[a-z0-9-]+ [A-Za-z0-9+/=]+\n"
)
DECIMAL = re.compile(r"(?:[0-9.e+-]+|inf)")

DIGESTS = {
    *("job", "plan", "schema", "code", "roster", "policy", "contract", "rows", "receipt", "accept"),
    *("model", "context", "upload", "key", "cohort", "answer", "sum", "head", "aggregate", "about"),
}
NUMBERS = {
    *(
        "round",
        "rounds",
        "count",
        "aggregate_round",
        "size",
        "known",
        "max_colluding_helpers",
        "events",
    ),
}
KINDS = {
    **dict.fromkeys(DIGESTS, DIGEST),
    **dict.fromkeys(("leader", "site", "log", "culprit", "purpose", "period"), NAME),
    **dict.fromkeys(("type", "code", "role", "standing"), CODE),
    **dict.fromkeys(("epsilon", "delta", "epsilon_milli"), DECIMAL),
    "run": DIGEST,
    "note": NOTE,
}
LISTS = {"uploads": DIGEST, "rules": RULE, "required_helpers": NAME}


def check(event: dict) -> None:
    """Every field is of a kind that cannot hold what somebody wrote about a person."""
    for name, value in event.items():
        if name in NUMBERS | {"time", "seq", "previous"}:
            assert type(value) is int, (name, value)
        elif name in ("allowed", "complete"):
            assert type(value) is bool, (name, value)
        elif name in LISTS:
            assert all(LISTS[name].fullmatch(item) for item in value), (name, value)
        else:
            assert KINDS[name].fullmatch(value), (name, value)


def test_events_hold_digests_numbers_codes_and_names_only(tmp_path):
    """A run with a site that was late, a restart, and what an operator did."""
    write_small_federation(tmp_path / "small")
    small = SmallFederation(tmp_path / "small")
    lost = []

    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        first = isinstance(message.body, RoundStart) and message.round == 1
        if first and envelope.receiver.party == NORTH:
            lost.append(envelope)
            return None
        return envelope

    small.run(tap=tap)
    assert lost
    with small.sites[NORTH].ports.store.transaction():
        small.sites[NORTH].act(small.clock(), "operator.receipts-erased", about=small.terms.run_id)
    small.sites[NORTH].note_start(small.clock())
    kinds = set()
    for party in (small.leader, *small.sites.values()):
        text = b"".join(data for _, data in party.ports.log.events())
        assert b"person" not in text  # As every row of every table is called.
        for _, data in party.ports.log.events():
            event = json.loads(data)
            check(event)
            kinds.add(event["type"])
    assert {"model.caught-up", "upload.sent", "receipt.issued", "party.restarted"} <= kinds
    assert LEADER not in SITES
