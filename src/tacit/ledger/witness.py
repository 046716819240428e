"""A witness of logs: it remembers the last head of each, and cosigns only what extends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tacit.errors import DecodeError, LedgerError
from tacit.ledger.merkle import EMPTY_ROOT, Head, verify_consistency
from tacit.ledger.note import cosign, note_text, open_checkpoint, parse_checkpoint
from tacit.types import Digest, Milliseconds, Signer, Store

__all__ = ["NOTHING", "Witness"]

SPACE = "witness"
NOTHING = Head(0, EMPTY_ROOT)
"""What is known of a log of which nothing was cosigned."""


class Witness:
    """Cosigns heads of logs, each of which extends the one before.

    Args:
        store: Durable memory; the witness uses the space ``witness``: the last checkpoint that it
            cosigned of each log, as its owner signed it.
        name: Name of the witness in its cosignatures; a party's is the origin of its own log.
        signer: The key.

    Guarantee: Against the owner of a log, two heads of which neither extends the other are never both
    cosigned, restarts included (tests/property/test_ledger_witness.py::test_what_was_cosigned_is_one_log).

    Reference: C2SP tlog-witness, https://c2sp.org/tlog-witness.
    """

    def __init__(self, store: Store, name: str, signer: Signer) -> None:
        self._store = store
        self._name = name
        self._signer = signer

    def note(self, origin: str) -> bytes | None:
        """The last checkpoint that was cosigned of a log, as its owner signed it; None if there is none."""
        return self._store.get(SPACE, origin)

    def known(self, origin: str) -> Head | None:
        """The last head that was cosigned of a log; None if there is none.

        Raises:
            LedgerError: The store was tampered with.
        """
        note = self.note(origin)
        if note is None:
            return None
        try:
            last = parse_checkpoint(note_text(note))
        except (DecodeError, LedgerError) as error:
            raise LedgerError(
                "witness.damaged",
                f"what the witness {self._name} remembers of log {origin} is not a checkpoint",
                remedy="restore the witness's state from a backup; never edit it",
                log=origin,
            ) from error
        return Head(last.size, last.root)

    def forget(self, origin: str) -> None:
        """Takes the next head of a log as the first, on the operator's word; in a transaction."""
        self._store.delete(SPACE, origin)

    def cosign(
        self,
        note: bytes,
        key: bytes,
        origin: str,
        proofs: Mapping[int, Sequence[Digest]],
        now: Milliseconds,
    ) -> str:
        """Cosigns a checkpoint of a log that extends all that was cosigned of it before.

        The same head may be cosigned again. Remembers the head durably before it returns; inside a
        transaction of the caller, once that commits.

        Args:
            note: The checkpoint, signed by its log.
            key: The log's raw Ed25519 public key.
            origin: The log's origin, which is also the name of its key.
            proofs: Old size -> consistency proof from there to the checkpoint; the one from
                ``known`` counts.
            now: The time to cosign.

        Returns:
            The signature line, with its newline.

        Raises:
            DecodeError: Not a signed note.
            SignatureError: The log has not signed it.
            LedgerError: Not a checkpoint of this log; or ``witness.rolled-back``: it has fewer
                leaves than the last; ``witness.forked``: it has other leaves; ``witness.unproven``:
                there is no proof from the last. Details of these: ``log``, ``size``, ``known``.
            TransportError: The store refused the write.
        """
        checkpoint = open_checkpoint(note, {origin: key})
        if checkpoint.origin != origin:
            raise LedgerError("ledger.checkpoint", f"{origin} signed a checkpoint of another log")
        head = Head(checkpoint.size, checkpoint.root)
        with self._store.transaction():
            known = self.known(origin) or NOTHING
            _check_extends(origin, known, head, proofs)
            self._store.put(SPACE, origin, note)
        return cosign(note, self._signer, self._name, now // 1000)


def _check_extends(
    origin: str, known: Head, head: Head, proofs: Mapping[int, Sequence[Digest]]
) -> None:
    if head.size < known.size:
        raise _refusal(origin, known, head, "witness.rolled-back", "has fewer")
    if head.size == known.size and head.root != known.root:
        raise _refusal(origin, known, head, "witness.forked", "has others")
    if known.size in (0, head.size):
        return
    proof = proofs.get(known.size)
    if proof is None:
        raise _refusal(origin, known, head, "witness.unproven", "does not prove that it kept them")
    try:
        verify_consistency(known.size, head.size, known.root, head.root, proof)
    except LedgerError as error:
        raise _refusal(origin, known, head, "witness.forked", "has others") from error


def _refusal(origin: str, known: Head, head: Head, code: str, what: str) -> LedgerError:
    return LedgerError(
        code,
        f"log {origin} was cosigned with {known.size} leaves, and with {head.size} now {what}",
        remedy="ask the log's operator whether its state was lost, restored or rewritten",
        log=origin,
        size=head.size,
        known=known.size,
    )
