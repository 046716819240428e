"""Two accountants: what each proves, and what is left when the exact one is not installed."""

from __future__ import annotations

import builtins
import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tacit.evidence import Report, Status, Trust, verify_bundle
from tacit.evidence import accountant as module
from tacit.evidence.accountant import Accountant
from tacit.evidence.renyi import renyi_epsilon
from tacit.evidence.view import View
from tacit.testing import bundles
from tacit.testing.bundle_terms import synthetic_job, synthetic_plan
from tacit.testing.bundles import SyntheticRun, sealed

PLAN = synthetic_plan(synthetic_job("masked", "record", 4, 3), 4)


def run_of(factor: float) -> SyntheticRun:
    """All sites settle, and reserve, so many times what the Renyi bound says; 0: the exact figure."""
    epsilon = repr(renyi_epsilon(PLAN) * factor if factor else PLAN.charge())
    milli = str(math.ceil(float(epsilon) * 1000))

    def edit(_party, event):
        kind = event["type"].removeprefix("client.")
        if kind in ("run.settled", "budget.reserved"):
            return {**event, "epsilon": epsilon}
        return {**event, "epsilon_milli": milli} if kind == "policy.decided" else event

    return SyntheticRun(edit=edit).play()


def report(run: SyntheticRun) -> Report:
    return verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster))


def failed(found: Report) -> set[str]:
    return {claim.id for claim in found.claims if claim.status is Status.FAIL}


@pytest.fixture
def without_library(monkeypatch):
    """``dp_accounting`` cannot be imported, as where it is not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "dp_accounting"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(module, "_worthwhile", lambda _plan: False)
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.split(".")[0] == "dp_accounting":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    from tacit.privacy import accounting

    for cached in (accounting._certified, accounting._epsilon, accounting._one_round):
        cached.cache_clear()
    monkeypatch.setattr(builtins, "__import__", blocked)


@pytest.mark.parametrize(("factor", "by"), [(0, "the exact accountant"), (1.0, "the Renyi bound")])
def test_the_reason_says_which_accountant_it_was(factor, by) -> None:
    claim = report(run_of(factor)).claim("epsilon")
    assert claim.status is Status.PASS
    assert by in claim.reason


def test_without_the_library_the_renyi_bound_is_enough(request) -> None:
    run = run_of(1.0)
    request.getfixturevalue("without_library")
    found = report(run)
    assert found.exit_code == 0, str(found)
    assert "the Renyi bound" in found.claim("epsilon").reason


def test_without_the_library_less_is_not_proven(request) -> None:
    run = run_of(0)
    request.getfixturevalue("without_library")
    found = report(run)
    assert found.claim("epsilon").status is Status.NOT_PROVEN
    assert "not installed" in found.claim("epsilon").reason
    assert {c.id for c in found.claims if c.status is not Status.PASS} == {"epsilon"}
    assert found.exit_code == 2


def test_without_the_library_figures_that_contradict_each_other_still_fail(request) -> None:
    def edit(party, event):
        if party == "east" and event["type"] == "client.budget.reserved":
            return {**event, "epsilon": "0.1"}
        return event

    run = SyntheticRun(edit=edit).play()
    request.getfixturevalue("without_library")
    found = report(run)
    assert found.claim("budget").status is Status.FAIL
    assert found.claim("policy").status is Status.FAIL


def test_without_the_library_a_price_that_nobody_reserved_is_not_proven(request) -> None:
    run = SyntheticRun(
        edit=lambda _, e: None if e["type"] == "client.budget.reserved" else e
    ).play()
    request.getfixturevalue("without_library")
    claim = report(run).claim("policy")
    assert claim.status is Status.NOT_PROVEN
    assert "reserved nothing" in claim.reason


@pytest.mark.parametrize("off", [-2e-7, 2e-7])
def test_a_policy_asked_at_the_edge_of_rounding_is_not_proven(monkeypatch, off) -> None:
    """Another version of the accountant gives a figure on the other side of a thousandth."""
    asked = math.ceil(PLAN.charge() * 1000)
    edge = (asked if off > 0 else asked - 1) / 1000 * (1 + off)
    monkeypatch.setattr(View, "cost", lambda _view, _rounds=None: edge)
    edit = {"epsilon_milli": str(asked)}
    run = SyntheticRun(
        edit=lambda _, e: {**e, **edit} if e["type"] == "client.policy.decided" else e
    ).play()
    claim = report(run).claim("policy")
    assert claim.status is Status.NOT_PROVEN, claim.reason
    assert "at the edge of rounding" in claim.reason


def test_the_verifier_loads_neither_library_nor_what_reads_data() -> None:
    """They take longer to load than everything else; an auditor need not have them."""
    heavy = ("dp_accounting", "pyarrow", "torch", "scipy", "cedarpy")
    code = f"import sys, tacit.evidence.verify; print([n for n in {heavy} if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_process_of_its_own_gives_the_same_figures(monkeypatch) -> None:
    monkeypatch.setattr(module, "_worthwhile", lambda _plan: True)
    accountant = Accountant(PLAN, beside=True)
    try:
        asked = accountant._asked(2)
        assert asked == PLAN.charge(2)
        assert accountant.charge() == PLAN.charge()
    finally:
        accountant.close()


@pytest.mark.parametrize("code", ["", "print('x', flush=True)", "print(-1, flush=True)"])
def test_a_process_that_fails_is_not_believed(monkeypatch, code) -> None:
    def start(_plan):
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    monkeypatch.setattr(module, "_worthwhile", lambda _plan: True)
    monkeypatch.setattr(module, "_start", start)
    accountant = Accountant(PLAN, beside=True)
    assert accountant.charge() == PLAN.charge()
    accountant.close()


@pytest.mark.parametrize("recorded", ["8.0", "1e+300"])
@pytest.mark.parametrize("library", [True, False])
def test_no_figure_is_enough_for_a_plan_of_infinite_epsilon(
    monkeypatch, request, recorded, library
) -> None:
    plan = bundles.synthetic_plan
    monkeypatch.setattr(
        bundles, "synthetic_plan", lambda *of: replace(plan(*of), noise_multiplier=0.02)
    )
    monkeypatch.setattr(bundles, "math", SimpleNamespace(ceil=lambda _epsilon: 8000))

    def edit(_party, event):
        return {**event, "epsilon": recorded} if "epsilon" in event else event

    run = SyntheticRun(edit=edit)
    assert run.plan.charge() == math.inf
    run.play()
    monkeypatch.undo()
    if not library:
        request.getfixturevalue("without_library")
    found = report(run)
    assert found.claim("epsilon").status is not Status.PASS, str(found)
    assert found.exit_code > 0
    if library:
        assert failed(found) == {"policy", "epsilon", "budget"}
