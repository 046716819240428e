"""The exact accountant for a verifier in a hurry: in a process of its own while other things are checked.

``dp_accounting`` takes a second to load, on one core. A verifier that has another one lets a second
process of the same program load it, and asks it over a pipe: plain numbers there and back. Where that
is not possible it loads it itself; where it is not installed, there is no answer.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys

from tacit.privacy.plan import Plan

__all__ = ["Accountant"]

LIBRARY = "dp_accounting"
LINE_LIMIT = 64


class Accountant:
    """What rounds of one plan cost, by the privacy loss distribution.

    Args:
        plan: The plan.
        beside: Whether to begin at once, in a process of its own where that is possible.
    """

    def __init__(self, plan: Plan, *, beside: bool = False) -> None:
        self.plan = plan
        self._known: dict[int, float] = {}
        self._process = _start(plan) if beside and _worthwhile(plan) else None

    def charge(self, rounds: int | None = None) -> float | None:
        """``plan.charge(rounds)``, all rounds by default; None if the accountant is not installed."""
        rounds = self.plan.rounds if rounds is None else rounds
        if rounds not in self._known:
            found = self._asked(rounds)
            try:
                self._known[rounds] = self.plan.charge(rounds) if found is None else found
            except ImportError:
                return None
        return self._known[rounds]

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _asked(self, rounds: int) -> float | None:
        """The process's answer; None if it has none, and it is not asked again."""
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            return None
        try:
            self._process.stdin.write(f"{rounds}\n")
            self._process.stdin.flush()
            answer = float(self._process.stdout.readline(LINE_LIMIT))
            if answer >= 0.0:
                return answer
        except (OSError, ValueError):
            pass
        self.close()
        return None


def _worthwhile(plan: Plan) -> bool:
    """Whether the library still has to be loaded, there is a core for it, and a program to start."""
    loaded = LIBRARY in sys.modules
    return plan.private and not loaded and (os.cpu_count() or 1) > 1 and bool(sys.executable)


def _start(plan: Plan) -> subprocess.Popen[str] | None:
    # -P: nothing is imported from the folder that the verifier happens to be started in.
    command = [sys.executable, "-P", "-m", "tacit.evidence.accountant"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    process = None
    with contextlib.suppress(OSError):
        process = subprocess.Popen(  # noqa: S603 - this program, no argument from outside
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        if process.stdin is not None:
            process.stdin.write(json.dumps(plan.to_record()) + "\n")
            process.stdin.flush()
    return process


def _serve() -> None:
    """The process: a plan, then numbers of rounds, each answered with its epsilon."""
    plan = Plan.from_record(json.loads(sys.stdin.readline()))
    # The first question is nearly always about all rounds.
    plan.charge()
    for line in sys.stdin:
        epsilon = plan.charge(int(line))
        print(repr(epsilon) if math.isfinite(epsilon) else "inf", flush=True)


if __name__ == "__main__":
    _serve()
