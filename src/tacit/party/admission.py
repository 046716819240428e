"""Admission: what a site checks before it takes part in a run, and again after a restart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tacit.connect import Receipt, SanitisedBatch
from tacit.errors import (
    BudgetExhausted,
    ConfigError,
    PolicyDenied,
    RemoteProtocolError,
    RoundAborted,
    TacitError,
)
from tacit.party.base import Party
from tacit.party.computation import Computation, Compute
from tacit.party.config import SiteConfig
from tacit.party.price import account_of, policy_request
from tacit.party.terms import Terms
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract
from tacit.policy.permission import Permission
from tacit.policy.request import Request
from tacit.policy.rows import RowFilter
from tacit.policy.schema import schema_difference
from tacit.privacy.budget import Budget, Heads
from tacit.types import Digest, Milliseconds, PartyName, Store
from tacit.wire.messages import Accept

__all__ = ["Admission", "DataSource", "Examination", "SiteSetup", "guarded", "vouch_for_time"]


class DataSource(Protocol):
    """One data set of a site: its contract, and the only way to its rows."""

    @property
    def contract(self) -> Contract:
        """What the data set is and what may leave it."""
        ...

    def read(self, permission: Permission, at: Milliseconds) -> SanitisedBatch:
        """All rows that the policy permits, redacted and checked.

        Args:
            permission: The policy's yes.
            at: Decides on the period of keys.

        Raises:
            ConfigError: Names file, row and column of what the contract does not allow.
        """
        ...


KEY_BYTES = 32
EPOCH = Milliseconds(0)
POLICY, LAST_DECISION, LAST_LOCK = "policy", "last-decision", "last-lock"
CLOCK_TOLERANCE = 5 * 60 * 1000
"""Milliseconds by which a clock may go back: more than corrections of a synchronised clock."""

COHORTS = "site/cohorts-without-noise"
MIN_HONEST = 2
"""Fewest honest contributions in a sum without noise: with one, the sum is that contribution."""


def _nothing(_: Contract) -> bytes:
    return b""


@dataclass(frozen=True, slots=True)
class SiteSetup:
    """What a site operator brings: configuration, approved policy, data sets and approved code."""

    config: SiteConfig
    policy: Policy
    lock: Digest
    sources: Mapping[str, DataSource]
    compute: Compute
    code_pinned: bool = True
    locked_at: Milliseconds = EPOCH
    """When the first approver signed ``lock``."""
    disclose: Callable[[Contract], bytes] = _nothing
    """What others may see of the policy, given the contract that a run uses; empty for nothing."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a site would say to an offer, for its operator."""

    rules: tuple[str, ...]
    rows: RowFilter | None
    receipt: Receipt


class Admission:
    """Decides whether a site takes part in a run: limits, policy, code, budget, in this order.

    Args:
        party: The site.
        setup: What its operator brings.
        budget: Its lifetime budget.
    """

    def __init__(self, party: Party, setup: SiteSetup, budget: Budget) -> None:
        self._party = party
        self._setup = setup
        self._budget = budget

    def check_limits(self, terms: Terms) -> None:
        """``[limits]`` of ``site.toml``, before anything else is looked at.

        Raises:
            RemoteProtocolError: The site is no client of the run.
            PolicyDenied: A limit does not allow the run; names it.
        """
        limits = self._setup.config.limits
        name = self._party.address.party
        if name not in terms.clients:
            raise RemoteProtocolError("offer.client", f"{name} is not a client of this run")
        if limits.resum != "never" and not terms.job.aggregation.audit_rounds:
            raise PolicyDenied(
                "limits.resum",
                f"the leader would keep no uploads, and site {name} adds them up again",
                remedy="leave aggregation.audit_rounds out of the job, or set limits.resum = 'never' "
                "in site.toml",
            )
        if not terms.masked:
            return  # Only the policy can permit the baseline.
        self.check_helpers(terms.helpers, terms)
        self.check_cohort(terms)
        if (
            terms.plan.unit == "none"
            and terms.manifest.min_cohort - limits.max_colluding_helpers < MIN_HONEST
        ):
            raise PolicyDenied(
                "limits.cohort",
                f"sums of {terms.manifest.min_cohort} without noise are too small for site {name}, "
                f"which expects up to {limits.max_colluding_helpers} to collude",
                remedy="raise aggregation.min_cohort in the job",
            )
        plan = terms.plan
        if (
            plan.unit == "none"
            and plan.min_helpers < plan.helpers
            and 2 * plan.min_helpers - plan.helpers <= limits.max_colluding_helpers
        ):
            raise PolicyDenied(
                "limits.helper-overlap",
                "without noise two rounds must share an honest helper, who answers for one cohort "
                f"only; site {name} expects up to {limits.max_colluding_helpers} to collude",
                remedy="raise aggregation.min_helpers in the job, or leave it out",
            )
        if terms.plan.unit != "none" and terms.plan.max_colluding < limits.max_colluding_helpers:
            raise PolicyDenied(
                "limits.noise-margin",
                f"the run's noise allows for {terms.plan.max_colluding} colluding helper(s), site "
                f"{name} expects up to {limits.max_colluding_helpers}",
                remedy="raise privacy.max_colluding in the job, or set privacy.noise = 'own'",
            )

    def check_helpers(self, present: Sequence[PartyName], terms: Terms) -> None:
        """Whether these helpers suffice for this site: of the whole run, and of every round.

        Raises:
            PolicyDenied: One that the site insists on is missing, or there are too few.
        """
        limits, name = self._setup.config.limits, self._party.address.party
        if not terms.masked:
            return
        if limits.require_own_helper and name not in present:
            raise PolicyDenied(
                "limits.own-helper",
                f"site {name} takes part only where it is a helper itself",
                remedy="add it to aggregation.helpers, or set limits.require_own_helper = false "
                "in site.toml",
            )
        missing = sorted(set(limits.required_helpers) - set(present))
        if missing:
            raise PolicyDenied(
                "limits.required-helpers",
                f"site {name} takes part only with helper {missing[0]}",
                remedy="name it in aggregation.helpers and see that it runs, or correct "
                "limits.required_helpers in site.toml",
            )
        if len(self._party.roster.operators(present)) <= limits.max_colluding_helpers:
            raise PolicyDenied(
                "limits.colluding-helpers",
                f"{len(present)} helpers cannot outnumber the "
                f"{limits.max_colluding_helpers} that site {name} expects to collude",
                remedy="name more helpers in aggregation.helpers",
            )

    def check_cohort(self, terms: Terms) -> None:
        """Without noise: the sites are those of the first such run on this data set.

        Raises:
            PolicyDenied: They are others, so that the difference of two sums would show some of them.
        """
        fixed = self._setup.config.limits.fixed_cohort
        if not fixed or terms.plan.unit != "none" or not terms.masked:
            return
        known = self._party.ports.store.get(COHORTS, terms.job.data.contract)
        if known not in (None, _names(terms.clients)):
            raise PolicyDenied(
                "limits.fixed-cohort",
                f"an earlier run without noise on '{terms.job.data.contract}' had other sites; the "
                "difference of both sums would show what only some of them contributed",
                remedy="run it with the same sites, with privacy.unit = 'record', or, for public "
                "data, set limits.fixed_cohort = false in site.toml",
            )

    def keep_cohort(self, terms: Terms) -> None:
        """Remembers the sites of a run without noise, inside a transaction."""
        store = self._party.ports.store
        if terms.plan.unit == "none" and terms.masked:
            known = store.get(COHORTS, terms.job.data.contract)
            store.put(COHORTS, terms.job.data.contract, known or _names(terms.clients))

    def check_uncompleted(self, terms: Terms, included: int) -> None:
        """Whether too many charged rounds of a run gave no result.

        Args:
            terms: The run.
            included: How many aggregates hold this site's upload.

        Raises:
            RoundAborted: More than ``limits.max_uncompleted_rounds``.
        """
        uncompleted = self._party.state(terms.run_id).number("uploads") - included
        limit = self._setup.config.limits.max_uncompleted_rounds
        if uncompleted > limit:
            raise RoundAborted(
                "site.uncompleted-rounds",
                f"{uncompleted} charged rounds of this run gave no result; the limit is {limit}",
                retryable=False,
                remedy="find out why rounds fail before spending more budget",
            )

    def source(self, terms: Terms) -> DataSource:
        """The data set that the job asks for.

        Raises:
            ConfigError: The site has none of that name.
        """
        wanted = terms.job.data.contract
        source = self._setup.sources.get(wanted)
        if source is None:
            offered = ", ".join(sorted(self._setup.sources)) or "none"
            raise ConfigError(
                "site.contract",
                f"site {self._party.address.party} has no contract named '{wanted}' "
                f"(it has: {offered})",
                remedy="correct data.contract in the job, or add the contract at the site",
                key="data.contract",
            )
        return source

    def workload(self, terms: Terms, contract: Contract) -> Computation:
        """The computation of the run, to be closed when it is over, from the site's own copy of the model code.

        Raises:
            ConfigError: The contract's public schema is not the run's.
            PolicyDenied: The site holds other code, or the code makes another model.
        """
        difference = schema_difference(contract.schema(), terms.schema)
        if difference:
            raise ConfigError(
                "site.schema",
                f"contract '{contract.name}' of site {self._party.address.party} (here) differs "
                f"from the run's public schema (there): {difference}",
                remedy="agree on one schema: every site and the evaluation set must share it",
            )
        code = Digest(terms.manifest.code)
        workload = self._setup.compute(terms.job, terms.schema, code)
        try:
            self._require_same(workload, terms)
        except TacitError:
            workload.close()
            raise
        return workload

    def _require_same(self, workload: Computation, terms: Terms) -> None:
        """The site's model is the run's."""
        if workload.code != terms.manifest.code:
            raise PolicyDenied(
                "site.code",
                f"site {self._party.address.party} holds other model code than the run names",
                remedy="every site must review and install the same model file",
            )
        same_size = workload.dimension == terms.manifest.dimension
        if workload.layout != terms.manifest.layout or not same_size:
            raise PolicyDenied(
                "site.layout",
                f"the model of site {self._party.address.party} has other tensors or other "
                "constants than the run names",
                remedy="every site must use the same versions of the model's libraries",
            )

    def _request(self, terms: Terms, contract: Contract, now: Milliseconds) -> Request:
        setup = self._setup
        return policy_request(
            terms,
            self._party.roster,
            site=setup.config,
            contract=contract,
            pinned=setup.code_pinned,
            now=now,
        )

    def decide(self, terms: Terms, contract: Contract, now: Milliseconds) -> Permission:
        """Asks the policy once, and records what it says.

        Returns:
            The permission to read the data set, with the rows that the policy lets the run use.

        Raises:
            PolicyDenied: It says no.
            ConfigError: The clock ran backwards, or a row rule does not fit the contract.
        """
        setup = self._setup
        self._require_time(now)
        request = self._request(terms, contract, now)
        refusal: PolicyDenied | None = None
        permission: Permission | None = None
        try:
            permission = setup.policy.permit(request, contract, setup.lock)
        except PolicyDenied as error:
            refusal = error
        rules = permission.rules if permission else _rules_of(refusal)
        rows = permission.rows if permission else None
        with self._party.ports.store.transaction():
            self._party.ports.store.put(POLICY, LAST_DECISION, b"%d" % now)
            self._party.ports.store.put(POLICY, LAST_LOCK, b"%d" % setup.locked_at)
            self._party.log(
                terms,
                now,
                "policy.decided",
                policy=setup.lock.hex(),
                contract=contract.digest.hex(),
                allowed=permission is not None,
                rules=list(rules),
                rows=rows.digest.hex() if rows is not None else "",
                epsilon_milli=str(request.epsilon_milli),
            )
        if permission is None:
            assert refusal is not None
            raise refusal
        return permission

    def _require_time(self, now: Milliseconds) -> None:
        """A clock or a lock that was set back would bring what is over back to life.

        Raises:
            ConfigError: The last decision lies in the future, or was made under a later lock.
        """
        locked = self._party.ports.store.get(POLICY, LAST_LOCK)
        if locked is not None and self._setup.locked_at < int(locked):
            raise ConfigError(
                "policy.replayed",
                f"the policy of site {self._party.address.party} is an older one than it decided by "
                "before, with its older lock",
                remedy="restore the present policy, or have an approver approve this one anew: 'tacit "
                "policy lock'",
            )
        known = self._party.ports.store.get(POLICY, LAST_DECISION)
        if known is not None and now + CLOCK_TOLERANCE < int(known):
            raise ConfigError(
                "site.clock",
                f"the clock of site {self._party.address.party} is behind its own last policy decision",
                remedy="correct the clock; if it ran ahead before and is right now, an approver says so "
                "by 'tacit policy lock'",
            )

    def check_data(self, terms: Terms, contract: Contract) -> None:
        """Whether what the contract does to the whole data set fits the run's unit of privacy.

        Raises:
            PolicyDenied: One person decides on the rows of others, so that epsilon would not hold.
        """
        anonymity = contract.anonymity
        if terms.plan.unit == "none" or anonymity is None or anonymity.violation == "refuse":
            return
        raise PolicyDenied(
            "limits.suppression",
            f"contract '{contract.name}' leaves groups of fewer than {anonymity.k} out: whether one "
            "person is in the data decides on up to that many rows, more than the run's noise covers",
            remedy="set anonymity.violation = 'refuse' and make the quasi-identifiers coarser",
        )

    def _require_budget(self, terms: Terms, contract: Contract) -> None:
        """Refuses a run without differential privacy, unless the operator allows such runs."""
        if terms.plan.unit != "none" or self._setup.config.budget.allow_without_dp:
            return
        spent = self._budget.spent(contract.population)
        raise BudgetExhausted(
            "budget.without-dp",
            "the run has no differential privacy, its epsilon is infinite; the lifetime limit of "
            f"site {self._party.address.party} is {spent.epsilon_limit}",
            remedy="set privacy.unit = 'record' in the job, or, for public data only, "
            "budget.allow_without_dp = true in site.toml",
            spent=str(spent.epsilon),
            limit=str(spent.epsilon_limit),
        )

    def reserve(self, terms: Terms, contract: Contract, now: Milliseconds) -> Heads:
        """Reserves the budget of the whole plan once, and records it; returns what peers shall remember.

        Raises:
            BudgetExhausted: It does not suffice, or the run has no differential privacy.
        """
        self._require_budget(terms, contract)
        if terms.plan.unit == "none":
            return self._budget.heads()
        epsilon, delta = terms.plan.charge(), terms.plan.delta
        with self._party.ports.store.transaction():
            known = self._budget.find(terms.run_id) is not None
            self._budget.reserve(terms.run_id, account_of(terms, contract), epsilon, delta, now)
            heads = self._budget.heads()
            if known:
                return heads  # By this site before it was killed: logged already.
            self._party.log(
                terms,
                now,
                "budget.reserved",
                epsilon=repr(epsilon),
                delta=repr(delta),
                count=heads.count,
                head=heads.digests[-1].hex(),
            )
        return heads

    def acceptance(self, contract: Contract, heads: Heads) -> Accept:
        """What tells the leader that this site takes part, with a fresh nonce."""
        return Accept(
            nonce=self._party.ports.entropy.draw(32),
            policy=self._setup.lock,
            contract=contract.digest,
            reservations=heads.count,
            heads=heads.digests,
            released=heads.released,
        )

    def keep_disclosure(self, terms: Terms, contract: Contract) -> None:
        """Keeps what the site discloses of the policy it accepts a run under, in a transaction."""
        self._party.state(terms.run_id).put("policy", self._setup.disclose(contract))

    def wanted_helpers(self, terms: Terms) -> list[str]:
        """The helpers without which this site takes part in no round of a masked run, in order."""
        limits = self._setup.config.limits
        own = [self._party.address.party] if limits.require_own_helper else []
        return sorted({*own, *limits.required_helpers}) if terms.masked else []

    def examine(self, terms: Terms, now: Milliseconds) -> Examination:
        """What this site would answer to an offer; nothing is recorded, reserved or sent.

        Raises:
            ConfigError, RemoteProtocolError: Contract, schema, code or data do not fit.
            PolicyDenied: The policy, or the limits in ``site.toml``, do not allow it.
            BudgetExhausted: The budget does not cover it.
        """
        self.check_limits(terms)
        source = self.source(terms)
        self._require_time(now)
        request = self._request(terms, source.contract, now)
        permission = self._setup.policy.permit(request, source.contract, self._setup.lock)
        self.check_data(terms, source.contract)
        with contextlib.closing(self.workload(terms, source.contract)) as built:
            return self._examine_data(terms, source, permission, built, now)

    def _examine_data(
        self,
        terms: Terms,
        source: DataSource,
        permission: Permission,
        built: Computation,
        now: Milliseconds,
    ) -> Examination:
        """Budget and data, as an offer would find them."""
        self._require_budget(terms, source.contract)
        if terms.plan.unit != "none":
            account = account_of(terms, source.contract)
            self._budget.check(account, terms.plan.charge(), terms.plan.delta)
        batch = source.read(permission, now)
        with guarded(self._party.address.party):
            built.prepare_private(batch, self._party.ports.entropy.draw(KEY_BYTES))
        return Examination(rules=permission.rules, rows=permission.rows, receipt=batch.receipt)


def vouch_for_time(store: Store, locked_at: Milliseconds, now: Milliseconds) -> None:
    """An approver says that the clock is right: later times that a site remembers were wrong.

    Args:
        store: The site's state.
        locked_at: Time of the lock that was approved.
        now: The time.
    """
    with store.transaction():
        store.put(POLICY, LAST_DECISION, b"%d" % now)
        store.put(POLICY, LAST_LOCK, b"%d" % locked_at)


def _rules_of(refusal: PolicyDenied | None) -> tuple[str, ...]:
    """The rules that a refusal names."""
    named = str(refusal.details.get("rules", "")) if refusal is not None else ""
    return tuple(named.split(", ")) if named else ()


def _names(clients: Sequence[PartyName]) -> bytes:
    return "\n".join(sorted(clients)).encode()


@contextmanager
def guarded(site: PartyName) -> Iterator[None]:
    """Runs model code: what a model's own code raises may tell of a record: a peer learns nothing of it."""
    try:
        yield
    except TacitError:
        raise
    except Exception as error:
        raise ConfigError(
            "site.model-failed",
            f"the model code failed at site {site}: {type(error).__name__}",
            remedy="try the model on data of this contract outside a run",
        ) from error
