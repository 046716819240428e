"""A site's rule pins the code that may run, by the digest that ``tacit policy code`` prints."""

from __future__ import annotations

import json

from tacit import cli
from tacit.testing.federation import (
    POLICY,
    SmallFederation,
    write_small_federation,
)
from tacit.types import PartyName

NORTH = PartyName("north")


def pinned(capsys, folder) -> dict[str, str]:
    capsys.readouterr()
    assert cli.main(["policy", "code", str(folder / "sites/north"), "logistic", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_rule_pins_code(tmp_path, capsys):
    write_small_federation(tmp_path / "plain")
    rule = pinned(capsys, tmp_path / "plain")["rule"]
    write_small_federation(tmp_path / "pinned", policy=POLICY + rule)
    small = SmallFederation(tmp_path / "pinned")
    assert small.terms.manifest.code.hex() in rule
    small.run()
    assert all(site.last_error is None for site in small.sites.values())


def test_other_code_is_denied_by_its_digest(tmp_path, capsys):
    write_small_federation(tmp_path / "plain")
    found = pinned(capsys, tmp_path / "plain")
    rule = found["rule"].replace(found["digest"], "0" * 64)
    write_small_federation(tmp_path / "pinned", policy=POLICY + rule)
    small = SmallFederation(tmp_path / "pinned")
    small.deliver(small.start())
    error = small.sites[NORTH].last_error
    assert error.code == "policy.denied"
    assert "approved-code" in str(error)


def test_a_file_elsewhere_is_refused(tmp_path, capsys):
    write_small_federation(tmp_path / "f")
    site = tmp_path / "f" / "sites" / "north"
    (tmp_path / "model.py").write_text("raise SystemExit")
    assert cli.main(["policy", "code", str(site), str(tmp_path / "model.py"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["code"] == "policy.code-place"
    (site / "code").mkdir()
    (site / "code" / "model.py").write_text("raise SystemExit")
    arguments = ["policy", "code", str(site), str(site / "code" / "model.py")]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "context.code_digest ==" in shown
    (site / "code" / "model.py").write_text("raise SystemExit ")
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out != shown


def test_the_digest_is_an_attribute_of_policy_tests(tmp_path, capsys):
    write_small_federation(tmp_path / "f")
    site = tmp_path / "f" / "sites" / "north"
    found = pinned(capsys, tmp_path / "f")
    with (site / "policies" / "train.cedar").open("a") as rules:
        rules.write(found["rule"])
    (site / "tests").mkdir(exist_ok=True)
    for digest, code in ((found["digest"], 0), ("0" * 64, 1)):
        (site / "tests" / "code.toml").write_text(
            'version = 1\n[[test]]\nname = "pinned"\nexpect = "allow"\n'
            f'request = {{ code_digest = "{digest}", epsilon_milli = 500 }}\n'
        )
        assert cli.main(["policy", "test", str(site), "--json"]) == code
        capsys.readouterr()
