"""``tacit budget``: populations, purposes and units, the journal, and a restored backup's way forward."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tacit.demo.layout import lock_site
from tacit.testing.commands import as_json, edit, tacit
from tacit.testing.federation import SITES, write_small_federation

NORTH = Path("sites/north")


@pytest.fixture
def base(tmp_path, monkeypatch):
    folder = tmp_path / "small"
    write_small_federation(folder)
    for site in (folder / "sites").iterdir():
        edit(site / "site.toml", "epsilon = 1.2", "epsilon = 3.0")
    monkeypatch.chdir(folder)
    return folder


def run(capsys):
    code, _, err = tacit(capsys, "run", "--json")
    assert code == 0, err


def lines(out):
    return [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]


def test_show_has_a_row_for_every_population_and_purpose(base, capsys):
    edit(NORTH / "site.toml", "[budget]", "[budget.purposes]\nresearch = 0.6\n[budget]")
    run(capsys)
    for arguments in (("budget",), ("budget", "show"), ("budget", "show", *map(str, [NORTH]))):
        code, out, _ = tacit(capsys, *arguments)
        assert code == 0
        shown = lines(out)
        assert any(
            line.startswith("north everyone all record 0.5000 0.0000 3.0 2.5000") for line in shown
        )
        assert any(line.startswith("research 0.5000 0.0000 0.6 0.1000") for line in shown)
        assert "17%" in out  # what is left of the purpose
        assert ("east" in out) == (len(arguments) < 3)
    _, record = as_json(capsys, "budget", "show", NORTH)
    (population,) = record["sites"][0]["populations"]
    assert (population["population"], population["unit"]) == ("everyone", "record")
    epsilon = population["epsilon"]
    assert {key: round(float(value), 4) for key, value in epsilon.items()} == {
        "spent": 0.5, "reserved": 0, "limit": 3, "left": 2.5,
    }  # fmt: skip
    (purpose,) = population["purposes"]
    assert (purpose["purpose"], purpose["epsilon"]["limit"]) == ("research", "0.6")
    (entry,) = record["sites"][0]["runs"]
    assert (entry["population"], entry["purpose"], entry["unit"]) == (
        "everyone", "research", "record",
    )  # fmt: skip


def test_json_may_stand_before_the_inner_command(base, capsys):
    _, before, _ = tacit(capsys, "budget", "--json", "show")
    _, after, _ = tacit(capsys, "budget", "show", "--json")
    assert json.loads(before) == json.loads(after) == as_json(capsys, "budget")[1]


def test_a_purpose_is_refused_under_the_total(base, capsys):
    edit(NORTH / "site.toml", "[budget]", "[budget.purposes]\nresearch = 0.6\n[budget]")
    run(capsys)
    code, record = as_json(capsys, "run")
    assert (code, record["code"], record["site"]) == (1, "budget.exhausted", "north")
    assert (record["population"], record["purpose"], record["limit"]) == (
        "everyone", "research", "0.6",
    )  # fmt: skip
    assert "budget.purposes.research" in record["remedy"]


def test_populations_have_budgets_of_their_own(base, capsys):
    edit(NORTH / "contracts/small.toml", 'name = "small"', 'name = "small"\npopulation = "staff"')
    lock_site(NORTH)
    run(capsys)
    edit(NORTH / "site.toml", "[budget]", "[budget.populations.staff]\nepsilon = 0.7\n[budget]")
    code, record = as_json(capsys, "run")
    assert (code, record["code"], record["population"]) == (1, "budget.exhausted", "staff")
    assert record["limit"] == "0.7"
    # Other people: the contract is what says so, and everybody sees that it changed.
    edit(NORTH / "contracts/small.toml", '"staff"', '"patients"')
    code, record = as_json(capsys, "check")
    assert "site.population" in json.dumps(record)  # a limit for nobody is no limit
    edit(NORTH / "site.toml", "[budget.populations.staff]\nepsilon = 0.7\n", "")
    lock_site(NORTH)
    run(capsys)
    _, record = as_json(capsys, "budget", "show", NORTH)
    left = {p["population"]: p["epsilon"]["left"][:3] for p in record["sites"][0]["populations"]}
    assert left == {"patients": "2.5", "staff": "2.5"}


def test_a_contract_that_names_nobody_is_about_everyone(base, capsys):
    _, record = as_json(capsys, "budget", "show", NORTH)
    (population,) = record["sites"][0]["populations"]
    assert (population["population"], population["unit"]) == ("everyone", "")


def test_history_tells_the_life_of_a_run(base, capsys):
    run(capsys)
    code, out, _ = tacit(capsys, "budget", "history", NORTH)
    assert code == 0
    told = [line for line in lines(out) if "everyone research record" in line]
    kinds = [line.split()[2] for line in told]
    assert kinds == ["reserve", "charge", "settle"]
    assert "1-3" in told[1]  # three charges that follow each other are one line
    assert told[0].endswith("0.5000 2.5000")
    _, record = as_json(capsys, "budget", "history", NORTH)
    records = record["sites"][0]["records"]
    assert [one["kind"] for one in records] == ["reserve", *["charge"] * 3, "settle"]
    assert [one["round"] for one in records] == [0, 1, 2, 3, 3]
    assert {float(one["left"]) for one in records} == {float(records[0]["left"])}
    assert all(one["time"] > 1_600_000_000_000 for one in records)


def test_a_damaged_journal_is_told_from_an_empty_one(base, capsys):
    run(capsys)
    from tacit.engine.store import SqliteStore

    store = SqliteStore(NORTH / "state/tacit.db")
    with store.transaction():
        store.delete("budget", "000000000001")
    store.close()
    for command in (("budget",), ("budget", "history"), ("run",), ("budget", "show", NORTH)):
        code, record = as_json(capsys, *command)
        assert (code, record["code"]) == (1, "budget.damaged")


@pytest.mark.parametrize("deleted", [True, False])
def test_a_restored_backup_is_noticed_and_has_a_way_forward(base, capsys, deleted):
    run(capsys)
    backup = base / "backup"
    shutil.copytree(NORTH / "state", backup)
    run(capsys)
    shutil.rmtree(NORTH / "state")
    if not deleted:
        shutil.copytree(backup, NORTH / "state")
    code, record = as_json(capsys, "run")
    assert (code, record["error"], record["party"]) == (1, "RemoteProtocolError", "north")
    assert record["code"] == ("budget.rolled-back" if deleted else "budget.forked")
    assert "lowers [budget]" in record["remedy"]
    assert "--accept north" in record["remedy"]
    known = {
        one["party"]: {head["site"]: head["reservations"] for head in one["heads"]}
        for one in as_json(capsys, "budget", "heads")[1]["parties"]
    }
    assert set(known) == {"coordinator", *SITES}
    assert all(of["north"] == 2 for party, of in known.items() if party != "north")
    # The leader alone is not enough: every site has its own memory.
    assert tacit(capsys, "budget", "heads", "coordinator", "--accept", "north")[0] == 0
    code, record = as_json(capsys, "run")
    assert (code, record["failure"]["code"]) == (1, "refused.budget.forked")
    edit(NORTH / "site.toml", "epsilon = 3.0", "epsilon = 2.5")  # what was forgotten
    code, out, _ = tacit(
        capsys, "budget", "heads", "coordinator", *SITE_FOLDERS, "--accept", "north"
    )
    assert code == 0
    assert not [line for line in lines(out) if line.split()[1:2] == ["north"]]
    run(capsys)
    code, record = as_json(capsys, "budget", "heads", "--accept", "nobody")
    assert (code, record["code"]) == (1, "budget.no-head")


SITE_FOLDERS = [f"sites/{name}" for name in SITES]


def test_heads_names_folders_that_are_none(base, capsys):
    code, record = as_json(capsys, "budget", "heads", "evaluation")
    assert (code, record["code"]) == (1, "party.missing")
    code, record = as_json(capsys, "budget", "show", "nowhere")
    assert (code, record["code"]) == (1, "site.missing")
    assert tacit(capsys, "budget", "sites/north")[0] == 64  # 'show' was left out
