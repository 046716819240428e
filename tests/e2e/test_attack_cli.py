"""``tacit attack`` from the command line: table, files, gates, exit codes, resumption."""

from __future__ import annotations

import json

import pytest

from tacit.attack.registry import load_attacks
from tacit.attacks import data_of
from tacit.cli import main
from tacit.party.job import JobSpec


@pytest.fixture(autouse=True)
def tiny(monkeypatch, attack_modules):
    """The command finds the small attacks of the tests instead of Tacit's own."""
    use(monkeypatch, "tiny_attacks")


def use(monkeypatch, module):
    monkeypatch.setattr("tacit.attacks.load_attacks", lambda only, _: load_attacks(only, [module]))


def run(capsys, *arguments):
    code = main(["attack", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_a_part_of_the_suite_for_people_then_for_scripts(attacked, capsys):
    chosen = ["--only", "membership", "--profile", "demo", "--jobs", "1"]
    chosen += ["--column", "tacit", "masking"]
    code, printed, told = run(capsys, attacked / "job.toml", *chosen)
    assert code == 0
    assert max(map(len, printed.splitlines())) <= 120
    for text in (
        "Green. Of 1 row under Tacit",
        "a part of the suite: 1 row",
        "Proven",
        "Measured",
    ):
        assert text in printed
    assert "Not covered" in printed
    assert "1/2 guess" in told
    (folder,) = (attacked / "attacks").iterdir()
    page = (folder / "privacy.html").read_text()
    assert "What attacks on job small achieve" in page

    code, printed, told = run(
        capsys, attacked / "job.toml", *chosen, "--json", "--fail-if", "membership.auc.upper > 0.5"
    )
    assert code == 1
    assert not told
    record = json.loads(printed)
    assert record["folder"] == str(folder)
    assert record["gates"][0]["status"] == "bites"
    stored = json.loads((folder / "report.json").read_text())
    assert stored == {name: value for name, value in record.items() if name != "folder"}
    assert [one["column"] for one in record["columns"]] == ["masking", "tacit"]

    code, _, told = run(
        capsys, attacked / "job.toml", *chosen, "--fail-if", "reconstruction.share > 1"
    )
    assert code == 2
    assert told.count("kept from before") == 2


def test_a_failing_attack_is_never_green(attacked, capsys, monkeypatch, tmp_path):
    use(monkeypatch, "broken_attacks")
    command = [
        "--only",
        "membership",
        "--out",
        tmp_path / "out",
        "--jobs",
        "1",
        "--profile",
        "demo",
    ]
    code, printed, told = run(capsys, attacked / "job.toml", *command)
    assert code == 1
    assert "Not green" in printed
    assert "on purpose" in printed
    assert "not measured" in told


def test_an_attack_that_stays_away_is_left_out(attacked, capsys, monkeypatch, tmp_path):
    use(monkeypatch, "left_out_attacks")
    chosen = ["--profile", "demo", "--jobs", "1", "--column", "masking", "tacit"]
    _, _, told = run(
        capsys, attacked / "job.toml", *chosen, "--only", "membership", "--out", tmp_path
    )
    assert "away, secure aggregation only: left out: tried in the column of Tacit only" in told
    assert "away, Tacit: not measured: tried in the column of Tacit only" in told
    assert "fail, secure aggregation only: not measured: RuntimeError: on purpose" in told


def test_the_data_beside_the_job_come_first(attacked, tmp_path):
    job, spec = tmp_path / "job.toml", JobSpec.load(attacked / "job.toml")
    assert data_of(job, spec) == tmp_path / "evaluation" / "contract.toml"
    beside = tmp_path / "attack" / "contract.toml"
    beside.parent.mkdir()
    beside.touch()
    assert data_of(job, spec) == beside
    assert data_of(job, spec, tmp_path / "other.toml") == tmp_path / "other.toml"


def test_private_data_are_refused(attacked, capsys):
    private = attacked / "sites" / "north" / "contracts" / "small.toml"
    code, printed, _ = run(capsys, attacked / "job.toml", "--data", private, "--json")
    assert code == 1
    assert json.loads(printed)["error"] == "PolicyDenied"


def test_a_missing_job_is_named(capsys, tmp_path):
    code, _, told = run(capsys, tmp_path / "job.toml")
    assert code == 1
    assert "tacit init" in told


def test_a_folder_that_cannot_be_made_is_named(attacked, capsys, tmp_path):
    (tmp_path / "file").touch()
    code, printed, _ = run(capsys, attacked / "job.toml", "--out", tmp_path / "file", "--json")
    assert code == 1
    assert json.loads(printed)["code"] == "attack.folder"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--fail-if", "membership.auc = 1"],
        ["--fail-if", "nobody:auc > 1"],
        ["--only", "nothing"],
        ["--column", "nothing"],
        ["--jobs", "0"],
        ["--profile", "huge"],
    ],
)
def test_a_wrong_command_line_is_64(attacked, capsys, wrong):
    with pytest.raises(SystemExit) as caught:
        main(["attack", str(attacked / "job.toml"), *wrong])
    assert caught.value.code == 64
    capsys.readouterr()


def test_rows_and_columns_of_the_command_are_those_of_the_suite():
    from tacit import cli_attack
    from tacit.attack.defences import DEFENCES
    from tacit.attack.registry import ROWS

    assert tuple(ROWS) == cli_attack.ROWS
    assert cli_attack.COLUMNS == DEFENCES


def test_a_part_leaves_a_whole_report_alone(attacked, capsys, monkeypatch, tmp_path):
    use(monkeypatch, "tiny_attacks")
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text('{"whole": true}')
    chosen = ("--only", "membership", "--column", "tacit", "--profile", "demo", "--out", out)
    code, printed, _ = run(capsys, attacked / "job.toml", *chosen)
    assert (out / "report.json").read_text() == '{"whole": true}'
    assert json.loads((out / "part.json").read_text())["whole"] is False
    assert str(out / "part.html") in printed
    assert code == 0
