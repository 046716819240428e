"""What a policy is asked: one request about a run, and the schema that says what rules can speak of."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any, Literal

from tacit.errors import ConfigError
from tacit.policy.contract import Contract
from tacit.types import Milliseconds, PartyName

__all__ = [
    "ATTACK_PURPOSE",
    "ATTESTATION_LEVELS",
    "CONTEXT_KINDS",
    "EARLIEST",
    "EPOCH",
    "SCHEMA",
    "UNBOUNDED_EPSILON",
    "Request",
    "cedar_datetime",
    "integers_as_text",
    "retention_end",
    "row_attributes",
    "schema_text",
]

UNBOUNDED_EPSILON = 9223372036854775807
"""``epsilon_milli`` of a run without differential privacy: above every limit."""

ATTACK_PURPOSE = "attack"
"""The purpose of attacks that a site runs on its own data."""

ATTESTATION_LEVELS = {"none": 0, "software": 1, "tee": 2}
"""``attestation_level`` of every level of attestation."""

SCHEMA = """\
entity Party;
entity Dataset;
type Run = {
    purpose: String,
    region: String,
    leader_region: String,
    helper_regions: Set<String>,
    regions: Set<String>,
    data_region: String,
    allowed_regions: Set<String>,
    lawful_basis: String,
    public: Bool,
    retention: datetime,
    now: datetime,
    aggregation: String,
    epsilon_milli: Long,
    private: Bool,
    unit: String,
    helpers: Long,
    max_colluding: Long,
    min_cohort: Long,
    own_helper: Bool,
    own_noise: Bool,
    code: String,
    code_digest: String,
    attestation: String,
    attestation_level: Long,
};
action train appliesTo { principal: [Party], resource: [Dataset], context: Run };
action attack appliesTo { principal: [Party], resource: [Dataset], context: Run };
action read appliesTo { principal: [Party], resource: [Row], context: Run };
"""
"""The Cedar schema without ``entity Row``, whose attributes are those of the site's contracts."""

CONTEXT_KINDS = dict(re.findall(r"^    (\w+): (.+),$", SCHEMA, re.MULTILINE))
"""Cedar type of every attribute of ``context``, by name."""

CEDAR_TYPES = {
    "string": "String",
    "integer": "Long",
    "boolean": "Bool",
    "date": "datetime",
    "timestamp": "datetime",
}
"""Cedar's type for a column's logical type."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Where ``Milliseconds`` begin."""
EARLIEST = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)
"""The first time that can be written, in milliseconds."""
_FAR_FUTURE = date(9999, 12, 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a leader asks of a site, in terms that rules can speak about.

    Args:
        principal: The leader; ``Party::"NAME"`` in Cedar.
        dataset: The contract's name; ``Dataset::"NAME"`` in Cedar.
        purpose: The job's purpose.
        region: The site's own region.
        leader_region: Region of the leader.
        helper_regions: Regions of all helpers.
        data_region: Where the data lie: the contract's ``region``, or the site's.
        allowed_regions: The contract's ``allowed_regions``; empty if it names none.
        lawful_basis: The contract's ``lawful_basis``; empty if it names none.
        public: Whether the contract says that anyone may see every record.
        retention: Last day of use (UTC), in Cedar its last millisecond; far in the future if none.
        now: Time of the decision, in Cedar a ``datetime``.
        aggregation: ``masked`` or ``plain``.
        epsilon_milli: Price of the run in thousandths, rounded up; ``UNBOUNDED_EPSILON`` without privacy.
        unit: Unit of privacy; ``none`` without differential privacy.
        helpers: Number of helpers.
        max_colluding: How many helpers may collude without loss.
        min_cohort: Smallest number of contributions in a sum.
        own_helper: Whether this site is one of the helpers.
        own_noise: Whether each helper adds the full noise.
        code: ``pinned`` when a digest names the training code, else ``not pinned``.
        code_digest: That digest, 64 hexadecimal digits, feature map included: what ``tacit policy code``
            prints; empty where nothing is pinned, or where the site attacks its own data.
        attestation: Level of attestation of leader and helpers: ``none``, ``software`` or ``tee``.
        action: ``train``: take part in a run. ``attack``: the site runs the attack suite on its own data,
            inside; it is leader and helper itself.
    """

    principal: PartyName
    dataset: str
    purpose: str
    region: str
    leader_region: str
    helper_regions: frozenset[str]
    data_region: str
    allowed_regions: frozenset[str] = frozenset()
    lawful_basis: str = ""
    public: bool = False
    retention: date | None = None
    now: Milliseconds
    aggregation: str
    epsilon_milli: int
    unit: str
    helpers: int
    max_colluding: int
    min_cohort: int
    own_helper: bool
    own_noise: bool
    code: str
    code_digest: str = ""
    attestation: Literal["none", "software", "tee"] = "none"
    action: Literal["train", "attack"] = "train"

    @property
    def private(self) -> bool:
        """Whether the run has a unit of privacy."""
        return self.unit != "none"

    @property
    def regions(self) -> frozenset[str]:
        """Regions of the leader and of all helpers."""
        return self.helper_regions | {self.leader_region}

    @property
    def attestation_level(self) -> int:
        """The level as a number: ``none`` 0, ``software`` 1, ``tee`` 2."""
        return ATTESTATION_LEVELS[self.attestation]

    def context(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """The Cedar context.

        Args:
            names: The attributes that are needed; by default all.
        """
        return {name: _CONTEXT[name](self) for name in (_CONTEXT if names is None else names)}

    @property
    def fits_cedar(self) -> bool:
        """Whether Cedar can hold every number, with 64 bits and sign, and can write the time."""
        numbers = (self.epsilon_milli, self.helpers, self.max_colluding, self.min_cohort)
        small = max(numbers) <= UNBOUNDED_EPSILON and min(numbers) >= ~UNBOUNDED_EPSILON
        return small and EARLIEST <= self.now <= retention_end(None)


def retention_end(day: date | None) -> Milliseconds:
    """The last millisecond of a day (UTC); of the year 9999 if there is no day."""
    whole = (day or _FAR_FUTURE).toordinal() - EPOCH.toordinal() + 1
    return Milliseconds(whole * 86_400_000 - 1)


@functools.lru_cache(maxsize=64)
def cedar_datetime(time: Milliseconds) -> dict[str, dict[str, str]]:
    """A time as Cedar's JSON has it."""
    moment = EPOCH + timedelta(milliseconds=time)
    # Not strftime, which writes years before 1000 with fewer digits.
    text = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return {"__extn": {"fn": "datetime", "arg": f"{text}Z"}}


def integers_as_text(value: Any) -> Any:
    """A record for canonical JSON: Cedar's integers have 64 bits, more than that can carry."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"integer": str(value)}
    if isinstance(value, dict):
        return {key: integers_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [integers_as_text(item) for item in value]
    return value


def row_attributes(contracts: Iterable[Contract]) -> dict[str, str]:
    """What row rules can speak of: Cedar type by name, of every column that a contract lets them.

    Raises:
        ConfigError: Two contracts give one name different types, or Cedar cannot write a name.
    """
    found: dict[str, tuple[str, str]] = {}
    for contract in contracts:
        for column in contract.columns:
            if not column.filters:
                continue
            kind = CEDAR_TYPES[column.logical_type]
            first, owner = found.setdefault(column.name, (kind, contract.name))
            if first != kind:
                raise ConfigError(
                    "policy.row-attribute",
                    f"column '{column.name}' is a {first} for rules in contract '{owner}' and a {kind} "
                    f"in '{contract.name}'",
                    remedy="give both columns one logicalType, or rename one of them",
                )
            if not column.name.isprintable():
                raise ConfigError(
                    "policy.row-attribute",
                    f"contract '{contract.name}': a rule cannot name a column that has characters "
                    "which do not print",
                    remedy="rename the column, or set filter = false",
                )
    return {name: kind for name, (kind, _) in sorted(found.items())}


def schema_text(attributes: dict[str, str]) -> str:
    """The whole Cedar schema.

    Args:
        attributes: What ``row_attributes`` returned.
    """
    lines = [
        f"    {json.dumps(name, ensure_ascii=False)}: {kind}," for name, kind in attributes.items()
    ]
    return SCHEMA + "\n".join(["entity Row in [Dataset] = {", *lines, "};"]) + "\n"


_CONTEXT: dict[str, Callable[[Request], Any]] = {
    **{name: attrgetter(name) for name in CONTEXT_KINDS},
    "helper_regions": lambda request: sorted(request.helper_regions),
    "regions": lambda request: sorted(request.regions),
    "allowed_regions": lambda request: sorted(request.allowed_regions),
    "retention": lambda request: cedar_datetime(retention_end(request.retention)),
    "now": lambda request: cedar_datetime(request.now),
}
