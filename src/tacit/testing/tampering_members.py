"""Tricks with what a bundle says: manifest, messages, statements, policies, models, trust files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import rfc8785

from tacit.evidence import layout
from tacit.evidence.dsse import (
    Envelope,
    Statement,
    open_envelope,
    sign_statement,
)
from tacit.evidence.head import note_of, sign_line
from tacit.evidence.tensors import read_theta, write_model
from tacit.evidence.trust import Trust
from tacit.testing.bundles import LEADER, SITES
from tacit.testing.entropy import SeededEntropy
from tacit.testing.tampering_base import Case, SyntheticBundle, Tampered, case, replaced
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import DOMAIN, MAX_MESSAGE, Header, LogHead, SignedMessage

__all__: list[str] = []

EAST, NORTH = SITES[0], SITES[1]
OTHER = "ab" * 32

# --- manifest --------------------------------------------------------------------------------------


def _manifest(bundle: SyntheticBundle, change: Callable[[Any], None]) -> Tampered:
    """The manifest changed, and signed by the leader."""
    record = json.loads(bundle.members[layout.MANIFEST])
    change(record)
    return _signed(bundle, rfc8785.dumps(record))


def _manifest_with(key: str, value: Any) -> Case:
    return lambda bundle: _manifest(bundle, lambda record: record.update({key: value}))


def _signed(bundle: SyntheticBundle, manifest: bytes) -> Tampered:
    run = bundle.run
    line = sign_line(manifest, run.roster.federation, LEADER, run.identities[LEADER])
    sealing = {layout.MANIFEST: manifest, layout.SIGNATURE: note_of(manifest, [line])}
    return bundle.packed({**bundle.members, **sealing})


MANIFEST_CHANGES: tuple[tuple[str, Any, str], ...] = (
    ("federation", "another", "same-job"),
    ("run", OTHER, "same-job"),
    ("status", "partial", "authenticity"),
    ("status", "finished", "integrity"),
    ("model", OTHER, "integrity"),
    ("model", "", "integrity"),
    ("transcript", OTHER, "integrity"),
    ("simulated", ["nothing"], "authenticity"),
    ("simulated", ["\x1b[2Jnothing"], "integrity"),
    ("version", 1, "integrity"),
    ("version", 3, "integrity"),
    ("version", True, "integrity"),
    ("unknown", 1, "integrity"),
)

for _key, _value, _claim in MANIFEST_CHANGES:
    case(f"manifest-{_key}-{_value!r:.9}", _claim)(_manifest_with(_key, _value))


@case("manifest-file-digest", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _manifest(bundle, lambda record: record["files"].update({layout.JOB: OTHER}))


@case("manifest-file-left-out", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _manifest(bundle, lambda record: record["files"].pop(layout.SBOM))


@case("manifest-file-added", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _manifest(bundle, lambda record: record["files"].update({"more.txt": OTHER}))


@case("manifest-not-canonical", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _signed(bundle, bundle.members[layout.MANIFEST] + b"\n")


@case("manifest-key-twice", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    manifest = bundle.members[layout.MANIFEST]
    return _signed(bundle, replaced(manifest, b"{", b'{"status":"partial",'))


@case("manifest-missing", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.swapped(layout.MANIFEST, None)


def _signature(bundle: SyntheticBundle, change: Callable[[list[bytes]], list[bytes]]) -> Tampered:
    lines = bundle.members[layout.SIGNATURE].splitlines(keepends=True)
    return bundle.swapped(layout.SIGNATURE, b"".join([*lines[:3], *change(lines[3:])]))


@case("signature-missing", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.swapped(layout.SIGNATURE, None)


@case("signature-of-a-site-left-out", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _signature(bundle, lambda lines: lines[1:])


@case("signature-of-the-leader-left-out", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _signature(bundle, lambda lines: [line for line in lines if b"/lead " not in line])


@case("signatures-out-of-order", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _signature(bundle, lambda lines: list(reversed(lines)))


@case("signature-twice", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    return _signature(bundle, lambda lines: [lines[0], *lines])


@case("signature-forged-with-the-leaders-key", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    run, manifest = bundle.run, bundle.members[layout.MANIFEST]
    forged = sign_line(manifest, run.roster.federation, NORTH, run.identities[LEADER]).encode()
    own = f"/{NORTH} ".encode()
    return _signature(bundle, lambda lines: [forged if own in line else line for line in lines])


@case("signature-by-a-stranger", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    run, manifest = bundle.run, bundle.members[layout.MANIFEST]
    stranger = Identity.generate(SeededEntropy("stranger"))
    line = sign_line(manifest, run.roster.federation, "zz", stranger)  # type: ignore[arg-type]
    return _signature(bundle, lambda lines: [*lines, line.encode()])


# --- members swapped under a manifest of the leader's --------------------------------------------------


def _swap(name: str, data: Callable[[SyntheticBundle], bytes | None]) -> Callable[..., Tampered]:
    return lambda bundle: bundle.resealed({name: data(bundle)})


case("member-unknown", "integrity")(_swap("readme.txt", lambda _: b"hello"))
case("roster-missing", "integrity")(lambda bundle: bundle.swapped(layout.ROSTER, None))
case("offer-missing", "same-job")(
    lambda bundle: bundle.resealed({layout.OFFER: None}, restate=False)
)
case("job-changed", "same-job")(
    _swap(layout.JOB, lambda b: replaced(b.members[layout.JOB], b"synthetic", b"different"))
)
case("schema-changed", "same-job")(
    _swap(layout.SCHEMA, lambda b: replaced(b.members[layout.SCHEMA], b"label", b"lapel"))
)
case("accept-missing", "policy")(_swap(layout.accept(EAST), lambda _: None))
case("upload-missing", "cohort")(_swap(layout.upload(2, EAST), lambda _: None))
case("helper-key-missing", "cohort")(_swap(layout.key(2, EAST), lambda _: None))
case("mask-sum-missing", "one-sum-per-upload")(_swap(layout.mask_sum(2, EAST), lambda _: None))
case("aggregate-missing", "cohort")(_swap(layout.aggregate(2), lambda _: None))
case("upload-of-another-site", "same-job")(
    _swap(layout.upload(2, EAST), lambda b: b.members[layout.upload(2, NORTH)])
)
case("upload-of-another-round", "same-job")(
    _swap(layout.upload(2, EAST), lambda b: b.members[layout.upload(1, EAST)])
)
case("mask-sum-of-another-round", "same-job")(
    _swap(layout.mask_sum(3, EAST), lambda b: b.members[layout.mask_sum(2, EAST)])
)
case("round-beyond-the-plan", "cohort")(
    _swap(layout.aggregate(7), lambda b: b.members[layout.aggregate(3)])
)
case("aggregate-changed", "model-chain")(
    _swap(layout.aggregate(3), lambda b: bytes([b.members[layout.aggregate(3)][0] ^ 1])
          + b.members[layout.aggregate(3)][1:])
)  # fmt: skip
case("aggregate-too-long", "model-chain")(
    _swap(layout.aggregate(3), lambda b: b.members[layout.aggregate(3)] + bytes(4))
)
case("first-model-changed", "model-chain")(
    _swap(layout.INITIAL, lambda b: bytes(8) + b.members[layout.INITIAL][8:])
)
case("first-model-missing", "model-chain")(_swap(layout.INITIAL, lambda _: None))


@case("last-round-left-out", "cohort")
def _(bundle: SyntheticBundle) -> Tampered:
    names = [name for name in bundle.members if name.startswith("transcript/r000003/")]
    return bundle.resealed(dict.fromkeys(names))


@case("roster-with-another-key", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.ROSTER: _roster(bundle, key=b"\x07" * 32).canonical})


@case("roster-with-another-region", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.ROSTER: _roster(bundle, region="mars").canonical})


@case("roster-with-another-operator", "authenticity")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.ROSTER: _roster(bundle, operator="leader").canonical})


def _roster(bundle: SyntheticBundle, **changes: Any) -> Roster:
    members = bundle.run.roster.members
    return Roster(
        bundle.run.roster.federation,
        tuple(dataclasses.replace(m, **changes) if m.name == EAST else m for m in members),
    )


# --- headers of messages -------------------------------------------------------------------------------


def _header(bundle: SyntheticBundle, name: str, field: str, value: Any) -> bytes:
    """A message with another header under its old signature."""
    signed = decode(SignedMessage, bundle.members[name], MAX_MESSAGE)
    header = dataclasses.replace(decode(Header, signed.header, MAX_MESSAGE), **{field: value})
    return encode(dataclasses.replace(signed, header=encode(header)))


def _upload_with(field: str, value: Any) -> Case:
    name = layout.upload(2, EAST)
    return lambda bundle: bundle.resealed({name: _header(bundle, name, field, value)})


HEADER_CHANGES: tuple[tuple[str, Any], ...] = (
    ("type", "mask-sum"),
    ("run", bytes(32)),
    ("round", 3),
    ("sender", f"{NORTH}/client"),
    ("receiver", f"{NORTH}/leader"),
    ("roster", bytes(32)),
    ("job", bytes(32)),
    ("log", LogHead(1, bytes(32))),
    ("body", b"\xa0"),
)

for _field, _value in HEADER_CHANGES:
    case(f"header-{_field}", "authenticity")(_upload_with(_field, _value))


def _offer(bundle: SyntheticBundle, **changes: Any) -> Tampered:
    """The leader's own offer, signed again with another header."""
    signed = decode(SignedMessage, bundle.members[layout.OFFER], MAX_MESSAGE)
    header = encode(dataclasses.replace(decode(Header, signed.header, MAX_MESSAGE), **changes))
    signature = bundle.run.identities[LEADER].sign(DOMAIN + header)
    return bundle.resealed({layout.OFFER: encode(SignedMessage(header, signature))})


case("offer-signed-with-another-log", "log-inclusion")(
    lambda bundle: _offer(bundle, log=LogHead(5, bytes(32)))
)
case("offer-signed-with-a-longer-log", "log-inclusion")(
    lambda bundle: _offer(bundle, log=LogHead(2**53 - 1, bytes(32)))
)
case("offer-signed-for-another-run", "same-job")(lambda bundle: _offer(bundle, run=bytes(32)))
case("offer-signed-for-another-roster", "same-job")(lambda bundle: _offer(bundle, roster=bytes(32)))
case("offer-signed-in-a-round", "same-job")(lambda bundle: _offer(bundle, round=1))

# --- model -----------------------------------------------------------------------------------------


def _model(bundle: SyntheticBundle, **changes: Any) -> Tampered:
    """Another released model, which fits the manifest and the statements."""
    fields = {
        "theta": np.frombuffer(read_theta(bundle.members[layout.FINAL]), dtype="<f8"),
        "run": bundle.run.run.hex(),
        "transcript": json.loads(bundle.members[layout.MANIFEST])["transcript"],
    }
    data = write_model(**{**fields, **changes})
    restate = not {"run", "transcript"} & changes.keys()
    return bundle.resealed({layout.FINAL: data}, restate=restate)


case("model-swapped", "model-chain")(lambda bundle: _model(bundle, theta=np.zeros(3)))
case("model-shortened", "model-chain")(lambda bundle: _model(bundle, theta=np.zeros(2)))
case("model-of-another-run", "model-chain")(lambda bundle: _model(bundle, run=OTHER))
case("model-of-another-transcript", "model-chain")(lambda bundle: _model(bundle, transcript=OTHER))
case("model-missing", "model-chain")(_swap(layout.FINAL, lambda _: None))
case("model-with-a-byte-more", "model-chain")(
    lambda bundle: bundle.resealed(
        {layout.FINAL: bundle.members[layout.FINAL] + b"\x00"}, restate=False
    )
)
case("model-with-a-longer-header", "model-chain")(
    lambda bundle: bundle.resealed(
        {
            layout.FINAL: replaced(
                bundle.members[layout.FINAL], b'"__metadata__":{', b'"__metadata__":{"x":"y",'
            )
        },
        restate=False,
    )
)

# --- statements ------------------------------------------------------------------------------------


def _statement(
    bundle: SyntheticBundle, name: str, change: Callable[[Statement], Statement]
) -> Tampered:
    """A statement that says something else, signed by the leader."""
    member = layout.statement(name)
    said = open_envelope(bundle.members[member]).statement(name)
    keys = [(bundle.run.origin(LEADER), bundle.run.identities[LEADER])]
    signed = sign_statement(change(said), keys)
    return bundle.resealed({member: signed}, restate=False)


def _predicate(name: str, field: str, value: Any) -> Callable[[SyntheticBundle], Tampered]:
    def change(said: Statement) -> Statement:
        return dataclasses.replace(said, predicate={**said.predicate, field: value})

    return lambda bundle: _statement(bundle, name, change)


PREDICATE_CHANGES: tuple[tuple[str, str, Any], ...] = (
    ("run", "status", "partial"),
    ("run", "clients", []),
    ("run", "closed", [1]),
    ("run", "simulated", ["all"]),
    ("privacy-budget", "epsilon", "0.1"),
    ("privacy-budget", "delta", "1e-09"),
    ("privacy-budget", "noise_multiplier", "20.0"),
    ("privacy-budget", "sites", {}),
    ("aggregation", "min_cohort", 40),
    ("aggregation", "rounds", []),
    ("aggregation", "aborted", [1]),
    ("model", "rounds", 4),
    ("model", "parameters", OTHER),
    ("policy-approvals", "sites", {}),
    ("policy-approvals", "more", "x"),
)

for _name, _field, _value in PREDICATE_CHANGES:
    case(f"statement-{_name}-{_field}", "statements")(_predicate(_name, _field, _value))


def _without_statement(name: str) -> Case:
    return lambda bundle: bundle.resealed({layout.statement(name): None}, restate=False)


def _about_another(name: str) -> Case:
    subjects = (("transcript", OTHER),)
    return lambda bundle: _statement(
        bundle, name, lambda said: dataclasses.replace(said, subjects=subjects)
    )


for _name in layout.DERIVED:
    case(f"statement-{_name}-missing", "statements")(_without_statement(_name))
    case(f"statement-{_name}-subject", "statements")(_about_another(_name))


def _envelope(bundle: SyntheticBundle, change: Callable[[Envelope], bytes]) -> Tampered:
    member = layout.statement("run")
    changed = change(open_envelope(bundle.members[member]))
    return bundle.resealed({member: changed}, restate=False)


@case("statement-signature-flipped", "statements")
def _(bundle: SyntheticBundle) -> Tampered:
    def change(envelope: Envelope) -> bytes:
        ((keyid, signature),) = envelope.signatures
        forged = bytes([signature[0] ^ 1]) + signature[1:]
        return dataclasses.replace(envelope, signatures=((keyid, forged),)).canonical()

    return _envelope(bundle, change)


@case("statement-unsigned", "statements")
def _(bundle: SyntheticBundle) -> Tampered:
    return _envelope(bundle, lambda e: dataclasses.replace(e, signatures=()).canonical())


@case("statement-signed-by-a-site", "statements")
def _(bundle: SyntheticBundle) -> Tampered:
    run = bundle.run
    keys = [(run.origin(EAST), run.identities[EAST])]
    return _envelope(bundle, lambda e: sign_statement(e.statement("run"), keys))


@case("statement-under-another-name", "statements")
def _(bundle: SyntheticBundle) -> Tampered:
    data = bundle.members[layout.statement("model")]
    return bundle.resealed({layout.statement("aggregation"): data}, restate=False)


@case("statement-payload-type", "statements")
def _(bundle: SyntheticBundle) -> Tampered:
    return _envelope(bundle, lambda e: replaced(e.canonical(), b"in-toto+json", b"in-moto+json"))


@case("statement-not-canonical", "statements")
def _(bundle: SyntheticBundle) -> Tampered:
    return _envelope(bundle, lambda e: e.canonical() + b" ")


def _report(bundle: SyntheticBundle, transcript: str, signer: Identity) -> Tampered:
    statement = Statement("attack-report", (("transcript", transcript),), {"attacks": []})
    envelope = sign_statement(statement, [(bundle.run.origin(EAST), signer)])
    return bundle.resealed({layout.statement("attack-report"): envelope}, restate=False)


@case("report-about-another-run", "statements")
def _(bundle: SyntheticBundle) -> Tampered:
    return _report(bundle, OTHER, bundle.run.identities[EAST])


@case("report-by-a-stranger", "statements")
def _(bundle: SyntheticBundle) -> Tampered:
    transcript = json.loads(bundle.members[layout.MANIFEST])["transcript"]
    return _report(bundle, transcript, Identity.generate(SeededEntropy("stranger")))


@case("statement-unknown", "integrity")
def _(bundle: SyntheticBundle) -> Tampered:
    data = bundle.members[layout.statement("run")]
    return bundle.resealed({"statements/audit.dsse.json": data})


# --- policy and software -------------------------------------------------------------------------------


def _policy(
    bundle: SyntheticBundle, change: Callable[[dict[str, Any]], None], *, approve: bool = False
) -> Tampered:
    disclosed = bundle.run.disclosures[EAST].copy()
    change(disclosed.record)
    if approve:
        disclosed.approver = Identity.generate(SeededEntropy("attacker"))
        disclosed.record["approvers"] = {"officer": disclosed.approver.public_key.hex()}
        disclosed.approve()
    return bundle.resealed({layout.policy(EAST): disclosed.canonical()})


def _policy_with(change: Callable[[Any], None]) -> Case:
    return lambda bundle: _policy(bundle, change)


POLICY_CHANGES: tuple[tuple[str, Callable[[Any], None]], ...] = (
    ("regions", lambda r: r["contract"].update(allowed_regions=None)),
    ("contract", lambda r: r["contract"].update(description="other records")),
    ("contract-name", lambda r: r["contract"].update(name="other")),
    ("rule", lambda r: r["policies"]["allow.cedar"][0].update(effect="forbid")),
    ("rule-added", lambda r: r["policies"]["allow.cedar"].append({"effect": "permit"})),
    ("rules-hidden", lambda r: r.update(policies={})),
    ("lock-time", lambda r: r["lock"].update(locked_at="2025-01-01T00:00:00Z")),
    ("lock-policy", lambda r: r["lock"]["parts"].update(policy=OTHER)),
    ("lock-tests", lambda r: r["lock"]["parts"].update(tests={})),
    ("approver-key", lambda r: r["approvers"].update(officer=OTHER)),
    ("approvals-none", lambda r: r["lock"].update(signatures={})),
    ("approvals-more", lambda r: r.update(approvals=2)),
    ("site", lambda r: r.update(site=NORTH)),
    ("version", lambda r: r.update(version=2)),
    ("unknown-key", lambda r: r.update(more=1)),
)

for _what, _change in POLICY_CHANGES:
    case(f"policy-{_what}", "policy")(_policy_with(_change))


@case("policy-approved-by-the-attacker", "policy")
def _(bundle: SyntheticBundle) -> Tampered:
    regions = lambda r: r["contract"].update(allowed_regions=["mars"])  # noqa: E731
    return _policy(bundle, regions, approve=True)


@case("policy-of-another-site", "policy")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.policy(EAST): bundle.members[layout.policy(NORTH)]})


@case("policy-of-a-stranger", "policy")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.policy(LEADER): bundle.members[layout.policy(NORTH)]})


@case("policy-missing", "residency")
def _(bundle: SyntheticBundle) -> Tampered:
    return bundle.resealed({layout.policy(EAST): None})


case("software-missing", "statements")(_swap(layout.SBOM, lambda _: None))
case("software-malformed", "statements")(_swap(layout.SBOM, lambda _: b"{}"))
case("software-out-of-order", "statements")(
    _swap(layout.SBOM, lambda b: replaced(b.members[layout.SBOM], b'"numpy"', b'"aumpy"'))
)

# --- whole bundles and trust files ---------------------------------------------------------------------


@case("another-runs-bundle", "same-job")
def _(bundle: SyntheticBundle) -> Tampered:
    other = SyntheticBundle.make(unit="none")
    return other.data, bundle.trust.canonical()


@case("members-of-two-runs", "same-job")
def _(bundle: SyntheticBundle) -> Tampered:
    other = SyntheticBundle.make(unit="none")
    name = layout.upload(2, EAST)
    return bundle.resealed({name: other.members[name]})


def _trust(bundle: SyntheticBundle, **changes: Any) -> Tampered:
    return bundle.packed(bundle.members, dataclasses.replace(bundle.trust, **changes))


case("trust-of-another-federation", "authenticity")(
    lambda b: _trust(b, roster=Roster("another", b.run.roster.members))
)
case("trust-with-another-key", "authenticity")(
    lambda b: _trust(b, roster=_roster(b, key=b"\x07" * 32))
)
case("trust-of-another-run", "same-job")(lambda b: _trust(b, run=OTHER))
case("trust-asks-for-more-witnesses", "witness")(lambda b: _trust(b, quorum=5))
case("trust-asks-for-an-independent-witness", "witness")(
    lambda b: _trust(b, witnesses={"w.example/1": Identity.generate(SeededEntropy("w")).public_key})
)


@case("trust-of-version-1", "trust")
def _(bundle: SyntheticBundle) -> Tampered:
    record = {**Trust.of(bundle.run.roster).to_record(), "version": 1}
    return bundle.data, rfc8785.dumps(record) + b"\n"


@case("trust-requires-nothing", "trust")
def _(bundle: SyntheticBundle) -> Tampered:
    record = {**bundle.trust.to_record(), "required": []}
    return bundle.data, rfc8785.dumps(record) + b"\n"
