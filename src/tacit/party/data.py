"""A site's data in a run: read under a permission, with signed receipts that stay at the site."""

from __future__ import annotations

from typing import Any

import rfc8785

from tacit.connect import Receipt, SanitisedBatch
from tacit.errors import ConfigError
from tacit.party.admission import KEY_BYTES, DataSource
from tacit.party.base import Party, RunState
from tacit.party.terms import Terms
from tacit.policy.permission import Permission
from tacit.types import Milliseconds, Store

__all__ = ["RECEIPTS", "RunData", "erase_receipts", "receipt_statement"]

RECEIPTS = "receipts"
"""Space of the store with salt and number of every run's receipts; those of a run are in ``receipts/RUN``, by
number, and 0 is the whole."""

_READ_AT = "read-at"
_STATEMENT_PREFIX = b"tacit signed receipt v1\0"


def receipt_statement(canonical: bytes) -> bytes:
    """What a site signs of a receipt.

    Args:
        canonical: The receipt's canonical record.
    """
    return _STATEMENT_PREFIX + canonical


def erase_receipts(store: Store, state: RunState, run: str) -> None:
    """Deletes salt and receipts of a run, inside a transaction: the commitment then opens to nothing."""
    space = f"{RECEIPTS}/{run}"
    for key, _ in store.items(space):
        store.delete(space, key)
    store.delete(RECEIPTS, run)
    state.delete("receipt-salt")


class RunData:
    """Reads the data of runs for one site.

    Args:
        party: The site.

    Guarantee:
        What a run trains on after a restart is exactly what its receipt commits to, or the run stops
        here; receipts never leave, a salted commitment to them does.
        Checked by tests/unit/test_party_data.py::test_a_restart_trains_on_what_was_accepted and
        tests/unit/test_party_data.py::test_receipts_stay_at_the_site.
    """

    def __init__(self, party: Party) -> None:
        self._party = party

    def keep(self, terms: Terms, state: RunState, batch: SanitisedBatch, now: Milliseconds) -> None:
        """Signs and keeps the receipts, and logs the commitment, inside a transaction."""
        salt = self._party.ports.entropy.draw(KEY_BYTES)
        commitment = batch.receipt.commitment(salt)
        state.put_number(_READ_AT, now)
        state.put("receipt-salt", salt)
        state.put("receipt", commitment)
        for receipt in (batch.receipt, *batch.receipts):
            self._keep_signed(terms, receipt)
        count = 1 + len(batch.receipts)
        known: dict[str, Any] = {"salt": salt.hex(), "count": count, "at": now}
        self._party.ports.store.put(RECEIPTS, terms.run_id, rfc8785.dumps(known))
        self._party.log(
            terms,
            now,
            "receipt.issued",
            receipt=commitment.hex(),
            contract=batch.receipt.contract.hex(),
            policy=batch.receipt.policy.hex(),
            plan=batch.receipt.plan.hex(),
            schema=terms.manifest.schema.hex(),
        )

    def _keep_signed(self, terms: Terms, receipt: Receipt) -> None:
        signer = self._party.ports.signer
        record: dict[str, Any] = {
            "receipt": receipt.record(),
            "key": signer.public_key.hex(),
            "signature": signer.sign(receipt_statement(receipt.canonical())).hex(),
        }
        space = f"{RECEIPTS}/{terms.run_id}"
        self._party.ports.store.put(space, str(receipt.number), rfc8785.dumps(record))

    def again(self, state: RunState, source: DataSource, permission: Permission) -> SanitisedBatch:
        """The data after a restart: exactly what was accepted.

        Raises:
            ConfigError: Contract, policy or data have changed since the site accepted the run.
        """
        batch = source.read(permission, Milliseconds(state.number(_READ_AT)))
        if batch.receipt.commitment(state.get("receipt-salt") or b"") != state.get("receipt"):
            raise ConfigError(
                "site.changed",
                f"contract, policy or data of site {self._party.address.party} have changed since "
                "it accepted the run",
                remedy="restore them, or start a new run with the data as it is now",
            )
        return batch
