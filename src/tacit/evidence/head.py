"""The bundle's manifest: which run, what state, the digest of every member; signed by every party."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tacit.errors import DecodeError
from tacit.evidence import layout
from tacit.ledger.log import log_origin
from tacit.ledger.note import open_note, sign_note
from tacit.party.sealing import BUNDLE_VERSION, manifest_text
from tacit.types import PartyName, Signer

__all__ = ["Head", "check_signatures", "is_plain", "note_of", "sign_line", "transcript_digest"]

HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_TEXT = 500
MAX_SIMULATED = 64

BundleStatus = Literal["complete", "partial"]


@dataclass(frozen=True, slots=True)
class Head:
    """Content of ``manifest.json``.

    Args:
        federation: Name of the federation.
        run: Run id in hexadecimal.
        status: Whether the run ended as planned.
        model: SHA-256 of the released model file in hexadecimal; empty if there is none.
        transcript: ``transcript_digest`` of the members that the run began from and sent.
        simulated: What in this run was not real, for the reader.
        files: Every other member and its SHA-256 in hexadecimal.
    """

    federation: str
    run: str
    status: BundleStatus
    model: str
    transcript: str
    simulated: tuple[str, ...]
    files: Mapping[str, str]

    def canonical(self) -> bytes:
        """RFC 8785 bytes."""
        return _canonical(
            {
                "version": BUNDLE_VERSION,
                "federation": self.federation,
                "run": self.run,
                "status": self.status,
                "model": self.model,
                "transcript": self.transcript,
                "simulated": list(self.simulated),
                "files": dict(self.files),
            }
        )

    @classmethod
    def from_canonical(cls, data: bytes) -> Head:
        """Reads what ``canonical`` wrote.

        Raises:
            DecodeError: Anything else.
        """
        try:
            record = json.loads(data)
            _check_version(record)
            head = _from_record(record)
            identical = head.canonical() == data
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            identical = False
        if not identical:
            raise DecodeError("evidence.manifest", "manifest.json is not a bundle's manifest")
        return head


def _canonical(record: Mapping[str, object]) -> bytes:
    """RFC 8785 of tables with ASCII names: the same as here, where there are no floats, but faster."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _check_version(record: Any) -> None:
    version = record["version"]
    if version != BUNDLE_VERSION or type(version) is not int:
        raise DecodeError(
            "evidence.version",
            f"the bundle is of version {str(version)[:20]!r} of the format, this verifier reads version "
            f"{BUNDLE_VERSION}",
            remedy="verify it with the version of Tacit that wrote it",
        )


def _from_record(record: Any) -> Head:
    files, simulated = record["files"], record["simulated"]
    texts = [record["federation"], *files.keys(), *simulated]
    digests = [record["run"], record["transcript"], *files.values()]
    digests += [record["model"]] if record["model"] else []
    if len(simulated) > MAX_SIMULATED:
        raise ValueError("simulated")
    if record["status"] not in ("complete", "partial"):
        raise ValueError("status")
    if not all(isinstance(text, str) and is_plain(text) for text in texts):
        raise ValueError("text")
    if not all(map(str.isascii, files)):
        raise ValueError("name")
    if not all(isinstance(item, str) and HEX_DIGEST.fullmatch(item) for item in digests):
        raise ValueError("digest")
    return Head(
        federation=record["federation"],
        run=record["run"],
        status=record["status"],
        model=record["model"],
        transcript=record["transcript"],
        simulated=tuple(simulated),
        files=files,
    )


def is_plain(text: str) -> bool:
    """Whether a reader's terminal can show ``text``: one short line without control characters."""
    return len(text) <= MAX_TEXT and text.isprintable()


def transcript_digest(files: Mapping[str, str]) -> str:
    """What names a run's transcript: SHA-256 of RFC 8785 ``{name: digest}``, in hexadecimal.

    Args:
        files: Members and their SHA-256 in hexadecimal; those that are no part of it are left out.
    """
    part = {name: digest for name, digest in files.items() if layout.in_transcript(name)}
    return hashlib.sha256(_canonical(part)).hexdigest()


def sign_line(manifest: bytes, federation: str, party: PartyName, signer: Signer) -> str:
    """A party's signature line over the bytes of ``manifest.json``, with its newline."""
    note = sign_note(manifest_text(manifest), signer, log_origin(federation, party))
    return note.decode().rpartition("\n\n")[2]


def note_of(manifest: bytes, lines: Iterable[str]) -> bytes:
    """``manifest.sig``: the signature lines of several parties, in order of their names."""
    ordered = sorted(lines, key=_name)
    return f"{manifest_text(manifest)}\n{''.join(ordered)}".encode()


def check_signatures(
    note: bytes, manifest: bytes, federation: str, keys: Mapping[PartyName, bytes]
) -> frozenset[PartyName]:
    """The parties that signed ``manifest``, at least one.

    Args:
        note: Content of ``manifest.sig``.
        manifest: Content of ``manifest.json``.
        federation: Name of the federation.
        keys: Public keys of everybody who may sign.

    Raises:
        DecodeError: Not a signed note, of another manifest, or with a line of somebody else.
        SignatureError: A line is not what its party signed.

    Guarantee: Against anyone without a party's key: nobody is named who did not sign these bytes
    (tests/unit/test_evidence_verify.py::test_every_party_signs_the_manifest).
    """
    names = {log_origin(federation, party): party for party in keys}
    text, signed = open_note(note, {name: keys[party] for name, party in names.items()})
    if text != manifest_text(manifest):
        raise DecodeError("evidence.manifest-signature", "manifest.sig signs another manifest")
    shown = [_name(line) for line in note.decode().rpartition("\n\n")[2].splitlines()]
    if shown != sorted(signed):
        raise DecodeError(
            "evidence.manifest-signature",
            "manifest.sig holds a line of a stranger to the run, or not in order of the names",
        )
    return frozenset(names[name] for name in signed)


def _name(line: str) -> str:
    """The name in a signature line."""
    return line.split(" ", 2)[1] if line.count(" ") >= 2 else ""
