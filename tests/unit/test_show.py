"""What reaches a terminal: nothing that a peer wrote can steer it."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from tacit import show
from tacit.engine.local import Traffic
from tacit.errors import ConfigError
from tacit.evidence.report import CLAIMS, Claim, Report, Status
from tacit.session import Outcome, Progress

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
    outcome = Outcome(
        run_id="ab" * 32,
        folder=tmp_path,
        complete=True,
        rounds=1,
        epsilon=0.9,
        delta=1e-5,
        coalitions=(0.8, 0.9, last),
        metrics={},
        history=[],
        spent={},
        traffic=Traffic(),
    )
    show.show_run(outcome)
    assert ("min_helpers" in screen.getvalue()) == math.isinf(last)
