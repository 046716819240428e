"""What a network observer learns: nothing from equal sizes, everything from a planted difference."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tacit.attack import metadata
from tacit.attack.metadata import ATTACKS, Discriminant
from tacit.attack.scratch import PublicData, site_names
from tacit.attack.transcript import Packet
from tacit.attack.workbench import Workbench
from tacit.party.job import JobSpec
from tacit.testing.federation import write_small_federation

NAMES = site_names(4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metadata") / "federation"
    write_small_federation(folder)
    data = PublicData.load(folder / "evaluation" / "contract.toml")
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
