"""Tests of a policy: requests and rows in TOML, and what the rules must say about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import Field, model_validator

from tacit.config import Table, load_toml
from tacit.errors import ConfigError, PolicyDenied, TacitError
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract, ContractName
from tacit.policy.permission import NO_POLICY
from tacit.policy.request import (
    ATTACK_PURPOSE,
    EPOCH,
    UNBOUNDED_EPSILON,
    Request,
    integers_as_text,
)
from tacit.policy.rows import RowFilter
from tacit.types import Digest, Milliseconds, PartyName

__all__ = ["CaseFile", "CaseResult", "RequestTable", "load_cases", "run_case", "run_cases"]

Text = Annotated[str, Field(min_length=1, max_length=64)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class RequestTable(Table):
    """A request; what is left out has a default."""

    action: Literal["train", "attack"] | None = Field(
        default=None,
        description="`train`, the default: take part in a run. `attack`: the site runs the attack suite on "
        "its own data.",
    )
    principal: Text | None = Field(
        default=None, description="The leader; by default `coordinator`."
    )
    dataset: ContractName | None = Field(
        default=None, description="Name of a contract; by default the site's only one."
    )
    purpose: Text | None = Field(
        default=None, description="The job's purpose; by default `research`."
    )
    region: Text | None = Field(
        default=None, description="The site's region; by default that of site.toml."
    )
    leader_region: Text | None = Field(default=None, description="By default the site's region.")
    helper_regions: tuple[Text, ...] | None = Field(
        default=None, description="By default the site's region alone."
    )
    now: datetime | date | None = Field(
        default=None,
        description="Time of the decision, in UTC unless it says otherwise; by default the first "
        "moment of 2000, so that no test depends on the day on which it runs.",
    )
    aggregation: Literal["masked", "plain"] | None = Field(
        default=None, description="By default `masked`."
    )
    epsilon_milli: Annotated[int, Field(ge=0, le=UNBOUNDED_EPSILON)] | None = Field(
        default=None,
        description="Price in thousandths; by default 1000, without end if `unit` is `none`.",
    )
    unit: Literal["record", "entity", "client", "none"] | None = Field(
        default=None, description="By default `record`."
    )
    helpers: Count | None = Field(default=None, description="By default 3.")
    max_colluding: Count | None = Field(default=None, description="By default 1.")
    min_cohort: Count | None = Field(default=None, description="By default 3.")
    own_helper: bool | None = Field(default=None, description="By default true.")
    own_noise: bool | None = Field(default=None, description="By default false.")
    code: Literal["pinned", "not pinned"] | None = Field(
        default=None, description="By default `pinned`."
    )
    code_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] | None = Field(
        default=None, description="What `tacit policy code` prints; by default empty."
    )
    attestation: Literal["none", "software", "tee"] | None = Field(
        default=None, description="By default `none`."
    )

    def over(self, other: RequestTable) -> RequestTable:
        """These values, and where there is none those of the other."""
        own = {
            key: value
            for key in type(self).model_fields
            if (value := getattr(self, key)) is not None
        }
        return other.model_copy(update=own)

    def request(self, contracts: Mapping[str, Contract], region: str) -> tuple[Request, Contract]:
        """The request, with all that the contract says of the data.

        Args:
            contracts: The site's contracts, by name.
            region: The site's region.

        Raises:
            ConfigError: There is no such contract, or several to choose from.
        """
        names = [self.dataset] if self.dataset is not None else sorted(contracts)
        if len(names) != 1 or names[0] not in contracts:
            raise ConfigError(
                "policy.case-dataset",
                f"a test is about data set '{self.dataset}', which has no contract"
                if self.dataset is not None
                else f"a test names no data set, and the site has {len(contracts)} contracts",
                remedy=f"set dataset to one of: {', '.join(sorted(contracts)) or 'none'}",
            )
        contract = contracts[names[0]]
        region = self.region or region
        unit = self.unit or "record"
        price = 1000 if unit != "none" else UNBOUNDED_EPSILON
        regions = (region,) if self.helper_regions is None else self.helper_regions
        request = Request(
            principal=PartyName(self.principal or "coordinator"),
            dataset=contract.name,
            purpose=self.purpose or (ATTACK_PURPOSE if self.action == "attack" else "research"),
            region=region,
            leader_region=self.leader_region or region,
            helper_regions=frozenset(regions),
            data_region=contract.region or region,
            allowed_regions=frozenset(contract.allowed_regions or ()),
            lawful_basis=contract.lawful_basis or "",
            public=contract.public,
            retention=contract.retention,
            now=_milliseconds(self.now),
            aggregation=self.aggregation or "masked",
            epsilon_milli=price if self.epsilon_milli is None else self.epsilon_milli,
            unit=unit,
            helpers=3 if self.helpers is None else self.helpers,
            max_colluding=1 if self.max_colluding is None else self.max_colluding,
            min_cohort=3 if self.min_cohort is None else self.min_cohort,
            own_helper=self.own_helper is not False,
            own_noise=self.own_noise is True,
            code=self.code or "pinned",
            code_digest=self.code_digest or "",
            attestation=self.attestation or "none",
            action=self.action or "train",
        )
        return request, contract


class RowTable(Table):
    """A row, and whether it must be kept."""

    row: dict[str, bool | int | str | datetime | date] = Field(
        description="Values by column; a column that is left out is empty."
    )
    kept: bool = Field(description="Whether the rules let the run use it.")


class CaseTable(Table):
    """One test."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="What it is about; unique in the file."
    )
    expect: Literal["allow", "deny"] = Field(description="What the rules must say of the run.")
    rule: str | None = Field(
        default=None, description="`@id` of a rule that must be among those that decided."
    )
    request: RequestTable = RequestTable()
    rows: tuple[RowTable, ...] = Field(default=(), description="Rows of the data set to try.")

    @model_validator(mode="after")
    def _rows_need_a_run(self) -> Self:
        if self.rows and self.expect == "deny":
            raise ValueError("a run that is denied reads no rows")
        return self


class CaseFile(Table):
    """A ``tests/*.toml`` file of a site."""

    version: Literal[1] = Field(description="Version of the file format.")
    defaults: RequestTable = RequestTable()
    test: Annotated[tuple[CaseTable, ...], Field(min_length=1)] = Field(description="The tests.")

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        names = [case.name for case in self.test]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two tests are named '{name}'")
        return self

    @property
    def digest(self) -> Digest:
        """SHA-256 of the validated content, whatever the file's layout."""
        content = self.model_dump(mode="json")
        return Digest(hashlib.sha256(rfc8785.dumps(integers_as_text(content))).digest())


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one test went.

    Args:
        file: Name of its file.
        name: Its name.
        problem: What is not as expected; empty if the test passed.
        explanation: What the rules say.
    """

    file: str
    name: str
    problem: str
    explanation: str

    @property
    def passed(self) -> bool:
        """Whether all is as expected."""
        return not self.problem


def load_cases(folder: Path) -> dict[str, CaseFile]:
    """The test files of a site, by name; none if it has no such folder.

    Raises:
        ConfigError: A file is wrong, or is no ``*.toml``; names file, key and remedy.
    """
    found: dict[str, CaseFile] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith((".", "__")):
            continue  # What editors and pytest leave behind.
        if path.suffix != ".toml":
            raise ConfigError(
                "policy.stray-test",
                f"{path} is not a *.toml file, so it would test nothing",
                remedy="rename it to NAME.toml, or move it out of the folder",
                file=str(path),
            )
        found[path.name] = load_toml(path, CaseFile)
    return found


def run_cases(
    policy: Policy, contracts: Mapping[str, Contract], region: str, files: Mapping[str, CaseFile]
) -> list[CaseResult]:
    """Runs every test.

    Args:
        policy: The rules.
        contracts: The site's contracts by name.
        region: The site's region.
        files: Test files by name.
    """
    return [
        replace(run_case(policy, contracts, region, case, content.defaults), file=file)
        for file, content in files.items()
        for case in content.test
    ]


def run_case(
    policy: Policy,
    contracts: Mapping[str, Contract],
    region: str,
    case: CaseTable,
    defaults: RequestTable,
) -> CaseResult:
    """Runs one test; arguments as ``run_cases`` has them.

    Args:
        policy: The rules.
        contracts: The site's contracts by name.
        region: The site's region.
        case: The test.
        defaults: What its request does not say.
    """
    try:
        request, contract = case.request.over(defaults).request(contracts, region)
        problem, explanation = _asked(policy, case, request, contract)
    except TacitError as error:
        problem, explanation = "the rules could not be asked", str(error)
    return CaseResult("", case.name, problem, explanation)


def _asked(
    policy: Policy, case: CaseTable, request: Request, contract: Contract
) -> tuple[str, str]:
    """What is wrong with one test, and what the rules say."""
    decision, rows = policy.decide(request), None
    given, explanation = "allow" if decision.allowed else "deny", decision.explanation
    try:
        if decision.allowed:
            rows = policy.permit(request, contract, NO_POLICY).rows
    except PolicyDenied as error:  # A run that can use no row is refused.
        given, explanation = "deny", error.message
    if given != case.expect:
        return f"expected {case.expect}, got {given}", explanation
    if case.rule is not None and case.rule not in decision.rules:
        return f"rule '{case.rule}' is not among those that decided", explanation
    if not case.rows:
        return "", explanation
    kept = f"rows kept: {'all' if rows is None else rows.text}"
    return _row_problem(case.rows, rows, contract), kept


def _row_problem(tables: Sequence[RowTable], rows: RowFilter | None, contract: Contract) -> str:
    known = {column.name: column.logical_type for column in contract.columns if column.filters}
    for number, table in enumerate(tables, start=1):
        for name, value in table.row.items():
            if name not in known:
                return f"row {number}: rules of this data set know no column '{name}'"
            if not _fits(value, known[name]):
                return f"row {number}: '{name}' is a column of type {known[name]}"
        kept = rows is None or rows.keeps({key: _cell(cell) for key, cell in table.row.items()})
        if kept != table.kept:
            return f"row {number} should be {'kept' if table.kept else 'left out'}, and is not"
    return ""


def _fits(value: Any, kind: str) -> bool:
    types: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "integer": (int,),
        "boolean": (bool,),
        "date": (date,),
        "timestamp": (datetime,),
    }
    return type(value) in types[kind]


def _cell(value: Any) -> Any:
    return (
        EPOCH + timedelta(milliseconds=_milliseconds(value)) if isinstance(value, date) else value
    )


def _milliseconds(moment: datetime | date | None) -> Milliseconds:
    """A TOML date or time; without a zone it is in UTC."""
    if not isinstance(moment, datetime):
        day = date(2000, 1, 1) if moment is None else moment
        moment = datetime(day.year, day.month, day.day)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=EPOCH.tzinfo)
    return Milliseconds((moment - EPOCH) // timedelta(milliseconds=1))
