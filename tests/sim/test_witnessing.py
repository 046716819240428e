"""Hostile witnesses and logs cost cosignatures, and nothing else."""

from __future__ import annotations

import pytest

from tacit.engine.simulator.faults import Faults
from tacit.engine.simulator.log_misdeeds import LEADER_LOGS, MEMBER_LOGS
from tacit.testing.scenarios import Laboratory

CASES = [("lying-leader", name) for name in LEADER_LOGS] + [
    ("lying-member", name) for name in MEMBER_LOGS
]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    with Laboratory(tmp_path_factory.mktemp("worlds")).open() as opened:
        yield opened


@pytest.mark.parametrize(("scenario", "misdeed"), CASES, ids=[name for _, name in CASES])
def test_hostile_witnesses_cost_cosignatures_only(laboratory, scenario, misdeed):
    """Every round closes, whatever is done to the logs that travel beside it."""
    done = 0
    for seed in range(6):
        simulation = laboratory.run(scenario, seed, faults=Faults(), only=(misdeed,))
        leader = simulation.cluster.leader
        assert leader.phase == "closed"
        assert leader.chain.completed == simulation.cluster.terms.manifest.rounds
        done += misdeed in simulation.intruder.done
    assert done
