"""What a leader or site puts into a bundle: statements, policies, models, lists of software."""

from __future__ import annotations

import numpy as np
from decoder_targets import NORTH, ORIGIN, RUN, Target

from tacit.errors import DecodeError, SignatureError
from tacit.evidence.disclosed import check_disclosure
from tacit.evidence.dsse import Statement, open_envelope, sign_statement
from tacit.evidence.sbom import read_sbom, sbom
from tacit.evidence.tensors import read_model, write_model
from tacit.testing.disclosures import SiteDisclosure
from tacit.testing.entropy import SeededEntropy

KEYS = {ORIGIN: NORTH.public_key}


def _statement(data: bytes) -> None:
    envelope = open_envelope(data)
    envelope.statement("model")
    envelope.check(KEYS)


def statement_targets() -> list[Target]:
    """Decoders of what lies in a bundle beside logs and messages."""
    said = Statement("model", (("model", RUN),), {"rounds": 3, "run": RUN})
    envelope = sign_statement(said, [(ORIGIN, NORTH)])
    site = SiteDisclosure.of("east", SeededEntropy("east"), ("eu",))
    digests = (site.policy_digest, site.contract_digest)
    software = sbom([("numpy", "2"), ("tacit", "0")])
    model = write_model(np.arange(3.0), RUN, RUN)
    refused = (DecodeError, SignatureError)
    return [
        Target("statement", _statement, refused, (envelope,), "json"),
        Target(
            "disclosure",
            lambda data: check_disclosure(data, "east", *digests),
            refused,
            (site.canonical(),),
            "json",
        ),
        Target("software", read_sbom, (DecodeError,), (software,), "json"),
        Target("released-model", read_model, (DecodeError,), (model,), "bytes"),
    ]
