"""The statements of a bundle: what its other members say, in short, for people and other tools.

Each is a pure function of the opened bundle. The leader signs what it gives; the verifier calls the
same function and compares. So a statement can be read alone, and never says more than the evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from tacit.evidence import layout
from tacit.evidence.dsse import Statement
from tacit.evidence.records import Event, PartyLog
from tacit.evidence.tensors import read_theta
from tacit.evidence.view import Missing, RoundView, View
from tacit.types import PartyName

__all__ = ["derive", "required"]

TRANSCRIPT = "transcript"


def required(view: View) -> tuple[str, ...]:
    """The statements that a bundle holds."""
    without = set()
    if view.plan.unit == "none":
        without.add("privacy-budget")
    if layout.FINAL not in view.members:
        without.add("model")
    return tuple(name for name in layout.DERIVED if name not in without)


def derive(view: View, name: str) -> Statement:
    """What a bundle says in the statement of this name, one of ``layout.DERIVED``.

    Raises:
        Missing: The bundle does not hold what the statement is about.
        DecodeError: A member that it follows from is malformed.
    """
    return STATEMENTS[name](view)


def _transcript(view: View) -> tuple[str, str]:
    return TRANSCRIPT, view.head.transcript


def _run(view: View) -> Statement:
    manifest, head = view.manifest, view.head
    model = ((layout.FINAL, head.model),) if head.model else ()
    return Statement(
        "run",
        (_transcript(view), *model),
        {
            "federation": head.federation,
            "run": head.run,
            "status": head.status,
            "job": manifest.job.hex(),
            "schema": manifest.schema.hex(),
            "code": manifest.code.hex(),
            "roster": manifest.roster.hex(),
            "protocol": manifest.protocol,
            "leader": manifest.leader,
            "clients": list(manifest.clients),
            "helpers": list(manifest.helpers),
            "rounds": manifest.rounds,
            "closed": [round_view.number for round_view in view.closed_rounds],
            "simulated": list(head.simulated),
        },
    )


def _privacy_budget(view: View) -> Statement:
    plan = view.plan.to_record()
    sites = {
        client: _spent(log)
        for client in view.clients
        if isinstance(log := view.logs[client], PartyLog)
    }
    return Statement(
        "privacy-budget",
        (_transcript(view),),
        {
            "unit": plan["unit"],
            "delta": plan["delta"],
            "epsilon": _largest(site["epsilon"] for site in sites.values()),
            "clip_norm": plan["clip_norm"],
            "noise_multiplier": plan["noise_multiplier"],
            "sampling_rate": plan["sampling_rate"],
            "rounds": plan["rounds"],
            "max_colluding": plan["max_colluding"],
            "sites": sites,
        },
    )


def _spent(log: PartyLog) -> dict[str, Any]:
    """What a site's log says that it charged and settled."""
    charged = {event.number("round") for event in log.of("budget.charged")}
    settled = [_epsilon(event) for event in log.of("run.settled")]
    return {"charged_rounds": len(charged), "epsilon": _largest(settled)}


def _epsilon(event: Event) -> str:
    """The epsilon of a settlement, as it stands there."""
    event.decimal("epsilon")
    return event.text("epsilon")


def _largest(texts: Any) -> str:
    return max((text for text in texts if text), key=Decimal, default="")


def _aggregation(view: View) -> Statement:
    manifest = view.manifest
    aborted = {event.number("round") for event in view.log(view.leader).of("round.aborted")}
    return Statement(
        "aggregation",
        (_transcript(view),),
        {
            "protocol": manifest.protocol,
            "ring_bits": manifest.ring_bits,
            "length": manifest.length,
            "min_cohort": manifest.min_cohort,
            "max_colluding": manifest.max_colluding,
            "rounds": [_sum(view, round_view) for round_view in view.closed_rounds],
            "aborted": sorted(aborted),
        },
    )


def _sum(view: View, round_view: RoundView) -> dict[str, Any]:
    digests = set(view.logged_cohort(round_view.number))
    uploads = round_view.uploads
    cohort = [c for c in view.clients if c in uploads and uploads[c].digest in digests]
    return {
        "round": round_view.number,
        "cohort": list(cohort),
        "operators": len(view.roster.operators(cohort)),
        "helpers": list(view.present(round_view)),
        "sum": hashlib.sha256(round_view.aggregate or b"").hexdigest(),
    }


def _model(view: View) -> Statement:
    theta = read_theta(_member(view, layout.FINAL))
    return Statement(
        "model",
        ((layout.FINAL, view.head.model),),
        {
            "run": view.head.run,
            "transcript": view.head.transcript,
            "dimension": view.manifest.dimension,
            "initial": hashlib.sha256(_member(view, layout.INITIAL)).hexdigest(),
            "parameters": hashlib.sha256(theta).hexdigest(),
            "rounds": len(view.closed_rounds),
        },
    )


def _member(view: View, name: str) -> bytes:
    data = view.members.get(name)
    if data is None:
        raise Missing(f"the bundle holds no {name}")
    return data


def _policy_approvals(view: View) -> Statement:
    subjects: list[tuple[str, str]] = []
    sites: dict[PartyName, dict[str, Any]] = {}
    for client in view.clients:
        if layout.accept(client) not in view.messages:
            continue
        accept, disclosed = view.accept(client).body, view.disclosure(client)
        if disclosed is None:
            subjects.append((f"policy.lock of {client}", accept.policy.hex()))
        else:
            name = layout.policy(client)
            subjects.append((name, hashlib.sha256(view.members[name]).hexdigest()))
        sites[client] = {
            "lock": accept.policy.hex(),
            "contract": accept.contract.hex(),
            "approvers": list(disclosed.approvers) if disclosed is not None else [],
        }
    if not sites:
        raise Missing("the bundle holds no acceptance")
    return Statement("policy-approvals", tuple(subjects), {"sites": sites})


STATEMENTS: Mapping[str, Callable[[View], Statement]] = {
    "run": _run,
    "privacy-budget": _privacy_budget,
    "aggregation": _aggregation,
    "model": _model,
    "policy-approvals": _policy_approvals,
}
