"""The offline verifier: every claim of a bundle, PASS, FAIL or NOT PROVEN, with the reason.

Needs no network and no state. A claim that the bundle cannot support is NOT PROVEN, never PASS.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

from tacit.errors import DecodeError, TacitError
from tacit.evidence import (
    claims_identity,
    claims_policy,
    claims_privacy,
    claims_rounds,
    claims_statements,
    claims_witness,
)
from tacit.evidence.archive import ARCHIVE_LIMIT, unpack
from tacit.evidence.report import CLAIMS, Claim, Report, Status
from tacit.evidence.trust import Trust
from tacit.evidence.view import Missing, View
from tacit.files import read_limited

__all__ = ["verify_bundle"]

PRICED = ("policy", "epsilon", "budget")
"""Claims that ask what the plan costs."""


def verify_bundle(bundle: Path | bytes, trust: Trust | None = None) -> Report:
    """Checks every claim of an evidence bundle.

    Args:
        bundle: The file, or its bytes.
        trust: Whom the auditor trusts; without it, authenticity is NOT PROVEN.

    Raises:
        ConfigError: The file cannot be read.

    Guarantee: Against anyone without the private keys of the trusted roster: no byte of the bundle
    can be changed and the exit code stay 0
    (tests/unit/test_evidence_verify.py::test_one_flipped_byte_anywhere_is_refused). Against a leader
    with its own keys: each claim fails on a run that broke its rule
    (tests/unit/test_evidence_claims.py). Parties that agree on a lie about themselves are not
    detected.
    """
    data = bundle if isinstance(bundle, bytes) else read_limited(bundle, ARCHIVE_LIMIT)
    name = hashlib.sha256(data).hexdigest()
    required = trust.required if trust is not None else frozenset()
    try:
        view = View(unpack(data), priced=True)
    except DecodeError as error:
        return Report(name, "", "", "", (), _unreadable(error), required)
    with contextlib.closing(view):
        claims = _claims(view, trust)
    head = view.head
    return Report(
        bundle=name,
        federation=head.federation,
        run=head.run,
        status=head.status,
        simulated=head.simulated,
        claims=claims,
        required=required,
    )


def _claims(view: View, trust: Trust | None) -> tuple[Claim, ...]:
    checks: dict[str, Callable[[], Claim]] = {
        "authenticity": lambda: claims_identity.authenticity(view, trust),
        "integrity": lambda: claims_identity.integrity(view),
        "log-inclusion": lambda: claims_identity.log_inclusion(view),
        "witness": lambda: claims_witness.witness(view, trust),
        "same-job": lambda: claims_identity.same_job(view, trust),
        "cohort": lambda: claims_rounds.cohort(view),
        "one-sum-per-upload": lambda: claims_rounds.one_sum_per_upload(view),
        "policy": lambda: claims_policy.policy(view),
        "receipts": lambda: claims_policy.receipts(view),
        "residency": lambda: claims_policy.residency(view),
        "epsilon": lambda: claims_privacy.epsilon(view),
        "budget": lambda: claims_privacy.budget(view),
        "model-chain": lambda: claims_rounds.model_chain(view),
        "statements": lambda: claims_statements.statements(view),
    }
    # Last of all what waits for the accountant, which loads meanwhile.
    order = sorted(CLAIMS, key=lambda claim: claim in PRICED)
    decided = {claim: _decide(claim, checks[claim]) for claim in order}
    return tuple(decided[claim] for claim in CLAIMS)


def _decide(claim: str, check: Callable[[], Claim]) -> Claim:
    try:
        return check()
    except Missing as missing:
        return Claim(claim, Status.NOT_PROVEN, str(missing))
    except TacitError as error:
        return Claim(claim, Status.FAIL, error.message)
    except Exception as error:  # noqa: BLE001 - whoever crafts a bundle must not keep the verdict back
        reason = (
            f"the evidence is malformed in a way that no honest party's is ({type(error).__name__})"
        )
        return Claim(claim, Status.FAIL, reason)


def _unreadable(error: DecodeError) -> tuple[Claim, ...]:
    return tuple(
        Claim(claim, Status.FAIL, error.message)
        if claim == "integrity"
        else Claim(claim, Status.NOT_PROVEN, "the bundle is not readable")
        for claim in CLAIMS
    )
