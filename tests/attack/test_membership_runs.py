"""Membership inference against real runs of the protocol: it succeeds without protection, and not beyond theory."""

from __future__ import annotations

import numpy as np
import pytest

from tacit.attack.measure import Ceiling, ceiling_of
from tacit.attack.membership import ATTACKS, clients
from tacit.attack.membership.attack import attack_records, design_for, run_membership
from tacit.attack.membership.clients import client_membership
from tacit.attack.membership.targets import Design, observed, targets
from tacit.attack.scratch import DataPool
from tacit.attack.workbench import Workbench
from tacit.connect import take
from tacit.demo import hospitals
from tacit.party.job import JobSpec


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("membership") / "hospitals"
    hospitals.write_federation(folder, hospitals.split(0))
    job = JobSpec.load(folder / "job.toml")
    data = DataPool.load(folder / "attack" / "contract.toml")
    return Workbench(job, folder, data, seed=1, profile="demo")


def small(runs, rounds=4, pool=64):
    order = np.arange(pool)
    return Design(order, order[:0], targets=runs, rounds=rounds, shadows=4)


def nothing(_share):
    pass


@pytest.mark.parametrize("defence", ["plain", "masking"])
def test_exact_updates_name_the_members_of_a_small_run(bench, defence):
    findings = attack_records(bench, defence, small(3), nothing)
    advantage = findings.measured["membership.advantage"]
    assert advantage.low > 0.5
    assert advantage.ceiling == 1.0
    assert findings.measured["membership.joint.auc"].low > 0.9
    assert {one.attack for one in findings.rocs} >= {"joint", "matched", "loss", "lira", "rmia"}
    (curve,) = findings.curves
    assert [place for place, _ in curve.points] == [1.0, 2.0, 4.0]


def test_what_records_add_is_what_the_protocol_summed(bench):
    design = small(2, rounds=2)
    for defence in ("plain", "clipping", "masking"):
        target = next(iter(targets(bench, defence, design)))
        data = target.workload.prepare(take(bench.data.batch, design.pool))
        for one in observed(target, data):
            unknown = target.members & target.judged
            assert np.allclose(one.rows[unknown].sum(axis=0), one.sums.sum(axis=0), atol=1e-9)


def test_records_of_a_colluding_site_are_no_candidates(bench):
    design = small(2, rounds=1)
    for defence, own in (("masking", 1), ("tacit", 1), ("clipping", 0)):
        target = next(iter(targets(bench, defence, design)))
        held = [target.scratch.holdings[site] for site in target.view.adversary.clients]
        assert len(held) == own
        assert set(design.pool[~target.judged]) == {row for rows in held for row in rows}
        assert target.members[~target.judged].all()


def test_noise_keeps_the_figures_within_their_ceilings(bench):
    findings = attack_records(bench, "tacit", small(4, rounds=3), nothing)
    deviation = {
        "advantage": 1 / 16,
        "auc": 1 / np.sqrt(12 * 64),
    }  # of 256 records, half of them in
    for family in ("", "informed.", "released."):
        for metric, one in deviation.items():
            found = findings.measured[f"membership.{family}{metric}"]
            assert found.ceiling < 0.6
            assert found.value < found.ceiling + 6 * one


def test_a_point_of_the_curve_has_the_ceiling_of_so_many_rounds(bench):
    design = small(2, rounds=3)
    (curve,) = attack_records(bench, "tacit", design, nothing).curves
    plan = next(iter(targets(bench, "tacit", design))).plan
    ceilings = [one.ceiling for _, one in curve.points]
    assert [place for place, _ in curve.points] == [1.0, 2.0, 3.0]
    assert ceilings == [ceiling_of(plan, rounds).advantage for rounds in (1, 2, 3)]
    assert ceilings[0] < ceilings[1] < ceilings[2]


def test_runs_of_several_plans_have_the_largest_ceiling_of_them(bench, monkeypatch):
    ceilings = iter([Ceiling(1.0, 0.5, ((0.0, 0.5),)), Ceiling(1.0, 0.1, ((0.0, 0.1),))])
    monkeypatch.setattr(clients, "ceiling_of", lambda *_, **__: next(ceilings))
    measured = client_membership(bench, "tacit", 2, nothing)
    assert measured["membership.client.advantage"].ceiling == 0.5


def test_a_trusted_server_sees_what_the_noise_hides_from_others(bench):
    findings = attack_records(bench, "noise", small(3, rounds=3), nothing)
    assert findings.measured["membership.advantage"].value > 0.5
    assert findings.measured["membership.advantage"].ceiling == 1.0
    assert findings.measured["membership.released.advantage"].ceiling < 0.2


def test_whole_clients_are_told_where_updates_are_exact(bench):
    measured = client_membership(bench, "plain", 2, nothing)
    assert measured["membership.client.advantage"].value == 1.0
    measured = client_membership(bench, "tacit", 2, nothing)
    assert measured["membership.client.advantage"].within_ceiling
    assert measured["membership.client.advantage"].ceiling < 0.5


def test_the_demonstration_runs(bench):
    (attack,) = ATTACKS
    assert attack.run is run_membership
    shares = []
    findings = run_membership(bench, "clipping", shares.append)
    assert shares[-1] == 1.0 and shares == sorted(shares)
    assert next(iter(findings.measured)) == "membership.advantage"
    assert "membership.client.advantage" in findings.measured


def test_a_pool_and_its_population_do_not_overlap(bench):
    design = design_for(bench, "plain")
    assert not set(design.pool) & set(design.population)
    assert len(design.population) >= 64
