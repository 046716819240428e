"""What lets a connector read a private data set: a permission, and only a policy's yes makes one."""

from __future__ import annotations

from typing import NoReturn

from tacit.errors import LocalProtocolError, PolicyDenied
from tacit.policy.contract import Contract
from tacit.policy.request import retention_end
from tacit.policy.rows import RowFilter
from tacit.types import Digest, Milliseconds

__all__ = ["NO_POLICY", "Permission", "public_permission"]

NO_POLICY = Digest(bytes(32))
"""Stands for the lock of a policy where none was asked, because the data are public."""


class Permission:
    """That one data set may be read for one purpose. Immutable; made by ``Policy.permit``.

    Guarantee:
        A connector that asks for one reads no private data set about which a policy did not say yes:
        against code that uses the public interface, no other way leads to an instance.
        Checked by tests/unit/test_policy_permission.py::test_only_a_policy_makes_a_permission and
        tests/unit/test_policy_permission.py::test_a_denied_request_makes_none.

    Attributes:
        contract: Digest of the contract of the data set.
        policy: Digest of the site's ``policy.lock``; ``NO_POLICY`` for public data.
        purpose: What the data may be used for.
        now: Time of the decision.
        rules: Names of the rules that permitted it; empty for public data.
        rows: Which rows may be used; None for all of them.
    """

    __slots__ = ("contract", "now", "policy", "purpose", "rows", "rules")

    contract: Digest
    policy: Digest
    purpose: str
    now: Milliseconds
    rules: tuple[str, ...]
    rows: RowFilter | None

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        raise LocalProtocolError(
            "policy.permission",
            "a Permission cannot be built by hand",
            remedy="ask the site's policy: tacit.policy.Policy.permit",
        )

    def __init_subclass__(cls, **_kwargs: object) -> None:
        raise LocalProtocolError("policy.permission", "Permission has no subclasses")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise LocalProtocolError("policy.permission", "a Permission cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise LocalProtocolError("policy.permission", "a Permission cannot be changed")

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("policy.permission", "a Permission is never pickled or copied")

    def __repr__(self) -> str:
        rows = "all rows" if self.rows is None else f"rows where {self.rows.text}"
        return f"Permission({self.purpose!r}, {rows})"


def build_permission(
    contract: Contract,
    policy: Digest,
    purpose: str,
    now: Milliseconds,
    rules: tuple[str, ...],
    rows: RowFilter | None,
) -> Permission:
    """Seals a policy's yes; for ``tacit.policy`` only, hence not exported."""
    permission = object.__new__(Permission)
    for name, value in (
        ("contract", contract.digest),
        ("policy", policy),
        ("purpose", purpose),
        ("now", now),
        ("rules", rules),
        ("rows", rows),
    ):
        object.__setattr__(permission, name, value)
    return permission


def public_permission(contract: Contract, purpose: str, now: Milliseconds) -> Permission:
    """The permission to read data that anyone may see, without a policy.

    Args:
        contract: Contract of the data set.
        purpose: What it is used for.
        now: Time of use.

    Raises:
        PolicyDenied: The contract does not say that the data are public, or their last day is over.
    """
    if not contract.public:
        raise PolicyDenied(
            "policy.not-public",
            f"data set '{contract.name}' is not public: only the policy of a site lets it be read",
            remedy="ask the site's policy, or set public = true if anyone may see every record",
        )
    if now > retention_end(contract.retention):
        raise PolicyDenied(
            "policy.retention",
            f"data set '{contract.name}' may not be used after {contract.retention}",
            remedy="use other data, or correct 'retention' in the contract",
        )
    return build_permission(contract, NO_POLICY, purpose, now, (), None)
