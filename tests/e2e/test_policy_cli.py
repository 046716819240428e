"""``tacit policy``: what operators see, and what scripts can rely on."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tacit.cli import main
from tacit.demo import layout
from tacit.engine.folder import SiteFolder
from tacit.engine.local import wall_clock
from tacit.engine.store import SqliteStore
from tacit.errors import ConfigError
from tacit.party.admission import vouch_for_time
from tacit.policy.lock import PolicyLock
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import write_small_federation
from tacit.testing.policies import READ, TRAIN, write_site_folder
from tacit.trust.identity import Identity
from tacit.types import Milliseconds

ROOT = Path(__file__).parents[2]
TESTS = """\
version = 1

[[test]]
name = "research is allowed"
expect = "allow"
rule = "research"
rows = [{ row = { consent = true }, kept = true }, { row = {}, kept = false }]

[[test]]
name = "marketing is denied"
expect = "deny"
request = { purpose = "marketing" }
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "north"
    write_site_folder(folder, tests=TESTS, approvers=2, needed=2)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code, and what was printed on both streams."""
    code = main(["policy", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def record(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    code = main(["policy", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_tests_pass_or_fail(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "test", site)
    assert (code, "all 2 tests passed" in out) == (0, True)
    edit(site / "policies" / "rules.cedar", 'context.purpose == "research" && ', "")
    code, out = run(capsys, "test", site)
    assert code == 1
    assert "'marketing is denied': expected deny, got allow" in out
    assert "permitted by 'research' (rules.cedar, line 1)" in out
    code, told = record(capsys, "test", site)
    assert (code, told["passed"]) == (1, False)
    assert [test["passed"] for test in told["tests"]] == [True, False]


def test_a_rule_that_is_wrong_is_named_with_its_line(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "policies" / "rules.cedar").write_text(f"{TRAIN}\npermit(principal, action);\n")
    line = TRAIN.count("\n") + 2
    asked = site.parent / "request.toml"
    asked.write_text("")
    explain = ("explain", site, "--request", asked)
    for command in (("test", site), ("lock", site), explain, ("diff", site, site)):
        code, told = record(capsys, *command)
        assert (code, told["code"], told["line"]) == (1, "policy.rule", line)
        assert told["file"].endswith("rules.cedar")


def test_a_lock_takes_as_many_approvals_as_the_site_asks_for(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(capsys, "lock", site)
    assert code == 1
    assert "2 approvers have their keys in" in out
    code, out = run(capsys, "lock", site, "--as", "anna")
    assert code == 0
    assert "2 policy tests passed" in out
    assert "approved by anna (1 of 2 needed)" in out
    assert "no run starts yet" in out
    assert "missing: boris" in out
    first = tomllib.loads((site / "policy.lock").read_text())
    code, told = record(capsys, "lock", site, "--as", "boris")
    assert (code, told["sites"][0]["approved"]) == (0, ["anna", "boris"])
    assert told["sites"][0]["missing"] == ""
    second = tomllib.loads((site / "policy.lock").read_text())
    assert second["locked_at"] == first["locked_at"], "an approval was added, nothing is new"
    edit(site / "policies" / "rules.cedar", "2000", "1500")
    code, told = record(capsys, "lock", site, "--as", "boris")
    assert told["sites"][0]["changes"] == ["policies/rules.cedar was changed"]
    assert told["sites"][0]["approved"] == ["boris"], "anna has not approved the change"


def test_a_lock_from_a_wrong_clock_is_made_anew(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the remedy says: correct the clock, and lock again."""
    opened = SiteFolder.load(site)
    ahead = PolicyLock.new(opened.name, opened.parts, Milliseconds(wall_clock() + 3_600_000))
    keys = {
        name: Identity.load(site / "keys" / f"approver-{name}.key") for name in ("anna", "boris")
    }
    for name, key in keys.items():
        ahead = ahead.approved(name, key)
    ahead.write(site / "policy.lock")
    with pytest.raises(ConfigError, match="in the future"):
        opened.lock(wall_clock())
    for name in keys:
        assert run(capsys, "lock", site, "--as", name)[0] == 0
    assert opened.lock(wall_clock())


@pytest.mark.parametrize(
    ("body", "enough"),
    [
        ("context.private && context.own_helper", "one of these does not hold"),
        ("context.private || context.own_helper", "none of these holds"),
    ],
)
def test_what_would_lift_a_forbid_is_said(
    site: Path, capsys: pytest.CaptureFixture[str], body: str, enough: str
) -> None:
    rules = site / "policies" / "rules.cedar"
    edit(rules, READ, READ + f'@id("no") forbid(principal, action, resource) when {{ {body} }};')
    asked = site.parent / "request.toml"
    asked.write_text("")
    code, out = run(capsys, "explain", site, "--request", asked)
    assert (code, f"it would be enough that {enough}" in " ".join(out.split())) == (1, True)
    _, told = record(capsys, "explain", site, "--request", asked)
    assert told["reasons"][0]["one_suffices"] == ("&&" in body)


def test_plain_aggregation_is_explained(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The permit that matches is why, and not another that does not."""
    other = '@id("other") permit(principal, action == Action::"train", resource) when {'
    edit(site / "policies" / "rules.cedar", READ, READ + other + ' context.purpose == "x" };')
    asked = site.parent / "request.toml"
    asked.write_text('aggregation = "plain"\n')
    code, out = run(capsys, "explain", site, "--request", asked)
    assert code == 1
    assert "plain aggregation needs a permit that asks for" in " ".join(out.split())
    assert "'other'" not in out


def test_no_lock_without_passing_tests_and_the_right_key(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = site.parent / "stranger.key"
    Identity.generate(SeededEntropy("stranger")).save(stranger)
    code, told = record(capsys, "lock", site, "--as", "anna", "--key", stranger)
    assert (code, told["code"]) == (1, "policy.key")
    code, told = record(capsys, "lock", site, "--as", "dora")
    assert (code, told["code"]) == (1, "policy.approver")
    (site / "keys" / "approver-anna.key").chmod(0o644)
    code, told = record(capsys, "lock", site, "--as", "anna")
    assert (code, told["code"]) == (1, "trust.key-permissions")
    edit(site / "tests" / "rules.toml", 'expect = "deny"', 'expect = "allow"')
    code, told = record(capsys, "lock", site, "--as", "boris")
    assert (code, told["code"]) == (1, "policy.tests-failed")
    assert not (site / "policy.lock").exists()


def test_a_key_fits_into_the_site_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "key", "dora", "--site", tmp_path)
    path = tmp_path / "keys" / "approver-dora.key"
    assert code == 0
    assert path.stat().st_mode & 0o077 == 0
    table = tomllib.loads(out[out.index("[policy]") :])["policy"]
    assert table["approvers"] == {"dora": Identity.load(path).public_key.hex()}
    code, told = record(capsys, "key", "dora", "--site", tmp_path)
    assert (code, told["code"]) == (1, "file.exists")
    for name in ("Dora", "../x", "", "d_ra", "d" * 65):
        code, told = record(capsys, "key", name, "--site", tmp_path)
        assert (code, told["code"]) == (1, "policy.approver-name")


def test_a_request_is_explained(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = site.parent / "request.toml"
    asked.write_text('purpose = "research"\n')
    code, out = run(capsys, "explain", site, "--request", asked)
    assert code == 0
    assert "ALLOWED" in out
    assert "permitted by 'research' (rules.cedar, line 1)" in out
    assert "rows: resource.consent" in out
    assert "but no run would start" in out
    edit(
        site / "policies" / "rules.cedar",
        READ,
        READ + '@id("few") forbid(principal, action, resource) '
        "when { context.helpers < 4 || context.own_noise };",
    )
    asked.write_text('purpose = "marketing"\nhelpers = 3\n')
    code, out = run(capsys, "explain", site, "--request", asked)
    assert code == 1
    assert "DENIED" in out
    assert "forbidden by 'few' (rules.cedar, line " in out
    assert "because context.helpers < 4 (context.helpers is 3)" in out
    assert "context.own_noise" not in out, "this alternative does not hold"
    assert 'it needs context.purpose == "research" (context.purpose is "marketing")' in out
    code, told = record(capsys, "explain", site, "--request", asked)
    assert (code, told["allowed"], told["rules"]) == (1, False, ["few"])
    asked.write_text("helprs = 3\n")
    code, told = record(capsys, "explain", site, "--request", asked)
    assert told["remedy"] == "did you mean 'helpers'?"


def test_a_job_is_explained_without_reading_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_small_federation(tmp_path / "small")
    north = tmp_path / "small" / "sites" / "north"
    (north / "data" / "records.csv").unlink()
    code, told = record(capsys, "explain", north, "--job", job)
    assert (code, told["allowed"], told["rules"]) == (0, True, ["research-only"])
    assert told["locked"] is True
    assert told["request"]["helpers"] == 4
    assert told["request"]["epsilon_milli"] <= 600
    code, told = record(capsys, "explain", north, "--job", job.parent / "none.toml")
    assert (code, told["code"]) == (1, "job.missing")
    edit(north / "contracts" / "small.toml", 'name = "small"', 'name = "other"')
    code, told = record(capsys, "explain", north, "--job", job)
    assert (code, told["code"]) == (1, "site.contract")


def test_an_altered_contract_stops_a_run_until_it_is_approved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_small_federation(tmp_path / "small")
    contract = tmp_path / "small" / "sites" / "north" / "contracts" / "small.toml"
    contract.write_text(contract.read_text() + "\n# A comment is no change.\n")
    assert main(["check", str(job), "--json"]) == 0
    capsys.readouterr()
    edit(contract, 'name = "small"', 'name = "small"\nversion = "2.0.0"')
    assert main(["check", str(job), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["code"] == "policy.altered"
    assert "contract 'small' was changed" in told["message"]
    assert run(capsys, "lock", contract.parents[1])[0] == 0
    assert main(["check", str(job), "--json"]) == 0


def test_differences_are_listed(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = site.parent / "south"
    write_site_folder(other)
    code, out = run(capsys, "diff", site, other)
    assert code == 0
    assert "no decision changes" in out
    edit(other / "policies" / "rules.cedar", "2000", "3000")
    edit(other / "policies" / "rules.cedar", "resource.consent", "!resource.consent")
    code, out = run(capsys, "diff", site, other)
    assert code == 0
    assert "a run: deny -> allow by 'research'" in out
    assert "principal = coordinator" in out
    assert "epsilon_milli = 2001 to 3000" in out
    assert "a row: left out -> kept by 'consented'" in out
    assert "consent = false" in out
    code, told = record(capsys, "diff", site, other, "--only", "purpose=marketing")
    assert [change["action"] for change in told["changes"]] == ["read", "read"]
    for wrong in ("purpos=x", "own_helper=maybe", "helpers=few", "helpers=--5", "now=today"):
        code, told = record(capsys, "diff", site, other, "--only", wrong)
        assert (code, told["code"]) == (1, "policy.only")
    two = ("--only", "epsilon_milli=2500", "--only", "epsilon_milli=4000")
    code, told = record(capsys, "diff", site, other, "--only", "purpose=research", *two)
    train = [change for change in told["changes"] if change["action"] == "train"]
    assert [change["where"]["epsilon_milli"] for change in train] == ["2500"], "and no range"
    for impossible in ("dataset=recrods", "region=us", "unit=person"):
        code, told = record(capsys, "diff", site, other, "--only", impossible)
        assert (code, told["code"]) == (1, "policy.only"), impossible
    code, told = record(capsys, "diff", site, other / "contracts")
    assert (code, told["code"]) == (1, "policy.diff")


def test_folders_of_rules_can_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, limit in (("old", 1000), ("new", 2000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.cedar").write_text(TRAIN.replace("2000", str(limit)))
    code, out = run(capsys, "diff", tmp_path / "old", tmp_path / "new")
    assert (code, "epsilon_milli = 1001 to 2000" in out) == (0, True)
    old, new = tmp_path / "old", tmp_path / "new"
    assert run(capsys, "diff", "--exit-code", old, new)[0] == 1
    assert record(capsys, "diff", "--exit-code", old, new)[0] == 1
    assert run(capsys, "diff", "--exit-code", old, old)[0] == 0


def test_the_pre_commit_hook_runs_the_tests(tmp_path: Path) -> None:
    """The entry of the hook, as pre-commit runs it: in the repository's root, without files."""
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    entry = next(line for line in text.splitlines() if line.strip().startswith("entry:"))
    words = shlex.split(entry.partition(":")[2])
    assert words[0] == "tacit"
    write_site_folder(tmp_path / "sites" / "north", tests=TESTS)
    command = [sys.executable, "-m", "tacit.cli", *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    def code() -> int:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        return done.returncode

    assert code() == 0
    rules = tmp_path / "sites" / "north" / "policies" / "rules.cedar"
    edit(rules, 'context.purpose == "research" && ', "")
    assert code() == 1


def test_an_older_policy_with_its_older_lock_does_not_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an approver signed once stays signed; a site decides under the latest lock it knows only."""
    write_small_federation(tmp_path / "small")
    monkeypatch.chdir(tmp_path / "small")
    site = Path("sites/north")
    before = (site / "policy.lock").read_bytes()
    monkeypatch.setattr(layout, "wall_clock", lambda: Milliseconds(wall_clock() + 2000))
    extra = site / "policies" / "more.cedar"
    extra.write_text('@id("more") forbid (principal, action, resource) when { false };')
    layout.lock_site(site)
    assert main(["run", "--json", "--out", "runs/a"]) == 0
    capsys.readouterr()
    extra.unlink()
    (site / "policy.lock").write_bytes(before)
    assert main(["check", "--json"]) == 1
    answers = json.loads(capsys.readouterr().out)["sites"]
    (north,) = [item["error"] for item in answers if item["site"] == "north"]
    assert north["code"] == "policy.replayed"
    layout.lock_site(site)
    assert main(["check", "--json"]) == 0


def test_an_approver_ends_what_a_clock_that_ran_ahead_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small_federation(tmp_path / "small")
    monkeypatch.chdir(tmp_path / "small")
    store = SqliteStore(Path("sites/north/state/tacit.db"))
    vouch_for_time(store, Milliseconds(0), Milliseconds(wall_clock() + 10**9))
    store.close()
    assert main(["check", "--json"]) == 1
    answers = json.loads(capsys.readouterr().out)["sites"]
    (north,) = [item["error"] for item in answers if item["site"] == "north"]
    assert north["code"] == "site.clock"
    assert "tacit policy lock" in north["remedy"]
    assert main(["policy", "lock", "sites/north"]) == 0
    assert main(["check", "--json"]) == 0
