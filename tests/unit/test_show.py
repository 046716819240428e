"""What reaches a terminal: nothing that a peer wrote can steer it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tacit import show
from tacit.errors import ConfigError
from tacit.evidence.report import CLAIMS, Claim, Report, Status

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
