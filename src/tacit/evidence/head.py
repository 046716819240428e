"""The bundle's manifest: which run, what state, and the digest of every member; signed by the leader."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import rfc8785

from tacit.errors import DecodeError
from tacit.ledger.log import log_origin
from tacit.ledger.note import open_note, sign_note
from tacit.types import PartyName, Signer

__all__ = ["Head", "check_signature", "is_plain", "sign"]

HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
TITLE = "tacit bundle v1"

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
        simulated: What in this run was not real, for the reader.
        files: Every other member and its SHA-256 in hexadecimal.
    """

    federation: str
    run: str
    status: BundleStatus
    model: str
    simulated: tuple[str, ...]
    files: Mapping[str, str]

    def canonical(self) -> bytes:
        """RFC 8785 bytes."""
        return rfc8785.dumps(
            {
                "version": 1,
                "federation": self.federation,
                "run": self.run,
                "status": self.status,
                "model": self.model,
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
            head = _from_record(json.loads(data))
            identical = head.canonical() == data
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            identical = False
        if not identical:
            raise DecodeError("evidence.manifest", "manifest.json is not a bundle's manifest")
        return head


def _from_record(record: Any) -> Head:
    files, simulated = record["files"], record["simulated"]
    texts = [record["federation"], *files.keys(), *simulated]
    digests = [record["run"], *files.values(), *([record["model"]] if record["model"] else [])]
    if len(simulated) > MAX_SIMULATED:
        raise ValueError("simulated")
    if record["version"] != 1 or record["status"] not in ("complete", "partial"):
        raise ValueError("version or status")
    if not all(isinstance(text, str) and is_plain(text) for text in texts):
        raise ValueError("text")
    if not all(isinstance(item, str) and HEX_DIGEST.fullmatch(item) for item in digests):
        raise ValueError("digest")
    return Head(
        federation=record["federation"],
        run=record["run"],
        status=record["status"],
        model=record["model"],
        simulated=tuple(simulated),
        files=files,
    )


def is_plain(text: str) -> bool:
    """Whether a reader's terminal can show ``text``: one short line without control characters."""
    return len(text) <= MAX_TEXT and text.isprintable()


def sign(manifest: bytes, federation: str, leader: PartyName, signer: Signer) -> bytes:
    """The leader's signed note over the bytes of ``manifest.json``."""
    return sign_note(_text(manifest), signer, log_origin(federation, leader))


def check_signature(
    note: bytes, manifest: bytes, federation: str, leaders: Mapping[PartyName, bytes]
) -> PartyName:
    """The leader that signed ``manifest``.

    Raises:
        DecodeError: Not a signed note, or of another manifest.
        SignatureError: No leader signed it.
    """
    names = {log_origin(federation, leader): leader for leader in leaders}
    text, signed = open_note(note, {name: leaders[leader] for name, leader in names.items()})
    if text != _text(manifest) or len(signed) != 1:
        raise DecodeError("evidence.manifest-signature", "manifest.sig signs another manifest")
    return names[next(iter(signed))]


def _text(manifest: bytes) -> str:
    # Two lines with spaces: never a checkpoint, which the same key signs too.
    return f"{TITLE}\nsha256 {hashlib.sha256(manifest).hexdigest()}\n"
