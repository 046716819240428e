"""What the leader sees: masks come off with every helper's key, and with none missing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from tacit.algebra.ring import Ring
from tacit.attack.transcript import KeepingSealing
from tacit.demo.leader_view import (
    LeaderView,
    Recorder,
    Seen,
    remove_masks,
    uniformity,
)
from tacit.errors import LocalProtocolError
from tacit.secagg.masked import mask
from tacit.testing.entropy import SeededEntropy
from tacit.types import Digest, Opener, PartyName
from tacit.wire.envelope import Address, Envelope
from tacit.wire.messages import Upload, Vector

SITE = PartyName("north")
HELPERS = tuple(PartyName(name) for name in ("east", "north", "south", "west"))
LENGTH = 400
RING = Ring(32)
CONTEXT = Digest(bytes(32))


@pytest.fixture(scope="module")
def kept() -> dict[bytes, Opener]:
    return {}


@pytest.fixture(scope="module")
def update() -> np.ndarray:
    return np.arange(LENGTH, dtype=np.uint32)


@pytest.fixture(scope="module")
def seen(kept: dict[bytes, Opener], update: np.ndarray) -> Seen:
    sealing = KeepingSealing(kept)
    openers = {helper: sealing.generate() for helper in HELPERS}
    keys = tuple((helper, openers[helper].public_key) for helper in HELPERS)
    masked = mask(
        update,
        RING,
        context=CONTEXT,
        client=SITE,
        keys=keys,
        sealing=sealing,
        entropy=SeededEntropy(3),
    )
    for opener in openers.values():
        opener.erase()
    upload = Upload(context=CONTEXT, seeds=masked.seeds, vector=Vector(LENGTH, (bytes(32),)))
    return Seen(1, upload, masked.vector, keys)


def test_every_helpers_key_returns_the_update(seen, kept, update) -> None:
    assert np.array_equal(remove_masks(seen, RING, SITE, kept), update)


@pytest.mark.parametrize("missing", HELPERS)
def test_without_any_one_helper_the_rest_is_uniform(seen, kept, update, missing) -> None:
    rest = remove_masks(seen, RING, SITE, kept, missing)
    assert not np.array_equal(rest, update)
    assert uniformity(rest.astype("<u4").tobytes()) > 1e-6
    assert uniformity(update.astype("<u4").tobytes()) < 1e-100


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


def test_the_recorder_changes_nothing_and_notes_one_site() -> None:
    recorder = Recorder(SITE)
    sent = [
        Envelope(Address(PartyName(name), role), b"message")
        for name, role in (
            ("coordinator", "leader"),
            ("north", "client"),
            ("north", "helper"),
            ("south", "client"),
        )
    ]
    assert [recorder(envelope) for envelope in sent] == sent
    assert recorder.envelopes == sent[:2]


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
