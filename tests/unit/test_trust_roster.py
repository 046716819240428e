import re
from dataclasses import replace

import pytest

from tacit.errors import ConfigError, DecodeError, LocalProtocolError, SignatureError
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster, write_roster
from tacit.wire.envelope import Address

NAMES = ("south", "north", "leader")
IDENTITIES = {name: Identity.generate(SeededEntropy(name)) for name in NAMES}
ROLES = {"north": ("client", "helper"), "south": ("helper", "client"), "leader": ("leader",)}


def member(party, **changes):
    built = Member(party, f"{party}-clinic", "EU", ROLES[party], IDENTITIES[party].public_key)
    return replace(built, **changes)


@pytest.fixture
def roster():
    return Roster("heart study", tuple(member(name) for name in NAMES))


@pytest.fixture
def path(tmp_path, roster):
    path = tmp_path / "federation.toml"
    write_roster(path, roster, IDENTITIES)
    return path


def test_round_trip(path, roster):
    loaded = Roster.load(path)
    assert loaded == roster
    assert loaded.digest == roster.digest
    assert [m.name for m in loaded.members] == ["leader", "north", "south"]
    assert loaded.member("north") == member("north")
    assert [m.name for m in loaded.with_role("helper")] == ["north", "south"]
    assert loaded.operators(["north", "leader"]) == {"north-clinic", "leader-clinic"}


def test_operators_count_once():
    shared = (member("north", operator="one"), member("south", operator="one"), member("leader"))
    assert Roster("f", shared).operators(["north", "south"]) == {"one"}


def test_digest_is_of_the_content_not_of_the_file(path, roster):
    text = path.read_text()
    head, *members = text.split("[[member]]")
    reordered = head + "# a comment\n\n[[member]]" + "[[member]]".join(reversed(members))
    path.write_text(reordered.replace('["client", "helper"]', '[ "helper", "client", ]'))
    assert Roster.load(path).digest == roster.digest


def test_digest_depends_on_every_value(roster):
    first, *rest = roster.members
    variants = [
        Roster("another", roster.members),
        Roster(roster.federation, tuple(rest)),
        *(
            Roster(roster.federation, (replace(first, **change), *rest))
            for change in (
                {"name": "other"},
                {"operator": "other"},
                {"region": "US"},
                {"roles": ("client",)},
                {"key": bytes(32)},
            )
        ),
    ]
    assert len({roster.digest, *(variant.digest for variant in variants)}) == 8


def test_every_changed_value_is_refused(path):
    """Any one value of the file, changed to another valid one, is not what the operators signed."""
    text = path.read_text()
    fields = list(
        re.finditer(
            r'^(federation|name|operator|region|key|signature) = "(.*)"$', text, re.MULTILINE
        )
    )
    assert len(fields) == 1 + 5 * len(NAMES)
    for field in fields:
        value = field.group(2)
        changed = ("0" if value[0] != "0" else "1") + value[1:]
        path.write_text(text[: field.start(2)] + changed + text[field.end(2) :])
        with pytest.raises(SignatureError) as caught:
            Roster.load(path)
        assert caught.value.details["file"] == str(path)
    path.write_text(text.replace('roles = ["leader"]', 'roles = ["helper", "leader"]'))
    with pytest.raises(SignatureError):
        Roster.load(path)
    path.write_text(text)
    Roster.load(path)


def test_a_member_that_did_not_sign_is_named(path, roster):
    """The others' signatures do not make up for it; removing a member is a change too."""
    swapped = {**IDENTITIES, "north": IDENTITIES["south"]}
    head, *members = path.read_text().split("[[member]]")
    signatures = [re.search(r'signature = "(.*)"', m).group(1) for m in members]
    path.write_text(path.read_text().replace(signatures[1], signatures[2]))
    with pytest.raises(SignatureError) as caught:
        Roster.load(path)
    assert caught.value.details["party"] == "north"
    path.write_text(head + "[[member]]".join(["", *members[:2]]))
    with pytest.raises(SignatureError):
        Roster.load(path)
    with pytest.raises(LocalProtocolError):
        write_roster(path, roster, swapped)
    with pytest.raises(LocalProtocolError):
        write_roster(path, roster, {})


def test_a_message_signature_is_no_roster_signature(path, roster):
    """The domain of the roster keeps it apart from everything else that an identity signs."""
    text = path.read_text()
    signature = re.search(r'signature = "(.*)"', text).group(1)
    without_domain = IDENTITIES["leader"].sign(roster.canonical).hex()
    path.write_text(text.replace(signature, without_domain))
    with pytest.raises(SignatureError):
        Roster.load(path)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("version = 1", "version = 2", "config.value"),
        ("[[member]]\n", '[[member]]\noperater = "x"\n', "config.unknown-key"),
        ('region = "EU"\n', "", "config.missing-key"),
        ('roles = ["leader"]', 'roles = ["boss"]', "config.value"),
        ('roles = ["leader"]', "roles = []", "trust.roster"),
        ('roles = ["leader"]', 'roles = ["leader", "leader"]', "trust.roster"),
        ('name = "north"', 'name = "North"', "trust.roster"),
        ('name = "north"', 'name = "south"', "trust.roster"),
        ('name = "north"', 'name = ""', "trust.roster"),
        ('operator = "north-clinic"', 'operator = "Nörth"', "trust.roster"),
        ('region = "EU"', 'region = "EU\\n"', "trust.roster"),
        ('key = "', 'key = "0', "trust.hex"),
        ('signature = "', 'signature = "é', "trust.hex"),
        ("federation = ", "federation ", "config.syntax"),
    ],
)
def test_malformed_files_are_config_errors(path, old, new, code):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        Roster.load(path)
    assert caught.value.code == code


def test_unknown_keys_suggest_the_nearest(path):
    path.write_text(path.read_text().replace("[[member]]\n", '[[member]]\noperater = "x"\n', 1))
    with pytest.raises(ConfigError) as caught:
        Roster.load(path)
    assert "'operator'" in caught.value.remedy


@pytest.mark.parametrize(
    "members",
    [
        (),
        (member("north"), member("north", key=bytes(32))),
        (member("north"), member("south", key=IDENTITIES["north"].public_key)),
        (member("north", key=bytes(31)),),
        (member("north", roles=("king",)),),
        (member("north", name="a" * 65),),
        (member("north", name="north\n"),),
    ],
)
def test_invalid_rosters_cannot_be_built(members):
    with pytest.raises(ConfigError):
        Roster("f", members)


def test_authenticate(roster):
    for name in NAMES:
        for role in ROLES[name]:
            roster.authenticate(Address(name, role), b"data", IDENTITIES[name].sign(b"data"))


@pytest.mark.parametrize(
    ("sender", "signer", "data", "code"),
    [
        (Address("east", "client"), "north", b"data", "trust.unknown-party"),
        (Address("north", "leader"), "north", b"data", "trust.role"),
        (Address("leader", "helper"), "leader", b"data", "trust.role"),
        (Address("north", "client"), "south", b"data", "trust.signature"),
        (Address("north", "client"), "north", b"date", "trust.signature"),
    ],
)
def test_authenticate_refuses_all_others(roster, sender, signer, data, code):
    with pytest.raises(SignatureError) as caught:
        roster.authenticate(sender, b"data", IDENTITIES[signer].sign(data))
    assert caught.value.code == code


def test_unknown_members_are_named(roster):
    with pytest.raises(ConfigError) as caught:
        roster.member("east")
    assert "north" in caught.value.remedy


def test_canonical_form_reads_back(roster):
    assert Roster.from_canonical(roster.canonical) == roster


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b" ",
        lambda data: b" " + data,
        lambda data: data[:-1],
        lambda data: b"[" * 100_000,
        lambda data: b"\xff",
        lambda data: b"[]",
        lambda data: b"{}",
        lambda data: data.replace(b'"version":1', b'"version":2'),
        lambda data: data.replace(b'"north"', b"5"),
        lambda data: data.replace(b'"north"', b'"\\ud800"'),
        lambda data: data.replace(b'["leader"]', b'"leader"'),
        lambda data: data.replace(b'["leader"]', b'[["leader"]]'),
        lambda data: data.replace(b'"EU"', b'"EU","extra":1'),
        lambda data: re.sub(rb'"key":"..', b'"key":"zz', data),
        lambda data: re.sub(
            rb'"key":"(\w+)"', lambda m: m.group(0).upper().replace(b"KEY", b"key"), data
        ),
    ],
)
def test_from_canonical_raises_decode_error_only(roster, change):
    data = change(roster.canonical)
    assert data != roster.canonical
    with pytest.raises(DecodeError):
        Roster.from_canonical(data)
