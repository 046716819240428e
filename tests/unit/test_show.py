"""What reaches a terminal: nothing that a peer wrote can steer it."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from tacit import show
from tacit.engine.local import Traffic
from tacit.errors import ConfigError
from tacit.evidence.report import CLAIMS, Claim, Report, Status
from tacit.lead import Progress
from tacit.outcome import Outcome
from tacit.privacy.calibration import make_plan
from tacit.privacy.statement import make_statement

HOSTILE = "[/x] [bold]\x1b[2J\x07"


@pytest.fixture
def screen(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(
        show, "console", lambda **_: Console(file=out, width=200, highlight=False, soft_wrap=True)
    )
    return out


def report(status="complete", reason="fine", simulated=()):
    claims = tuple(Claim(name, Status.PASS, reason) for name in CLAIMS)
    return Report(
        bundle="0" * 64,
        federation="f",
        run="ab" * 32,
        status=status,
        simulated=simulated,
        claims=claims,
        required=frozenset(CLAIMS),
    )


def test_hostile_text_is_printed_as_text(screen, tmp_path):
    show.show_report(report(reason=HOSTILE, simulated=(HOSTILE,)), tmp_path / HOSTILE)
    show.show_error(ConfigError("x.y", HOSTILE, remedy=HOSTILE))
    printed = screen.getvalue()
    assert "[/x] [bold]" in printed
    assert not {"\x1b", "\x07"} & set(printed)


def test_a_report_says_which_run_and_whether_it_is_whole(screen, tmp_path):
    show.show_report(report(), tmp_path)
    assert "abababababab" in screen.getvalue()
    assert "PARTIAL" not in screen.getvalue()
    show.show_report(report(status="partial"), tmp_path)
    assert "PARTIAL" in screen.getvalue()


def test_a_metric_shows_the_deviation_of_its_noise(capsys):
    metrics = {
        "auc": 0.9,
        "train_loss": 0.75,
        "train_loss_std": 0.25,
        "exact": 1.0,
        "exact_std": 0.0,
    }
    with show.progress() as tell:
        tell(Progress(round=1, rounds=1, metrics=metrics))
    line = capsys.readouterr().err
    assert "train_loss 0.7500 ± 0.2500" in line
    assert "exact 1.0000\n" in line
    assert "_std" not in line


@pytest.mark.parametrize("last", [1.5, math.inf])
def test_what_an_infinite_epsilon_means_is_said(screen, tmp_path, last):
    plan = make_plan(
        unit="record",
        epsilon=0.9,
        delta=1e-5,
        clip_norm=1.0,
        sampling_rate=0.5,
        expected_units=100,
        rounds=3,
        helpers=3,
        min_helpers=2 if math.isinf(last) else 3,
        max_colluding=1,
        own_noise=False,
        dimension=3,
    )
    outcome = Outcome(
        run_id="ab" * 32,
        folder=tmp_path,
        complete=True,
        rounds=1,
        privacy=make_statement(plan),
        metrics={},
        history=[],
        spent={},
        traffic=Traffic(),
    )
    show.show_run(outcome)
    shown = screen.getvalue()
    assert ("inf: with aggregation.min_helpers" in shown) == math.isinf(last)
    for fact in ("Neighbours: one record", "Promised against: the leader", "dp-accounting"):
        assert fact in shown


def test_the_verdict_names_the_claims_that_decide_it(screen, tmp_path):
    whole = report()
    failed = tuple(
        replace(claim, status=Status.FAIL) if claim.id == "cohort" else claim
        for claim in whole.claims
    )
    show.show_report(replace(whole, claims=failed), tmp_path)
    assert "a claim failed: cohort\n" in screen.getvalue()
    unproven = tuple(
        replace(claim, status=Status.NOT_PROVEN) if claim.id in {"epsilon", "witness"} else claim
        for claim in whole.claims
    )
    required = whole.required - {"epsilon"}
    show.show_report(replace(whole, claims=unproven, required=required), tmp_path)
    assert "a required claim is NOT PROVEN: witness\n" in screen.getvalue()


def test_an_unreadable_bundle_is_called_that(screen, tmp_path):
    broken = replace(report(), run="", federation="", status="")
    claims = (replace(broken.claims[0], status=Status.FAIL), *broken.claims[1:])
    show.show_report(replace(broken, claims=claims), tmp_path)
    printed = screen.getvalue()
    assert "not a readable evidence bundle" in printed
    assert "run  of" not in printed
    assert "get the bundle again" in printed
