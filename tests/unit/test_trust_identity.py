import copy
import pickle
import stat

import pytest

from tacit.errors import ConfigError, SignatureError
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity, OsEntropy, verify

SECRET = SeededEntropy("identity").draw(32)


@pytest.fixture
def identity():
    return Identity.generate(SeededEntropy("identity"))


def test_rfc_8032_test_2():
    """Known answer: RFC 8032 section 7.1, TEST 2."""

    class Given:
        def draw(self, size):
            return bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")

    identity = Identity.generate(Given())
    assert identity.public_key.hex() == (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    )
    assert identity.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_every_change_breaks_the_signature(identity):
    message = b"tacit"
    signature = identity.sign(message)
    verify(identity.public_key, signature, message)
    for position in range(64):
        changed = bytearray(signature)
        changed[position] ^= 1
        with pytest.raises(SignatureError):
            verify(identity.public_key, bytes(changed), message)
    other = Identity.generate(SeededEntropy("other"))
    for key, text in ((identity.public_key, b"tacit!"), (other.public_key, message)):
        with pytest.raises(SignatureError):
            verify(key, signature, text)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_malformed_keys_and_signatures_are_signature_errors(identity, size):
    with pytest.raises(SignatureError):
        verify(bytes(size), identity.sign(b""), b"")
    with pytest.raises(SignatureError):
        verify(identity.public_key, bytes(size), b"")


def test_round_trip_through_a_private_file(identity, tmp_path):
    path = tmp_path / "identity.key"
    identity.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = Identity.load(path)
    assert loaded.public_key == identity.public_key
    assert loaded.sign(b"x") == identity.sign(b"x")


def test_an_identity_is_never_overwritten(identity, tmp_path):
    path = tmp_path / "identity.key"
    identity.save(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        Identity.generate(SeededEntropy("other")).save(path)
    assert caught.value.code == "file.exists"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o644, 0o610])
def test_a_file_that_others_can_touch_is_refused(identity, tmp_path, mode):
    path = tmp_path / "identity.key"
    identity.save(path)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        Identity.load(path)
    assert caught.value.code == "trust.key-permissions"
    assert f"chmod 600 {path}" in caught.value.remedy


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        b"\xff" * 100,
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\n"  # X25519, RFC 8410 section 10.3 with another algorithm
        b"MC4CAQAwBQYDK2VuBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
        b"-----END PRIVATE KEY-----\n",
    ],
)
def test_other_content_is_a_config_error(tmp_path, content):
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        Identity.load(path)
    assert caught.value.code == "trust.key-file"
    assert str(path) in caught.value.message


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError):
        Identity.load(tmp_path / "absent.key")


def test_private_half_stays_inside(identity):
    shown = f"{identity!r} {identity} {identity.public_key!r}"
    assert SECRET.hex() not in shown
    assert identity.public_key.hex() in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(identity)


def test_os_entropy_is_fresh():
    entropy = OsEntropy()
    draws = {entropy.draw(32) for _ in range(20)}
    assert len(draws) == 20
    assert all(len(draw) == 32 for draw in draws)
