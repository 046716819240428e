"""The page for people: what it says, for whole, broken and hostile bundles."""

from __future__ import annotations

import base64
import functools
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tacit.errors import ConfigError, TransportError
from tacit.evidence import layout
from tacit.evidence.archive import unpack
from tacit.evidence.page import make_page
from tacit.evidence.page_figures import Participation
from tacit.evidence.page_words import WORDS, clean
from tacit.evidence.plots import draw_participation
from tacit.evidence.render import render, write_page
from tacit.evidence.report import CLAIMS, Claim, Report, Status
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle
from tacit.evidence.view import View
from tacit.testing import bundles
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, sealed

HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}{%raw%}"
VOID = {"meta", "img", "br", "col"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer"),
    *("div", "h1", "h2", "h3", "p", "ul", "li", "a", "strong", "span", "figure", "figcaption"),
    *("table", "caption", "colgroup", "col", "thead", "tbody", "tr", "th", "td"),
    *("img", "pre", "code", "br"),
}


class Strict(HTMLParser):
    """Reads a page, insists that every tag closes in order, and keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())
        self.text += " " if tag in ("td", "th") else ""

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def read(page):
    """The page as a reader meets it; nothing in it may act or fetch."""
    parsed = Strict(render(page))
    assert set(parsed.tags) <= ALLOWED
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on")
        if name == "src":
            assert value.startswith("data:image/svg+xml;base64,")
        if name == "href":
            assert value.startswith("#")
        if tag == "img" and name == "alt":
            assert value
    assert parsed.tags.count("img") == sum(name == "alt" for _, name, _ in parsed.attributes)
    assert parsed.tags.count("table") == parsed.tags.count("caption")
    return " ".join(parsed.text.split())


def page_of(data, trust):
    report = verify_bundle(data, trust)
    return make_page(View(unpack(data)), report, trust)


def charge(party, event):
    """Charges with an epsilon, as sites log them."""
    if event["type"] == "client.budget.charged":
        return event | {"epsilon": repr(price(event["round"]))}
    return event


@functools.cache
def price(rounds):
    """What the plan of a synthetic run costs after so many rounds."""
    return SyntheticRun().plan.charge(rounds)


@pytest.fixture(scope="module")
def whole():
    """An honest run, its bundle and the trust file of its federation."""
    run = SyntheticRun(edit=charge).play()
    return run, sealed(run, run.members()), Trust.of(run.roster)


def test_a_run_is_told_from_its_offer_to_its_end(whole):
    run, data, trust = whole
    page = page_of(data, trust)
    told = [(moment.party, moment.text) for moment in page.story.moments]
    assert told[0] == (LEADER, "offered the run to the sites")
    for site in SITES:
        assert (site, "accepted the offer: its policy allows the run") in told
    assert (LEADER, "published the sum of round 3, the last of 3") in told
    assert told[-1] == (LEADER, "closed the run")
    assert page.story.moments[0].time == "1970-01-01 00:00:00 UTC"
    text = read(page)
    assert f"Run {run.run.hex()[:12]} of synthetic, job synthetic." in text
    assert page.bundle in text


def test_every_claim_has_its_words_and_its_place_in_the_table(whole):
    _, data, trust = whole
    page = page_of(data, trust)
    assert [row.id for row in page.claims] == list(CLAIMS)
    assert set(CLAIMS) <= set(WORDS)
    text = read(page)
    for row in page.claims:
        assert f"{row.reason} " in text
        assert row.words.means in text
        assert row.words.not_means in text


def report_with(required=CLAIMS, status="complete", **statuses):
    claims = tuple(
        Claim(claim, statuses.get(claim.replace("-", "_"), Status.PASS), f"reason of {claim}")
        for claim in CLAIMS
    )
    return Report("0" * 64, "clinics", "1" * 64, status, (), claims, frozenset(required))


@pytest.mark.parametrize(
    ("report", "level", "headline"),
    [
        (report_with(), "pass", "Verified"),
        (report_with(status="partial"), "caution", "Verified, but the run is partial"),
        (report_with(required=()), "caution", "Consistent, but nobody is identified"),
        (report_with(budget=Status.NOT_PROVEN), "caution", "Not fully proven"),
        (report_with(["authenticity"], budget=Status.NOT_PROVEN), "pass", "Verified"),
        (report_with(cohort=Status.FAIL), "fail", "Refused: do not rely on this run"),
        (report_with((), cohort=Status.FAIL), "fail", "Refused: do not rely on this run"),
    ],
)
def test_the_headline_is_the_exit_code_in_words(report, level, headline):
    page = make_page(None, report, None)
    assert (page.verdict.level, page.verdict.headline) == (level, headline)
    assert headline in read(page)


def test_only_what_passed_may_be_relied_on():
    page = make_page(None, report_with(cohort=Status.FAIL, budget=Status.NOT_PROVEN), None)
    assert page.doubt == (WORDS["cohort"].topic, WORDS["budget"].topic)
    assert set(page.rely) == {WORDS[claim].topic for claim in CLAIMS} - set(page.doubt)


@pytest.mark.parametrize("claim", ["authenticity", "integrity"])
def test_nothing_may_be_relied_on_without_its_basis(claim):
    page = make_page(None, report_with(**{claim: Status.FAIL}), None)
    assert page.rely == ()
    assert "the bundle is not to be trusted" in page.doubt[0]


def test_without_known_signers_nothing_may_be_relied_on():
    page = make_page(None, report_with((), authenticity=Status.NOT_PROVEN), None)
    assert page.rely == ()
    assert "who signed it is not proven" in page.doubt[0]


def test_simulated_parts_are_shouted():
    report = Report("0" * 64, "clinics", "1" * 64, "complete", ("all noise",), (), frozenset())
    text = read(make_page(None, report, None))
    assert "SIMULATED: parts of this run were not real all noise" in text


def test_who_is_in_which_sum():
    run = SyntheticRun(min_cohort=3).begin()
    run.round(1).round(2, members=SITES[:3]).round(3, closed=False).close(complete=False)
    data = sealed(run, run.writer.members, complete=False)
    page = page_of(data, Trust.of(run.roster))
    assert page.participation == Participation(
        sites=SITES,
        rounds=(1, 2, 3),
        cells=(("in", "in", "out"),) * 3 + (("in", "absent", "out"),),
        aborted=frozenset({3}),
        left_out=(0, 0),
    )
    trouble = [moment.text for moment in page.story.moments if moment.kind == "trouble"]
    assert trouble == ["round 3 ended without a sum: helper-timeout"]
    assert "west 1 1 0 1" in read(page)


def test_without_the_leaders_log_what_became_of_an_upload_is_open(whole):
    run, _, trust = whole
    members = {k: v for k, v in run.members().items() if not k.startswith(f"logs/{LEADER}.")}
    page = page_of(sealed(run, members), trust)
    assert set(page.participation.cells) == {("open",) * 3}
    assert page.story.unknown == (f"the bundle holds no log of {LEADER}",)


def test_sites_that_charged_the_same_share_a_line():
    def unlike(party, event):
        event = charge(party, event)
        if party == "west" and event["type"] == "client.budget.charged":
            return event | {"epsilon": "0.25"}
        return event

    run = SyntheticRun(edit=unlike).play()
    page = page_of(sealed(run, run.members()), Trust.of(run.roster))
    assert page.charges.lines == (
        (("east", "north", "south"), tuple((number, price(number)) for number in (1, 2, 3))),
        (("west",), ((1, 0.25), (2, 0.25), (3, 0.25))),
    )
    assert page.charges.plan == pytest.approx(run.plan.charge())
    assert page.charges.reserved == pytest.approx(run.plan.epsilon())


def test_a_run_without_differential_privacy_says_so():
    run = SyntheticRun(unit="none").play()
    page = page_of(sealed(run, run.members()), Trust.of(run.roster))
    assert page.coalitions == ()
    assert page.charges == (
        "Not known: the run has no differential privacy, so nothing was charged."
    )
    text = read(page)
    assert "none: the run has no differential privacy" in text
    assert "3 rounds with a sum, aggregation masked/1, no differential privacy." in text


def test_a_plain_run_says_that_the_leader_saw_everything(whole):
    run = SyntheticRun(protocol="plain", unit="none").play()
    plain = read(page_of(sealed(run, run.members()), Trust.of(run.roster)))
    masked = read(page_of(*whole[1:]))
    sentences = "the leader saw each of them", "one party that removes masks is honest"
    assert [text in plain for text in sentences] == [True, False]
    assert [text in masked for text in sentences] == [False, True]


def test_the_coalitions_are_the_plans(whole):
    run, data, trust = whole
    page = page_of(data, trust)
    assert [count for count, _ in page.coalitions] == list(range(5))
    assert float(page.coalitions[1][1]) == pytest.approx(run.plan.epsilon(), abs=1e-4)
    assert page.coalitions[4][1] == "no promise"


def test_a_key_that_the_trust_file_does_not_know_stands_out(whole):
    _, data, _ = whole
    others = SyntheticRun(protocol="plain", unit="none").roster
    changed = type(others)(
        others.federation,
        tuple(
            type(m)(m.name, m.operator, m.region, m.roles, bytes(31) + b"\x01")
            if m.name == "west"
            else m
            for m in others.members
            if m.name != "east"
        ),
    )
    page = page_of(data, Trust.of(changed))
    pinned = {row.party: row.pinned for row in page.signed}
    assert pinned == {
        LEADER: "same key",
        "north": "same key",
        "south": "same key",
        "west": "ANOTHER KEY",
        "east": "unknown to it",
    }
    assert "ANOTHER KEY" in read(page)


def test_who_was_trusted_for_what(whole):
    _, data, trust = whole
    duties = {duty.party: duty for duty in page_of(data, trust).duties}
    assert list(duties) == [LEADER, *SITES]
    lead, north = duties[LEADER], duties["north"]
    assert (lead.leads, lead.data, lead.unmasks, lead.approves) == (True, False, False, "")
    assert (north.leads, north.data, north.unmasks) == (False, True, True)
    assert (north.operator, north.region) == ("north-operator", "eu")
    assert {duty.witnesses for duty in duties.values()} == {"all 4 others"}
    assert north.approves not in ("", "not disclosed", "does not hold")


def test_who_signed_what(whole):
    run, data, trust = whole
    rows = {row.party: row for row in page_of(data, trust).signed}
    assert {row.pinned for row in rows.values()} == {"same key"}
    assert {row.manifest for row in rows.values()} == {"yes"}
    assert rows["north"].key == run.identities["north"].public_key.hex()[:16]
    assert rows["north"].messages == "1 accept, 3 helper-key, 3 mask-sum, 3 upload"
    assert "closed; cosigned by" in rows["north"].log


def test_a_policy_that_is_not_disclosed_and_a_log_that_nobody_saw(whole):
    run, _, trust = whole
    members = run.members()
    members.pop(layout.policy(SITES[0]))
    name = layout.checkpoint(SITES[1])
    text, signatures = members[name].decode().split("\n\n")
    own = [line for line in signatures.splitlines() if line.split(" ")[1].endswith("/north")]
    members[name] = f"{text}\n\n{own[0]}\n".encode()
    page = page_of(sealed(run, members), trust)
    duties = {duty.party: duty for duty in page.duties}
    assert duties["east"].approves == "not disclosed"
    assert duties["west"].witnesses == "lead, east, south"
    signed = {row.party: row.log for row in page.signed}
    assert signed["north"].endswith("cosigned by nobody")


def test_restarts_and_acts_of_operators_are_told():
    run = SyntheticRun().begin()
    run.append("west", {"type": "operator.budget-released", "role": "client", "about": "ab" * 32})
    for number in (1, 2, 3):
        run.round(number)
    run.append("east", {"type": "party.restarted", "role": "client"})
    run.append("north", {"type": "party.unheard-of", "role": "client", "count": 2})
    run.close()
    page = page_of(sealed(run, run.writer.members), Trust.of(run.roster))
    own = [(moment.party, moment.text) for moment in page.story.moments if moment.kind == "own"]
    assert own == [
        ("west", "its operator freed the reservation of a run (about abababababab)"),
        ("east", "was started again"),
        ("north", "party.unheard-of (count 2)"),
    ]


def test_the_page_says_what_the_trust_file_asks(whole):
    run, data, _ = whole
    trust = Trust.of(run.roster, quorum=4, witnesses={"archive.example": bytes(32)})
    text = read(page_of(data, trust))
    assert "Other operators that must have cosigned each log4" in text.replace("log 4", "log4")
    assert "archive.example" in text


@pytest.mark.parametrize(
    "gone",
    [
        "logs/",
        "transcript/",
        "model/",
        layout.OFFER,
        layout.JOB,
        "transcript/r",
        "transcript/accept-",
        f"logs/{SITES[0]}.",
    ],
)
def test_a_page_is_written_whatever_is_missing(whole, gone):
    run, _, trust = whole
    members = {k: v for k, v in run.members().items() if not k.startswith(gone)}
    page = page_of(sealed(run, members), trust)
    text = read(page)
    assert page.verdict.level != "pass"
    # model/ and acceptances are missed by claims alone; whatever else lacks, the page names it.
    assert gone in ("model/", layout.JOB, "transcript/accept-") or re.search("[Nn]ot known: ", text)


def test_an_unreadable_bundle_gives_a_page_that_says_so(tmp_path, whole):
    _, _, trust = whole
    (tmp_path / "bundle.zip").write_bytes(b"no bundle at all")
    report = write_page(tmp_path / "bundle.zip", trust, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert report.exit_code == 1
    assert "Refused: do not rely on this run" in text
    assert "The bundle is not readable, so this is not known." in text


def test_hostile_names_never_become_markup(monkeypatch):
    honest = bundles.synthetic_job

    def hostile(*arguments):
        return honest(*arguments).model_copy(update={"purpose": HOSTILE[:64]})

    def lie(party, event):
        if event["type"] == "leader.round.aborted":
            return event | {"code": HOSTILE}
        if event["type"] == "client.run.settled":
            return event | {"epsilon": HOSTILE}
        return event

    monkeypatch.setattr(bundles, "synthetic_job", hostile)
    run = SyntheticRun(edit=lie).begin()
    run.round(1).round(2, closed=False).close(complete=False)
    data = sealed(run, run.writer.members, complete=False)
    page = page_of(data, Trust.of(run.roster))
    text = read(page)
    assert HOSTILE[:64] in text  # the purpose
    assert f"round 2 ended without a sum: {HOSTILE}" in text


def test_hostile_reports_never_become_markup():
    claims = tuple(Claim(claim, Status.FAIL, HOSTILE) for claim in CLAIMS)
    report = Report("0" * 64, HOSTILE, "1" * 64, HOSTILE, (HOSTILE,), claims, frozenset(CLAIMS))
    text = read(make_page(None, report, None))
    assert text.count(HOSTILE) == len(CLAIMS) + 4


def test_hostile_text_cannot_steer_the_page():
    assert clean("a\u202eb\u2066c\x1b[31m\x00\n") == "a\ufffdb\ufffdc\ufffd[31m\ufffd\ufffd"
    assert clean("z" + "\u0300" * 50 + "y") == "z\u0300\u0300y"
    assert clean("x" * 10_000) == "x" * 600 + "\u2026"
    assert (
        clean("Universit\u00e4tsklinikum \u5317\u4eac") == "Universit\u00e4tsklinikum \u5317\u4eac"
    )


@pytest.mark.parametrize(
    "lie",
    [
        {"epsilon": "1e999999", "round": 2**52},
        {"epsilon": "NaN", "round": -1},
        {"epsilon": ["0.1"], "round": "1"},
        {"epsilon": "-1", "round": True},
    ],
)
def test_absurd_values_are_left_out_of_figures_and_counted(lie):
    def absurd(party, event):
        if party == "west" and event["type"] == "client.budget.charged":
            return event | lie
        return charge(party, event)

    run = SyntheticRun(edit=absurd).play()
    page = page_of(sealed(run, run.members()), Trust.of(run.roster))
    assert [sites for sites, _ in page.charges.lines] == [("east", "north", "south")]
    assert page.charges.unreadable == 3
    assert "3 charge(s) name no epsilon that can be drawn" in read(page)


def test_long_stories_are_cut_and_keep_the_trouble():
    run = SyntheticRun().begin()
    for number in range(1, 4):
        run.round(number, closed=False)
    for count in range(80):
        run.log(LEADER, "leader", "round.aborted", round=3, code=f"again-{count}")
    run.close(complete=False)
    page = page_of(sealed(run, run.writer.members, complete=False), Trust.of(run.roster))
    assert len(page.story.moments) == 60
    assert page.story.left_out > 20
    assert f"{page.story.left_out} more events are in the logs" in read(page)


def test_the_same_bundle_gives_the_same_page(whole):
    _, data, trust = whole
    assert render(page_of(data, trust)) == render(page_of(data, trust))


def test_figures_are_drawings_with_their_texts(whole):
    _, data, trust = whole
    addresses = re.findall(
        r'src="data:image/svg\+xml;base64,([^"]+)"', render(page_of(data, trust))
    )
    participation, charges = (base64.b64decode(text).decode() for text in addresses)
    for site in SITES:
        assert f">{site}<" in participation
    assert "uploaded, in the sum" in participation
    assert "east, north, south, west" in charges
    assert "<script" not in participation + charges


def test_large_runs_make_drawings_of_a_few_hundred_kilobytes():
    sites = tuple(f"site-{number}" for number in range(60))
    kinds = ("in", "in", "in", "out", "absent")
    cells = tuple(
        tuple(kinds[(7 * row + 3 * column) % 5] for column in range(2000)) for row in range(60)
    )
    rounds = tuple(range(1, 2001))
    picture = draw_participation(Participation(sites, rounds, cells, frozenset({5}), (0, 0)))
    assert len(picture) < 600_000


@pytest.mark.parametrize("package", ["matplotlib.figure", "jinja2"])
def test_without_its_packages_the_remedy_is_named(whole, tmp_path, monkeypatch, package):
    _, data, trust = whole
    (tmp_path / "bundle.zip").write_bytes(data)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as caught:
        write_page(tmp_path / "bundle.zip", trust, tmp_path / "page.html")
    assert package.split(".")[0] in caught.value.message
    assert caught.value.remedy == "pip install 'tacit[report]'"
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_leaves_nothing(whole, tmp_path):
    _, data, trust = whole
    (tmp_path / "bundle.zip").write_bytes(data)
    with pytest.raises(TransportError):
        write_page(tmp_path / "bundle.zip", trust, tmp_path / "nowhere" / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.zip"]


def test_verifying_without_a_page_imports_none_of_its_packages(whole, tmp_path):
    _, data, trust = whole
    (tmp_path / "bundle.zip").write_bytes(data)
    trust.write(tmp_path / "trust.json")
    code = (
        "import sys; from tacit.cli import main\n"
        "assert main(['verify', 'bundle.zip', '--trust', 'trust.json']) == 0\n"
        "sys.exit(bool({'jinja2', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == 0
