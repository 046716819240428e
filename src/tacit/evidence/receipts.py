"""Receipts that a site shows to an auditor, checked against the run's bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.connect.receipt import FIRST, commitment_of
from tacit.errors import DecodeError, TacitError
from tacit.evidence.archive import unpack
from tacit.evidence.report import Claim, Status
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle
from tacit.evidence.view import Missing, View
from tacit.party.data import receipt_statement
from tacit.types import PartyName

__all__ = ["CHECKS", "ShownReceipts", "check_receipts"]

CHECKS = ("bundle", "signatures", "chain", "commitment")
"""What is checked, in this order."""

_KEYS = {"version", "site", "run", "salt", "receipts"}
_COUNTS = ("in", "out", "quarantined")


@dataclass(frozen=True, slots=True)
class ShownReceipts:
    """What a site hands over: it tells exact counts, so it is for an auditor whom the site trusts with them.

    Args:
        site: The site's name in the roster.
        run: Run id, 64 hexadecimal digits.
        salt: Of the commitment in the site's log.
        receipts: Signed receipts: of the whole data set, then of every batch in order.
    """

    site: PartyName
    run: str
    salt: bytes
    receipts: tuple[Mapping[str, Any], ...]

    def canonical(self) -> bytes:
        """RFC 8785 JSON."""
        return rfc8785.dumps(
            {
                "version": 1,
                "site": self.site,
                "run": self.run,
                "salt": self.salt.hex(),
                "receipts": [dict(receipt) for receipt in self.receipts],
            }
        )

    @classmethod
    def from_canonical(cls, data: bytes) -> ShownReceipts:
        """What ``canonical`` wrote.

        Raises:
            DecodeError: ``data`` is anything else.
        """
        try:
            record = json.loads(data)
            if set(record) != _KEYS or record["version"] != 1:
                raise ValueError("not receipts")
            shown = cls(
                PartyName(record["site"]),
                record["run"],
                bytes.fromhex(record["salt"]),
                tuple(record["receipts"]),
            )
            identical = shown.canonical() == data and all(map(_is_signed, shown.receipts))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            identical = False
        if not identical or not shown.receipts:
            raise DecodeError("receipts.file", "the file does not hold a site's receipts")
        return shown

    @property
    def whole(self) -> Mapping[str, Any]:
        """The record of the receipt of the whole data set."""
        receipt: Mapping[str, Any] = self.receipts[0]["receipt"]
        return receipt


def check_receipts(
    shown: ShownReceipts, bundle: Path | bytes, trust: Trust | None
) -> tuple[Claim, ...]:
    """Checks receipts against the evidence of their run; one claim for each of ``CHECKS``.

    Guarantee: Against a site that shows other receipts than it issued before its first upload, or
    leaves one out: a claim fails
    (tests/e2e/test_receipts.py::test_nothing_about_shown_receipts_can_be_changed). That the
    software that issued them was honest is not proven.

    Args:
        shown: What the site handed over.
        bundle: The run's evidence bundle.
        trust: Whom the auditor trusts.

    Raises:
        ConfigError: The bundle cannot be read.
    """
    report = verify_bundle(bundle, trust)
    if report.run != shown.run:
        reason = f"the bundle is of run {report.run[:12]}, the receipts of run {shown.run[:12]}"
        return tuple(Claim(name, Status.FAIL, reason) for name in CHECKS)
    status = {0: Status.PASS, 1: Status.FAIL}.get(report.exit_code, Status.NOT_PROVEN)
    told = {
        Status.PASS: "the bundle is verified",
        Status.FAIL: "a claim of the bundle fails",
        Status.NOT_PROVEN: "a claim of the bundle is not proven",
    }[status]
    if status is Status.PASS and not report.required:
        status, told = Status.NOT_PROVEN, "without a trust file nobody's signature counts"
    data = bundle if isinstance(bundle, bytes) else bundle.read_bytes()
    try:
        view = View(unpack(data))
    except DecodeError as error:
        return tuple(Claim(name, Status.FAIL, error.message) for name in CHECKS)
    return (
        Claim("bundle", status, told),
        _signatures(shown, view),
        _chain(shown),
        _commitment(shown, view),
    )


def _is_signed(item: Any) -> bool:
    texts = isinstance(item, dict) and set(item) == {"receipt", "key", "signature"}
    return texts and isinstance(item["receipt"], dict) and isinstance(item["signature"], str)


def _signatures(shown: ShownReceipts, view: View) -> Claim:
    try:
        key = view.roster.member(shown.site).key
    except TacitError:
        return Claim("signatures", Status.FAIL, f"'{shown.site}' is not on the roster of the run")
    for item in shown.receipts:
        statement = receipt_statement(rfc8785.dumps(item["receipt"]))
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(
                bytes.fromhex(item["signature"]), statement
            )
        except (InvalidSignature, ValueError):
            number = item["receipt"].get("number")
            return Claim(
                "signatures", Status.FAIL, f"receipt {number} is not signed by '{shown.site}'"
            )
    count = len(shown.receipts)
    return Claim("signatures", Status.PASS, f"all {count} are signed by '{shown.site}'")


def _chain(shown: ShownReceipts) -> Claim:
    """Numbers, links and sums: no batch is missing, added or counted twice."""
    batches = [item["receipt"] for item in shown.receipts[1:]]
    previous = FIRST.hex()
    for number, record in enumerate(batches, 1):
        if record.get("number") != number or record.get("previous") != previous:
            return Claim(
                "chain", Status.FAIL, f"receipt {number} does not follow from the one before"
            )
        previous = hashlib.sha256(rfc8785.dumps(record)).hexdigest()
    whole = shown.whole
    if whole.get("number") != 0 or whole.get("previous") != previous:
        return Claim("chain", Status.FAIL, "the whole is not that of these batches")
    if whole.get("rows") != _sums(batches):
        return Claim("chain", Status.FAIL, "the rows of the batches do not add up to the whole")
    same = ("name", "contract", "policy", "plan", "schema", "source")
    if any(record.get(key) != whole.get(key) for record in batches for key in same):
        return Claim(
            "chain", Status.FAIL, "a batch was read under another contract, policy or plan"
        )
    return Claim(
        "chain", Status.PASS, f"no batch of {len(batches)} is missing, and their rows add up"
    )


def _sums(batches: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    rows = [record.get("rows") for record in batches]
    if not all(isinstance(row, dict) for row in rows):
        return {}
    return {key: sum(row[key] for row in rows if isinstance(row, dict)) for key in _COUNTS}


def _commitment(shown: ShownReceipts, view: View) -> Claim:
    try:
        issued = view.log(shown.site).of("receipt.issued")
    except Missing as missing:
        return Claim("commitment", Status.NOT_PROVEN, str(missing))
    if len(issued) != 1:
        reason = f"'{shown.site}' logged {len(issued)} receipts in this run"
        return Claim("commitment", Status.FAIL, reason)
    expected = commitment_of(rfc8785.dumps(dict(shown.whole)), shown.salt)
    if issued[0].digest("receipt") != expected:
        reason = f"'{shown.site}' committed to other receipts before it took part"
        return Claim("commitment", Status.FAIL, reason)
    return Claim(
        "commitment", Status.PASS, f"'{shown.site}' committed to these receipts before it took part"
    )
