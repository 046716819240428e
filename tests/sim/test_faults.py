"""Deterministic simulation: one seed drives network, machines and adversary; named checkers look on.

A failing seed prints the command that runs it again, for example
``pytest tests/sim/test_faults.py -k one_seed --scenario malicious-leader --seed 1234``.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tacit.engine.simulator.core import Violation
from tacit.engine.simulator.faults import Faults
from tacit.testing.scenarios import SCENARIOS, Laboratory

BLOCK = 25
"""Seeds of one test, so that several cores share a sweep."""

SWEEP = {
    "faults": 800,
    "rollback": 300,
    "malicious-leader": 400,
    "malicious-helper": 150,
    "malicious-client": 150,
    "absent-helpers": 125,
    "one-operator": 75,
    "restored-budget": 75,
    "lying-leader": 75,
    "lying-member": 75,
}
"""Seeds of a scenario in ``make test``: two thousand in all."""

LONG_SWEEP = 50
"""How many times as many ``make test-all`` runs, other ones."""

assert sum(SWEEP.values()) >= 2_000


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    with Laboratory(tmp_path_factory.mktemp("worlds")).open() as opened:
        yield opened


def blocks(scale, first):
    return [
        pytest.param(name, first + start, id=f"{name}-{first + start}")
        for name, count in SWEEP.items()
        for start in range(0, scale * count, BLOCK * scale)
    ]


def sweep(laboratory, scenario, first, count):
    """Runs seeds; how the runs ended."""
    endings = Counter()
    for seed in range(first, first + count):
        simulation = laboratory.run(scenario, seed)
        completed = simulation.cluster.leader.chain.completed
        endings["complete" if completed else "none"] += 1
        endings.update(simulation.intruder.done if simulation.intruder is not None else ())
    return endings


@pytest.mark.parametrize(("scenario", "first"), blocks(1, 0))
def test_every_rule_holds(laboratory, scenario, first):
    endings = sweep(laboratory, scenario, first, BLOCK)
    # Faults neither prevent every round nor do nothing; a restored budget prevents all.
    assert (endings["complete"] > 0) == (scenario != "restored-budget")


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "first"), blocks(LONG_SWEEP, 1_000_000))
def test_every_rule_holds_in_the_long_run(laboratory, scenario, first):
    endings = sweep(laboratory, scenario, first, BLOCK * LONG_SWEEP)
    assert (endings["complete"] > 0) == (scenario != "restored-budget")


def test_one_seed(laboratory, request):
    """The seed that the command line names."""
    scenario = request.config.getoption("--scenario", default=None)
    if scenario is None:
        pytest.skip("runs the seed that --scenario and --seed name")
    laboratory.run(scenario, request.config.getoption("--seed"))


@pytest.mark.parametrize("scenario", ["faults", "rollback", "malicious-leader"])
def test_a_seed_repeats_its_run(laboratory, scenario):
    first, second = (laboratory.run(scenario, 11) for _ in range(2))
    assert first.trace == second.trace
    assert first.trace != laboratory.run(scenario, 12).trace


def test_results_that_are_remembered_change_nothing(laboratory, tmp_path):
    with Laboratory(tmp_path).open(remember=False) as plain:
        for seed in range(3):
            assert plain.run("faults", seed).trace == laboratory.run("faults", seed).trace


def test_a_failing_seed_names_its_command(laboratory, monkeypatch):
    def broken(self, simulation, message):
        self.require(False, "on purpose")

    monkeypatch.setattr("tacit.engine.simulator.checkers.OneUpload.sent", broken)
    with pytest.raises(Violation, match="on purpose") as caught:
        laboratory.run("faults", 7)
    assert caught.value.checker == "one-upload"
    assert caught.value.__notes__ == [
        "pytest tests/sim/test_faults.py -k one_seed --scenario faults --seed 7"
    ]


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - {"split-helpers", "restored-budget"}))
def test_without_faults_every_round_closes(laboratory, scenario):
    simulation = laboratory.simulation(scenario, 1, faults=Faults())
    simulation.intruder = None
    simulation.run()
    terms = simulation.cluster.terms
    assert simulation.cluster.leader.chain.completed == terms.manifest.rounds
    assert len(simulation.history.answers) == terms.manifest.rounds * len(terms.helpers)


def test_a_restored_budget_gives_no_result(laboratory):
    """Site and operator are named by the leader, or by every site where the leader looks away."""
    codes = Counter()
    for seed in range(24):
        simulation = laboratory.run("restored-budget", seed, faults=Faults())
        assert simulation.cluster.leader.chain.completed == 0
        codes[simulation.cluster.leader.failure.code] += 1
    found = ("budget.forked", "budget.refunded")
    assert set(codes) == {*found, *(f"refused.{code}" for code in found)}


RARE = {"forged-state", "forged-kept"}
"""Misdeeds that need a late joiner, or a site that adds up, whom not every seed has."""


@pytest.mark.parametrize("scenario", ["malicious-leader", "malicious-helper", "malicious-client"])
def test_every_misdeed_takes_place(laboratory, scenario):
    for misdeed in sorted(set(SCENARIOS[scenario].misdeeds) - RARE):
        assert any(
            misdeed
            in laboratory.run(scenario, seed, only=(misdeed,), faults=Faults()).intruder.done
            for seed in range(12)
        ), f"{misdeed} never took place"
