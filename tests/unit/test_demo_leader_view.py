"""What the leader sees, and how uniform it looks; how far keys open it is tested with transcripts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from tacit.attack.transcript import KeepingSealing
from tacit.demo.leader_view import LeaderView, uniformity
from tacit.errors import LocalProtocolError
from tacit.types import Opener


def test_the_party_loses_its_key_and_the_demonstration_keeps_a_copy() -> None:
    kept: dict[bytes, Opener] = {}
    sealing = KeepingSealing(kept)
    opener = sealing.generate()
    sealed = sealing.seal(b"seed", opener.public_key, b"info")
    assert opener.open(sealed, b"info") == b"seed"
    opener.erase()
    with pytest.raises(LocalProtocolError):
        opener.open(sealed, b"info")
    assert kept[opener.public_key].open(sealed, b"info") == b"seed"


def test_uniformity_is_pearsons_test() -> None:
    data = np.random.default_rng(5).integers(0, 256, 5000, dtype=np.uint8)
    counts = np.bincount(data, minlength=256)
    assert uniformity(data.tobytes()) == pytest.approx(chisquare(counts).pvalue, rel=1e-9)
    assert 1e-4 < uniformity(data.tobytes()) < 1
    assert uniformity(bytes(range(256)) * 20) == pytest.approx(1.0)
    assert uniformity(bytes(5000)) == 0.0
    with pytest.raises(ValueError, match="too few"):
        uniformity(bytes(1279))


def test_a_view_survives_json() -> None:
    glimpse = {"what": "masked", "sample": "00", "p": 0.5}
    record = {
        "site": "north",
        "rounds": 40,
        "size": 4960,
        "plain_records": 141,
        "opened_norm": 1.5,
        "glimpses": {"masked": glimpse},
    }
    view = LeaderView.from_record(record)
    assert (view.site, view.glimpses["masked"].p) == ("north", 0.5)
