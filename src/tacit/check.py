"""``tacit check``: everything that would stop a run, found before anything is sent or spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from tacit.engine.local import wall_clock
from tacit.errors import TacitError
from tacit.federation import Federation
from tacit.party.job import JobSpec
from tacit.party.terms import Terms
from tacit.show import console, plain, table

__all__ = ["CheckResult", "SiteResult", "check_job", "show_check"]


@dataclass(frozen=True, slots=True)
class SiteResult:
    """What one site would answer."""

    site: str
    rows: int
    removed: tuple[str, ...]
    rules: tuple[str, ...]
    error: TacitError | None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The run's price and every site's answer."""

    terms: Terms
    sites: tuple[SiteResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every site would take part."""
        return all(site.error is None for site in self.sites)

    def record(self) -> dict[str, Any]:
        """For scripts."""
        plan = self.terms.plan
        private = plan.unit != "none"
        return {
            "job": self.terms.job.name,
            "passed": self.passed,
            "epsilon": repr(plan.epsilon()) if private else None,
            "charged": repr(plan.charge()) if private else None,
            "delta": repr(plan.delta) if private else None,
            "unit": plan.unit,
            "rounds": plan.rounds,
            "dimension": self.terms.manifest.dimension,
            "sites": [
                {
                    "site": site.site,
                    "rows": site.rows,
                    "removed": list(site.removed),
                    "rules": list(site.rules),
                    "error": site.error.diagnostics() if site.error else None,
                }
                for site in self.sites
            ],
        }


def check_job(job: JobSpec, base: Path, sites: Sequence[Path]) -> CheckResult:
    """Opens everything, builds an offer and asks every site; sends and records nothing.

    Raises:
        ConfigError: Job, federation, evaluation set or a site folder is wrong.
    """
    opened = Federation.open(job, base, sites)
    _, terms = opened.offer()
    results = []
    for name, site in sorted(opened.sites.items()):
        try:
            found = site.examine(terms, wall_clock())
        except TacitError as error:
            results.append(SiteResult(site=name, rows=0, removed=(), rules=(), error=error))
            continue
        removed = tuple(column.name for column in found.receipt.removed())
        results.append(SiteResult(name, found.receipt.rows.out, removed, found.rules, None))
    return CheckResult(terms=terms, sites=tuple(results))


def show_check(result: CheckResult) -> None:
    """The result for people: one line a site, then the price of the run."""
    out = console()
    rows = [
        (
            site.site,
            "would take part" if site.error is None else "refuses",
            str(site.rows) if site.error is None else "-",
            ", ".join(site.rules) or "-",
            ", ".join(site.removed) or "-",
        )
        for site in result.sites
    ]
    columns = ("site", "answer", "records", "rule", "removed by the contract")
    out.print(table(f"Job '{result.terms.job.name}'", columns, rows))
    for site in result.sites:
        if site.error is not None:
            out.print(Text.assemble((f"{site.site}: ", "bold red"), plain(site.error.message)))
            if site.error.remedy:
                out.print(plain(f"  remedy: {site.error.remedy}"))
    if not result.passed:
        refusing = sum(site.error is not None for site in result.sites)
        out.print(f"[bold red]the run cannot start: {refusing} of {len(result.sites)} refuse[/]")
        return
    plan = result.terms.plan
    if plan.unit == "none":
        out.print("[bold yellow]the run can start, WITHOUT differential privacy[/]")
        return
    out.print(
        f"[bold green]the run can start[/]; its price is epsilon {plan.charge():.4f} at delta "
        f"{plan.delta:g} per site, for one {plan.unit}, against outsiders, the leader and up to "
        f"{plan.max_colluding} colluding " + ("helper" if plan.max_colluding == 1 else "helpers")
    )
    if plan.charge() > plan.epsilon():
        out.print(
            f"against holders of the released models, who do not see the cohorts, epsilon is "
            f"{plan.epsilon():.4f}"
        )
