"""Sealing: every party of a run signs the manifest of its bundle, if it holds what the party sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from tacit.errors import DecodeError, RemoteProtocolError, SignatureError
from tacit.ledger.log import log_origin
from tacit.ledger.note import open_note, sign_note
from tacit.party.base import Party, kept_envelope
from tacit.party.terms import Terms
from tacit.party.witnessing import address_of
from tacit.types import PartyName
from tacit.wire.envelope import Envelope, Received, digest
from tacit.wire.messages import Seal, Sealed

__all__ = ["BUNDLE_VERSION", "manifest_text", "opens_seal", "seal"]

BUNDLE_VERSION = 2


def manifest_text(manifest: bytes) -> str:
    """The text of the note that every party signs: it names the manifest by digest."""
    # Two lines with spaces: never a checkpoint, which the same key signs too.
    return f"tacit bundle v{BUNDLE_VERSION}\nsha256 {digest(manifest).hex()}\n"


def opens_seal(party: Party, name: PartyName, manifest: bytes, line: str) -> bool:
    """Whether a line is the signature of a party of the roster on a manifest."""
    origin = log_origin(party.roster.federation, name)
    note = f"{manifest_text(manifest)}\n{line}".encode()
    if line.count("\n") != 1 or not line.endswith("\n"):
        return False
    try:
        open_note(note, {origin: party.roster.member(name).key})
    except (DecodeError, SignatureError):
        return False
    return True


def seal(party: Party, message: Received, terms: Terms) -> list[Envelope]:
    """Signs the manifest of a bundle that holds what this party sent, once per run.

    Args:
        party: Who is asked, after it closed the run.
        message: The leader's ``Seal``.
        terms: The run.

    Raises:
        RemoteProtocolError: ``seal.manifest``: not a manifest of this run's bundle; ``seal.other``:
            one that leaves out or changes what this party sent, or another one than was signed.

    Guarantee:
        Against a malicious leader: no honest party signs a bundle whose manifest names another log,
        acceptance or policy of its own than it sent, nor two bundles of one run
        (test: ``tests/unit/test_party_sealing.py::test_nobody_signs_what_it_did_not_send``).
    """
    state, body = party.state(terms.run_id), message.body
    if party.address != address_of(terms, party.address.party):
        return []
    known, name = digest(body.manifest), party.address.party
    files = _files(party, terms, body)
    expected = _sent(party, terms)
    if any(files.get(file) != value for file, value in expected.items()):
        raise _refuse("seal.other", "does not hold what this party sent", terms)
    if state.get("sealed") not in (None, known):
        raise _refuse("seal.other", "is not the one that this party signed before", terms)
    with party.ports.store.transaction():
        state.put("sealed", known)
    origin = log_origin(party.roster.federation, name)
    note = sign_note(manifest_text(body.manifest), party.ports.signer, origin).decode()
    line = note.rpartition("\n\n")[2]
    return [party.send(terms, party.leader(terms), Sealed(line=line))]


def _files(party: Party, terms: Terms, body: Seal) -> Mapping[str, object]:
    """SHA-256 by name of the bundle's members, as the manifest says."""
    try:
        manifest = json.loads(body.manifest)
        head = (manifest["version"], manifest["federation"], manifest["run"])
        files = manifest["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refuse("seal.manifest", "is malformed", terms) from error
    if head != (BUNDLE_VERSION, party.roster.federation, terms.run_id):
        raise _refuse("seal.manifest", "is that of another bundle", terms)
    if not isinstance(files, dict):
        raise _refuse("seal.manifest", "is malformed", terms)
    return files


def _sent(party: Party, terms: Terms) -> dict[str, str | None]:
    """What a bundle must say of this party: SHA-256 by name; None for what must not be there."""
    state, name = party.state(terms.run_id), party.address.party
    record = kept_envelope(state, "record", party.leader(terms))
    if record is None:
        raise _refuse("seal.manifest", "came before this party's record", terms)
    body = party.open_copy(record.message).body
    sent: dict[str, str | None] = {
        f"logs/{name}.jsonl": _sha256(b"".join(record.chunks)),
        f"logs/{name}.proof": _sha256(body.proof),
        f"policy/{name}.json": _sha256(body.policy) if body.policy else None,
    }
    accept = state.get("accept")
    if accept is not None:
        sent[f"transcript/accept-{name}.msg"] = accept.hex()
    return sent


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse(code: str, what: str, terms: Terms) -> RemoteProtocolError:
    return RemoteProtocolError(
        code, f"the manifest of the bundle {what}", party=terms.manifest.leader
    )
