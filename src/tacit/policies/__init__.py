"""``tacit policy``: test, explain, approve and compare the rules of sites."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from tacit.config import load_toml
from tacit.engine.folder import SiteFolder
from tacit.engine.local import wall_clock
from tacit.errors import ConfigError, SignatureError, TacitError
from tacit.learn.code import load_model
from tacit.learn.feature_map import FeatureMap
from tacit.party.job import JobSpec
from tacit.party.price import run_request
from tacit.party.terms import choose_helpers, plan_for
from tacit.party.workload import Workload
from tacit.policies.code import code
from tacit.policies.comparison import diff, print_json
from tacit.policy.cases import CaseResult, RequestTable, run_cases
from tacit.policy.cedar import Decision, Reason, no_rows
from tacit.policy.contract import Contract
from tacit.policy.folder import PolicyFolder
from tacit.policy.lock import APPROVER_NAME, LOCK_FILE, PolicyLock, approved_by, verify_lock
from tacit.policy.request import Request
from tacit.policy.rows import RowFilter
from tacit.show import console, plain, table
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.roster import Roster
from tacit.types import Milliseconds

__all__ = ["code", "diff", "explain", "key", "lock", "test"]

FAILED = 1


# --- test -------------------------------------------------------------------------------------------


def test(sites: Sequence[Path], *, as_json: bool = False) -> int:
    """Runs the policy tests of sites and prints them; returns the exit code.

    Args:
        sites: Site folders.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: A rule, contract or test file is wrong.
    """
    results = {site: _tested(PolicyFolder.load(site)) for site in sites}
    failed = sum(not result.passed for found in results.values() for result in found)
    total = sum(map(len, results.values()))
    if as_json:
        print_json(
            {
                "passed": failed == 0,
                "tests": [
                    {"site": str(site), **_test_record(result)}
                    for site, found in results.items()
                    for result in found
                ],
            }
        )
        return FAILED if failed else 0
    out = console()
    rows = [
        (site.name, result.file, result.name, _verdict(passed=result.passed))
        for site, found in results.items()
        for result in found
    ]
    if rows:
        out.print(table("Policy tests", ("site", "file", "test", "result"), rows))
    for site, found in results.items():
        _print_failures(site, found)
    if failed:
        out.print(plain(f"{failed} of {total} tests failed", "bold red"))
    elif total:
        out.print(plain(f"all {total} tests passed", "bold green"))
    else:
        out.print("no tests: write some into tests/*.toml of the site folders")
    return FAILED if failed else 0


def _tested(site: PolicyFolder) -> list[CaseResult]:
    return run_cases(site.policy, site.contracts, site.region, site.tests)


def _test_record(result: CaseResult) -> dict[str, Any]:
    return {
        "file": result.file,
        "test": result.name,
        "passed": result.passed,
        "problem": result.problem,
        "explanation": result.explanation,
    }


def _verdict(*, passed: bool) -> Text:
    return Text("passed", "green") if passed else Text("FAILED", "bold red")


def _print_failures(site: Path, results: Sequence[CaseResult]) -> None:
    out = console()
    for result in results:
        if not result.passed:
            head = f"{site / 'tests' / result.file}, '{result.name}': "
            out.print(Text.assemble((head, "bold"), plain(result.problem)))
            out.print(plain(f"  {result.explanation}"))


# --- explain ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a site's policy says of one request."""

    site: str
    request: Request
    decision: Decision
    reasons: tuple[Reason, ...]
    rows: RowFilter | None
    row_problem: TacitError | None
    lock_problem: TacitError | None

    @property
    def allowed(self) -> bool:
        none = self.rows is not None and self.rows.keeps_none
        return self.decision.allowed and self.row_problem is None and not none

    @property
    def rows_text(self) -> str:
        if self.row_problem is not None:
            return f"none: {self.row_problem.message}"
        if self.rows is None:
            return "all"
        return f"none: {no_rows(self.rows)}" if self.rows.keeps_none else self.rows.text


def explain(site: Path, job: Path, *, request: Path | None = None, as_json: bool = False) -> int:
    """Prints what a site's policy says of a job, or of a request, and why; returns the exit code.

    Args:
        site: The site folder; nothing of its data is read.
        job: The job file, beside ``federation.toml``.
        request: A TOML file with the fields of a request instead.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: A file is wrong, or the site has no such data set.
    """
    opened = SiteFolder.load(site)
    if request is not None:
        fields = load_toml(request, RequestTable)
        asked, contract = fields.request(opened.contracts, opened.config.region)
    else:
        asked, contract = _job_request(job, opened)
    answer = _asked(opened, asked, contract)
    if as_json:
        print_json(_answer_record(answer))
    else:
        _print_answer(answer)
    return 0 if answer.allowed else FAILED


def _asked(site: SiteFolder, request: Request, contract: Contract) -> _Answer:
    decision = site.policy.decide(request)
    rows, row_problem, lock_problem = None, None, None
    try:
        rows = site.policy.rows(request, contract)
    except TacitError as error:
        row_problem = error
    try:
        site.lock(wall_clock())
    except (ConfigError, SignatureError) as error:
        lock_problem = error
    reasons = () if decision.allowed else site.policy.reasons(request)
    return _Answer(site.name, request, decision, reasons, rows, row_problem, lock_problem)


def _job_request(path: Path, site: SiteFolder) -> tuple[Request, Contract]:
    """The request that the job makes of the site, as a run of all sites of the roster would."""
    job, base = JobSpec.load(path), path.parent
    roster = Roster.load(base / "federation.toml")
    contract = site.contracts.get(job.data.contract)
    if contract is None:
        raise ConfigError(
            "site.contract",
            f"site {site.name} has no contract named '{job.data.contract}'",
            remedy="correct data.contract in the job, or add the contract at the site",
            key="data.contract",
        )
    clients = tuple(member.name for member in roster.with_role("client"))
    helpers = choose_helpers(job, clients)
    schema, options = contract.schema(), job.features
    columns, size = len(schema.features), (options.height, options.width)
    feature_map = FeatureMap.load(options.map, size, options.file(base), columns)
    classes = len(schema.classes)
    model = load_model(
        job.model, base, features=columns, classes=classes, expected=None, feature_map=feature_map
    )
    length = Workload.build(job, model, classes).length
    plan = plan_for(job, clients=len(clients), helpers=len(helpers), length=length)
    leaders = [member.name for member in roster.with_role("leader")]
    if len(leaders) != 1:
        raise ConfigError(
            "roster.leader",
            f"the roster lists {len(leaders)} leaders",
            remedy="give exactly one member the role 'leader' in federation.toml",
        )
    parties = (leaders[0], *helpers)
    request = run_request(
        job, plan, parties, roster, site=site.config, contract=contract, now=wall_clock()
    )
    return dataclasses.replace(request, code_digest=model.code.hex()), contract


def _answer_record(answer: _Answer) -> dict[str, Any]:
    context = answer.request.context()
    return {
        "site": answer.site,
        "allowed": answer.allowed,
        "rules": list(answer.decision.rules),
        "explanation": answer.decision.explanation,
        "reasons": [
            {
                "rule": reason.rule,
                "place": reason.place,
                "effect": reason.effect,
                "conditions": list(reason.conditions),
                "one_suffices": reason.one_suffices,
            }
            for reason in answer.reasons
        ],
        "rows": answer.rows_text,
        "columns": list(answer.rows.columns) if answer.rows is not None else [],
        "locked": answer.lock_problem is None,
        "request": {
            "principal": answer.request.principal,
            "dataset": answer.request.dataset,
            **{k: v["__extn"]["arg"] if isinstance(v, dict) else v for k, v in context.items()},
        },
    }


def _print_answer(answer: _Answer) -> None:
    out, request = console(), answer.request
    asks = f"'{request.principal}' asks for data set '{request.dataset}' for '{request.purpose}'"
    verdict = ("ALLOWED", "bold green") if answer.allowed else ("DENIED", "bold red")
    out.print(Text.assemble(plain(f"site {answer.site}: {asks}: "), verdict))
    if answer.decision.allowed:
        out.print(plain(answer.decision.explanation))
        out.print(plain(f"rows: {answer.rows_text}"))
    elif answer.reasons:
        _print_reasons(answer.reasons)
    else:
        out.print(plain(answer.decision.explanation))
    if answer.lock_problem is not None:
        out.print(plain(f"but no run would start: {answer.lock_problem.message}", "bold yellow"))


def _print_reasons(reasons: Sequence[Reason]) -> None:
    out = console()
    forbids = [reason for reason in reasons if reason.effect == "forbid"]
    permits = [reason for reason in reasons if reason.effect == "permit"]
    for reason in forbids:
        out.print(plain(f"forbidden by '{reason.rule}' ({reason.place})", "bold"))
        for condition in reason.conditions:
            out.print(plain(f"  because {_negated(condition)}"))
        if len(reason.conditions) > 1:
            enough = "one of these does not hold" if reason.one_suffices else "none of these holds"
            out.print(f"  it would be enough that {enough}")
    if forbids:
        out.print("no permit can overrule a forbid")
    for reason in permits:
        out.print(plain(f"not permitted by '{reason.rule}' ({reason.place})", "bold"))
        for condition in reason.conditions:
            out.print(plain(f"  it needs {_negated(condition)}"))


def _negated(condition: str) -> str:
    """``unless { ... }`` as what must hold."""
    return (
        condition.replace("unless {", "not {", 1) if condition.startswith("unless") else condition
    )


# --- key and lock -----------------------------------------------------------------------------------


def key(name: str, site: Path, *, as_json: bool = False) -> int:
    """Makes an approver's key and prints what ``site.toml`` needs; returns the exit code.

    Args:
        name: The approver.
        site: The site folder; the key goes to ``keys/approver-NAME.key``, for its owner alone.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: Not a name, or there is such a key.
    """
    path = _key_file(site, name)
    if not re.fullmatch(APPROVER_NAME, name):
        raise ConfigError(
            "policy.approver-name",
            f"'{name}' is not the name of an approver",
            remedy="use lower-case letters, digits and -, and begin with no -",
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Identity.generate(OsEntropy())
    made.save(path)
    if as_json:
        print_json({"file": str(path), "name": name, "key": made.public_key.hex()})
        return 0
    out = console()
    out.print(plain(f"wrote {path}: keep it where only {name} can read it"))
    out.print(plain(f"add to {site / 'site.toml'}, and set how many approvals are needed:"))
    out.print(plain("\n[policy]\napprovals = 1\n"))
    out.print(plain(f'[policy.approvers]\n{name} = "{made.public_key.hex()}"'))
    return 0


def lock(
    sites: Sequence[Path],
    *,
    name: str | None = None,
    key_file: Path | None = None,
    as_json: bool = False,
) -> int:
    """Approves the policies of sites as they are now; returns the exit code.

    Args:
        sites: Site folders.
        name: Who approves; by default the approver whose key lies in the site's ``keys``.
        key_file: The approver's key; by default ``keys/approver-NAME.key`` of each site.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: A policy test fails, or this is not the key of one of the site's approvers.
    """
    # All of them are checked before one is changed.
    ready = [_ready(SiteFolder.load(site), name, key_file) for site in sites]
    locked = [_locked(*one) for one in ready]
    if as_json:
        print_json({"sites": locked})
        return 0
    out = console()
    for one in locked:
        out.print(plain(f"site {one['site']}, digest {one['digest'][:16]}", "bold"))
        for change in one["changes"]:
            out.print(plain(f"  since the last lock: {change}"))
        out.print(plain(f"  {one['tests']} policy tests passed"))
        count = f"{len(one['approved'])} of {one['needed']} needed"
        out.print(plain(f"  approved by {', '.join(one['approved'])} ({count})"))
        if one["missing"]:
            out.print(plain(f"  no run starts yet: {one['missing']}", "bold yellow"))
    return 0


def _ready(
    site: SiteFolder, name: str | None, key_file: Path | None
) -> tuple[SiteFolder, str, Identity, int]:
    """A site whose tests pass, who approves it with which key, and how many tests there are."""
    results = run_cases(site.policy, site.contracts, site.config.region, site.tests)
    failed = [result for result in results if not result.passed]
    if failed:
        raise ConfigError(
            "policy.tests-failed",
            f"{site.path}: {len(failed)} of {len(results)} policy tests fail, first "
            f"'{failed[0].name}' of {failed[0].file}: {failed[0].problem}",
            remedy="see 'tacit policy test'; only a policy that passes its tests is approved",
            file=str(site.path / "tests" / failed[0].file),
        )
    approver = _approver(site, name)
    path = key_file or _key_file(site.path, approver)
    signer = Identity.load(path)
    if site.config.policy.approvers[approver] != signer.public_key.hex():
        raise ConfigError(
            "policy.key",
            f"{path} is not the key that {site.path / 'site.toml'} has for '{approver}'",
            remedy="use the approver's own key, or correct policy.approvers in site.toml",
            file=str(site.path / "site.toml"),
            key=f"policy.approvers.{approver}",
        )
    return site, approver, signer, len(results)


def _locked(site: SiteFolder, approver: str, signer: Identity, tests: int) -> dict[str, Any]:
    path, now = site.path / LOCK_FILE, wall_clock()
    changes, current = _previous(path, site, now)
    if current is None:
        current = PolicyLock.new(site.name, site.parts, now)
    current = current.approved(approver, signer)
    current.write(path)
    site.vouch_for_time(current.time, now)
    problem = ""
    try:
        verify_lock(path, site.parts, site.config.policy, site=site.name, now=now)
    except ConfigError as error:
        problem = error.message
    return {
        "site": site.name,
        "digest": current.digest.hex(),
        "changes": changes,
        "tests": tests,
        "approved": [entry.approver for entry in current.approvals],
        "needed": site.config.policy.approvals,
        "missing": problem,
    }


def _previous(
    path: Path, site: SiteFolder, now: Milliseconds
) -> tuple[list[str], PolicyLock | None]:
    """What changed since the last lock, and that lock, with its valid approvals, if nothing did."""
    try:
        before = PolicyLock.load(path) if path.is_file() else None
    except ConfigError:
        return [f"{LOCK_FILE} itself was altered"], None
    if before is None:
        return [], None
    changes = before.parts.changes(site.parts)
    if changes or before.site != site.name or before.is_ahead_of(now):
        return changes, None
    return [], approved_by(before, site.config.policy)


def _approver(site: SiteFolder, name: str | None) -> str:
    known = sorted(site.config.policy.approvers)
    if name is None:
        here = [one for one in known if _key_file(site.path, one).exists()]
        if len(here) == 1:
            return here[0]
        found = f"{len(here)} approvers have their keys in {site.path / 'keys'}"
    elif name in known:
        return name
    else:
        found = f"{site.path / 'site.toml'} knows no approver '{name}'"
    raise ConfigError(
        "policy.approver",
        f"{found}: who approves?",
        remedy=f"pass --as with one of: {', '.join(known)}; 'tacit policy key' makes keys",
        file=str(site.path / "site.toml"),
    )


def _key_file(site: Path, name: str) -> Path:
    return site / "keys" / f"approver-{name}.key"
