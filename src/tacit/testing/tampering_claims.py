"""Tricks with what single claims rest on: strangers, odd types, and logs that say too little."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import rfc8785

from tacit.evidence import layout
from tacit.evidence.records import CANONICAL
from tacit.ledger.merkle import Tree, leaf_hash
from tacit.ledger.note import add_signatures, sign_checkpoint
from tacit.ledger.record import write_record
from tacit.testing.bundles import LEADER, SITES
from tacit.testing.tampering_base import SyntheticBundle, Tampered, case

__all__: list[str] = []

Change = Callable[[dict[str, Any]], list[dict[str, Any]]]


def _relogged(bundle: SyntheticBundle, change: Change) -> Tampered:
    """The leader's log of the run written anew, whatever its own program would refuse."""
    run, tree = bundle.run, Tree()
    last: int | None = None
    leaves: list[tuple[int, bytes]] = []
    for line in bundle.members[layout.events(LEADER)].splitlines():
        for event in change(json.loads(line)):
            place: dict[str, Any] = {} if last is None else {"previous": last}
            rest = {name: event[name] for name in event.keys() - {"previous", "seq"}}
            last = len(leaves)
            text = CANONICAL.encode({**rest, **place, "seq": last})
            leaves.append((last, text.encode()))
            tree.append(leaf_hash(leaves[-1][1]))
    record = write_record(tree, 0, leaves)
    origin, signer = run.origin(LEADER), run.identities[LEADER]
    note = sign_checkpoint(origin, len(tree), tree.root(), signer, name=origin)
    lines = [run.cosignature(note, site) for site in SITES]
    return bundle.resealed(
        {
            layout.events(LEADER): record.events,
            layout.proof(LEADER): record.proof,
            layout.checkpoint(LEADER): add_signatures(note, lines),
        }
    )


@case("event-with-a-round-beyond-all-integers", "log-inclusion")
def _(bundle: SyntheticBundle) -> Tampered:
    def change(event: dict[str, Any]) -> list[dict[str, Any]]:
        if event["type"] != "leader.run.closed":
            return [event]
        return [{**event, "type": "leader.round.aborted", "round": 2**60, "code": "late"}, event]

    return _relogged(bundle, change)


def _keyid(value: Any) -> Callable[[SyntheticBundle], Tampered]:
    def change(bundle: SyntheticBundle) -> Tampered:
        member = layout.statement("run")
        record = json.loads(bundle.members[member])
        record["signatures"][0]["keyid"] = value
        return bundle.resealed({member: rfc8785.dumps(record)}, restate=False)

    return change


for _value in (["lead"], 7, None, {"name": "lead"}):
    case(f"statement-keyid-{type(_value).__name__}", "statements")(_keyid(_value))
