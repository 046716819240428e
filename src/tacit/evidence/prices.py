"""What a plan costs, by two accountants of which one may be missing.

The privacy loss distribution of ``dp_accounting`` gives the figure that runs are charged with; it is
loaded when first asked. The Renyi bound is a few formulas of our own, and only ever too large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from tacit.evidence.renyi import renyi_epsilon
from tacit.evidence.report import Findings
from tacit.evidence.view import View

__all__ = ["Price"]

TOLERANCE = Decimal("1e-9")
"""Relative; covers the last digits of an epsilon computed on another platform, nothing more."""

VERSION_TOLERANCE = Decimal("1e-6")
"""Relative; two versions of the accountant differ by less, whoever lies about privacy by more."""


@dataclass(slots=True)
class Price:
    """Checks recorded epsilons against a plan, and remembers which accountants it took.

    Args:
        view: The bundle, with its privacy plan.
    """

    view: View
    renyi: bool = False
    exact: bool = False

    def check(self, who: str, recorded: Decimal, rounds: int | None, findings: Findings) -> None:
        """Whether a recorded epsilon covers so many rounds of the plan.

        Args:
            who: Who recorded it and as what, to begin a sentence with.
            recorded: The epsilon.
            rounds: All rounds of the plan if None.
            findings: What speaks against it.
        """
        bound = renyi_epsilon(self.view.plan, rounds)
        if math.isfinite(bound) and recorded >= Decimal(repr(bound)):
            self.renyi = True
            return
        exact = self.view.cost(rounds)
        if exact is None:
            less = (
                f"less than the {bound:.6g} of the"
                if math.isfinite(bound)
                else "for which there is no"
            )
            findings.unproven(
                f"{who} epsilon {recorded}, {less} Renyi bound, and the exact accountant "
                "(dp_accounting) is not installed here"
            )
            return
        needed = Decimal(repr(exact))
        reason = f"{who} epsilon {recorded}, the plan needs {needed}"
        if recorded >= needed * (1 - TOLERANCE):
            self.exact = True
        elif recorded >= needed * (1 - VERSION_TOLERANCE):
            findings.unproven(f"{reason}; by less than 1e-6: accountant versions differ")
        else:
            findings.fail(reason)

    @property
    def accountants(self) -> str:
        """By which accountants recorded epsilons were found large enough."""
        names = ["the exact accountant (privacy loss distribution)"] if self.exact else []
        names += ["the Renyi bound"] if self.renyi else []
        return " and ".join(names) or "no accountant"
