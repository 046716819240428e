import copy
import pickle

import pytest

from tacit.errors import DecodeError, LocalProtocolError
from tacit.testing.entropy import SeededEntropy
from tacit.testing.sealing import SeededSealing
from tacit.trust.sealing import HpkeSealing

SEED = bytes(range(32))


@pytest.fixture(params=["hpke", "seeded"])
def sealing(request):
    """The stand-in of the tests keeps the same contract as the real one."""
    return HpkeSealing() if request.param == "hpke" else SeededSealing(SeededEntropy("sealing"))


def test_round_trip(sealing):
    opener = sealing.generate()
    for plaintext, info in ((SEED, b"info"), (b"", b""), (bytes(5000), bytes(500))):
        assert opener.open(sealing.seal(plaintext, opener.public_key, info), info) == plaintext


def test_every_change_is_refused(sealing):
    opener = sealing.generate()
    sealed = sealing.seal(SEED, opener.public_key, b"info")
    assert SEED not in sealed
    for position in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(DecodeError):
            opener.open(bytes(changed), b"info")
    for other in (b"", b"inf", b"infos", b"Info"):
        with pytest.raises(DecodeError):
            opener.open(sealed, other)
    for cut in (b"", sealed[:10], sealed[:-1], sealed + b"\x00"):
        with pytest.raises(DecodeError):
            opener.open(cut, b"info")
    with pytest.raises(DecodeError):
        sealing.generate().open(sealed, b"info")


def test_sealing_twice_differs(sealing):
    key = sealing.generate().public_key
    assert sealing.seal(SEED, key, b"") != sealing.seal(SEED, key, b"")


def test_key_pairs_are_fresh(sealing):
    assert len({sealing.generate().public_key for _ in range(5)}) == 5


def test_erased_key_opens_nothing(sealing):
    opener = sealing.generate()
    sealed = sealing.seal(SEED, opener.public_key, b"")
    key = opener.public_key
    opener.erase()
    opener.erase()
    with pytest.raises(LocalProtocolError):
        opener.open(sealed, b"")
    assert opener.public_key == key


@pytest.mark.parametrize("change", ["empty", "short", "long", "zero", "ones"])
def test_malformed_keys_are_decode_errors(sealing, change):
    key = sealing.generate().public_key
    bad = {
        "empty": b"",
        "short": key[:-1],
        "long": key + b"\x00",
        "zero": key[:-32] + bytes(32),
        "ones": b"\xff" * (len(key) - 32) + bytes(32),
    }[change]
    with pytest.raises(DecodeError):
        sealing.seal(SEED, bad, b"")


def test_private_half_stays_inside():
    opener = HpkeSealing().generate()
    assert repr(opener) == f"HpkeOpener(live, public_key={opener.public_key[-32:].hex()})"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(opener)
    assert not hasattr(opener, "__dict__")


def test_wire_sizes():
    """ML-KEM-768 and X25519: public key 1184 + 32, encapsulation 1088 + 32, GCM tag 16."""
    sealing = HpkeSealing()
    key = sealing.generate().public_key
    assert len(key) == 1216
    assert len(sealing.seal(SEED, key, b"")) == 1088 + 32 + 32 + 16


def test_the_stand_in_is_reproducible():
    def once():
        sealing = SeededSealing(SeededEntropy("same"))
        return sealing.seal(SEED, sealing.generate().public_key, b"")

    assert once() == once()
