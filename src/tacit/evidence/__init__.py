"""Evidence bundles and their offline verifier."""

from __future__ import annotations

from tacit.evidence.bundle import BundleWriter
from tacit.evidence.report import CLAIMS, Claim, Report, Status
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle

__all__ = ["CLAIMS", "BundleWriter", "Claim", "Report", "Status", "Trust", "verify_bundle"]
