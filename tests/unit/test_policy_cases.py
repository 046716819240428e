from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from tacit.config import parse_table
from tacit.errors import ConfigError
from tacit.policy import Contract, Policy
from tacit.policy.cases import CaseFile, CaseResult, RequestTable, load_cases, run_cases
from tacit.policy.folder import PolicyFolder
from tacit.policy.request import UNBOUNDED_EPSILON
from tacit.testing.policies import READ, TRAIN, small_contract, write_site_folder

FILTERS = {"consent": "boolean", "born": "date", "seen": "timestamp", "age": "integer"}
FORBID = """
@id("grown-up")
forbid(principal, action == Action::"read", resource)
when { resource.age < 18 || resource.seen > context.now };
"""


def run(
    folder: Path, *tests: dict[str, Any], rules: str = TRAIN + READ, **keys: Any
) -> list[CaseResult]:
    contract = small_contract(FILTERS, **keys)
    (folder / "rules.cedar").write_text(rules)
    table = {"version": 1, "test": [{"name": str(i), **test} for i, test in enumerate(tests)]}
    file = parse_table(table, CaseFile, "rules.toml")
    policy = Policy.load(folder, [contract])
    return run_cases(policy, {contract.name: contract}, "eu", {"rules.toml": file})


def test_what_the_rules_must_say(tmp_path: Path) -> None:
    marketing = {"purpose": "marketing"}
    results = run(
        tmp_path,
        {"expect": "allow"},
        {"expect": "deny"},
        {"expect": "deny", "request": marketing},
        {"expect": "allow", "request": marketing},
        {"expect": "allow", "rule": "research"},
        {"expect": "allow", "rule": "other"},
    )
    assert [result.passed for result in results] == [True, False, True, False, True, False]
    assert results[1].problem == "expected deny, got allow"
    assert "permitted by 'research' (rules.cedar, line 1)" in results[1].explanation
    assert 'context.purpose == "research"' in results[3].explanation
    assert results[5].problem == "rule 'other' is not among those that decided"
    assert results[0].file == "rules.toml"


def test_a_run_that_could_use_no_row_is_denied(tmp_path: Path) -> None:
    """As a run is, and as explain says."""
    cases: list[dict[str, Any]] = [{"expect": "allow"}, {"expect": "deny", "rule": "research"}]
    allowed, denied = run(tmp_path, *cases, rules=TRAIN)
    assert denied.passed
    assert allowed.problem == "expected allow, got deny"
    assert 'no permit for Action::"read" applies' in allowed.explanation


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({"consent": True, "age": 40, "seen": date(2020, 1, 1)}, False),
        ({"consent": True, "age": 40, "seen": datetime(2020, 1, 1, tzinfo=UTC)}, True),
        ({"consent": True, "age": 40, "seen": datetime(2030, 1, 1, tzinfo=UTC)}, False),
        ({"consent": True, "age": 17, "seen": datetime(2020, 1, 1, tzinfo=UTC)}, False),
        ({"consent": False, "age": 40, "seen": datetime(2020, 1, 1, tzinfo=UTC)}, False),
        ({"age": 40, "seen": datetime(2020, 1, 1, tzinfo=UTC)}, False),
        ({"consent": True}, False),
    ],
)
def test_rows_that_must_be_kept(tmp_path: Path, row: dict[str, Any], *, kept: bool) -> None:
    request = {"now": datetime(2026, 11, 26, 10, tzinfo=UTC)}
    right, wrong = run(
        tmp_path,
        {"expect": "allow", "request": request, "rows": ({"row": row, "kept": kept},)},
        {"expect": "allow", "request": request, "rows": ({"row": row, "kept": not kept},)},
        rules=TRAIN + READ + FORBID,
    )
    wrong_type = type(row.get("seen")) is date
    assert right.passed != wrong_type
    assert not wrong.passed
    if wrong_type:
        assert right.problem == "row 1: 'seen' is a column of type timestamp"
    else:
        assert wrong.problem == f"row 1 should be {'left out' if kept else 'kept'}, and is not"
        assert "rows kept: resource.consent && !(" in wrong.explanation


def test_a_row_may_only_have_columns_that_rules_know(tmp_path: Path) -> None:
    (result,) = run(tmp_path, {"expect": "allow", "rows": ({"row": {"size": 1}, "kept": True},)})
    assert result.problem == "row 1: rules of this data set know no column 'size'"


def test_the_contract_is_part_of_the_request(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        {"expect": "allow", "request": {"now": date(2026, 11, 26)}},
        {"expect": "deny", "rule": "tacit:retention", "request": {"now": date(2026, 11, 27)}},
        {"expect": "deny", "rule": "tacit:regions", "request": {"leader_region": "us"}},
        retention=date(2026, 11, 26),
        allowed_regions=("eu",),
    )
    assert [result.problem for result in results] == ["", "", ""]


def test_defaults_of_a_file_and_of_all() -> None:
    contract = small_contract()
    defaults = RequestTable(purpose="care", unit="none")
    request, _ = RequestTable(unit="entity").over(defaults).request({"records": contract}, "eu")
    assert (request.purpose, request.unit, request.epsilon_milli) == ("care", "entity", 1000)
    request, _ = defaults.request({"records": contract}, "eu")
    assert (request.private, request.epsilon_milli) == (False, UNBOUNDED_EPSILON)
    assert request.now == 946_684_800_000  # 2000-01-01, whatever today is


def test_a_data_set_must_be_known() -> None:
    contracts: dict[str, Contract] = {"a": small_contract(), "b": small_contract()}
    for table, reason in (
        (RequestTable(), "the site has 2 contracts"),
        (RequestTable(dataset="c"), "data set 'c'"),
    ):
        with pytest.raises(ConfigError, match=reason) as caught:
            table.request(contracts, "eu")
        assert "one of: a, b" in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"expct": "deny"}, "did you mean 'expect'"),
        ({"request": {"purpos": "x"}}, "did you mean 'purpose'"),
        ({"request": {"epsilon_milli": "1"}}, "epsilon_milli"),
        ({"expect": "deny", "rows": ({"row": {}, "kept": True},)}, "reads no rows"),
        ({"expect": "maybe"}, "expect"),
    ],
)
def test_a_wrong_test_is_refused(change: dict[str, Any], reason: str) -> None:
    test = {"name": "a", "expect": "allow", **change}
    with pytest.raises(ConfigError, match=reason):
        parse_table({"version": 1, "test": (test,)}, CaseFile, "a.toml")


def test_names_are_distinct_and_files_are_toml(tmp_path: Path) -> None:
    test = {"name": "a", "expect": "allow"}
    with pytest.raises(ConfigError, match="two tests are named 'a'"):
        parse_table({"version": 1, "test": (test, test)}, CaseFile, "a.toml")
    assert load_cases(tmp_path / "none") == {}
    (tmp_path / "rules.tml").write_text("")
    with pytest.raises(ConfigError, match="would test nothing"):
        load_cases(tmp_path)


def test_the_digest_is_that_of_the_content() -> None:
    def digest(epsilon: int) -> bytes:
        test = {"name": "a", "expect": "allow", "request": {"epsilon_milli": epsilon}}
        return parse_table({"version": 1, "test": (test,)}, CaseFile, "a.toml").digest

    assert digest(UNBOUNDED_EPSILON) != digest(UNBOUNDED_EPSILON - 1)
    assert digest(1) == digest(1)


TESTS = """\
version = 1

[[test]]
name = "research is allowed"
expect = "allow"
rows = [{ row = { consent = true }, kept = true }, { row = {}, kept = false }]

[[test]]
name = "marketing is allowed"
expect = "allow"
request = { purpose = "marketing" }
"""


def pytest_run(folder: Path) -> subprocess.CompletedProcess[str]:
    """A pytest of its own, which knows nothing but the plugin."""
    command = [sys.executable, "-m", "pytest", "-p", "tacit.policy.pytest_plugin", "-v"]
    options = ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder), str(folder)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environment, check=False
    )


def test_pytest_collects_policy_tests(tmp_path: Path) -> None:
    write_site_folder(tmp_path / "north", tests=TESTS)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "other.toml").write_text("not = 'a policy test'")
    (tmp_path / "north" / "tests" / ".draft.toml").write_text("what an editor leaves behind")
    # Of another project: a site.toml, and tests in TOML of its own.
    (tmp_path / "blog" / "tests").mkdir(parents=True)
    (tmp_path / "blog" / "site.toml").write_text("title = 'a blog'")
    (tmp_path / "blog" / "tests" / "pages.toml").write_text("not = 'a policy test'")
    done = pytest_run(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "rules.toml::research is allowed PASSED" in done.stdout
    assert "rules.toml::marketing is allowed FAILED" in done.stdout
    assert "expected allow, got deny" in done.stdout
    assert "no permit matched; the nearest, 'research', failed on" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_plugin_loads_nothing_that_other_projects_would_wait_for() -> None:
    code = "import sys, tacit.policy.pytest_plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "tacit.errors" in loaded
    assert not loaded & {"cedarpy", "pydantic", "pyarrow", "numpy", "tacit.policy.cedar"}


def test_pytest_says_what_is_wrong_with_a_rule(tmp_path: Path) -> None:
    write_site_folder(tmp_path / "north", tests=TESTS, rules="permit(principal, action, rsource);")
    done = pytest_run(tmp_path)
    assert done.returncode == 2
    assert "rules.cedar, rule at line 1" in done.stdout


def test_a_policy_folder_is_a_site(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"site\.toml"):
        PolicyFolder.load(tmp_path)
    write_site_folder(tmp_path / "north", tests=TESTS)
    site = PolicyFolder.load(tmp_path / "north")
    assert (site.region, list(site.contracts), list(site.tests)) == (
        "eu",
        ["records"],
        ["rules.toml"],
    )
