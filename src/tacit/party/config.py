"""``site.toml``: what a site operator sets once, beside contracts and policies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tacit.config import Table
from tacit.policy.contract import PopulationName
from tacit.policy.lock import Approvers
from tacit.privacy.budget import BudgetLimits, Limit

__all__ = ["SiteConfig"]

Epsilon = Annotated[float, Field(gt=0, le=1000)]
Delta = Annotated[float, Field(gt=0, lt=1)]
Purpose = Annotated[str, Field(min_length=1, max_length=64)]


class PopulationLimit(Table):
    """``[budget.populations.NAME]``: limits of one population, instead of those of all."""

    epsilon: Epsilon | None = Field(
        default=None, description="Lifetime epsilon of this population; by default that of all."
    )
    delta: Delta | None = Field(
        default=None, description="Lifetime delta of this population; by default that of all."
    )


class BudgetLimit(Table):
    """``[budget]``: lifetime limits of every population; epsilons and deltas of jobs add up."""

    epsilon: Epsilon = Field(description="Lifetime epsilon of each population.")
    delta: Delta = Field(description="Lifetime delta of each population.")
    allow_without_dp: bool = Field(
        default=False,
        description="Whether runs without differential privacy, whose epsilon is infinite, may use "
        "this data (public data only).",
    )
    purposes: dict[Purpose, Epsilon] = Field(
        default={},
        description="`purpose = epsilon`: what runs of one purpose may cost, of each population and "
        "within its total. A purpose that is not named has the total only.",
    )
    populations: dict[PopulationName, PopulationLimit] = Field(
        default={},
        description="limits of single populations, by the name that contracts give them.",
    )

    def limits(self) -> BudgetLimits:
        """What the budget needs of it."""
        populations = {
            name: Limit(
                self.epsilon if own.epsilon is None else own.epsilon,
                self.delta if own.delta is None else own.delta,
            )
            for name, own in self.populations.items()
        }
        return BudgetLimits(Limit(self.epsilon, self.delta), populations, self.purposes)


class Limits(Table):
    """``[limits]``: what the site tolerates of a run."""

    max_uncompleted_rounds: int = Field(
        default=3,
        ge=0,
        description="Charged rounds without a result before the site stops taking part.",
    )
    max_colluding_helpers: int = Field(
        default=1,
        ge=0,
        description="Helpers that may collude; a run must have more helpers than that.",
    )
    require_own_helper: bool = Field(
        default=True,
        description="Whether this site must be a helper itself, so that it trusts no other.",
    )
    fixed_cohort: bool = Field(
        default=True,
        description="Whether masked runs without noise on one data set must always have the same "
        "sites: the difference of two such runs would show the sites that only one of them had.",
    )
    required_helpers: tuple[str, ...] = Field(
        default=(),
        description="Helpers without which this site takes part in no round.",
    )
    resum: Literal["never", "sampled", "always"] = Field(
        default="sampled",
        description="Whether the site fetches and adds up the uploads behind an aggregate before it "
        "trains on it; `sampled`: with probability 1 / sites, drawn in secret.",
    )


class EvidenceConfig(Table):
    """``[evidence]``: what the bundles of runs show of the site."""

    policy: Literal["full", "none"] = Field(
        default="full",
        description="What others see of the policy under which the site took part: `full`: lock, "
        "rules and the contract of the data set; `none`: digests only, so that nobody can verify "
        "where the data may be used.",
    )


class SiteConfig(Table):
    """A site file."""

    version: Literal[1] = Field(description="Version of the file format.")
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="Name of the site in the roster."
    )
    operator: str = Field(min_length=1, max_length=128, description="Who operates the site.")
    region: str = Field(min_length=1, max_length=64, description="Where data and training stay.")
    budget: BudgetLimit
    policy: Approvers
    limits: Limits = Limits()
    evidence: EvidenceConfig = EvidenceConfig()
