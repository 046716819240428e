"""Attacks that measure nothing, and one that fails: for tests of what is said of them."""

from __future__ import annotations

from tacit.attack.findings import Attack, Findings


def away(bench, defence, on_progress):
    return Findings("nobody", {}, notes=("tried in the column of Tacit only",))


def fail(bench, defence, on_progress):
    raise RuntimeError("on purpose")


ATTACKS = (
    Attack("membership", "away", away, ("masking", "tacit")),
    Attack("membership", "fail", fail, ("masking",)),
)
