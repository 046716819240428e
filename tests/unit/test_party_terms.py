"""Limits of a run that its leader's operator learns before anything is sent."""

from __future__ import annotations

import pytest

from tacit.errors import ConfigError
from tacit.party.terms import DIGEST_BYTES, SEED_BYTES, UPLOAD_BYTES, check_sizes
from tacit.testing.federation import SmallFederation, write_small_federation
from tacit.trust.sealing import HpkeSealing
from tacit.wire.codec import encode
from tacit.wire.envelope import CHUNK_ELEMENTS
from tacit.wire.messages import MAX_SIGNED, MaskRequest, SealedSeed, Upload, Vector


@pytest.mark.parametrize("shape", [(10_000, 3, 10**5), (1000, 8, 10**6), (10, 3, 10**8)])
def test_ordinary_runs_fit(shape):
    check_sizes(*shape)


@pytest.mark.parametrize("shape", [(10_000, 8, 10**6), (10_000, 3, 10**8)])
def test_what_would_not_fit_is_refused(shape):
    with pytest.raises(ConfigError) as caught:
        check_sizes(*shape)
    assert caught.value.code == "job.size"
    assert "helpers" in caught.value.remedy


def test_the_bounds_are_above_what_a_real_upload_needs(tmp_path):
    write_small_federation(tmp_path / "small")
    small = SmallFederation(tmp_path / "small")
    sealed = HpkeSealing().seal(bytes(32), HpkeSealing().generate().public_key, b"")
    helpers, length = 5, 20 * CHUNK_ELEMENTS
    upload = Upload(
        context=bytes(32),
        seeds=tuple(SealedSeed("h" * 64, sealed) for _ in range(helpers)),
        vector=Vector(length, tuple(bytes(32) for _ in range(20))),
    )
    sent = small.leader.send(small.terms, small.leader.address, upload, round_number=2**31)
    bound = UPLOAD_BYTES + SEED_BYTES * helpers + DIGEST_BYTES * 20
    assert len(sent.message) <= bound <= MAX_SIGNED
    assert len(encode(MaskRequest(bytes(32), (b"k",), (sent.message,) * 50))) < 51 * bound
