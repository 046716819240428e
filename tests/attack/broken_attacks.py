"""Attacks that go wrong in every way that the suite must survive."""

from __future__ import annotations

import os

from tacit.attack.findings import Attack, Findings
from tacit.attack.measure import proportion
from tacit.errors import RoundAborted


def crash(bench, defence, on_progress):
    raise ZeroDivisionError("on purpose")


def refused(bench, defence, on_progress):
    raise RoundAborted("round.refused", "nobody took part", retryable=False)


def leave(bench, defence, on_progress):
    on_progress(0.5)
    os._exit(3)


def babble(bench, defence, on_progress):
    """Prints among the answers, and still has a result."""
    print('{"result": "nonsense"}', flush=True)
    os.write(1, b"noise\n")
    return Findings("nobody", {"babble": proportion(1, 4, null=0.25)})


def strange(bench, defence, on_progress):
    """Details that JSON has no form for."""
    return Findings(
        "nobody", {"strange": proportion(0, 4, null=0.25)}, details={"object": object()}
    )


ATTACKS = (
    Attack("membership", "crash", crash, ("tacit",)),
    Attack("property", "refused", refused, ("tacit",)),
    Attack("poisoning", "leave", leave, ("tacit",)),
    Attack("metadata", "babble", babble, ("tacit",)),
    Attack("inversion", "strange", strange, ("tacit",)),
)
