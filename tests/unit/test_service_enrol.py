"""Joining a federation: what fits is taken, everything else is refused and changes nothing."""

import json

import pytest

from tacit.cli import main
from tacit.engine.folder import party_ports
from tacit.engine.nats.network import Credentials, Network
from tacit.errors import ConfigError, RoundAborted, SignatureError, TacitError
from tacit.service.enrol import DAY, DRAFT, Enrolment, Setup
from tacit.service.invitation import Invitation, SiteRequest, read_paper, write_paper
from tacit.service.join import install, join, sign
from tacit.testing.clock import FixedClock
from tacit.testing.federation import seeded_world
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster
from tacit.types import Milliseconds

SETUP = Setup("First trial", ("127.0.0.1",), operator="trial-office", region="eu", plaintext=True)
BOTH = ("client", "helper")


def yes(roster, name):
    return True


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def office(tmp_path, monkeypatch, clock):
    """The coordinator; every member works in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    return Enrolment.init(tmp_path / "office", SETUP, clock)


def enter(office, clock, name, roles=BOTH):
    """Invites ``name`` and writes its request; returns the request's file."""
    invitation = office.invite(name, roles=roles)
    path = office.base / f"{name}.invite"
    write_paper(path, invitation)
    return join(path, None, region="eu", operator=f"{name}-clinic", clock=clock)[2]


def lines(office):
    return [json.loads(line) for line in (office.folder / "enrolment/log.jsonl").open()]


def test_three_become_a_federation(office, clock, tmp_path):
    for name in ("north", "south"):
        office.add(enter(office, clock, name))
    office.add(enter(office, clock, "keeper", roles=("helper",)))
    proposal = office.propose()
    signatures = [sign(proposal, tmp_path / name, yes) for name in ("north", "south", "keeper")]
    federation, network, config = office.finish(signatures)
    roster = Roster.load(federation)
    assert [(m.name, m.roles) for m in roster.members] == [
        ("coordinator", ("leader",)),
        ("keeper", ("helper",)),
        ("north", BOTH),
        ("south", BOTH),
    ]
    peers = Network.load(network, roster).peers
    for name in ("north", "south", "keeper"):
        install(federation, network, tmp_path / name)
        assert peers[name] == Credentials.load(tmp_path / name).peer
        assert Roster.load(tmp_path / name / "federation.toml").digest == roster.digest
        party_ports(tmp_path / name, name, roster, seeded_world(0))
        assert peers[name].nkey in config.read_text()
    assert peers["coordinator"] == Credentials.load(office.folder).peer
    assert not (tmp_path / "keeper" / "site.toml").exists()
    assert {line["event"] for line in lines(office)} >= {"member.added", "roster.finished"}


def test_no_paper_and_no_log_holds_a_secret(office, clock, tmp_path):
    office.add(enter(office, clock, "north"))
    signature = sign(office.propose(), tmp_path / "north", yes)
    office.finish([signature])
    keys = [*tmp_path.glob("*/keys/*.key"), *tmp_path.glob("*/*/keys/*.key")]
    assert len(keys) == 6
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    secrets = [part for key in keys for part in key.read_text().split() if len(part) > 40]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path not in keys]
    assert len(secrets) == 6 and len(files) > 10
    for path in files:
        text = path.read_text("utf-8", errors="replace")
        assert not any(secret in text for secret in secrets), path


@pytest.mark.parametrize(
    "change",
    [
        {"federation": "Second trial"},
        {"servers": ("nats://127.0.0.1:4333",)},
        {"name": "south"},
        {"roles": ("client",)},
        {"expires": Milliseconds(2**52)},
        {"leader_key": "11" * 32},
        {"signature": ""},
    ],
)
def test_a_changed_invitation_is_refused(office, clock, change):
    invitation = office.invite("north", roles=BOTH)
    invitation.check(clock())
    with pytest.raises(SignatureError):
        invitation.model_copy(update=change).check(clock())


def test_an_invitation_expires(office, clock, tmp_path):
    late = enter(office, clock, "north")
    write_paper(office.base / "south.invite", office.invite("south", roles=BOTH))
    clock.advance(7 * DAY)
    with pytest.raises(ConfigError) as refused:
        join(office.base / "south.invite", None, region="eu", operator="s", clock=clock)
    assert refused.value.code == "enrol.expired"
    assert not (tmp_path / "south").exists()
    with pytest.raises(ConfigError) as refused:
        office.add(late)
    assert refused.value.code == "enrol.expired"


def resigned(path, folder, **changes):
    """The request with other content, signed by the newcomer all the same."""
    request = read_paper(path, SiteRequest).model_copy(update=changes)
    write_paper(path, request.signed(Identity.load(folder / "keys/identity.key")))
    return path


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("enrol.unknown", {"invitation": "0" * 32}),
        ("enrol.unknown", {"invitation_digest": "0" * 64}),
        ("enrol.differs", {"roles": ("client",)}),
        ("enrol.differs", {"roles": ("client", "helper", "leader")}),
        ("enrol.differs", {"federation": "Second trial"}),
        ("enrol.differs", {"name": "coordinator"}),
        ("enrol.differs", {"name": "south"}),
        ("network.signature", {"connection": "00" * 64}),
        ("enrol.nkey", {"nkey": "UAAA"}),
    ],
)
def test_requests_that_do_not_fit_are_refused(office, clock, tmp_path, code, change):
    path = resigned(enter(office, clock, "north"), tmp_path / "north", **change)
    before = (office.folder / DRAFT).read_bytes()
    with pytest.raises(TacitError) as refused:
        office.add(path)
    assert refused.value.code == code
    assert (office.folder / DRAFT).read_bytes() == before
    last = lines(office)[-1]
    assert (last["event"], last["code"]) == ("request.refused", code)


def test_keys_of_another_member_are_refused(office, clock, tmp_path):
    office.add(enter(office, clock, "north"))
    north = read_paper(tmp_path / "north.request", SiteRequest)
    path = enter(office, clock, "south")
    for change in ({"nkey": north.nkey}, {"sealing": north.sealing}):
        resigned(path, tmp_path / "south", **change)
        with pytest.raises(ConfigError) as refused:
            office.add(path)
        assert refused.value.code == "enrol.taken"


def test_whoever_does_not_hold_the_identity_is_refused(office, clock):
    path = enter(office, clock, "north")
    request = read_paper(path, SiteRequest)
    write_paper(path, request.model_copy(update={"region": "us"}))
    with pytest.raises(SignatureError):
        office.add(path)


def test_an_invitation_admits_one_set_of_keys(office, clock, tmp_path):
    invitation = office.invite("north", roles=BOTH)
    write_paper(office.base / "north.invite", invitation)
    for folder in ("one", "two"):
        join(
            office.base / "north.invite", tmp_path / folder, region="eu", operator="n", clock=clock
        )
        (tmp_path / "north.request").rename(tmp_path / f"{folder}.request")
    office.add(tmp_path / "one.request")
    office.add(tmp_path / "one.request")  # the same again is no second use
    with pytest.raises(ConfigError) as refused:
        office.add(tmp_path / "two.request")
    assert refused.value.code == "enrol.used"


def test_keys_are_never_replaced(office, clock, tmp_path):
    path = enter(office, clock, "north")
    key = (tmp_path / "north/keys/identity.key").read_bytes()
    path.unlink()
    with pytest.raises(ConfigError) as refused:
        enter(office, clock, "north")
    assert refused.value.code == "folder.exists"
    assert (tmp_path / "north/keys/identity.key").read_bytes() == key
    with pytest.raises(ConfigError):
        Enrolment.init(office.base, SETUP, clock)


def test_a_member_signs_no_roster_that_lists_it_otherwise(office, clock, tmp_path):
    office.add(enter(office, clock, "north"))
    office.add(enter(office, clock, "south"))
    proposal = office.propose()
    text = proposal.read_bytes()
    evil = Identity.generate(seeded_world(1).entropy("evil")).public_key.hex().encode()
    own = {
        name: read_paper(tmp_path / f"{name}.request", SiteRequest).key
        for name in ("north", "south")
    }
    leader = office.identity.public_key.hex()
    lies = [
        (own["north"].encode(), evil),
        (b'"operator":"north-clinic"', b'"operator":"other-clinic"'),
        (b'"name":"north"', b'"name":"nordd"'),
        (b'"region":"eu","roles":["client","helper"]', b'"region":"eu","roles":["client"]'),
        (leader.encode(), evil),
        (b'"federation":"First trial"', b'"federation":"Other trial"'),
    ]
    for old, new in lies:
        assert old in text
        proposal.write_bytes(text.replace(old, new))
        with pytest.raises(ConfigError) as refused:
            sign(proposal, tmp_path / "north", yes)
        assert refused.value.code == "enrol.own-entry", old
    proposal.write_bytes(text.replace(b'"version":1', b'"version": 1'))
    with pytest.raises(ConfigError) as refused:
        sign(proposal, tmp_path / "north", yes)
    assert refused.value.code == "enrol.proposal"
    proposal.write_bytes(text)
    with pytest.raises(RoundAborted):
        sign(proposal, tmp_path / "north", lambda roster, name: False)
    assert sign(proposal, tmp_path / "north", yes).exists()


def test_nothing_is_written_before_all_have_signed_the_same(office, clock, tmp_path):
    office.add(enter(office, clock, "north"))
    old = sign(office.propose(), tmp_path / "north", yes)
    office.add(enter(office, clock, "south"))
    proposal = office.propose()
    south = sign(proposal, tmp_path / "south", yes)
    for signatures, code in (([old, south], "enrol.other-roster"), ([south], "enrol.unsigned")):
        with pytest.raises(ConfigError) as refused:
            office.finish(signatures)
        assert refused.value.code == code
    forged = json.loads(south.read_text()) | {"name": "north"}
    old.write_text(json.dumps(forged))
    with pytest.raises(SignatureError):
        office.finish([old, south])
    assert not (office.base / "federation.toml").exists()
    assert not (office.base / "network.toml").exists()
    office.finish([sign(proposal, tmp_path / "north", yes), south])


def test_members_leave_and_are_replaced(office, clock, tmp_path):
    for name in ("north", "south"):
        office.add(enter(office, clock, name))
    proposal = office.propose()
    first = office.finish([sign(proposal, tmp_path / name, yes) for name in ("north", "south")])[0]
    digest = Roster.load(first).digest
    office.remove("south")
    (tmp_path / "north").rename(tmp_path / "old-north")
    office.add(enter(office, clock, "north"))
    files = office.finish([sign(office.propose(), tmp_path / "north", yes)])
    roster = Roster.load(files[0])
    assert roster.digest != digest
    assert [member.name for member in roster.members] == ["coordinator", "north"]
    with pytest.raises(ConfigError) as refused:
        install(files[0], files[1], tmp_path / "old-north")
    assert refused.value.code == "enrol.own-entry"
    install(files[0], files[1], tmp_path / "north")
    with pytest.raises(ConfigError):
        office.remove("coordinator")


def test_other_servers_than_invited_are_asked_about(office, clock, tmp_path):
    office.add(enter(office, clock, "north"))
    federation, network, _ = office.finish([sign(office.propose(), tmp_path / "north", yes)])
    network.write_text(network.read_text().replace(":4222", ":4333"))
    with pytest.raises(ConfigError) as refused:
        install(federation, network, tmp_path / "north")
    assert refused.value.code == "enrol.servers"
    assert not (tmp_path / "north" / "network.toml").exists()
    install(federation, network, tmp_path / "north", accept_servers=True)


@pytest.mark.parametrize(
    "setup",
    [
        Setup("First trial", ("nats.example.org",), plaintext=True),
        Setup("First trial", ("tls://nats.example.org",)),
        Setup("First trial", ()),
        Setup("First\ntrial", ("127.0.0.1",)),
        Setup("First trial", ("127.0.0.1",), operator="Trial Office"),
    ],
)
def test_a_malformed_federation_is_not_begun(tmp_path, setup):
    with pytest.raises(ConfigError):
        Enrolment.init(tmp_path / "office", setup)
    assert not (tmp_path / "office").exists()


def test_certificates_are_renewed(tmp_path, clock):
    office = Enrolment.init(tmp_path / "o", Setup("First trial", ("nats.example.org",)), clock)
    invitation = office.invite("north", roles=("client",))
    assert invitation.servers == ("tls://nats.example.org:4222",)
    assert "BEGIN CERTIFICATE" in invitation.ca and "PRIVATE" not in invitation.ca
    first = (office.base / "nats/server.pem").read_bytes()
    office.renew(["nats2.example.org", "192.0.2.7"])
    assert (office.base / "nats/server.pem").read_bytes() != first
    servers = office.invite("south", roles=("client",)).servers
    assert servers == ("tls://nats2.example.org:4222", "tls://192.0.2.7:4222")


def test_the_command_line_goes_the_same_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def tacit(*words, code=0):
        assert main(["federation", *words]) == code, capsys.readouterr()
        return capsys.readouterr()

    tacit("init", "office", "--name", "First trial", "--host", "127.0.0.1", "--plaintext")
    where = ("--coordinator", "office/coordinator")
    made = json.loads(tacit("invite", "north", *where, "--json").out)
    assert made["file"] == "north.invite"
    assert (tmp_path / "north.invite").stat().st_mode & 0o777 == 0o600
    joined = json.loads(
        tacit("join", "north.invite", "--region", "eu", "--operator", "n", "--json").out
    )
    assert joined["coordinator"] == made["fingerprint"]
    assert joined["fingerprint"] in tacit("roster", "add", "north.request", *where).out
    assert "trial-office" not in tacit("roster", "show", *where).out
    tacit("roster", "propose", *where)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    proposal = "office/First-trial.proposal"
    refused = tacit("roster", "sign", proposal, "--as", "north", "--json", code=1)
    assert json.loads(refused.out)["code"] == "enrol.not-signed"
    tacit("roster", "sign", proposal, "--as", "north", "--yes")
    tacit("roster", "finish", "north.signature", *where)
    files = ("office/federation.toml", "office/network.toml")
    assert "all 2 have signed" in tacit("install", *files, "--in", "north").out
    shown = json.loads(tacit("roster", "--json", "show", *where).out)
    assert [member["name"] for member in shown["members"]] == ["coordinator", "north"]
    assert (
        Invitation.model_fields.keys()
        == read_paper(tmp_path / "north.invite", Invitation).model_dump().keys()
    )
