"""Connection keys, and the file that says who connects with which."""

import copy
import pickle

import pytest

from tacit.engine.nats.network import (
    CONNECTION_KEY,
    SEALING_KEY,
    Credentials,
    Network,
    check_servers,
    is_user_nkey,
    sign_peer,
    slug,
    write_network,
)
from tacit.errors import ConfigError, DecodeError, LocalProtocolError, SignatureError
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster
from tacit.trust.sealing import HpkeSealing, StoredOpener
from tacit.types import PartyName

NAMES = (PartyName("coordinator"), PartyName("east"))
LOCAL = ("nats://127.0.0.1:4222",)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    source = SeededEntropy("network")
    return {
        name: (Identity.generate(source.fork(name)), Credentials.generate(folder / name))
        for name in NAMES
    }


@pytest.fixture
def roster(keys):
    roles = {"coordinator": ("leader",), "east": ("client", "helper")}
    return Roster(
        "First trial",
        tuple(
            Member(name, name, "eu", roles[name], identity.public_key)
            for name, (identity, _) in keys.items()
        ),
    )


@pytest.fixture
def written(tmp_path, keys):
    path = tmp_path / "network.toml"
    peers = {name: held.peer for name, (_, held) in keys.items()}
    signatures = {
        name: sign_peer(identity, "First trial", name, held.peer)
        for name, (identity, held) in keys.items()
    }
    write_network(path, Network("First trial", LOCAL, "", peers), signatures)
    return path


def test_what_is_written_is_read(written, roster, keys):
    network = Network.load(written, roster)
    assert network.servers == LOCAL
    assert network.peers == {name: held.peer for name, (_, held) in keys.items()}


def test_every_changed_key_is_refused(written, roster, keys, tmp_path):
    text = written.read_text()
    other = Credentials.generate(tmp_path / "other").peer
    for old, new in (
        (keys["east"][1].peer.nkey, other.nkey),
        (keys["east"][1].peer.sealing.hex(), other.sealing.hex()),
    ):
        written.write_text(text.replace(old, new))
        with pytest.raises(SignatureError) as refused:
            Network.load(written, roster)
        assert refused.value.code == "network.signature"
        assert refused.value.details["party"] == "east"
    east = text.index("[[member]]", text.index("[[member]]") + 1)
    swapped = text[:east].replace("coordinator", "tmp").replace('"tmp"', '"east"')
    written.write_text(swapped + text[east:].replace('"east"', '"coordinator"'))
    with pytest.raises(SignatureError):
        Network.load(written, roster)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('federation = "First trial"', 'federation = "Second trial"', "network.file"),
        ("nats://127.0.0.1", "nats://192.0.2.1", "network.plaintext"),
        ("nats://127.0.0.1:4222", "http://127.0.0.1:4222", "network.file"),
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:99999", "network.file"),
        ("nats://127.0.0.1", "tls://nats.example.org", "network.file"),
        ('nkey = "U', 'nkey = "A', "network.file"),
        ("version = 1", "version = 2", "config.value"),
        ('name = "east"', 'name = "west"', "trust.unknown-member"),
        ('name = "east"', 'name = "coordinator"', "network.file"),
    ],
)
def test_a_wrong_file_is_refused(written, roster, old, new, code):
    text = written.read_text()
    assert old in text
    written.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        Network.load(written, roster)
    assert refused.value.code == code


def test_every_member_must_be_there(written, roster):
    text = written.read_text()
    written.write_text(text[: text.rindex("[[member]]")])
    with pytest.raises(ConfigError, match="'east' is missing"):
        Network.load(written, roster)


def test_keys_are_those_that_nats_knows(keys):
    nkeys = pytest.importorskip("nkeys")
    held = keys["east"][1]
    assert nkeys.from_seed(bytearray(held.nkey_seed)).public_key.decode() == held.peer.nkey
    assert is_user_nkey(held.peer.nkey)
    last = "A" if held.peer.nkey[-1] != "A" else "B"
    assert not is_user_nkey(held.peer.nkey[:-1] + last)
    assert not is_user_nkey(held.nkey_seed.decode())


def test_keys_are_private_and_never_replaced(tmp_path):
    first = Credentials.generate(tmp_path)
    for path in (CONNECTION_KEY, SEALING_KEY):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o600
    assert Credentials.generate(tmp_path).peer == first.peer == Credentials.load(tmp_path).peer
    assert first.nkey_seed.decode() not in repr(first)
    (tmp_path / CONNECTION_KEY).unlink()
    again = Credentials.generate(tmp_path)
    assert again.peer.sealing == first.peer.sealing and again.peer.nkey != first.peer.nkey


@pytest.mark.parametrize("path", [CONNECTION_KEY, SEALING_KEY])
def test_damaged_and_open_key_files_are_refused(tmp_path, path):
    Credentials.generate(tmp_path)
    (tmp_path / path).chmod(0o644)
    with pytest.raises(ConfigError, match="can be read"):
        Credentials.load(tmp_path)
    (tmp_path / path).write_text("nothing of the kind")
    (tmp_path / path).chmod(0o600)
    with pytest.raises(ConfigError, match="does not hold"):
        Credentials.load(tmp_path)


def test_a_stored_key_opens_after_a_restart(tmp_path):
    path = tmp_path / "sealing.key"
    opener = StoredOpener.generate()
    opener.save(path)
    sealed = HpkeSealing().seal(b"parcel", opener.public_key, b"info")
    loaded = StoredOpener.load(path)
    assert loaded.public_key == opener.public_key
    assert loaded.open(sealed, b"info") == b"parcel"
    with pytest.raises(DecodeError):
        loaded.open(sealed, b"other")
    with pytest.raises(ConfigError):
        opener.save(path)


def test_a_stored_key_stays_inside(tmp_path):
    opener = StoredOpener.generate()
    opener.save(tmp_path / "sealing.key")
    secret = (tmp_path / "sealing.key").read_text().split()[-1]
    assert secret not in repr(opener)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(opener)
    opener.erase()
    for use in (lambda: opener.open(b"", b""), lambda: opener.save(tmp_path / "again")):
        with pytest.raises(LocalProtocolError):
            use()
    assert "erased" in repr(opener)


def test_slugs_are_tokens_and_distinct():
    names = ("First trial", "first-trial", "First.trial", "first trial")
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all(text.startswith("first-trial-") for text in slugs)


def test_a_broken_authority_is_refused():
    with pytest.raises(ConfigError, match="not a certificate"):
        check_servers(("tls://nats.example.org:4222",), "nothing", "network.toml")
