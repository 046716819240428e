"""Writing an evidence bundle: collects members, makes the manifest, writes the archive whole or not."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import LocalProtocolError, TacitError
from tacit.evidence import layout
from tacit.evidence.archive import pack
from tacit.evidence.dsse import open_envelope, sign_statement
from tacit.evidence.head import MAX_SIMULATED, Head, is_plain, note_of, transcript_digest
from tacit.evidence.sbom import installed_sbom
from tacit.evidence.statements import derive, required
from tacit.evidence.tensors import write_model
from tacit.evidence.view import Missing, View
from tacit.files import write_atomic
from tacit.ledger.log import log_origin
from tacit.ledger.record import LogRecord
from tacit.trust.roster import Roster
from tacit.types import Digest, PartyName, Signer
from tacit.wire.envelope import Received
from tacit.wire.messages import Accept, HelperKey, MaskSum, Offer, Upload

__all__ = ["BundleWriter", "add_statements", "head_of"]


class BundleWriter:
    """Collects what a run leaves behind.

    Args:
        roster: The federation's roster.
        run: The run id.
    """

    def __init__(self, roster: Roster, run: Digest) -> None:
        self._roster = roster
        self._run = run
        self._members: dict[str, bytes] = {layout.ROSTER: roster.canonical}
        self._final: NDArray[np.float64] | None = None
        self._manifest = b""
        self._stated: dict[str, bytes] | None = None

    @property
    def members(self) -> dict[str, bytes]:
        """What was added so far; after ``manifest`` all that it covers."""
        return dict(self._members if self._stated is None else self._stated)

    @property
    def transcript(self) -> str:
        """The digest of the transcript as it was added so far: what a report about the run names."""
        return transcript_digest(_digests(self._members))

    def add(self, name: str, data: bytes) -> None:
        """Adds one member.

        Raises:
            LocalProtocolError: No such member belongs into a bundle, or another one is there already.
        """
        if not layout.is_known(name) or name in (layout.MANIFEST, layout.SIGNATURE):
            raise LocalProtocolError("evidence.member", f"{name!r} does not belong into a bundle")
        if self._members.setdefault(name, data) != data:
            raise LocalProtocolError("evidence.member", f"{name!r} was added with other content")
        self._stated = None

    def add_message(self, message: Received) -> None:
        """Adds a signed message where its type, sender and round say; an ``Offer`` with its parts.

        Raises:
            LocalProtocolError: A bundle holds no messages of this type.
        """
        party, number = message.sender.party, int(message.round)
        match message.body:
            case Offer(job=job, schema=schema):
                self.add(layout.JOB, job)
                self.add(layout.SCHEMA, schema)
                self.add(layout.OFFER, message.raw)
            case Accept():
                self.add(layout.accept(party), message.raw)
            case HelperKey():
                self.add(layout.key(number, party), message.raw)
            case Upload():
                self.add(layout.upload(number, party), message.raw)
            case MaskSum():
                self.add(layout.mask_sum(number, party), message.raw)
            case _:
                raise LocalProtocolError(
                    "evidence.member", f"no {message.header.type} belongs into a bundle"
                )

    def add_aggregate(self, round_number: int, total: bytes) -> None:
        """Adds the sum of a closed round: its elements as they travelled, little-endian."""
        self.add(layout.aggregate(round_number), total)

    def add_initial(self, theta: NDArray[np.float64]) -> None:
        """Adds the parameters before the first round, float64[d]."""
        self.add(layout.INITIAL, _bytes(theta, "<f8"))

    def add_final(self, theta: NDArray[np.float64]) -> None:
        """Adds the released parameters, float64[d]; they will name the transcript behind them."""
        self._final, self._stated = theta, None

    def add_log(self, party: PartyName, record: LogRecord, checkpoint: bytes) -> None:
        """Adds a party's record of the run and its checkpoint of the same size, cosignatures included."""
        self.add(layout.events(party), record.events)
        self.add(layout.proof(party), record.proof)
        self.add(layout.checkpoint(party), checkpoint)

    def add_policy(self, site: PartyName, disclosed: bytes) -> None:
        """Adds what a site discloses of its policy."""
        self.add(layout.policy(site), disclosed)

    def add_statement(self, name: str, envelope: bytes) -> None:
        """Adds a statement that somebody else made and signed, one of ``layout.REPORTED``.

        Raises:
            DecodeError: Not an envelope, or not of a statement of this name.
            LocalProtocolError: No such statement belongs into a bundle.
        """
        if name not in layout.REPORTED:
            raise LocalProtocolError("evidence.member", f"no statement {name!r} can be added")
        open_envelope(envelope).statement(name)
        self.add(layout.statement(name), envelope)

    def manifest(
        self,
        *,
        leader: PartyName,
        signer: Signer,
        complete: bool,
        simulated: tuple[str, ...] = (),
    ) -> bytes:
        """What the bundle will hold: for every party to sign, see ``head.sign_line``.

        Adds the released model, the leader's statements and the list of software.

        Args:
            leader: Who signs the statements.
            signer: The leader's identity.
            complete: Whether the run ended as planned; otherwise the bundle is marked partial.
            simulated: What in this run was not real, for the reader.

        Raises:
            LocalProtocolError: An entry of ``simulated`` is too long or not one line of text.
        """
        if len(simulated) > MAX_SIMULATED or not all(map(is_plain, simulated)):
            raise LocalProtocolError(
                "evidence.simulated",
                "what was simulated is told in a few short lines of plain text",
            )
        members = {layout.SBOM: installed_sbom(), **self._members}
        if self._final is not None:
            transcript = transcript_digest(_digests(members))
            members[layout.FINAL] = write_model(self._final, self._run.hex(), transcript)
        head = head_of(
            members,
            federation=self._roster.federation,
            run=self._run.hex(),
            complete=complete,
            simulated=simulated,
        )
        self._stated, self._manifest = add_statements(members, head, leader, signer)
        return self._manifest

    def write(self, path: Path, lines: Iterable[str]) -> Digest:
        """Writes the bundle to ``path``, all of it or nothing.

        Args:
            path: Destination; an existing file is replaced.
            lines: The parties' signature lines of what ``manifest`` returned, the leader's included.

        Returns:
            SHA-256 of the bundle.

        Raises:
            LocalProtocolError: There is no manifest yet.
            TransportError: The disk refuses the write; nothing is left behind.
        """
        if self._stated is None:
            raise LocalProtocolError(
                "evidence.manifest", "the manifest comes before its signatures"
            )
        sealing = {
            layout.MANIFEST: self._manifest,
            layout.SIGNATURE: note_of(self._manifest, lines),
        }
        data = pack({**self._stated, **sealing})
        write_atomic(path, data)
        return Digest(hashlib.sha256(data).digest())


def head_of(
    members: Mapping[str, bytes],
    *,
    federation: str,
    run: str,
    complete: bool,
    simulated: tuple[str, ...] = (),
) -> Head:
    """What the manifest says of these members."""
    final, files = members.get(layout.FINAL), _digests(members)
    return Head(
        federation=federation,
        run=run,
        status="complete" if complete else "partial",
        model=hashlib.sha256(final).hexdigest() if final is not None else "",
        transcript=transcript_digest(files),
        simulated=simulated,
        files=files,
    )


def add_statements(
    members: Mapping[str, bytes], head: Head, leader: PartyName, signer: Signer
) -> tuple[dict[str, bytes], bytes]:
    """Members with the statements that follow from them, and the manifest of all.

    A statement that the members do not reach for is left out.
    """
    view = View({**members, layout.MANIFEST: head.canonical()})
    keyid = log_origin(head.federation, leader)
    whole = dict(members)
    for name in layout.DERIVED:
        with contextlib.suppress(Missing, TacitError):
            if name in required(view):
                envelope = sign_statement(derive(view, name), [(keyid, signer)])
                whole[layout.statement(name)] = envelope
    return whole, replace(head, files=_digests(whole)).canonical()


def _digests(members: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}


def _bytes(array: NDArray[Any], dtype: str) -> bytes:
    return np.ascontiguousarray(array).astype(dtype, copy=False).tobytes()
