"""What a site discloses of its policy to whoever verifies a run: lock, rules and contract.

``policy/SITE.json`` of a bundle. Everything in it hangs on the digests of lock and contract in the
site's acceptance; nothing of the data is in it but what the contract says.
"""

from __future__ import annotations

from typing import Any

import rfc8785

from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract
from tacit.policy.lock import Approvers, PolicyLock
from tacit.policy.request import integers_as_text

__all__ = ["disclose"]

VERSION = 1


def disclose(lock: PolicyLock, approvers: Approvers, policy: Policy, contract: Contract) -> bytes:
    """The canonical JSON of what a site discloses.

    Args:
        lock: The site's lock, verified.
        approvers: Who may approve its policy.
        policy: The policy that the lock approves.
        contract: The contract of the data set that a run uses.

    Reference: RFC 8785 (canonical JSON).
    """
    rules: dict[str, list[Any]] = {file: [] for file in lock.parts.policies}
    for rule in policy.rules:
        if not rule.built_in:
            rules[rule.file].append(integers_as_text(rule.content))
    content: dict[str, Any] = {
        "version": VERSION,
        "site": lock.site,
        "approvals": approvers.approvals,
        "approvers": approvers.approvers,
        "lock": {
            "locked_at": lock.locked_at_text,
            "parts": lock.parts.record(),
            "signatures": {one.approver: one.signature.hex() for one in lock.approvals},
        },
        "policies": {file: sorted(rules[file], key=rfc8785.dumps) for file in rules},
        "contract": contract.content,
    }
    return rfc8785.dumps(content)
