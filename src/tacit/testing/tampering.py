"""What somebody could do to an evidence bundle: a catalogue, for tests of verifiers.

Every case takes an honest bundle and returns the bytes of another one and of a trust file. Where it
makes the attack stronger the bundle is sealed again by its leader, whose key the attacker holds; keys
of others it does not hold, so that their signatures are left out. A verifier must refuse every case::

    from tacit.testing.tampering import CASES, SyntheticBundle

    honest = SyntheticBundle.make()
    for name, tamper in CASES.items():
        bundle, trust = tamper(honest)
"""

from __future__ import annotations

from tacit.testing import tampering_claims, tampering_logs, tampering_members, tampering_zip
from tacit.testing.tampering_base import BREAKS, CASES, Case, SyntheticBundle

__all__ = ["BREAKS", "CASES", "Case", "SyntheticBundle", "tampering_claims", "tampering_logs"]
__all__ += ["tampering_members", "tampering_zip"]
