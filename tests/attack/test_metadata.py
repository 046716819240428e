"""What a network observer learns: nothing from equal sizes, everything from a planted difference."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from tacit.attack import metadata, transcript
from tacit.attack.metadata import ATTACKS, Discriminant
from tacit.attack.scratch import DataPool, site_names
from tacit.attack.sizes import Client, clients_of, differences, reach
from tacit.attack.transcript import Packet
from tacit.attack.workbench import Workbench
from tacit.party import site as site_module
from tacit.party.job import JobSpec
from tacit.party.workload import Workload
from tacit.testing.federation import write_small_federation

NAMES = site_names(4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metadata") / "federation"
    write_small_federation(folder)
    data = DataPool.load(folder / "evaluation" / "contract.toml")
    return Workbench(JobSpec.load(folder / "job.toml"), folder, data, 0, "demo")


def made_up(extra, runs=20):
    """Runs whose large sites send ``extra`` bytes more in one packet of two, beside chance traffic."""
    generator = np.random.default_rng(1)
    transcripts, marks = [], []
    for _ in range(runs):
        large = generator.permutation(np.arange(4) < 2)
        packets = []
        for name, more in zip(NAMES, large, strict=True):
            packets += [Packet(name, "coordinator", 1000 + extra * int(more), 1, "upload")]
            packets += [Packet("coordinator", name, 500, 1, "x")] * int(generator.integers(1, 4))
        transcripts.append(SimpleNamespace(packets=packets, terms=SimpleNamespace(clients=NAMES)))
        marks.append(large)
    return transcripts, marks


def test_a_planted_difference_of_one_byte_is_found():
    found, chance, _ = metadata._told_apart(*made_up(1))
    assert found.value == 1.0
    assert found.above_null
    assert metadata._alarms({"metadata.auc": chance}) == ("packet sizes (metadata.auc)",)


def test_equal_sizes_tell_nothing():
    found, chance, _ = metadata._told_apart(*made_up(0))
    assert found.low <= 0.5 <= found.high
    assert not metadata._alarms({"metadata.auc": chance})


def test_a_discriminant_of_equal_features_scores_everything_alike():
    same = np.ones((6, 3))
    scores = Discriminant.fit(same, same).scores(np.ones((4, 3)))
    assert not scores.any()


def test_a_discriminant_points_from_one_class_to_the_other():
    generator = np.random.default_rng(0)
    positive = generator.normal((3.0, 0.0), 1.0, (200, 2))
    negative = generator.standard_normal((200, 2))
    learnt = Discriminant.fit(positive, negative)
    assert learnt.direction[0] > 5 * abs(learnt.direction[1])
    assert learnt.scores(positive).mean() > learnt.scores(negative).mean()


@pytest.mark.parametrize("defence", ["plain", "tacit"])
def test_uploads_are_as_long_whatever_a_site_holds(bench, defence):
    found = ATTACKS[0].run(bench, defence, lambda _: None)
    assert next(iter(found.measured)) == "metadata.auc"
    assert not found.alarms
    least, most = found.details["sizes_by_kind"]["upload"]
    assert least == most
    assert found.measured["metadata.bytes"].value > 1000
    assert found.measured["metadata.auc"].null == 0.5


# --- who was sampled, in secret ---------------------------------------------------------------------

RUNS_IN_QUICK = 8


@pytest.fixture
def longer_when_sampled(monkeypatch):
    """A network on which the upload of a sampled client is one byte longer."""
    last, marks = [], {}
    computed, contribute, packet = Workload.contribution, site_module.contribute, transcript._packet

    def contribution(self, *given, **options):
        made = computed(self, *given, **options)
        last.append(made.sampled)
        return made

    def contributed(party, terms, message, *given):
        made = contribute(party, terms, message, *given)
        marks[party.address.party, message.round] = last[-1]
        return made

    def packed(message, envelope):
        made = packet(message, envelope)
        longer = made.kind == "upload" and marks[made.sender, made.round]
        return dataclasses.replace(made, size=made.size + int(longer))

    monkeypatch.setattr(Workload, "contribution", contribution)
    monkeypatch.setattr(site_module, "contribute", contributed)
    monkeypatch.setattr(transcript, "_packet", packed)


def test_an_upload_one_byte_longer_when_sampled_is_an_alarm(bench, longer_when_sampled):
    found = metadata._sampled(bench, RUNS_IN_QUICK)
    assert found.alarms == ("packet sizes of sampled clients (sent upload)",)
    assert "sent upload" in found.note


def test_a_sound_system_shows_nobody_who_was_sampled(bench):
    found = metadata._sampled(bench, 20)
    assert found.found == ()
    assert found.alarms == ()
    assert found.reach < metadata.LEVEL
    assert "would have raised an alarm" in found.note


def simulated(generator, size, rounds=16):
    """Clients of whom half are sampled, with sizes of one kind by ``size(sampled)``."""
    marks = generator.random((rounds, 4)) < 0.5
    return [[Client(bool(m), {"sent upload": (size(m),)}) for m in row] for row in marks]


def test_sizes_that_do_not_depend_on_sampling_raise_no_alarm():
    generator = np.random.default_rng(0)
    for vary in (1, 2, 10**6):
        for _ in range(300):
            rounds = simulated(generator, lambda _, most=vary: int(generator.integers(most)))
            assert not [one for one in differences(rounds) if one.p_value < metadata.LEVEL]


def test_a_difference_must_be_exact_and_repeat():
    generator = np.random.default_rng(0)
    (found,) = differences(simulated(generator, lambda m: 100 + int(m)))
    assert found.p_value < metadata.LEVEL
    few = simulated(generator, lambda m: 100 + int(m), rounds=3)
    assert all(one.p_value > metadata.LEVEL for one in differences(few))
    assert reach(few, "sent upload") > metadata.LEVEL
    signs = iter(range(10**6))
    assert not differences(simulated(generator, lambda m: 100 + int(m) * (-1) ** next(signs)))


def test_lots_are_no_difference_of_sampling():
    packets = [
        *(Packet(name, "leader", 100, 1, "upload") for name in NAMES),
        *(Packet(name, "leader", 50, 1, "kept-request") for name in NAMES[:2]),
        *(
            Packet(name, "leader", 70 + 5 * (name in NAMES[:2]), 2, "witness-answer")
            for name in NAMES
        ),
    ]
    marks = {name: name in NAMES[:2] for name in NAMES}
    both = [clients_of(packets, number, marks) for number in (1, 2)]
    assert [client.lots for client in both[1]] == [(1,), (1,), (), ()]
    assert differences(both) == ()
    marks = {name: name in NAMES[::2] for name in NAMES}
    longer = [dataclasses.replace(p, size=p.size + marks[p.sender]) for p in packets]
    found = differences([clients_of(longer, number, marks) for number in (1, 2)])
    assert [one.kind for one in found] == [
        "sent kept-request",
        "sent upload",
        "sent witness-answer",
    ]
