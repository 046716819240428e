"""Writing an evidence bundle: collects members, signs the manifest, writes the archive whole or not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import LocalProtocolError
from tacit.evidence import layout
from tacit.evidence.archive import pack
from tacit.evidence.head import MAX_SIMULATED, Head, is_plain, sign
from tacit.files import write_atomic
from tacit.trust.roster import Roster
from tacit.types import Digest, PartyName, Signer
from tacit.wire.envelope import Received
from tacit.wire.messages import Accept, HelperKey, MaskSum, Offer, Upload

__all__ = ["BundleWriter", "write_bundle"]


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

    @property
    def members(self) -> dict[str, bytes]:
        """What was added so far."""
        return dict(self._members)

    def add(self, name: str, data: bytes) -> None:
        """Adds one member.

        Raises:
            LocalProtocolError: No such member belongs into a bundle, or another one is there already.
        """
        if not layout.is_known(name) or name in (layout.MANIFEST, layout.SIGNATURE):
            raise LocalProtocolError("evidence.member", f"{name!r} does not belong into a bundle")
        if self._members.setdefault(name, data) != data:
            raise LocalProtocolError("evidence.member", f"{name!r} was added with other content")

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

    def add_final(self, model: bytes) -> None:
        """Adds the released model file, safetensors with a float64 tensor ``theta``."""
        self.add(layout.FINAL, model)

    def add_log(self, party: PartyName, events: bytes, checkpoint: bytes) -> None:
        """Adds what a party's ``Log.record`` and ``Log.checkpoint`` gave, taken at the same size."""
        self.add(layout.events(party), events)
        self.add(layout.checkpoint(party), checkpoint)

    def write(
        self,
        path: Path,
        *,
        leader: PartyName,
        signer: Signer,
        complete: bool,
        simulated: tuple[str, ...] = (),
    ) -> Digest:
        """Signs the manifest and writes the bundle to ``path``, all of it or nothing.

        Args:
            path: Destination; an existing file is replaced.
            leader: Who signs.
            signer: The leader's identity.
            complete: Whether the run ended as planned; otherwise the bundle is marked partial.
            simulated: What in this run was not real, for the reader.

        Returns:
            SHA-256 of the bundle.

        Raises:
            TransportError: The disk refuses the write; nothing is left behind.
        """
        final = self._members.get(layout.FINAL)
        files = {name: hashlib.sha256(data).hexdigest() for name, data in self._members.items()}
        head = Head(
            federation=self._roster.federation,
            run=self._run.hex(),
            status="complete" if complete else "partial",
            model=hashlib.sha256(final).hexdigest() if final is not None else "",
            simulated=simulated,
            files=files,
        )
        return write_bundle(path, self._members, head, leader, signer)


def write_bundle(
    path: Path, members: dict[str, bytes], head: Head, leader: PartyName, signer: Signer
) -> Digest:
    """Writes ``members`` under a signed ``head``; returns the SHA-256 of the file.

    Raises:
        LocalProtocolError: An entry of ``simulated`` is too long or not one line of text.
        TransportError: The disk refuses the write; nothing is left behind.
    """
    if len(head.simulated) > MAX_SIMULATED or not all(map(is_plain, head.simulated)):
        raise LocalProtocolError(
            "evidence.simulated", "what was simulated is told in a few short lines of plain text"
        )
    manifest = head.canonical()
    signature = sign(manifest, head.federation, leader, signer)
    data = pack({**members, layout.MANIFEST: manifest, layout.SIGNATURE: signature})
    write_atomic(path, data)
    return Digest(hashlib.sha256(data).digest())


def _bytes(array: NDArray[Any], dtype: str) -> bytes:
    return np.ascontiguousarray(array).astype(dtype, copy=False).tobytes()
