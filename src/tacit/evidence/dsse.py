"""Signed statements in the form that supply-chain tools read: in-toto statements in DSSE envelopes.

Reference: DSSE v1.0.2, https://github.com/secure-systems-lab/dsse/blob/master/protocol.md; in-toto
Attestation Framework, Statement v1.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import rfc8785

from tacit.errors import DecodeError, SignatureError
from tacit.trust.identity import verify
from tacit.types import Signer

__all__ = ["Envelope", "Statement", "open_envelope", "predicate_type", "sign_statement"]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MAX_SIGNATURES = 100


def predicate_type(name: str) -> str:
    """The type of the predicate of a statement of this name."""
    return f"urn:tacit:evidence:{name}:v1"


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of which things.

    Args:
        name: Of the statement; it decides the predicate's type.
        subjects: (name, SHA-256 in hexadecimal) of each thing.
        predicate: What is said; no floats.
    """

    name: str
    subjects: tuple[tuple[str, str], ...]
    predicate: Mapping[str, Any]

    def canonical(self) -> bytes:
        """RFC 8785 bytes of the in-toto statement."""
        return rfc8785.dumps(
            {
                "_type": STATEMENT_TYPE,
                "subject": [
                    {"name": name, "digest": {"sha256": digest}} for name, digest in self.subjects
                ],
                "predicateType": predicate_type(self.name),
                "predicate": dict(self.predicate),
            }
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope in its one form: payload and signatures, by key id."""

    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    def canonical(self) -> bytes:
        """RFC 8785 bytes."""
        return rfc8785.dumps(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [
                    {"keyid": keyid, "sig": base64.b64encode(signature).decode()}
                    for keyid, signature in self.signatures
                ],
            }
        )

    def check(self, keys: Mapping[str, bytes]) -> frozenset[str]:
        """The key ids that signed, all of them among ``keys``.

        Raises:
            SignatureError: One is unknown, signs twice, or is not what its key made.

        Guarantee: Against anyone without the private keys: each key id returned has signed this
        payload as an in-toto statement
        (tests/unit/test_evidence_statements.py::test_any_changed_byte_of_an_envelope_is_refused).
        """
        signed: set[str] = set()
        for keyid, signature in self.signatures:
            key = keys.get(keyid)
            if key is None or keyid in signed:
                raise SignatureError(
                    "evidence.statement", f"signed by the stranger {keyid[:64]!r}, or twice"
                )
            verify(key, signature, _authenticated(self.payload))
            signed.add(keyid)
        return frozenset(signed)

    def statement(self, name: str) -> Statement:
        """The statement in the payload.

        Raises:
            DecodeError: It is not a statement of this name in its one form.
        """
        try:
            record = json.loads(self.payload, parse_float=_refuse, parse_constant=_refuse)
            subjects = tuple((item["name"], item["digest"]["sha256"]) for item in record["subject"])
            found = Statement(name, subjects, record["predicate"])
            identical = found.canonical() == self.payload
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            identical = False
        if not identical:
            raise DecodeError(
                "evidence.statement", f"the payload is not an in-toto statement '{name}'"
            )
        return found


def sign_statement(statement: Statement, signers: Sequence[tuple[str, Signer]]) -> bytes:
    """A statement in a signed envelope.

    Args:
        statement: What is said.
        signers: (key id, key) of each who signs; the key id is the party's log origin.
    """
    payload = statement.canonical()
    signed = _authenticated(payload)
    return Envelope(
        payload, tuple((keyid, signer.sign(signed)) for keyid, signer in signers)
    ).canonical()


def open_envelope(data: bytes) -> Envelope:
    """Reads an envelope; ``Envelope.check`` checks who signed it.

    Raises:
        DecodeError: ``data`` is not an envelope in its one form.
    """
    try:
        record = json.loads(data)
        envelope = Envelope(
            base64.b64decode(record["payload"], validate=True),
            tuple(
                (item["keyid"], base64.b64decode(item["sig"], validate=True))
                for item in record["signatures"]
            ),
        )
        identical = (
            envelope.canonical() == data
            and 1 <= len(envelope.signatures) <= MAX_SIGNATURES
            and all(isinstance(keyid, str) for keyid, _ in envelope.signatures)
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, binascii.Error):
        identical = False
    if not identical:
        raise DecodeError("evidence.statement", "not a DSSE envelope in its one form")
    return envelope


def _authenticated(payload: bytes) -> bytes:
    """Pre-authentication encoding: what is signed. Reference: DSSE, "PAE"."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"a float: {text[:20]}")
