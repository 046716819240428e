"""Protocol adversaries: every lie is refused, and would be noticed if it were not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tacit.attack.cells import CellResult
from tacit.attack.findings import Findings
from tacit.attack.protocol import collusion, report
from tacit.attack.protocol.attempts import ATTEMPTS
from tacit.attack.protocol.leader import MaliciousLeader, Outcome
from tacit.attack.protocol.required import required
from tacit.attack.protocol.scenarios import Stage, opens, told_lies
from tacit.attack.scratch import DataPool, site_names
from tacit.attack.verdict import judge, view_cell
from tacit.attack.words import sentence, told
from tacit.attack.workbench import Workbench
from tacit.errors import TacitError
from tacit.party.chain import ModelChain
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.party.site import Site
from tacit.privacy.noise import noise_blocks
from tacit.testing.federation import write_small_federation
from tacit.wire.envelope import Address
from tacit.wire.messages import KeyRequest, Upload

BY_NAME = {attempt.name: attempt for attempt in ATTEMPTS}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocol") / "federation"
    write_small_federation(folder, records=24)
    data = DataPool.load(folder / "evaluation" / "contract.toml")
    return Workbench(JobSpec.load(folder / "job.toml"), folder, data, 0, "demo")


def stage(bench, defence="tacit"):
    return Stage(bench, defence, {}, records=2)


@pytest.mark.parametrize("defence", ["masking", "tacit"])
def test_every_lie_is_refused(bench, defence):
    outcomes, _ = told_lies(stage(bench, defence))
    assert {one.name for one in outcomes} == {*required(defence, masked=True, seeded=False)}
    assert {one.name for one in outcomes} >= {*BY_NAME, "dropout-game", "sybils-of-one-operator"}
    assert [one for one in outcomes if one.accepted] == []
    assert all(one.code for one in outcomes)
    told_to_site = [one for one in outcomes if one.name in BY_NAME and "client" in one.by]
    assert told_to_site
    assert not any(one.trained for one in told_to_site)


def test_the_leader_of_a_plain_run_reads_contributions(bench):
    outcomes, _ = told_lies(stage(bench, "plain"))
    gave = {one.name for one in outcomes if one.accepted}
    assert {"single-contribution", "sum-without-member", "round-called-lost"} <= gave
    assert "crafted-first-model" not in gave
    assert {one.name for one in outcomes} == {*required("plain", masked=False, seeded=False)}


def without(*names):
    """The attempts, as if the protocol had changed so that some of them do not apply."""
    return [
        dataclasses.replace(one, forge=lambda *_: None) if one.name in names else one
        for one in ATTEMPTS
    ]


@pytest.mark.parametrize("defence", ["plain", "noise"])
def test_a_lie_that_was_not_told_is_missed(bench, monkeypatch, defence):
    lost = ("crafted-later-model", "replayed-round")
    monkeypatch.setattr(report, "Stage", lambda *given: Stage(*given, records=2))
    monkeypatch.setattr(
        report, "told_lies", lambda one, helpers: told_lies(one, without(*lost), helpers=helpers)
    )
    with pytest.raises(TacitError, match="2 of the column's lies were not told") as caught:
        report.lie(bench, defence, lambda _: None)
    assert all(name in caught.value.message for name in lost)


def test_every_lie_is_on_a_list():
    assert {*BY_NAME} <= {*required("tacit", masked=True, seeded=False)}
    extra = {*required("plain", masked=False, seeded=True)} - {
        *required("plain", masked=False, seeded=False)
    }
    assert extra == {"two-first-models"}


def test_accepted_lies_are_a_count():
    outcomes = [Outcome(str(n), n == 0, "", "") for n in range(27)]
    counted, none = report._accepted((*outcomes,)), report._accepted((*outcomes[1:],))
    assert (judge(counted), judge(none)) == ("broken", "at chance")
    assert told(none) == "0 of 26 (no interval)"
    result = CellResult("lies", "malicious-server", "tacit", 1.0, Findings("x", {"m": none}))
    text = sentence("tacit", view_cell([result]))
    assert "is 0 of 26 (no interval, 26 trials); what was not tried is not ruled out." in text


def test_an_honest_cohort_opens(bench):
    one = stage(bench)
    assert opens(one.federation(rounds=1).run(), one.victim)


def trust_anything(self, message, terms, context):
    return [self.open_signed(raw, terms, Upload, "client") for raw in message.body.uploads]


def believe_the_leader(self, live, message, now, first):
    body = message.body
    if body.previous is not None:
        return live.chain.apply(body.previous, message.chunks)
    chain = live.chain
    return chain.current or chain.begin(self._heads.meet(chain, body.accepts, now), first)


@pytest.mark.parametrize(
    ("where", "name", "weak", "noticed"),
    [
        (Helper, "_cohort", trust_anything, {"cohort-of-one", "cohort-too-small"}),
        (Site, "_advance", believe_the_leader, {"crafted-first-model", "crafted-later-model"}),
        (
            ModelChain,
            "_check_answers",
            lambda *_: None,
            {"sum-without-answer", "sum-without-member"},
        ),
    ],
    ids=["helper", "model", "answers"],
)
def test_a_planted_weakness_is_noticed(bench, monkeypatch, where, name, weak, noticed):
    monkeypatch.setattr(where, name, weak)
    outcomes = stage(bench).lies([BY_NAME[one] for one in sorted(noticed)])
    assert {one.name for one in outcomes if one.accepted} == noticed


def test_what_succeeds_under_tacit_is_an_alarm(bench, monkeypatch):
    monkeypatch.setattr(Helper, "_cohort", trust_anything)
    some = [BY_NAME["cohort-of-one"], BY_NAME["crafted-later-model"]]
    monkeypatch.setattr(report, "Stage", lambda *given: Stage(*given, records=2))
    monkeypatch.setattr(report, "told_lies", lambda one, helpers: (one.lies(some), {}))
    found = report.lie(bench, "tacit", lambda _: None)
    assert found.alarms == ("cohort-of-one",)
    assert not found.measured
    assert "asked-twice" in found.notes[0]
    monkeypatch.setattr(report, "required", lambda *_, **__: [one.name for one in some])
    found = report.lie(bench, "tacit", lambda _: None)
    assert "cohort-of-one" in found.alarms
    assert found.measured["malicious_server.accepted"].value == 1.0


def test_the_leader_signs_with_its_own_keys_only(bench):
    scratch = stage(bench).federation()
    names = site_names(4)
    leader = MaliciousLeader(scratch, names[0], names[3:], ())
    receiver = Address(names[0], "helper")
    assert leader.speak(receiver, KeyRequest("x"), number=1, signer=names[3])
    with pytest.raises(ValueError, match="no such key"):
        leader.speak(receiver, KeyRequest("x"), number=1, signer=names[1])


# --- coalitions -----------------------------------------------------------------------------------


def test_uploads_open_to_all_helpers_together_only(bench):
    transcript = stage(bench).federation(rounds=6).run()
    names = site_names(4)
    for held in range(1, 4):
        opened = collusion.opened_by(transcript, names[0], names[1 : held + 1])
        assert opened.p_value > 1e-9
        assert not opened.exact
    assert collusion.opened_by(transcript, names[0], names).exact


def test_masks_that_hide_nothing_are_noticed(bench, monkeypatch):
    def no_keystreams(vector, streams, ring, out, start=0):
        out[...] = 0 if vector is None else vector

    monkeypatch.setattr("tacit.secagg.masked.add_keystreams", no_keystreams)
    transcript = stage(bench).federation(rounds=4).run()
    assert collusion.opened_by(transcript, site_names(1)[0], ()).exact


@pytest.mark.parametrize("noise", ["shared", "own"])
def test_the_noise_of_one_honest_helper_is_the_plans(bench, noise):
    one = Stage(bench, "tacit", {"noise": noise}, records=2)
    left = collusion.residual_noise(one.federation(rounds=10).run(), one.victim)
    assert left.trials == 30
    assert 0.15 < left.value < 3.0  # Fails with probability below 1e-7.
    assert not report.too_little(left)


def test_noise_that_lacks_is_noticed(bench, monkeypatch):
    def little(variance, length, entropy):
        return noise_blocks(variance // 100, length, entropy)

    monkeypatch.setattr("tacit.party.helper.noise_blocks", little)
    one = stage(bench)
    left = collusion.residual_noise(one.federation(rounds=10).run(), one.victim)
    assert report.too_little(left)
    outcome, figures = one.dropout_game()
    assert figures["ratio_of_variances"] < 0.2
    assert not np.isnan(figures["p_value"])
    assert outcome.name == "dropout-game"
