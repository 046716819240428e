from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tacit.config import parse_table
from tacit.errors import ConfigError, SignatureError, TacitError
from tacit.policy import Contract, Policy
from tacit.policy.cases import load_cases
from tacit.policy.lock import LOCK_FILE, Approvers, Parts, PolicyLock, verify_lock
from tacit.testing.entropy import SeededEntropy
from tacit.testing.policies import NOW, TRAIN, write_site_folder
from tacit.trust.identity import Identity
from tacit.types import Digest, Milliseconds

TESTS = """version = 1
[[test]]
name = "research is allowed"
expect = "allow"
"""


def parts(site: Path) -> Parts:
    contracts = [Contract.load(path) for path in sorted((site / "contracts").glob("*.toml"))]
    policy = Policy.load(site / "policies", contracts)
    return Parts.of(policy, contracts, load_cases(site / "tests"))


def approvers(site: Path) -> Approvers:
    content = tomllib.loads((site / "site.toml").read_text())["policy"]
    return parse_table(content, Approvers, "site.toml")


def check(site: Path, now: Milliseconds = NOW) -> Digest:
    return verify_lock(site / LOCK_FILE, parts(site), approvers(site), site=site.name, now=now)


def lock(site: Path, keys: dict[str, Identity], *names: str) -> PolicyLock:
    made = PolicyLock.new(site.name, parts(site), NOW)
    for name in names:
        made = made.approved(name, keys[name])
    made.write(site / LOCK_FILE)
    return made


def refusal(site: Path, now: Milliseconds = NOW) -> TacitError:
    with pytest.raises(TacitError) as caught:
        check(site, now)
    return caught.value


def test_a_lock_is_verified_and_read_back(tmp_path: Path) -> None:
    site = tmp_path / "north"
    keys = write_site_folder(site, tests=TESTS)
    made = lock(site, keys, "anna")
    assert PolicyLock.load(site / LOCK_FILE) == made
    assert check(site) == made.digest


def test_without_a_lock_there_is_nothing(tmp_path: Path) -> None:
    site = tmp_path / "north"
    write_site_folder(site)
    assert refusal(site).code == "policy.unlocked"


@pytest.mark.parametrize(
    ("path", "old", "new", "named"),
    [
        ("policies/rules.cedar", "2000", "3000", "policies/rules.cedar was changed"),
        ("policies/more.cedar", "", TRAIN.replace("research", "more"), "more.cedar was added"),
        ("policies/rules.cedar", None, None, "policies/rules.cedar was removed"),
        ("contracts/records.toml", "maximum = 1.0", "maximum = 2.0", "'records' was changed"),
        ("contracts/records.toml", '"records"', '"patients"', "'records' was removed"),
        ("tests/rules.toml", "is allowed", "may pass", "tests/rules.toml was changed"),
        ("tests/rules.toml", None, None, "tests/rules.toml was removed"),
        ("tests/new.toml", "", TESTS, "tests/new.toml was added"),
    ],
)
def test_every_altered_part_is_refused(
    tmp_path: Path, path: str, old: str | None, new: str | None, named: str
) -> None:
    site = tmp_path / "north"
    lock(site, write_site_folder(site, tests=TESTS), "anna")
    if old is None or new is None:
        (site / path).unlink()
    else:
        before = (site / path).read_text() if (site / path).exists() else ""
        after = before.replace(old, new, 1) if old else new
        assert after != before
        (site / path).write_text(after)
    error = refusal(site)
    assert (error.code, type(error)) == ("policy.altered", ConfigError)
    assert named in error.message


def test_comments_and_layout_may_change(tmp_path: Path) -> None:
    site = tmp_path / "north"
    lock(site, write_site_folder(site, tests=TESTS), "anna")
    for path in ("policies/rules.cedar", "contracts/records.toml", "tests/rules.toml"):
        mark = "//" if path.endswith("cedar") else "#"
        (site / path).write_text(f"{mark} Reviewed.\n\n" + (site / path).read_text())
    check(site)


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (r'policy = "\w{4}', 'policy = "0000'),
        (r'digest = "\w{4}', 'digest = "0000'),
        (r'"rules.toml" = "\w{4}', '"rules.toml" = "0000'),
    ],
)
def test_an_altered_lock_is_refused(tmp_path: Path, pattern: str, new: str) -> None:
    site = tmp_path / "north"
    lock(site, write_site_folder(site, tests=TESTS), "anna")
    text = (site / LOCK_FILE).read_text()
    altered, count = re.subn(pattern, new, text)
    assert count == 1
    (site / LOCK_FILE).write_text(altered)
    assert refusal(site).code == "policy.altered"


def test_a_lock_whose_time_was_moved_is_forged(tmp_path: Path) -> None:
    site = tmp_path / "north"
    lock(site, write_site_folder(site), "anna")
    text = (site / LOCK_FILE).read_text()
    (site / LOCK_FILE).write_text(text.replace("2026-11-26", "2026-11-25"))
    assert isinstance(refusal(site), SignatureError)


def test_a_forged_approval_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "north"
    write_site_folder(site)
    stranger = Identity.generate(SeededEntropy("stranger"))
    lock(site, {"anna": stranger}, "anna")
    error = refusal(site)
    assert (type(error), error.code) == (SignatureError, "policy.signature")
    assert error.details["approver"] == "anna"


def test_an_approval_of_something_else_is_refused(tmp_path: Path) -> None:
    """The signature of an earlier lock under the parts of a later one."""
    site = tmp_path / "north"
    keys = write_site_folder(site)
    earlier = lock(site, keys, "anna").approvals[0].signature.hex()
    (site / "policies" / "rules.cedar").write_text(TRAIN)
    later = lock(site, keys, "anna").approvals[0].signature.hex()
    text = (site / LOCK_FILE).read_text()
    (site / LOCK_FILE).write_text(text.replace(later, earlier))
    assert isinstance(refusal(site), SignatureError)


def test_a_lock_of_another_site_is_refused(tmp_path: Path) -> None:
    north, south = tmp_path / "north", tmp_path / "south"
    lock(north, write_site_folder(north), "anna")
    write_site_folder(south)
    (south / LOCK_FILE).write_text((north / LOCK_FILE).read_text())
    assert refusal(south).code == "policy.lock-site"
    text = (north / LOCK_FILE).read_text().replace('"north"', '"south"')
    (south / LOCK_FILE).write_text(text)
    assert refusal(south).code == "policy.altered"


def test_too_few_approvals_are_refused(tmp_path: Path) -> None:
    site = tmp_path / "north"
    keys = write_site_folder(site, approvers=3, needed=2)
    lock(site, keys)
    assert "0 of 2 approvals; missing: 2 of anna, boris, chen" in refusal(site).message
    lock(site, keys, "boris")
    error = refusal(site)
    assert error.code == "policy.approvals"
    assert "1 of 2 approvals; missing: 1 of anna, chen" in error.message
    lock(site, keys, "boris", "chen")
    check(site)


def test_one_approver_counts_once(tmp_path: Path) -> None:
    site = tmp_path / "north"
    keys = write_site_folder(site, approvers=2, needed=2)
    made = lock(site, keys, "anna", "anna")
    assert len(made.approvals) == 1
    text = (site / LOCK_FILE).read_text()
    (site / LOCK_FILE).write_text(text + text[text.index("[[approvals]]") :])
    assert refusal(site).code == "policy.approver"


def test_an_unknown_approver_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "north"
    keys = write_site_folder(site)
    made = lock(site, keys, "anna").approved("dora", Identity.generate(SeededEntropy("dora")))
    made.write(site / LOCK_FILE)
    error = refusal(site)
    assert error.code == "policy.approver"
    assert "'dora'" in error.message


@pytest.mark.parametrize(("minutes", "accepted"), [(-6, False), (-4, True), (60, True)])
def test_a_lock_from_the_future_is_refused(tmp_path: Path, minutes: int, *, accepted: bool) -> None:
    site = tmp_path / "north"
    lock(site, write_site_folder(site), "anna")
    now = Milliseconds(NOW + minutes * 60_000)
    if accepted:
        check(site, now)
    else:
        assert refusal(site, now).code == "policy.clock"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"approvals": 2}, "2 approvals are needed, but there are 1"),
        ({"approvals": 0}, "greater than or equal to 1"),
        ({"approvers": {"anna": "00"}}, "approvers.anna"),
        ({"approvers": {}}, "at least 1"),
        ({"approvers": {"anna": "0" * 64, "boris": "0" * 64}}, "the same key"),
        ({"aprovals": 1}, "did you mean 'approvals'"),
    ],
)
def test_wrong_approvers_are_refused(change: dict[str, Any], reason: str) -> None:
    content = {"approvals": 1, "approvers": {"anna": "0" * 64}, **change}
    with pytest.raises(ConfigError, match=reason):
        parse_table(content, Approvers, "site.toml")


def test_names_of_files_are_quoted(tmp_path: Path) -> None:
    site = tmp_path / "north"
    keys = write_site_folder(site)
    (site / "policies" / 'a "b\\c.é.cedar').write_text(TRAIN.replace("research", "more"))
    made = lock(site, keys, "anna")
    assert PolicyLock.load(site / LOCK_FILE) == made


def test_a_malformed_lock_is_a_config_error(tmp_path: Path) -> None:
    site = tmp_path / "north"
    write_site_folder(site)
    (site / LOCK_FILE).write_text("version = 1\nsite = 3\n")
    assert refusal(site).code.startswith("config.")
