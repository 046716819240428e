"""What a site discloses of its policy: its lock, rules and contract, against what it accepted under.

Everything hangs on two digests that the site signed in its acceptance: that of its ``policy.lock``
and that of its contract. The approvers' keys are the site's own word: who they are is for the reader.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import rfc8785

from tacit.errors import DecodeError, SignatureError
from tacit.trust.identity import verify

__all__ = ["Disclosure", "check_disclosure"]

VERSION = 1
DOMAIN = b"tacit policy lock v1\x00"
"""As ``policy.lock`` signs."""

MAX_TEXT = 200
HEX_KEY = re.compile(r"[0-9a-f]{64}")
HEX_SIGNATURE = re.compile(r"[0-9a-f]{128}")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
KEYS = {"version", "site", "approvals", "approvers", "lock", "policies", "contract"}
PARTS = {"version", "policy", "policies", "contracts", "tests"}


@dataclass(frozen=True, slots=True)
class Disclosure:
    """A disclosed policy that fits the digests of an acceptance.

    Args:
        approvers: Who approved it, in order of their names.
        contract: The contract of the data set.
    """

    approvers: tuple[str, ...]
    contract: Mapping[str, Any]

    @property
    def allowed_regions(self) -> tuple[str, ...] | None:
        """Regions that everybody who handles the data must be in; None if the contract names none."""
        regions = self.contract.get("allowed_regions")
        return None if regions is None else tuple(map(str, regions))


def check_disclosure(data: bytes, site: str, policy: bytes, contract: bytes) -> Disclosure:
    """Reads ``policy/SITE.json`` and checks it.

    Args:
        data: The member.
        site: Whose it is.
        policy: Digest of the lock, as the site's acceptance says.
        contract: Digest of the contract, likewise.

    Raises:
        DecodeError: It is malformed, or says something else than the site accepted under.
        SignatureError: An approval is forged, or there are too few.

    Guarantee: Against anyone without the approvers' keys: what is returned is the policy and contract
    whose digests the site signed, approved by the named approvers
    (tests/unit/test_evidence_policy.py::test_every_changed_part_of_a_disclosure_is_refused).
    """
    record = _read(data, site)
    lock, parts = record["lock"], record["lock"]["parts"]
    if _digest({"site": site, **parts}) != policy.hex():
        _refuse(site, "its lock is not the one that it accepted the run under")
    _check_policies(site, record["policies"], parts["policies"])
    found = _digest(record["contract"])
    if found != contract.hex() or parts["contracts"].get(record["contract"].get("name")) != found:
        _refuse(site, "the contract is not the approved one that it accepted the run under")
    statement = {
        "version": VERSION,
        "site": site,
        "digest": policy.hex(),
        "locked_at": lock["locked_at"],
    }
    signed = DOMAIN + rfc8785.dumps(statement)
    _check_approvals(site, record, signed)
    return Disclosure(tuple(sorted(lock["signatures"])), record["contract"])


def _read(data: bytes, site: str) -> Any:
    try:
        record = json.loads(data, parse_float=_no_float, parse_constant=_no_float)
        lock = record["lock"]
        regions = record["contract"].get("allowed_regions")
        right = (
            rfc8785.dumps(record) == data
            and record.keys() == KEYS
            and (record["version"], record["site"]) == (VERSION, site)
            and lock.keys() == {"locked_at", "parts", "signatures"}
            and lock["parts"].keys() == PARTS
            and lock["parts"]["version"] == VERSION
            and TIME.fullmatch(lock["locked_at"]) is not None
            and all(isinstance(lock["parts"][name], dict) for name in PARTS - {"version", "policy"})
            and type(record["approvals"]) is int
            and 1 <= record["approvals"] <= len(record["approvers"])
            and len(set(record["approvers"].values())) == len(record["approvers"])
            and all(HEX_KEY.fullmatch(key) for key in record["approvers"].values())
            and all(HEX_SIGNATURE.fullmatch(value) for value in lock["signatures"].values())
            and isinstance(record["contract"].get("name"), str)
            and (regions is None or type(regions) is list)
            and all(isinstance(region, str) for region in regions or ())
            and all(isinstance(rules, list) for rules in record["policies"].values())
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        _refuse(site, "it is malformed")
    return record


def _check_policies(site: str, disclosed: Mapping[str, Any], locked: Mapping[str, Any]) -> None:
    """Every file of rules, rule by rule, whatever the order in the file."""
    if disclosed.keys() != locked.keys():
        _refuse(site, "it does not show every file of rules, or one that is not approved")
    for file, rules in disclosed.items():
        texts = [rule.decode() for rule in sorted(map(rfc8785.dumps, rules))]
        if _digest(texts) != locked[file]:
            _refuse(site, f"the rules of {file[:MAX_TEXT]!r} are not the approved ones")


def _check_approvals(site: str, record: Any, signed: bytes) -> None:
    approvers, signatures = record["approvers"], record["lock"]["signatures"]
    for name, signature in signatures.items():
        key = approvers.get(name)
        try:
            if key is None:
                raise SignatureError("evidence.policy", "no approver")
            verify(bytes.fromhex(key), bytes.fromhex(signature), signed)
        except SignatureError as error:
            raise SignatureError(
                "evidence.policy", f"policy of {site}: the approval of {name[:64]!r} is forged"
            ) from error
    if len(signatures) < record["approvals"]:
        raise SignatureError(
            "evidence.policy",
            f"policy of {site}: {len(signatures)} of {record['approvals']} approvers have signed",
        )


def _digest(content: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"a float: {text[:20]}")


def _refuse(site: str, reason: str) -> NoReturn:
    raise DecodeError("evidence.policy", f"policy of {site}: {reason}")
