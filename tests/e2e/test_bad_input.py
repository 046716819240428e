"""Bad input, line by line: a typed error that names file, key and remedy, and nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tacit.demo.layout import lock_site
from tacit.engine import local
from tacit.engine.budgets import read_budget
from tacit.testing.commands import tacit
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import SITES, write_small_federation
from tacit.trust.identity import Identity
from tacit.wire.envelope import Envelope

SITE = Path("sites/north/site.toml")
CONTRACT = Path("sites/north/contracts/small.toml")
DATA = Path("sites/north/data/records.csv")
POLICY = Path("sites/north/policies/train.cedar")
JOB = Path("job.toml")
ROSTER = Path("federation.toml")


def replace(path: Path, old: str, new: str) -> Callable[[], None]:
    def edit() -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def remove(path: Path) -> Callable[[], None]:
    return path.unlink


def cell(row: int, column: int, value: str) -> Callable[[], None]:
    """Sets one cell of north's data; rows count from 1, the header is row 0."""

    def edit() -> None:
        lines = [line.split(",") for line in DATA.read_text().splitlines()]
        lines[row][column] = value
        DATA.write_text("\n".join(map(",".join, lines)) + "\n")

    return edit


def one_more_column() -> None:
    first, *rest = DATA.read_text().splitlines()
    DATA.write_text("\n".join([f"{first},height", *(f"{line},1" for line in rest)]) + "\n")


def only_header() -> None:
    DATA.write_text(DATA.read_text().splitlines()[0] + "\n")


def colluding(count: int, extra: str = "") -> Callable[[], None]:
    return replace(JOB, "[privacy]\n", f"[privacy]\nmax_colluding = {count}\n{extra}")


def approved(edit: Callable[[], None]) -> Callable[[], None]:
    """A change that the site's approver signed for."""

    def both() -> None:
        edit()
        lock_site(Path("sites/north"))

    return both


def second_contract() -> None:
    CONTRACT.with_name("again.toml").write_text(CONTRACT.read_text())


def another_key() -> None:
    """An approval by somebody whom site.toml does not name."""
    key = Path("sites/north/keys/approver-operator.key")
    key.unlink()
    Identity.generate(SeededEntropy("stranger")).save(key)
    lock_site(Path("sites/north"))


@dataclass(frozen=True)
class Bad:
    """One kind of bad input: how to make it, and what the error must say."""

    edit: Callable[[], None]
    error: str
    code: str
    names: tuple[str, ...]


CASES = {
    "unknown key in job.toml": Bad(
        replace(JOB, "rounds", "round"),
        "ConfigError",
        "config.unknown-key",
        ("job.toml", "'round'", "'rounds'"),
    ),
    "unknown key in a table of job.toml": Bad(
        replace(JOB, "epsilon", "epsilom"),
        "ConfigError",
        "config.unknown-key",
        ("job.toml", "privacy.epsilom", "'epsilon'"),
    ),
    "unknown key in site.toml": Bad(
        replace(SITE, "operator", "operater"),
        "ConfigError",
        "config.unknown-key",
        ("site.toml", "'operater'", "'operator'"),
    ),
    "unknown key in a contract": Bad(
        replace(CONTRACT, "maximum", "maximun"),
        "ConfigError",
        "config.unknown-key",
        ("small.toml", "maximun", "'maximum'"),
    ),
    "unknown key in federation.toml": Bad(
        replace(ROSTER, "region", "regoin"),
        "ConfigError",
        "config.unknown-key",
        ("federation.toml", "regoin", "'region'"),
    ),
    "bad TOML": Bad(
        replace(JOB, "rounds = 3", "rounds = = 3"), "ConfigError", "config.syntax", ("job.toml",)
    ),
    "missing key": Bad(
        replace(SITE, 'region = "eu"', ""),
        "ConfigError",
        "config.missing-key",
        ("site.toml", "'region'"),
    ),
    "missing job": Bad(remove(JOB), "ConfigError", "job.missing", ("job.toml",)),
    "missing roster": Bad(remove(ROSTER), "ConfigError", "file.read", ("federation.toml",)),
    "missing policy": Bad(
        approved(remove(POLICY)),
        "PolicyDenied",
        "policy.denied",
        ("north", "the policy holds none"),
    ),
    "altered policy": Bad(
        replace(POLICY, "> 600", "> 6000"), "ConfigError", "policy.altered", ("policy.lock", "lock")
    ),
    "altered contract": Bad(
        replace(CONTRACT, "maximum = 10.0", "maximum = 11.0"),
        "ConfigError",
        "policy.altered",
        ("small", "lock"),
    ),
    "missing lock": Bad(
        remove(Path("sites/north/policy.lock")), "ConfigError", "policy.unlocked", ("policy.lock",)
    ),
    "a lock signed by the wrong key": Bad(
        another_key, "SignatureError", "policy.signature", ("policy.lock", "operator")
    ),
    "a policy with a syntax error": Bad(
        replace(POLICY, "when", "wehn"), "ConfigError", "policy.rule", ("train.cedar", "line")
    ),
    "two contracts for one data set": Bad(
        second_contract, "ConfigError", "site.two-contracts", ("small.toml", "'small'")
    ),
    "missing contract": Bad(
        approved(remove(CONTRACT)),
        "ConfigError",
        "site.contract",
        ("north", "'small'", "data.contract"),
    ),
    "missing data": Bad(remove(DATA), "ConfigError", "connect.missing-file", ("records.csv",)),
    "missing identity": Bad(
        remove(Path("sites/north/keys/identity.key")),
        "ConfigError",
        "site.identity",
        ("identity.key",),
    ),
    "missing evaluation set": Bad(
        remove(Path("evaluation/contract.toml")), "ConfigError", "file.read", ("contract.toml",)
    ),
    "missing model file": Bad(
        replace(JOB, '"logistic"', '"mine.py:Net"'), "ConfigError", "file.read", ("mine.py",)
    ),
    "private evaluation set": Bad(
        replace(Path("evaluation/contract.toml"), "public = true", "public = false"),
        "ConfigError",
        "evaluation.not-public",
        ("evaluation", "public"),
    ),
    "undeclared column": Bad(
        one_more_column, "ConfigError", "connect.column", ("records.csv", "height")
    ),
    "renamed column": Bad(
        cell(0, 1, "height"), "ConfigError", "connect.column", ("records.csv", "size")
    ),
    "text in a number column": Bad(
        cell(3, 1, "tall"), "ConfigError", "connect.cell", ("records.csv", "row 3", "size")
    ),
    "NaN": Bad(cell(4, 1, "nan"), "ConfigError", "connect.cell", ("row 4", "size")),
    "infinity": Bad(cell(5, 2, "-inf"), "ConfigError", "connect.cell", ("row 5", "weight")),
    "value out of range": Bad(
        cell(6, 1, "10.5"), "ConfigError", "connect.cell", ("row 6", "size", "0.0 to 10.0")
    ),
    "unknown label": Bad(cell(7, 3, "maybe"), "ConfigError", "connect.cell", ("row 7", "answer")),
    "empty site": Bad(only_header, "ConfigError", "connect.empty", ("'small'", "no records")),
    "schema of its own": Bad(
        approved(replace(CONTRACT, "maximum = 10.0", "maximum = 11.0")),
        "ConfigError",
        "site.schema",
        ("north", "size"),
    ),
    "epsilon 0": Bad(
        replace(JOB, "epsilon = 0.5", "epsilon = 0.0"),
        "ConfigError",
        "config.value",
        ("job.toml", "privacy.epsilon"),
    ),
    "epsilon below 0": Bad(
        replace(JOB, "epsilon = 0.5", "epsilon = -1.0"),
        "ConfigError",
        "config.value",
        ("job.toml", "privacy.epsilon"),
    ),
    "min_cohort above the number of sites": Bad(
        replace(JOB, "min_cohort = 3", "min_cohort = 5"),
        "ConfigError",
        "job.min-cohort",
        ("5", "4 sites", "aggregation.min_cohort"),
    ),
    "too many may collude": Bad(
        colluding(2), "ConfigError", "job.cohort-too-small", ("3", "2", "aggregation.min_cohort")
    ),
    "nobody may collude": Bad(colluding(0), "ConfigError", "plan.value", ("max_colluding",)),
    "a policy that forbids": Bad(
        approved(replace(POLICY, "> 600", "> 400")),
        "PolicyDenied",
        "policy.denied",
        ("north", "no-large-epsilon", "train.cedar"),
    ),
    "a policy that does not permit": Bad(
        replace(JOB, 'purpose = "research"', 'purpose = "marketing"'),
        "PolicyDenied",
        "policy.denied",
        ("no permit matched", "research-only", 'context.purpose == "research"'),
    ),
    "a budget that is too small": Bad(
        replace(SITE, "epsilon = 1.2", "epsilon = 0.4"),
        "BudgetExhausted",
        "budget.exhausted",
        ("north", "0.4", "epsilon", "site.toml"),
    ),
    "a delta that is too large": Bad(
        replace(SITE, "delta = 1e-4", "delta = 1e-6"),
        "BudgetExhausted",
        "budget.exhausted",
        ("north", "delta", "site.toml"),
    ),
}


@pytest.fixture
def base(tmp_path, monkeypatch):
    folder = tmp_path / "small"
    write_small_federation(folder)
    monkeypatch.chdir(folder)
    return folder


def nothing_happened(base):
    """No result, and every budget as it was."""
    assert not list(base.glob("runs/*"))
    for name in SITES:
        if (base / "sites" / name / "state").exists():
            path = base / "sites" / name
            text = (path / "site.toml").read_text()
            if "operater" in text or "region" not in text:
                continue
            spent = read_budget(path).populations[0].total
            assert (spent.epsilon, spent.reserved_epsilon, spent.delta) == (0, 0, 0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input(base, capsys, case):
    case.edit()
    code, out, _ = tacit(capsys, "run", "--json")
    assert code == 1
    record = json.loads(out)
    assert (record["error"], record["code"]) == (case.error, case.code), record
    assert record["remedy"]
    said = " ".join(str(value) for value in record.values())
    for name in case.names:
        assert name in said
    nothing_happened(base)

    code, out, _ = tacit(capsys, "check", "--json")  # it could have been known before
    assert code == 1
    checked = json.loads(out)
    codes = {checked.get("code")} | {
        site["error"]["code"] for site in checked.get("sites", ()) if site["error"]
    }
    assert case.code in codes
    nothing_happened(base)


@pytest.mark.parametrize(
    "name",
    ["unknown key in job.toml", "NaN", "a policy that forbids", "a budget that is too small"],
)
def test_people_read_the_same(base, capsys, name):
    CASES[name].edit()
    code, _, err = tacit(capsys, "run")
    assert code == 1
    for said in (*CASES[name].names, "error: ", "remedy: ", CASES[name].code):
        assert said in err
    nothing_happened(base)


def test_a_corrupt_message(base, capsys, monkeypatch):
    deliver = local.LocalEngine._deliver

    def corrupt(self, envelope):
        if envelope.receiver.party == "north":
            data = bytearray(envelope.message)
            data[len(data) // 2] ^= 1
            envelope = Envelope(envelope.receiver, bytes(data), envelope.chunks)
        return deliver(self, envelope)

    monkeypatch.setattr(local.LocalEngine, "_deliver", corrupt)
    code, out, _ = tacit(capsys, "run", "--json")
    assert code == 1
    record = json.loads(out)
    assert (record["error"], record["code"]) == ("RoundAborted", "run.no-answer")
    assert "north" in record["message"]
    assert record["remedy"]
    nothing_happened(base)


def test_an_output_folder_that_exists(base, capsys):
    (base / "mine").mkdir()
    (base / "mine" / "precious").write_text("kept")
    code, out, _ = tacit(capsys, "run", "--json", "--out", "mine")
    assert code == 1
    record = json.loads(out)
    assert (record["error"], record["code"]) == ("ConfigError", "folder.exists")
    assert "mine" in record["message"]
    assert record["remedy"]
    assert [path.name for path in (base / "mine").iterdir()] == ["precious"]
    nothing_happened(base)


def test_own_noise_allows_what_shared_noise_does_not(base, capsys):
    colluding(2, 'noise = "own"\n')()
    code, _, err = tacit(capsys, "run", "--out", "result")
    assert code == 0, err


def test_no_site_at_all(base, capsys, monkeypatch, tmp_path):
    (base / "sites").rename(tmp_path / "elsewhere")
    code, out, _ = tacit(capsys, "run", "--json")
    record = json.loads(out)
    assert (code, record["code"]) == (1, "site.none")
    assert record["remedy"]
